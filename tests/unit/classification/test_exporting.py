"""Exports of a real network: each runtime answers as eager PyTorch does, or passes its gate, or is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.export import export_onnx, make_golden
from flawsmith.classification.exporting import ExportSpec, LabelledImage, openvino_score, run
from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.model import ResNetClassifier
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.errors import AbortedError, FailedPreconditionError
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import Label

from .support import SIDE, Recorder, picture

THRESHOLD = Threshold(id="0123456789ab", value=0.5, rule="written for this test")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, tuple[LabelledImage, ...]]:
    """A small network that tells the pictures apart, its golden images, and 80 labelled files."""
    folder = tmp_path_factory.mktemp("trained")
    generator = np.random.default_rng(0)
    labels = [index % 2 == 0 for index in range(80)]
    pictures = np.stack([picture(defect, generator) for defect in labels])
    torch.manual_seed(0)
    model = ResNetClassifier(Backbone.RESNET18)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    targets = torch.tensor(labels, dtype=torch.float32)[:, None]
    model.train()
    for step in range(40):
        chosen = torch.from_numpy(np.random.default_rng(step).permutation(80)[:16])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            model.logits(torch.from_numpy(pictures)[chosen]), targets[chosen]
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    export_onnx(model, SIDE, SIDE, folder / "model.onnx")
    make_golden(model, pictures[:6]).save(folder / "golden.npz")
    images = []
    for index, (pixels, defect) in enumerate(zip(pictures, labels, strict=True)):
        path = folder / f"{index}.png"
        path.write_bytes(encode_png(pixels))
        images.append(LabelledImage(path=path, label=Label.DEFECT if defect else Label.NORMAL))
    return folder / "model.onnx", folder / "golden.npz", tuple(images)


def spec(trained: tuple[Path, Path, tuple[LabelledImage, ...]], folder: Path, **changes: object) -> ExportSpec:
    fields = {"onnx": trained[0], "golden": trained[1], "threshold": THRESHOLD, "work_folder": folder, "threads": 1}
    return ExportSpec.model_validate(fields | changes)


def test_int8_is_quantised_and_passes_its_gate(
    trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path
) -> None:
    images = trained[2]
    made = run(spec(trained, tmp_path, format="onnx_int8", calibration=images[:40], test=images), Recorder())
    (path,) = made["files"].values()
    assert made["gate"]["ap_fp32"] > 0.95  # it was worth quantising
    assert made["gate"]["ap_difference_low"] >= -0.01
    quantised, served = OnnxClassifier(Path(path)), OnnxClassifier(trained[0])
    assert quantised.outputs == served.outputs
    assert Path(path).stat().st_size < 0.35 * trained[0].stat().st_size
    # What runs is integer arithmetic: every convolution of the backbone is fused.
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("QLinearConv") == 20  # 17 of the basic blocks and the stem, 3 of the shortcuts
    assert kinds.count("Conv") == 1  # the heat map's
    # The first one reads the image's bytes: nothing is computed for them before.
    assert not {"Sub", "Div", "QuantizeLinear"} & set(kinds)


def test_openvino_agrees_with_pytorch(trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path) -> None:
    made = run(spec(trained, tmp_path, format="openvino"), Recorder())
    assert sorted(made["files"]) == ["model.bin", "model.xml"]
    assert made["max_abs_diff_vs_pytorch"] <= 1e-4
    assert made["gate"] is None
    with np.load(trained[1]) as golden:
        found = openvino_score(Path(made["files"]["model.xml"]))(golden["images"])
        np.testing.assert_allclose(found, golden["probability"], atol=1e-4)


def test_onnx_is_the_graph_that_is_served(
    trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path
) -> None:
    made = run(spec(trained, tmp_path, format="onnx"), Recorder())
    assert Path(made["files"]["model.onnx"]).read_bytes() == trained[0].read_bytes()
    assert made["max_abs_diff_vs_pytorch"] <= 1e-4


def test_a_graph_that_answers_otherwise_is_not_exported(
    trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path
) -> None:
    with np.load(trained[1]) as golden:
        np.savez(tmp_path / "other.npz", images=golden["images"], probability=golden["probability"] + 0.01)
    for wanted in ("onnx", "openvino"):
        with pytest.raises(AbortedError) as error:
            run(spec(trained, tmp_path / "out", format=wanted, golden=tmp_path / "other.npz"), Recorder())
        assert error.value.reason == "PARITY_GATE_FAILED"


def test_int8_is_refused_where_the_gate_cannot_say(
    trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path
) -> None:
    images = trained[2]
    with pytest.raises(FailedPreconditionError) as error:
        run(spec(trained, tmp_path, format="onnx_int8", calibration=images, test=images[:30]), Recorder())
    assert error.value.reason == "TOO_FEW_POSITIVES"


@pytest.mark.skipif("tensorrt" in sys.modules or torch.cuda.is_available(), reason="this machine may have TensorRT")
def test_tensorrt_needs_a_gpu(trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path) -> None:
    images = trained[2]
    with pytest.raises(FailedPreconditionError) as error:
        run(spec(trained, tmp_path, format="tensorrt", test=images), Recorder())
    assert error.value.reason == "TENSORRT_MISSING"


def test_images_of_any_size_calibrate(trained: tuple[Path, Path, tuple[LabelledImage, ...]], tmp_path: Path) -> None:
    images = list(trained[2])
    large = tmp_path / "large.png"
    large.write_bytes(encode_png(cv2.resize(cv2.imread(str(images[0].path)), (3 * SIDE, 2 * SIDE))))
    images[0] = LabelledImage(path=large, label=images[0].label)
    made = run(spec(trained, tmp_path / "out", format="onnx_int8", calibration=images[:8], test=trained[2]), Recorder())
    assert made["gate"]["defects"] == 40
