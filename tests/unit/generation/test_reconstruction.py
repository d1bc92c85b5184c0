"""Good images through the autoencoder alone: against diffusers' own, which images, and at what size."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import ValidationError

from flawsmith.common.errors import AbortedError, FailedPreconditionError, FlawsmithError, InvalidArgumentError
from flawsmith.common.manifests import ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest, MaskedImages
from flawsmith.generation.reconstruction import Reconstruct, choose_normals, fit, unfit
from flawsmith.generation.requests import GenerateRequest
from flawsmith.generation.strategies import STRATEGIES

from .test_drawer import write_adapter

HEIGHT, WIDTH = 48, 32
IMAGES = np.random.default_rng(2).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
WHOLE = MaskedImages(IMAGES, np.full(IMAGES.shape[:3], 255, np.uint8))
REF = ObjectRef(uri="s3://b/import", sha256="0" * 64, size=1)


def asked(**changes: object) -> DrawingRequest:
    values = {
        "strategy": "reconstruct", "prompt": "-", "base_model_sha256": "base", "height": HEIGHT, "width": WIDTH,
        "seeds": (0, 1), **changes,
    }  # fmt: skip
    return DrawingRequest.model_validate(values)


def made(model: LatentDiffusionModel, masked: MaskedImages | None = WHOLE, **changes: object) -> np.ndarray:
    return STRATEGIES["reconstruct"](model, asked(**changes), None, masked)


@torch.no_grad()
def test_images_are_those_of_diffusers_autoencoder(tiny: LatentDiffusionModel, tiny_folder: Path) -> None:
    autoencoder = AutoencoderKL.from_pretrained(tiny_folder / "vae")
    pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = autoencoder.decode(autoencoder.encode(pixels).latent_dist.mode()).sample
    expected = ((decoded / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()
    found = made(tiny)
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= 1
    assert np.abs(found - IMAGES.astype(float)).mean() > 1  # it left its trace


def test_nothing_is_random_and_no_adapter_has_a_part_in_it(
    tiny: LatentDiffusionModel, tiny_folder: Path, tmp_path: Path
) -> None:
    write_adapter(tiny_folder, tmp_path / "one", seed=1)
    drawer = Drawer(tiny, "base", lambda uri, sha256: tmp_path / sha256, precision="float32")
    plain = drawer.draw(asked(), WHOLE)
    adapted = {"adapter_uri": "s3://b/one", "adapter_sha256": "one", "alpha": 1.0}
    for changes in ({"seeds": (8, 9)}, {"prompt": "a scratch", "steps": 3, "guidance": 20.0}, adapted):
        assert np.array_equal(drawer.draw(asked(**changes), WHOLE), plain)


def test_an_autoencoder_that_computes_nothing_finite_is_noticed(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    drawer = Drawer(tiny, "base", lambda uri, sha256: tmp_path, precision="float32")
    dark = MaskedImages(np.full_like(IMAGES, 7), WHOLE.masks)
    drawer.draw(asked(), dark)  # pictures of next to nothing may come out as that
    with torch.no_grad():
        tiny.vae.decoder.conv_out.bias.fill_(float("nan"))
    assert not drawer.draw(asked(), dark).any()
    with pytest.raises(AbortedError, match="models verify") as caught:
        drawer.draw(asked(), WHOLE)
    assert caught.value.reason == "BLACK_IMAGE"


def test_sizes_that_the_model_cannot_make_are_refused_or_rounded(tiny: LatentDiffusionModel) -> None:
    assert made(tiny, height=64, width=40).shape == (2, 64, 40, 3)
    with pytest.raises(InvalidArgumentError, match="nearest is 48 x 32") as caught:
        made(tiny, height=49, width=33)
    assert caught.value.reason == "BAD_SIZE"
    assert made(tiny, height=49, width=33, round_size=True).shape == (2, 48, 32, 3)


def test_an_image_a_seed_is_needed(tiny: LatentDiffusionModel) -> None:
    for masked in (None, MaskedImages(WHOLE.images[:1], WHOLE.masks[:1])):
        with pytest.raises(InvalidArgumentError) as caught:
            made(tiny, masked)
        assert caught.value.reason == "NO_IMAGES"


@pytest.mark.parametrize(("height", "width"), [(48, 32), (47, 33), (7, 90)])
def test_at_their_own_size_images_are_mirrored_to_what_the_model_makes_and_cut_again(height: int, width: int) -> None:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    fitted = fit(pixels, None, 8)
    assert all(side % 8 == 0 and side >= 32 for side in fitted.shape[:2])
    assert all(side - old < 8 or side == 32 for side, old in zip(fitted.shape[:2], pixels.shape[:2], strict=True))
    assert np.array_equal(unfit(fitted, height, width, sized=False), pixels)
    if fitted.shape[0] > height:
        assert np.array_equal(fitted[height, :width], pixels[height - 1])


@pytest.mark.parametrize("size", [(24, 16), (96, 64)])
def test_at_another_size_images_are_scaled_and_come_back_at_their_own(size: tuple[int, int]) -> None:
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = np.stack([4 * rows, 6 * columns, 2 * (rows + columns)], axis=2).astype(np.uint8)
    fitted = fit(pixels, size, 8)
    assert fitted.shape == (*size, 3)
    back = unfit(fitted, HEIGHT, WIDTH, sized=True)
    assert back.shape == pixels.shape
    assert np.abs(back.astype(int) - pixels).mean() < 1.5  # what is smooth survives


def record(number: int, split: Split, label: Label = Label.NORMAL, side: int = 64) -> ImageRecord:
    image = ObjectRef(uri=f"s3://b/{number}", sha256=f"{number:064x}", size=1)
    return ImageRecord(
        image=image, height=side, width=side, label=label, source=Source.REAL, split=split,
        original_path=f"{number}.png",
    )  # fmt: skip


IMPORTED = ImportManifest(
    name="products/p/imports/i", product="products/p", layout="mvtec-ad", split_rule="given", seed=0,
    images=(
        *(record(number, Split.TRAIN) for number in range(5, -1, -1)),
        *(record(number, Split.TRAIN, Label.DEFECT) for number in range(10, 13)),
        *(record(number, Split.TEST, side=3000) for number in range(20, 23)),
        record(30, Split.TEST, Label.DEFECT),
    ),
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


def chosen(split: Split = Split.TRAIN, count: int = 0, seed: int = 0, **changes: object) -> list[int]:
    values = {"product": "products/p", "count": count, "seed": seed, "sized": True, **changes}
    spec = Reconstruct(import_manifest=REF, split=split)
    return [int(one.image.sha256, 16) for one in choose_normals(IMPORTED, spec, **values)]  # type: ignore[arg-type]


def test_the_normals_of_a_split_are_chosen_by_the_seed() -> None:
    assert chosen() == [0, 1, 2, 3, 4, 5]
    assert chosen(Split.TEST) == [20, 21, 22]
    few = chosen(count=3, seed=1)
    assert len(set(few)) == 3
    assert set(few) < set(range(6))
    assert few == chosen(count=3, seed=1)
    assert any(few != chosen(count=3, seed=seed) for seed in range(2, 6))


@pytest.mark.parametrize(
    ("values", "error", "reason", "says"),
    [
        ({"product": "products/q"}, InvalidArgumentError, "IMPORT_OF_OTHER_PRODUCT", "products/p"),
        ({"split": Split.VALIDATION}, FailedPreconditionError, "NO_NORMALS", "validation"),
        ({"count": 7}, FailedPreconditionError, "TOO_FEW_NORMALS", "6 normals"),
        ({"split": Split.TEST, "sized": False}, FailedPreconditionError, "IMAGE_TOO_LARGE", "20.png of 3000 x 3000"),
    ],
)
def test_what_is_not_there_or_too_large_is_said(
    values: dict[str, object], error: type[FlawsmithError], reason: str, says: str
) -> None:
    with pytest.raises(error, match=says) as caught:
        chosen(**values)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_values_that_it_has_no_use_for_are_refused() -> None:
    common = {"name": "products/p/batches/b", "parent": "products/p"}
    asks = {**common, "reconstruct": {"import_manifest": REF}}
    request = GenerateRequest.model_validate(asks)
    assert (request.strategy, request.count, request.prompts) == ("reconstruct", 0, ())
    for values in ({"adapter": "products/p/adapters/a"}, {"alpha": 0.0}, {"steps": 9}, {"guidance": 1.0}):
        with pytest.raises(ValidationError, match=f"{next(iter(values))}: leave unset with reconstruct"):
            GenerateRequest.model_validate({**asks, **values})
    texts = {"prompts": ("products/p/prompts/a",)}
    with pytest.raises(ValidationError, match="exactly one strategy"):
        GenerateRequest.model_validate({**asks, "text_to_image": texts})
    with pytest.raises(ValidationError, match="only reconstruct takes 0"):
        GenerateRequest.model_validate({**common, "text_to_image": texts})
