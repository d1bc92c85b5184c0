from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from scipy import stats
from sklearn import metrics as reference

from flawsmith.classification.calibration import Calibration
from flawsmith.classification.evaluation import best_f1_threshold, evaluate
from flawsmith.classification.manifests import Evaluation
from flawsmith.classification.predictions import Image, Predictions
from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.v1 import classification_pb2
from flawsmith.common.convert import to_message
from flawsmith.common.manifests import Label, Source, Split

THRESHOLD = Threshold(id="0" * 12, value=0.6, rule="by hand", ok_below=0.4)
CALIBRATION = Calibration(temperature=2.0, normals=10, defects=10)


def predictions(groups: list[tuple[Label, Source, str, int]], seed: int = 0) -> Predictions:
    """Scores that tell defects from normals, but not perfectly."""
    generator = np.random.default_rng(seed)
    images, logits = [], []
    for label, source, kind, count in groups:
        for _ in range(count):
            images.append(Image(f"{len(images):064x}", f"test/{len(images)}.png", Split.TEST, label, source, kind))
            logits.append(generator.normal(1.0 if label is Label.DEFECT else -1.0))
    values = np.array(logits, dtype=np.float32)
    return Predictions(tuple(images), values, (1 / (1 + np.exp(-values))).astype(np.float32))


MIXED = [
    (Label.NORMAL, Source.REAL, "", 40),
    (Label.DEFECT, Source.REAL, "crack", 12),
    (Label.DEFECT, Source.REAL, "stain", 6),
    (Label.DEFECT, Source.IN_DISTRIBUTION, "", 9),
    (Label.NORMAL, Source.RECONSTRUCTED, "", 5),
]


@pytest.fixture(scope="module")
def both() -> tuple[Predictions, Evaluation]:
    found = predictions(MIXED)
    return found, evaluate(Split.TEST, found, THRESHOLD, CALIBRATION, best_f1_of_validation=0.55)


def test_headline_figures_are_of_real_images_only(both: tuple[Predictions, Evaluation]) -> None:
    found, quality = both
    real = found.take(found.real)
    assert (quality.normals, quality.defects) == (40, 18)
    assert quality.ap == pytest.approx(reference.average_precision_score(real.labels, real.scores))
    precision, recall, _ = reference.precision_recall_curve(real.labels, real.scores)
    assert quality.ap_trapezoid == pytest.approx(reference.auc(recall, precision))
    assert quality.ap_interval is not None
    assert quality.ap_interval.low < quality.ap < quality.ap_interval.high
    between = (real.scores >= 0.4) & (real.scores < 0.6)
    assert quality.unknown == between.sum()
    assert quality.unknown_normals == (between & (real.labels == 0)).sum() > 0
    assert quality.unknown_defects == (between & (real.labels == 1)).sum() > 0


def test_operating_points_equal_scikit_learn_at_their_thresholds(both: tuple[Predictions, Evaluation]) -> None:
    found, quality = both
    real = found.take(found.real)
    assert quality.at_threshold.threshold == 0.6
    assert quality.at_best_f1_of_validation is not None
    assert quality.at_best_f1_of_validation.threshold == 0.55
    assert quality.at_best_f1_here is not None
    assert quality.at_best_f1_here.threshold == best_f1_threshold(found)
    assert quality.at_ok_below is not None
    assert quality.at_ok_below.threshold == 0.4
    for point in (
        quality.at_threshold, quality.at_ok_below, quality.at_best_f1_of_validation, quality.at_best_f1_here
    ):  # fmt: skip
        called = (real.scores >= point.threshold).astype(int)
        tn, fp, fn, tp = reference.confusion_matrix(real.labels, called).ravel()
        counts = (point.true_negatives, point.false_positives, point.false_negatives, point.true_positives)
        assert counts == (tn, fp, fn, tp)
        assert point.precision == pytest.approx(reference.precision_score(real.labels, called))
        assert point.recall == pytest.approx(reference.recall_score(real.labels, called))
        assert point.f1 == pytest.approx(reference.f1_score(real.labels, called))
        for value, interval in (
            (point.precision, point.precision_interval),
            (point.f1, point.f1_interval),
            (point.recall, point.recall_interval),
            (point.false_alarm_rate, point.false_alarm_rate_interval),
        ):
            assert interval is not None
            assert interval.low <= value <= interval.high
    best = max(reference.f1_score(real.labels, real.scores >= score) for score in real.scores)
    assert quality.at_best_f1_here.f1 == pytest.approx(best)


def test_the_promised_recall_is_the_share_of_defects_that_are_not_called_ok(
    both: tuple[Predictions, Evaluation],
) -> None:
    found, quality = both
    point = quality.at_ok_below
    assert point is not None
    verdicts = [
        THRESHOLD.verdict(float(score)) for score, label in zip(found.scores, found.labels, strict=True) if label
    ][:18]  # the real ones come first
    kept = sum(verdict != "ok" for verdict in verdicts)
    assert point.recall == pytest.approx(kept / 18)
    assert point.recall > quality.at_threshold.recall
    exact = stats.binomtest(kept, 18).proportion_ci(0.95, "exact")
    assert point.recall_interval is not None
    assert (point.recall_interval.low, point.recall_interval.high) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert quality.at_threshold.false_negatives - point.false_negatives == quality.unknown_defects
    assert quality.at_threshold.true_negatives - point.true_negatives == quality.unknown_normals


def test_with_one_threshold_nothing_is_unknown(both: tuple[Predictions, Evaluation]) -> None:
    found, _ = both
    quality = evaluate(Split.TEST, found, Threshold(id="0" * 12, value=0.6, rule="by hand"), None, None)
    assert quality.at_ok_below is None
    assert (quality.unknown, quality.unknown_normals, quality.unknown_defects) == (0, 0, 0)


