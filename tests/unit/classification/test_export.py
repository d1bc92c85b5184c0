from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flawsmith.classification.export import Golden, check_parity, choose_golden, export_onnx, make_golden
from flawsmith.classification.graph import OPSET, OUTPUTS
from flawsmith.classification.inference import OnnxClassifier, require_parity
from flawsmith.classification.model import ResNetClassifier
from flawsmith.common.errors import AbortedError

HEIGHT, WIDTH = 64, 40


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ResNetClassifier, Path, Golden]:
    """A network whose every layer matters: random head and residual branches, statistics of real batches."""
    torch.manual_seed(0)
    model = ResNetClassifier()
    torch.nn.init.normal_(model.head.weight, std=0.05)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
    images = np.random.default_rng(0).integers(0, 256, (6, HEIGHT, WIDTH, 3), dtype=np.uint8)
    model.train()
    for _ in range(3):
        model.logits(torch.from_numpy(images))
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(model, HEIGHT, WIDTH, path)
    return model, path, make_golden(model, images)


def test_onnx_runtime_agrees_with_pytorch(exported: tuple[ResNetClassifier, Path, Golden]) -> None:
    model, path, golden = exported
    assert np.ptp(golden.probability) > 1e-3  # the images are told apart, so agreement means something
    assert check_parity(path, golden) <= 1e-4
    with torch.no_grad():
        expected = model(torch.from_numpy(golden.images))[1].numpy()
    _, logit = OnnxClassifier(path)(golden.images)
    np.testing.assert_allclose(logit, expected, atol=1e-3)


def test_graph_takes_raw_pixels_in_any_batch(exported: tuple[ResNetClassifier, Path, Golden]) -> None:
    session = onnxruntime.InferenceSession(str(exported[1]), providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.type, image.shape[1:]) == ("image", "tensor(uint8)", [HEIGHT, WIDTH, 3])
    assert isinstance(image.shape[0], str)
    assert [(used.domain, used.version) for used in onnx.load(exported[1]).opset_import] == [("", OPSET)]
    assert [output.name for output in session.get_outputs()] == list(OUTPUTS)
    assert OnnxClassifier(exported[1].read_bytes()).size == (HEIGHT, WIDTH)
    pixels = exported[2].images
    whole = OnnxClassifier(exported[1]).probabilities(pixels, batch_size=len(pixels))
    np.testing.assert_allclose(OnnxClassifier(exported[1]).probabilities(pixels, batch_size=4), whole, atol=1e-5)


def test_heat_map_is_grad_cam_of_the_last_feature_maps(exported: tuple[ResNetClassifier, Path, Golden]) -> None:
    model, path, golden = exported
    pixels = torch.from_numpy(golden.images[:2])
    maps: list[torch.Tensor] = []
    hook = model.backbone.encoder.register_forward_hook(lambda _module, _inputs, found: maps.append(found[0]))
    logit = model.logits(pixels)
    hook.remove()
    (gradient,) = torch.autograd.grad(logit.sum(), maps[0])
    cells = maps[0].shape[2] * maps[0].shape[3]
    grad_cam = (gradient.mean((2, 3), keepdim=True) * maps[0]).sum(1).detach().numpy() * cells
    found = OnnxClassifier(path).run(golden.images[:2])
    np.testing.assert_allclose(found["heat_map"], grad_cam, atol=1e-3)
    # The evidence adds up to the answer.
    bias = float(model.head.bias.detach())
    np.testing.assert_allclose(found["heat_map"].mean((1, 2)) + bias, found["logit"][:, 0], atol=1e-3)
    np.testing.assert_allclose(found["embedding"], maps[0].mean((2, 3)).detach().numpy(), atol=1e-3)


def test_gate_stops_a_graph_that_computes_something_else(
    exported: tuple[ResNetClassifier, Path, Golden], tmp_path: Path
) -> None:
    _, path, golden = exported
    shifted = Golden(golden.images, golden.probability + np.float32(2e-4))
    with pytest.raises(AbortedError) as error:
        check_parity(path, shifted)
    assert error.value.reason == "PARITY_GATE_FAILED"


@pytest.mark.parametrize(
    "ours", [np.empty(0, np.float32), np.array([np.nan, 0.5], np.float32), np.array([0.5], np.float32)]
)
def test_gate_is_not_passed_by_silence(ours: np.ndarray) -> None:
    with pytest.raises(AbortedError) as error:
        require_parity("Triton and ONNX Runtime", ours, np.array([0.5, 0.5], np.float32))
    assert error.value.reason == "PARITY_GATE_FAILED"


def test_golden_images_survive_storage(exported: tuple[ResNetClassifier, Path, Golden], tmp_path: Path) -> None:
    exported[2].save(tmp_path / "golden.npz")
    loaded = Golden.load(tmp_path / "golden.npz")
    np.testing.assert_array_equal(loaded.images, exported[2].images)
    np.testing.assert_array_equal(loaded.probability, exported[2].probability)


@pytest.mark.parametrize(
    ("positives", "negatives", "expected"), [(20, 200, (4, 4)), (2, 200, (2, 6)), (20, 0, (8, 0)), (1, 2, (1, 2))]
)
def test_golden_images_are_of_both_kinds_where_there_are_both(
    positives: int, negatives: int, expected: tuple[int, int]
) -> None:
    labels = np.array([1] * positives + [0] * negatives)
    chosen = choose_golden(labels)
    assert len(set(chosen.tolist())) == len(chosen) == sum(expected)
    assert (labels[chosen].sum(), (1 - labels[chosen]).sum()) == expected
