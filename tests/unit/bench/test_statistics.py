"""Intervals against closed forms and SciPy, average precision against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from flawsmith.bench import statistics
from flawsmith.bench.cells import Arm
from flawsmith.bench.statistics import Evidence
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import Label, Source
from tests.unit.bench.grids import cell_result, scores_of


def measured(arm: str, seed: int, scores, labels, n_aug: int | None = None):
    return statistics.measure([cell_result(arm, seed, labels, scores, n_aug=n_aug)])[0]


def test_average_precisions_are_scikit_learns_of_every_resample() -> None:
    generator = np.random.default_rng(3)
    labels = (np.arange(60) < 9).astype(int)
    scores = np.round(np.clip(generator.normal(0.3 + 0.3 * labels, 0.2), 0, 1), 1)  # many ties
    counts = statistics.resample(labels)[:50]
    ap, trapezoid = statistics.average_precisions(labels, scores, counts)
    for row, count in enumerate(counts):
        assert ap[row] == pytest.approx(sklearn_metrics.average_precision_score(labels, scores, sample_weight=count))
        drawn = np.repeat(np.arange(60), count)
        precision, recall, _ = sklearn_metrics.precision_recall_curve(labels[drawn], scores[drawn])
        assert trapezoid[row] == pytest.approx(sklearn_metrics.auc(recall, precision))


def test_resamples_keep_the_share_of_defects_and_are_the_same_for_all_arms() -> None:
    labels = np.array([0] * 7 + [1] * 3)
    counts = statistics.resample(labels)
    assert (counts[:, labels == 1].sum(axis=1) == 3).all()
    assert (counts[:, labels == 0].sum(axis=1) == 7).all()
    np.testing.assert_array_equal(counts, statistics.resample(labels.copy()))
    # Each image is drawn once on average, with the binomial's deviation.
    assert np.allclose(counts.mean(axis=0), 1.0, atol=0.06)
    assert np.allclose(counts[:, labels == 1].var(axis=0), 3 * (1 / 3) * (2 / 3), atol=0.06)


def test_one_seeds_interval_is_scipys_bootstrap() -> None:
    labels = (np.arange(80) < 20).astype(int)
    scores = scores_of(labels, 1.0, 5)
    ap, trapezoid = statistics.estimate([measured("none", 0, scores, labels)])

    def resampled_ap(positives: np.ndarray, negatives: np.ndarray) -> float:
        drawn = np.concatenate([positives, negatives])
        return sklearn_metrics.average_precision_score([1] * len(positives) + [0] * len(negatives), drawn)

    expected = stats.bootstrap(
        (scores[labels == 1], scores[labels == 0]), resampled_ap, vectorized=False, n_resamples=2000,
        method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert ap.interval() == pytest.approx((expected.low, expected.high), abs=0.015)
    assert ap.deviation is None
    assert ap.mean == pytest.approx(sklearn_metrics.average_precision_score(labels, scores))
    assert trapezoid.mean != ap.mean


def test_without_noise_of_images_a_difference_has_students_interval() -> None:
    # Two images, so that every resample is the same; average precision is 1 or a half, whatever was drawn.
    labels, right, wrong = np.array([0, 1]), np.array([0.2, 0.8]), np.array([0.8, 0.2])
    first = [measured("mixed", seed, right, labels) for seed in range(6)]
    second = [measured("none", seed, wrong if seed < 3 else right, labels) for seed in range(6)]
    compared = statistics.compare(first, second)
    assert compared is not None
    differences = np.array([0.5] * 3 + [0.0] * 3)
    expected = stats.t.interval(0.95, 5, loc=differences.mean(), scale=stats.sem(differences))
    np.testing.assert_allclose(compared[0].values, differences)
    assert compared[0].interval() == pytest.approx(expected, abs=0.02)
    assert compared[0].deviation == pytest.approx(stats.tstd(differences))


def test_more_comparisons_make_a_wider_interval_as_bonferroni_says() -> None:
    labels, right, wrong = np.array([0, 1]), np.array([0.2, 0.8]), np.array([0.8, 0.2])
    cells = [measured("none", seed, wrong if seed % 3 == 0 else right, labels) for seed in range(12)]
    ap, _ = statistics.estimate(cells)
    values = np.array([0.5 if seed % 3 == 0 else 1.0 for seed in range(12)])
    for comparisons in (1, 5):
        low, high = stats.t.interval(1 - 0.05 / comparisons, 11, loc=values.mean(), scale=stats.sem(values))
        assert ap.interval(comparisons) == pytest.approx((low, min(high, 1.0)), abs=0.025)


def test_intervals_of_differences_hold_the_truth_as_often_as_they_say() -> None:
    """Images make noise that arms share, seeds and trainings make noise that they do not."""
    generator = np.random.default_rng(0)
    labels, once = (np.arange(60) < 15).astype(int), np.ones((1, 60), int)

    def draw(seeds: int) -> list[list[np.ndarray]]:
        shared = generator.normal(0, 0.7, 60)
        return [
            [
                stats.norm.cdf(shared + generator.normal(0, 0.4, 60) + generator.normal(separation, 0.3) * labels)
                for _ in range(seeds)
            ]
            for separation in (2.5, 1.8)
        ]

    def difference(first: np.ndarray, second: np.ndarray) -> float:
        return (
            statistics.average_precisions(labels, first, once)[0][0]
            - (statistics.average_precisions(labels, second, once)[0][0])
        )

    truth = np.mean([difference(*(scores[0] for scores in draw(1))) for _ in range(2000)])
    held = 0
    for _ in range(40):
        arms = [
            [measured(arm, seed, scores, labels) for seed, scores in enumerate(of_arm)]
            for arm, of_arm in zip(("mixed", "diffusion"), draw(3), strict=True)
        ]
        compared = statistics.compare(*arms)
        assert compared is not None
        low, high = compared[0].interval() or (0.0, 0.0)
        held += low <= truth <= high
    assert held >= 37


def test_differences_are_paired_by_seed_and_by_image() -> None:
    labels = (np.arange(100) < 20).astype(int)
    base = [scores_of(labels, 1.0, seed) for seed in range(4)]
    slightly_better = [np.clip(scores + 0.02 * labels, 0, 1) for scores in base]
    first = [measured("mixed", seed, slightly_better[seed], labels) for seed in range(4)]
    second = [measured("none", seed, base[seed], labels) for seed in range(4)]
    compared = statistics.compare(first, second)
    assert compared is not None
    low, high = compared[0].interval() or (0, 0)
    alone_low, alone_high = statistics.estimate(second)[0].interval() or (0, 0)
    assert high - low < (alone_high - alone_low) / 3
    assert low >= 0.0


def test_arms_without_n_aug_stand_beside_each_n_aug_and_only_shared_seeds_count() -> None:
    labels = (np.arange(40) < 10).astype(int)
    none = [measured("none", seed, scores_of(labels, 1.0, seed), labels) for seed in (0, 1, 2)]
    mixed = [
        measured("mixed", seed, scores_of(labels, 1.5, 10 * n + seed), labels, n_aug=n)
        for seed in (1, 2, 3)
        for n in (80, 120)
    ]
    compared = statistics.compare(mixed, none)
    assert compared is not None
    ap = {(cell.seed, cell.n_aug): cell.result.ap for cell in [*none, *mixed]}
    expected = [np.mean([ap[seed, 80], ap[seed, 120]]) - ap[seed, 0] for seed in (1, 2)]
    np.testing.assert_allclose(compared[0].values, expected)
    assert statistics.compare(mixed, none[:1]) is None


def test_evidence_is_corrected_for_the_comparisons_beside_it() -> None:
    labels, right, wrong = np.array([0, 1]), np.array([0.2, 0.8]), np.array([0.8, 0.2])

    def evidence(wrong_in_none: int, seeds: int = 8) -> Evidence:
        cells = [measured("none", seed, wrong if seed < wrong_in_none else right, labels) for seed in range(seeds)]
        for arm in ("per-region", "diffusion", "mixed"):
            cells += [measured(arm, seed, right, labels) for seed in range(seeds)]
        found = {one.name: one for one in statistics.comparisons(cells)}
        assert found["mixed − none"].beside == 6
        assert found["mixed − diffusion"].evidence in (Evidence.NONE, Evidence.ONE_SEED)
        return found["mixed − none"].evidence

    assert evidence(0) is Evidence.NONE
    assert evidence(2) is Evidence.NONE
    # Student's t of 4 in 8 is 2.65 with 7 degrees of freedom: beyond 2.36, not beyond the 3.64 of six comparisons.
    assert evidence(4) is Evidence.ALONE
    assert evidence(7) is Evidence.SHOWN
    assert evidence(1, seeds=1) is Evidence.ONE_SEED


def test_nothing_is_said_where_every_resample_is_the_same() -> None:
    labels = (np.arange(40) < 10).astype(int)
    perfect = 0.1 + 0.8 * labels
    ap, _ = statistics.estimate([measured("none", seed, perfect, labels) for seed in range(4)])
    assert ap.mean == 1.0
    assert ap.interval() is None


def test_largest_n_aug_is_compared_with_the_smallest() -> None:
    labels = (np.arange(40) < 10).astype(int)
    cells = [
        measured("mixed", seed, scores_of(labels, 1 + n / 100, n + seed), labels, n_aug=n)
        for seed in range(3)
        for n in (80, 100, 120)
    ]
    (only,) = statistics.comparisons(cells)
    assert only.name == "mixed, N_aug 120 − 80"
    ap = {(cell.seed, cell.n_aug): cell.result.ap for cell in cells}
    np.testing.assert_allclose(only.ap.values, [ap[seed, 120] - ap[seed, 80] for seed in range(3)])


def test_cells_on_other_test_images_are_refused() -> None:
    labels = np.array([0, 0, 1, 1])
    one = cell_result("none", 0, labels, np.array([0.1, 0.2, 0.8, 0.9]))
    other = cell_result("mixed", 0, np.array([0, 1, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9]))
    with pytest.raises(InvalidArgumentError) as raised:
        statistics.measure([one, other])
    assert raised.value.reason == "BENCH_TEST_IMAGES_DIFFER"


def test_scores_that_do_not_give_the_evaluations_figure_are_refused() -> None:
    result = cell_result("none", 0, np.array([0, 0, 1, 1]), np.array([0.1, 0.9, 0.8, 0.95]))
    with pytest.raises(InvalidArgumentError) as raised:
        statistics.measure([result.model_copy(update={"ap": result.ap - 0.1})])
    assert raised.value.reason == "BENCH_SCORES_DISAGREE"


def test_traces_of_the_decoder() -> None:
    labels = (np.arange(200) < 20).astype(int)
    generator = np.random.default_rng(0)
    scores = generator.uniform(0, 0.8, 200) + 0.2 * labels
    normals = scores[labels == 0]
    shifted = np.clip(normals + 0.1, 0, 1)
    cells = [
        statistics.measure([cell_result("diffusion", seed, labels, scores, reconstructed=shifted)])[0]
        for seed in range(3)
    ]
    (trace,) = statistics.traces(cells)
    threshold = cells[0].result.at_threshold.threshold
    assert trace.arm is Arm.DIFFUSION
    assert trace.difference is not None
    assert trace.above is not None
    assert trace.difference.mean == pytest.approx((shifted >= threshold).mean() - (normals >= threshold).mean())
    auc = sklearn_metrics.roc_auc_score(np.repeat([0, 1], [180, 180]), np.concatenate([normals, shifted]))
    assert trace.above.mean == pytest.approx(auc - 0.5)
    # Hanley and McNeil (1982): the standard error of an area under the curve.
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    error = np.sqrt((auc * (1 - auc) + 179 * (first - auc**2) + 179 * (second - auc**2)) / 180**2)
    low, high = trace.above.interval() or (0, 0)
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.15)
    assert statistics.traces([measured("none", 0, scores, labels)]) == []


def test_errors_name_the_images_that_are_wrong_most_often() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    hard_defect = np.array([0.1, 0.2, 0.3, 0.15, 0.9, 0.8])
    false_alarm = np.array([0.1, 0.85, 0.3, 0.2, 0.9, 0.8])
    cells = [measured("mixed", 0, hard_defect, labels), measured("none", 0, false_alarm, labels)]
    missed = statistics.errors_by_image(cells, Label.DEFECT)
    assert [one.image.image for one in missed] == ["image-3", "image-5", "image-4"]
    assert missed[0].wrong == {Arm.MIXED: (1, 1), Arm.NONE: (1, 1)}
    assert missed[0].out_of_order == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert missed[0].score == pytest.approx(0.175)
    called = statistics.errors_by_image(cells, Label.NORMAL)
    assert called[0].image.image == "image-1"
    assert called[0].wrong == {Arm.MIXED: (0, 1), Arm.NONE: (1, 1)}
    assert called[0].share_wrong == 0.5


def test_reconstructed_normals_enter_no_average_precision() -> None:
    labels = np.array([0, 0, 1, 1])
    result = cell_result("none", 0, labels, np.array([0.1, 0.2, 0.8, 0.9]), reconstructed=np.array([0.99, 0.98]))
    assert sum(one.source is not Source.REAL for one in result.test_scores) == 2
    (cell,) = statistics.measure([result])
    assert cell.values.tolist() == [1.0, 1.0]
    assert len(cell.labels) == 4
