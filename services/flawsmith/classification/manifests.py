"""What this service stores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flawsmith.classification.calibration import Calibration
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.manifests import Manifest, ObjectRef, Split


class PrecisionRecallPoint(Manifest):
    """threshold: the score from which on an image was called defective."""

    precision: float
    recall: float
    threshold: float


class Evaluation(Manifest):
    """Quality on the real images of one split.

    ap_trapezoid, ap, best_f1: None where the split has no defects. precision, recall, false_alarm_rate: at the
    version's threshold. best_f1: at the threshold that is best on this very split, for comparison with papers
    only. predictions: JSON lines, one an image: sha256, label, score.
    """

    split: Split
    normals: int
    defects: int
    ap_trapezoid: float | None
    ap: float | None
    precision: float
    recall: float
    false_alarm_rate: float
    best_f1: float | None
    curve: tuple[PrecisionRecallPoint, ...]
    predictions: ObjectRef | None = None


class ClassifierVersionManifest(Manifest):
    """A trained classifier: `products/{product}/classifiers/{classifier}/versions/{version}`; immutable.

    weights: state dict (safetensors). golden: images with eager PyTorch's probabilities (npz). validation, test:
    None where the data set has no such images. onnx_max_abs_diff: PyTorch against ONNX Runtime on the golden
    images, probability. parameters: `TrainingParameters`. versions: of the libraries that trained it.
    calibration: None where no real defects were held out from training that it could be measured on.
    """

    name: str
    product: str
    dataset_manifest: ObjectRef
    recipe: str
    steps: int
    epochs: float
    batch_size: int
    final_loss: float
    height: int
    width: int
    seed: int
    onnx: ObjectRef
    weights: ObjectRef
    golden: ObjectRef
    initial_weights: ObjectRef | None = None
    threshold: Threshold
    calibration: Calibration | None = None
    validation: Evaluation | None = None
    test: Evaluation | None = None
    onnx_max_abs_diff: float
    parameters: dict[str, Any]
    versions: dict[str, str]
    create_time: datetime
