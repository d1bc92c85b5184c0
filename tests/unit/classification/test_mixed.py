"""The recipe that learns from masks too."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from flawsmith.classification import fitting
from flawsmith.classification.backbones import Backbone
from flawsmith.classification.export import check_parity, export_onnx, make_golden
from flawsmith.classification.fitting import Schedule, TrainingSet, fit
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.model import SegmentingClassifier
from flawsmith.classification.pasting import paste_defect
from flawsmith.classification.recipes import RECIPES, Batch
from flawsmith.classification.recipes.mixed import mixed_loss
from flawsmith.classification.spec import TrainingImage
from flawsmith.classification.training import run
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import Label, Source, Split

from .support import SIDE, Recorder, parameters, picture, spec


def network(seed: int = 0) -> SegmentingClassifier:
    torch.manual_seed(seed)
    return SegmentingClassifier(Backbone.RESNET18)


def batch(has_mask: list[bool]) -> Batch:
    """Two defects, then two normals; the defects' masks are one pixel and a square."""
    generator = np.random.default_rng(0)
    images = np.stack([picture(defect, generator) for defect in (True, True, False, False)])
    masks = np.zeros((4, SIDE, SIDE), np.uint8)
    masks[0, 9, 9] = 255
    masks[1, 16:, 16:] = 255
    return Batch(
        torch.from_numpy(images), torch.tensor([1.0, 1.0, 0.0, 0.0]), torch.from_numpy(masks), torch.tensor(has_mask)
    )


def test_loss_is_that_of_labels_cells_and_dice_where_masks_are_known() -> None:
    model = network().eval()
    given = batch([True, False, True, True])
    with torch.no_grad():
        found = mixed_loss(model, given).item()
        logits, cells = model.logits_and_map(given.images)
    assert cells.shape == (4, SIDE // 8, SIDE // 8)
    expected = functional.binary_cross_entropy_with_logits(logits[:, 0], given.labels).item()
    probability = torch.sigmoid(cells)
    target = torch.zeros(4, 4, 4)
    target[0, 1, 1] = 1.0  # pixel (9, 9) is in cell (1, 1)
    known = [0, 2, 3]  # the second defect's mask is not known: its cells say nothing
    for index in known:
        p, t = probability[index], target[index]
        expected += -(t * p.log() + (1 - t) * (1 - p).log()).mean().item() / 4
    p, t = probability[0], target[0]
    expected += (1 - 2 * (p * t).sum() / max(1.0, float(p.sum() + t.sum()))).item() / 4  # the only known defect
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_defect_without_a_mask_teaches_by_its_label_only() -> None:
    model = network().train()
    labels_only = mixed_loss(model, batch([False] * 4))
    labels_only.backward()
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in model.segment.parameters())
    assert model.head.weight.grad is not None
    assert model.head.weight.grad.any()
    model = network().train()
    mixed_loss(model, batch([True] * 4)).backward()
    assert model.segment.weight.grad is not None
    assert model.segment.weight.grad.any()


def test_the_decision_sends_no_gradient_through_the_map() -> None:
    model = network()
    torch.nn.init.normal_(model.head.weight)
    model.logits(batch([True] * 4).images).sum().backward()
    assert model.segment.weight.grad is None
    assert next(model.backbone.parameters()).grad is not None


def test_masks_are_flipped_with_their_images() -> None:
    recipe = RECIPES["mixed"]
    generator = np.random.default_rng(0)
    images = np.stack([picture(True, generator) for _ in range(40)])
    masks = (images[..., 0] == 230).astype(np.uint8) * np.uint8(255)
    data = TrainingSet(images, tuple(range(30)), tuple(range(30, 40)), masks, {index: index for index in range(20)})
    given = data.batch(np.arange(40), recipe, np.random.default_rng(1))
    assert given.masks is not None
    assert given.has_mask is not None
    assert given.has_mask.tolist() == [True] * 20 + [False] * 10 + [True] * 10
    shown = (given.images[..., 0] == 230).numpy()
    assert (given.masks.numpy()[:20] > 0).tolist() == shown[:20].tolist()
    assert not given.masks[20:].any()
    assert not np.array_equal(given.images.numpy(), images)  # some were flipped


