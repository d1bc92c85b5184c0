"""Views: pictures cut from the product's images that train painting defects in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from flawsmith.drawing import DEFECTS, kinds_named
from flawsmith.generation.defect_views import View, cache_views, cut_views
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import train
from flawsmith.generation.spec import FineTuneSpec

SIDE = 32
SPEC = FineTuneSpec(
    rank=2, rank_alpha=2.0, conv_rank=1, max_steps=1, batch_size=1, repeats=1, regularization_images=0,
    unet_learning_rate=1e-2, text_encoder_learning_rate=0.0, clip_skip=1, precision="float32", defect_views=6,
)  # fmt: skip
GOOD, EMPTY = np.full((90, 60, 3), 200, np.uint8), np.zeros((90, 60), np.uint8)


def defective() -> tuple[np.ndarray, np.ndarray]:
    """A bright image with a dark bar, and its mask."""
    image, mask = GOOD.copy(), EMPTY.copy()
    image[70:74, 10:40], mask[70:74, 10:40] = 20, 255
    return image, mask


def test_views_of_a_real_defect_show_it_under_their_mask_and_good_surface_beside_it() -> None:
    image, mask = defective()
    views = cut_views([image], [mask], SIDE, SPEC)
    assert len(views) == 6
    for view in views:
        assert view.image.shape == (SIDE, SIDE, 3)
        assert view.prompt == "skt background"
        assert view.mask.any()
        assert not view.mask.all()
        assert view.image[view.mask == 0].min() > 150
        assert view.image[view.mask > 0].min() < 60
    # Other parts of it, turned and not.
    heights, widths = ([len(np.unique(np.nonzero(view.mask)[axis])) for view in views] for axis in (0, 1))
    assert min(heights) < min(SIDE // 2, max(heights))
    assert min(widths) < min(SIDE // 2, max(widths))


def test_good_images_get_drawn_defects_of_every_kind_that_their_prompts_name() -> None:
    views = cut_views([GOOD], [EMPTY], SIDE, SPEC.model_copy(update={"defect_views": 60}))
    named = {kinds_named(view.prompt) for view in views}
    assert named == {(kind,) for kind in DEFECTS if kind != "none"}
    for view in views:
        assert view.prompt.startswith("skt background ")
        assert (view.image[view.mask == 0] == 200).all()
        assert (view.image[view.mask > 0] != 200).any()


@pytest.mark.parametrize("mask", [None, np.full_like(EMPTY, 255)], ids=["unknown", "everything"])
def test_images_of_which_no_defect_is_known_have_no_views(mask: np.ndarray | None) -> None:
    assert cut_views([GOOD], [mask], SIDE, SPEC) == []


def test_thin_defects_of_large_images_are_not_lost() -> None:
    image, mask = np.full((400, 400, 3), 200, np.uint8), np.zeros((400, 400), np.uint8)
    mask[3, 3] = mask[390, 390] = 255  # as far apart as can be, a pixel each
    assert all(view.mask.any() for view in cut_views([image], [mask], SIDE, SPEC))


def test_views_follow_from_the_seed() -> None:
    image, mask = defective()
    one, two, other = (
        cut_views([image, GOOD], [mask, EMPTY], SIDE, SPEC.model_copy(update={"seed": seed})) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a.image, b.image) and a.prompt == b.prompt for a, b in zip(one, two, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))


def test_the_loss_of_a_view_counts_what_is_painted_alone(tiny: LatentDiffusionModel) -> None:
    """The first step's loss, put together by hand from the prediction of the untouched model (LoRA starts at zero)."""
    rng = np.random.default_rng(0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[8:16, 12:28] = 255
    (view,) = cache_views(tiny, [View(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), mask, "skt dented")])
    seen: dict[str, torch.Tensor] = {}
    original, add_noise = tiny.predict, tiny.scheduler.add_noise

    def spy(latents, timesteps, given, condition):  # type: ignore[no-untyped-def]
        seen.update(timesteps=timesteps, embeddings=given, conditioning=condition)
        seen["predicted"] = original(latents, timesteps, given, condition)
        return seen["predicted"]

    def noised(latents, noise, timesteps):  # type: ignore[no-untyped-def]
        seen["noise"] = noise
        return add_noise(latents, noise, timesteps)

    tiny.predict = spy  # type: ignore[method-assign]
    tiny.scheduler.add_noise = noised
    result = train(tiny, [view], {}, SPEC)
    assert view.view is not None
    assert view.view.conditioning is not None
    assert torch.allclose(seen["embeddings"], tiny.encode_prompts(["skt dented"]))
    assert torch.equal(seen["conditioning"][0], view.view.conditioning)
    inside = view.view.conditioning[0] > 0  # the first channel that the model reads: where to paint
    assert 0 < inside.sum() < inside.numel()
    kept = tiny.scheduler.alphas_cumprod[seen["timesteps"]]
    weight = (kept / (1 - kept)).clamp(max=5) / (kept / (1 - kept))
    squares = (seen["predicted"] - seen["noise"]).square()[0]
    assert result.losses == [pytest.approx((weight * squares[:, inside].mean()).item(), rel=1e-5)]


def test_models_that_read_no_mask_learn_from_views_too(tiny_folder_4: Path) -> None:
    model = load_model(tiny_folder_4)
    image, mask = defective()
    views = cache_views(model, cut_views([image], [mask], SIDE, SPEC))
    assert {view.view.conditioning for view in views if view.view} == {None}
    assert np.isfinite(train(model, views, {}, SPEC).losses).all()
