"""What this service stores."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flawsmith.classification.calibration import Calibration
from flawsmith.classification.intervals import Interval
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.manifests import Manifest, ObjectRef, Split


class PrecisionRecallPoint(Manifest):
    """threshold: the score from which on an image was called defective."""

    precision: float
    recall: float
    threshold: float


class OperatingPoint(Manifest):
    """What comes of one threshold: scores from it on are positive. Intervals are of 95 %: Clopper-Pearson's of shares,
    the bootstrap's of precision and F1; None where too little was counted."""

    threshold: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float
    false_alarm_rate: float
    precision_interval: Interval | None
    recall_interval: Interval | None
    false_alarm_rate_interval: Interval | None
    f1_interval: Interval | None = None


class Group(Manifest):
    """Quality on a part of a split. ap: of its defects against the split's real normals, with the bootstrap's interval.
    recall, false_alarm_rate: the shares called defective, with Clopper-Pearson's intervals. None where it has no such
    images."""

    name: str
    normals: int
    defects: int
    ap: float | None
    recall: float | None
    recall_interval: Interval | None
    false_alarm_rate: float | None
    false_alarm_rate_interval: Interval | None = None
    ap_interval: Interval | None = None


class ReliabilityBin(Manifest):
    """Images whose probabilities are alike: their mean probability, the share that is defective (both classes weighted
    alike), how many they are."""

    probability: float
    defective: float
    images: int


class Reliability(Manifest):
    """Expected calibration error of the scores and, where there is a calibration, of the probabilities it makes; bins
    of the latter where there are any."""

    calibration_error_before: float
    calibration_error: float | None
    bins: tuple[ReliabilityBin, ...]


class Evaluation(Manifest):
    """Quality on the real images of one split; `sources` includes synthetic ones.

    ap_trapezoid, ap, at_best_f1_here: None where the split has no defects; the last is picked on the very images it is
    measured on, for comparison with papers only. at_best_f1_of_validation: None where the validation split has none.
    at_threshold: positive is defective. at_ok_below: positive is not OK, so its recall is the one that a rule of two
    thresholds promises; None where the version has one threshold. unknown: parts between two thresholds, of which
    unknown_normals and unknown_defects; these two and at_ok_below are None in what earlier releases stored.
    predictions: Parquet, see `Predictions.write_parquet`. report: HTML.
    name, dataset_manifest, create_time: of those that are published by themselves; what a version was published with
    has them from its version.
    """

    name: str = ""
    dataset_manifest: ObjectRef | None = None
    split: Split
    normals: int
    defects: int
    unknown: int
    unknown_normals: int | None = None
    unknown_defects: int | None = None
    ap_trapezoid: float | None
    ap_trapezoid_interval: Interval | None
    ap: float | None
    ap_interval: Interval | None
    at_threshold: OperatingPoint
    at_ok_below: OperatingPoint | None = None
    at_best_f1_of_validation: OperatingPoint | None
    at_best_f1_here: OperatingPoint | None
    curve: tuple[PrecisionRecallPoint, ...]
    defect_types: tuple[Group, ...]
    sources: tuple[Group, ...]
    reliability: Reliability | None
    predictions: ObjectRef | None = None
    report: ObjectRef | None = None
    create_time: datetime | None = None

    def without_curve(self) -> Evaluation:
        """As lists show it: a curve has a point for each distinct score, and fifty of them fit no message."""
        return self.model_copy(update={"curve": ()})


class ClassifierVersionManifest(Manifest):
    """A trained classifier: `products/{product}/classifiers/{classifier}/versions/{version}`; immutable.

    weights: state dict (safetensors). golden: images with eager PyTorch's probabilities (npz). validation, test:
    None where the data set has no such images. onnx_max_abs_diff: PyTorch against ONNX Runtime on the golden
    images, probability. parameters: `TrainingParameters`. versions: of the libraries that trained it.
    calibration: None where no real defects were held out from training that it could be measured on.
    processes: that shared every batch. report: HTML of training, validation and test.
    """

    name: str
    product: str
    dataset_manifest: ObjectRef
    recipe: str
    backbone: str
    steps: int
    epochs: float
    batch_size: int
    processes: int
    final_loss: float
    height: int
    width: int
    seed: int
    onnx: ObjectRef
    weights: ObjectRef
    golden: ObjectRef
    initial_weights: ObjectRef | None = None
    initial_hub_model: str | None = None
    threshold: Threshold
    calibration: Calibration | None = None
    validation: Evaluation | None = None
    test: Evaluation | None = None
    report: ObjectRef | None = None
    onnx_max_abs_diff: float
    parameters: dict[str, Any]
    versions: dict[str, str]
    create_time: datetime

    def without_curves(self) -> ClassifierVersionManifest:
        """As lists show it; see `Evaluation.without_curve`."""
        evaluations = {"validation": self.validation, "test": self.test}
        return self.model_copy(update={name: found and found.without_curve() for name, found in evaluations.items()})