def test_it_learns_where_the_defects_are() -> None:
    generator = np.random.default_rng(0)
    images = np.stack([picture(index < 16, generator) for index in range(32)])
    masks = (images[..., 0] == 230).astype(np.uint8) * np.uint8(255)
    data = TrainingSet(
        images, tuple(range(16)), tuple(range(16, 32)), masks[:16], {index: index for index in range(16)}
    )
    model = network()
    fit(model, data, RECIPES["mixed"], Schedule(60, 8, 0.01, 0), device=torch.device("cpu"))
    fresh = np.stack([picture(index < 8, generator) for index in range(16)])
    with torch.no_grad():
        probability, _, heat_map, embedding = model(torch.from_numpy(fresh))
    truth = functional.adaptive_max_pool2d(torch.from_numpy((fresh[..., 0] == 230).astype(np.float32)), 4)
    inside, outside = heat_map[truth > 0], heat_map[truth == 0]
    assert inside.mean() > outside.mean() + 2.0
    assert probability[:8].min() > probability[8:].max()
    assert embedding.shape == (16, 512)


def test_exported_graph_gives_the_map(tmp_path: Path) -> None:
    model = network()
    torch.nn.init.normal_(model.head.weight, std=0.1)
    images = np.random.default_rng(0).integers(0, 256, (3, 72, 40, 3), dtype=np.uint8)
    model.train()
    model.logits(torch.from_numpy(images))
    export_onnx(model, 72, 40, tmp_path / "model.onnx")
    check_parity(tmp_path / "model.onnx", make_golden(model, images), threads=1)
    found = OnnxClassifier(tmp_path / "model.onnx", 1).run(images)
    with torch.no_grad():
        expected = model(torch.from_numpy(images))
    assert found["heat_map"].shape == (3, 9, 5)
    np.testing.assert_allclose(found["heat_map"], expected[2], atol=1e-3)


def test_a_run_uses_the_masks_that_are_there(pictures: tuple[TrainingImage, ...], tmp_path: Path) -> None:
    images = []
    for index, image in enumerate(pictures):
        mask = None
        if image.label is Label.DEFECT and image.split is Split.TRAIN and image.source is not Source.REAL:
            mask = tmp_path / f"mask-{index}.png"
            drawn = np.zeros((SIDE, SIDE), np.uint8)
            if image.source is Source.IN_DISTRIBUTION:  # the others' defects were cropped away
                drawn[4:9, 4:9] = 255
            mask.write_bytes(encode_png(drawn))
        images.append(image.model_copy(update={"mask": mask}))
    result = run(spec(tuple(images), tmp_path / "out", parameters=parameters(recipe="mixed", steps=2)), Recorder())
    assert "masks of 2" in Path(result["report"]).read_text()
    assert result["backbone"] == "resnet18"
    assert OnnxClassifier(Path(result["onnx"]), 1).run(np.zeros((1, SIDE, SIDE, 3), np.uint8))["heat_map"].shape == (
        1, 4, 4,
    )  # fmt: skip


def test_a_run_pastes_its_real_defects_and_no_synthetic_ones(
    pictures: tuple[TrainingImage, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, side = [], {True: 5, False: 7}
    for index, image in enumerate(pictures):
        mask = None
        if image.label is Label.DEFECT and image.split is Split.TRAIN:
            mask = tmp_path / f"mask-{index}.png"
            drawn = np.zeros((SIDE, SIDE), np.uint8)
            drawn[4 : 4 + side[image.source is Source.REAL], 4:9] = 255
            mask.write_bytes(encode_png(drawn))
        images.append(image.model_copy(update={"mask": mask}))
    areas = set()

    def watched(image: np.ndarray, mask: np.ndarray, *others: Any) -> tuple[np.ndarray, np.ndarray]:
        areas.add(int((mask > 0).sum()))
        return paste_defect(image, mask, *others)

    monkeypatch.setattr(fitting, "paste_defect", watched)
    run(spec(tuple(images), tmp_path / "out", parameters=parameters(recipe="mixed", steps=6)), Recorder())
    assert areas == {5 * 5}
