"""What was measured of each cell of the grid, and the file that holds it: one JSON object a line."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from flawsmith.bench.cells import Cell
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import Label, Manifest, Source


class ImageScore(Manifest):
    """What the classifier says of one test image.

    image: sha256 of its file, which pairs it with the same image in other cells. path: where it was in the imported
    data, for people; empty where not known. source: `real`, or for a control's extra normals how they were made.
    score: probability of a defect as the network puts it, 0-1.
    """

    image: str
    path: str = ""
    label: Label
    defect_type: str = ""
    source: Source = Source.REAL
    score: float = Field(ge=0.0, le=1.0)


class OperatingPoint(Manifest):
    """What one threshold does on the real test images: scores at or above it are called defective. A ratio without a
    denominator is 0, as in the platform's evaluations."""

    threshold: float
    precision: float
    recall: float
    f1: float
    false_alarm_rate: float


class CellResult(Manifest):
    """A cell's figures on the real images of the test split, as the platform's evaluation gave them.

    ap: sum over thresholds of (R_n - R_{n-1}) P_n, scikit-learn's `average_precision_score`. ap_trapezoid: area under
    the precision-recall curve by trapezoids, which is what the code behind the paper computes and calls AP.

    at_threshold: at the threshold that the version was published with (set by rule on validation's normals).
    at_best_f1_of_validation: at the threshold of best F1 on the validation split; None where that has no defects, as in
    zero-shot. at_best_f1_of_test: at the threshold that is best on the test images themselves; it flatters and is kept
    for comparison with papers only.

    reconstructed_false_alarm_rate: share of the *reconstructed* test normals (through the diffusion model's encoder and
    decoder) that at_threshold's threshold calls defective; None where none were tested. Its counterpart for real test
    normals is `at_threshold.false_alarm_rate`.

    test_scores: of every test image; the intervals of the report are resampled from these. Scores of reconstructed
    normals may be among them, told apart by their source; they enter no other figure.

    optimiser_steps: done in training. seconds: from the training's request to its result. dataset, classifier: names of
    the data set and the classifier version that these figures belong to. recipe, backbone, initial_weights, height,
    width: the training's; initial_weights is empty where the backbone began at random. train_*: images of the train
    split by kind.
    """

    cell: Cell
    ap: float
    ap_trapezoid: float
    at_threshold: OperatingPoint
    at_best_f1_of_validation: OperatingPoint | None
    at_best_f1_of_test: OperatingPoint
    reconstructed_false_alarm_rate: float | None = None
    test_scores: tuple[ImageScore, ...]
    optimiser_steps: int = Field(ge=0)
    seconds: float = Field(ge=0.0)
    dataset: str
    classifier: str
    recipe: str = ""
    backbone: str = ""
    initial_weights: str = ""
    height: int = Field(default=0, ge=0)
    width: int = Field(default=0, ge=0)
    train_normals: int | None = None
    train_reconstructed_normals: int | None = None
    train_real_defects: int | None = None
    train_synthetic_defects: int | None = None

    @model_validator(mode="after")
    def _check(self) -> CellResult:
        real = [one for one in self.test_scores if one.source is Source.REAL]
        if not {Label.NORMAL, Label.DEFECT} <= {one.label for one in real}:
            raise ValueError("test_scores: average precision needs real normals and real defects among them")
        return self


def append_result(path: Path, result: CellResult) -> None:
    """Adds a line to the file, which is made when it is not there. What a crash left of an unfinished last line goes.

    For one writer at a time."""
    with path.open("a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(result.model_dump_json().encode() + b"\n")


def read_results(path: Path) -> list[CellResult]:
    """The file's results in its order, the last of each cell; empty where there is no file.

    A last line without its end was cut off by a crash and is left out. Raises InvalidArgumentError for a line that is
    no result.
    """
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    found: dict[Cell, CellResult] = {}
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        try:
            result = CellResult.model_validate_json(line)
        except ValidationError as error:
            raise InvalidArgumentError(
                "BENCH_RESULT_UNREADABLE",
                f"Line {number} of {path} is no result of this version of the benchmark: {error.errors()[0]['msg']}. "
                "Move the file away to measure again, or remove the line to measure its cell again.",
            ) from error
        found.pop(result.cell, None)
        found[result.cell] = result
    return list(found.values())