def test_evaluations_of_earlier_releases_are_read(both: tuple[Predictions, Evaluation]) -> None:
    """They lack what two thresholds come to."""
    _, quality = both
    new = {"at_ok_below", "unknown_normals", "unknown_defects"}
    read = Evaluation.model_validate_json(quality.model_dump_json(exclude=new))
    assert read == quality.model_copy(update=dict.fromkeys(new))
    message = to_message(read, classification_pb2.Evaluation)
    assert message.unknown == quality.unknown
    assert not any(message.HasField(name) for name in new)


def test_groups_rank_their_defects_against_all_real_normals(both: tuple[Predictions, Evaluation]) -> None:
    found, quality = both
    labels, real = found.labels, found.real
    normals = found.scores[real & (labels == 0)]
    assert [group.name for group in quality.defect_types] == ["crack", "stain"]
    for group in quality.defect_types:
        scores = found.scores[[image.defect_type == group.name for image in found.images]]
        ranked = np.concatenate([scores, normals])
        truth = np.repeat([1, 0], [len(scores), len(normals)])
        assert group.ap == pytest.approx(reference.average_precision_score(truth, ranked))
        assert group.recall == pytest.approx((scores >= 0.6).mean())
        assert group.recall_interval is not None
        draws = np.random.default_rng(1)
        resampled = []
        for _ in range(400):
            drawn = np.concatenate([draws.choice(part, len(part)) for part in (scores, normals)])
            resampled.append(reference.average_precision_score(truth, drawn))
        low, high = np.quantile(resampled, [0.025, 0.975])
        assert group.ap_interval is not None
        assert (group.ap_interval.low, group.ap_interval.high) == pytest.approx((low, high), abs=0.03)
    sources = {group.name: group for group in quality.sources}
    assert {name: (group.normals, group.defects) for name, group in sources.items()} == {
        "real": (40, 18), "in_distribution": (0, 9), "reconstructed": (5, 0),
    }  # fmt: skip
    assert sources["in_distribution"].false_alarm_rate is sources["in_distribution"].false_alarm_rate_interval is None
    assert sources["in_distribution"].ap_interval is not None
    assert sources["real"].ap_interval == quality.ap_interval
    control = sources["reconstructed"]
    assert control.ap_interval is None
    assert control.recall is None
    scores = found.scores[[image.source is Source.RECONSTRUCTED for image in found.images]]
    assert control.false_alarm_rate == pytest.approx((scores >= 0.6).mean())
    exact = stats.binomtest(int((scores >= 0.6).sum()), 5).proportion_ci(0.95, "exact")
    assert control.false_alarm_rate_interval is not None
    assert control.false_alarm_rate_interval.low == pytest.approx(exact.low, abs=1e-6)
    assert control.false_alarm_rate_interval.high == pytest.approx(exact.high, abs=1e-6)


def test_reconstructed_normals_change_no_other_figure(both: tuple[Predictions, Evaluation]) -> None:
    found, quality = both
    photographed = found.take([image.source is not Source.RECONSTRUCTED for image in found.images])
    without = evaluate(Split.TEST, photographed, THRESHOLD, CALIBRATION, best_f1_of_validation=0.55)
    assert best_f1_threshold(found) == best_f1_threshold(photographed)
    assert without.sources == tuple(group for group in quality.sources if group.name != "reconstructed")
    assert without.model_dump(exclude={"sources"}) == quality.model_dump(exclude={"sources"})


def test_reliability_is_of_calibrated_probabilities(both: tuple[Predictions, Evaluation]) -> None:
    found, quality = both
    assert quality.reliability is not None
    assert quality.reliability.calibration_error is not None
    assert sum(one.images for one in quality.reliability.bins) == 58
    plain = evaluate(Split.TEST, found, THRESHOLD, None, None)
    assert plain.reliability is not None
    assert plain.reliability.calibration_error is None
    assert plain.reliability.calibration_error_before == quality.reliability.calibration_error_before
    assert plain.at_best_f1_of_validation is None


def test_a_split_without_defects_has_no_average_precision() -> None:
    found = predictions([(Label.NORMAL, Source.REAL, "", 5)])
    quality = evaluate(Split.VALIDATION, found, THRESHOLD, None, best_f1_threshold(found))
    assert quality.ap is quality.ap_trapezoid is quality.ap_interval is quality.at_best_f1_here is None
    assert (quality.curve, quality.defect_types) == ((), ())
    assert quality.at_threshold.recall_interval is None
    assert quality.at_threshold.true_negatives + quality.at_threshold.false_positives == 5


def test_predictions_are_a_table_with_a_row_an_image(both: tuple[Predictions, Evaluation], tmp_path: Path) -> None:
    found, _ = both
    found.write_parquet(tmp_path / "p.parquet", THRESHOLD, CALIBRATION)
    table = parquet.read_table(tmp_path / "p.parquet")
    assert table.column_names == [
        "sha256", "path", "split", "label", "source", "defect_type", "logit", "score", "calibrated", "verdict",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert len(rows) == len(found)
    for row, image, logit, score in zip(rows, found.images, found.logits, found.scores, strict=True):
        assert (row["sha256"], row["path"], row["label"]) == (image.sha256, image.original_path, image.label.value)
        assert (row["logit"], row["score"]) == (logit, score)
        assert row["calibrated"] == pytest.approx(1 / (1 + np.exp(-float(logit) / 2.0)))
        assert row["verdict"] == THRESHOLD.verdict(float(score))
    assert {row["verdict"] for row in rows} == {"ok", "unknown", "defective"}
    found.write_parquet(tmp_path / "plain.parquet", THRESHOLD, None)
    assert parquet.read_table(tmp_path / "plain.parquet")["calibrated"].null_count == len(found)
