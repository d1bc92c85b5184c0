"""What the cells' figures say, and how sure one may be of it.

Two things make a figure of a benchmark uncertain: which images the test happened to have, and which seed the training
happened to have. Images are resampled within each label (percentile bootstrap, Efron 1979), the same images for every
cell, so that arms are compared on the same images. Of seeds there are too few to resample (from four, a bootstrap's
95 % interval holds the truth about 80 % of the time), so their part is Student's: the deviation over seeds, divided by
their square root, times a t-distributed number, is added to every resampled figure. Without noise of seeds this is the
bootstrap, without noise of images it is the t-interval; between arms both are taken of the seeds' differences (paired).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np

from flawsmith.bench.cells import Arm, Regime
from flawsmith.bench.results import CellResult, ImageScore, OperatingPoint
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import Label, Source

RESAMPLES = 5000
CHANCE = 0.05
"""That an interval misses the truth, both sides together."""

PAIRS: tuple[tuple[Arm, Arm], ...] = (
    (Arm.PER_REGION, Arm.NONE),
    (Arm.DIFFUSION, Arm.NONE),
    (Arm.MIXED, Arm.NONE),
    (Arm.DIFFUSION, Arm.PER_REGION),
    (Arm.MIXED, Arm.PER_REGION),
    (Arm.MIXED, Arm.DIFFUSION),
    (Arm.CONTROL, Arm.NONE),
)
"""Which arms are compared: the first less the second."""


@dataclass(frozen=True)
class Measured:
    """A cell, ready to be compared. labels: 0/1, N, and scores: N, of the real test images, in an order that all cells
    of a regime share. reconstructed: scores of the reconstructed normals, if any. values: average precision and area by
    trapezoids, as the platform measured them: 2. draws: the same of each resample, 2 x RESAMPLES."""

    result: CellResult
    labels: np.ndarray
    scores: np.ndarray
    reconstructed: np.ndarray
    values: np.ndarray
    draws: np.ndarray

    @property
    def arm(self) -> Arm:
        return self.result.cell.arm

    @property
    def n_aug(self) -> int:
        return self.result.cell.n_aug

    @property
    def seed(self) -> int:
        return self.result.cell.seed


@dataclass(frozen=True)
class Estimate:
    """A figure's mean over seeds, and how far it may be off.

    values: S, one a seed. draws: RESAMPLES, what the mean comes to by other images and other seeds. lowest, highest:
    between which the figure lies by its nature.
    """

    values: np.ndarray
    draws: np.ndarray
    lowest: float
    highest: float

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def deviation(self) -> float | None:
        """Over seeds, the sample's (divided by S - 1); None of one seed."""
        return sample_deviation(self.values)

    def interval(self, comparisons: int = 1) -> tuple[float, float] | None:
        """(low, high) of 95 %; with `comparisons`, so wide that all of so many hold together (Bonferroni).

        None where neither another image nor another seed would change the figure: then it says nothing of images that
        the test has not got.
        """
        if np.ptp(self.draws) < 1e-12:
            return None
        outside = CHANCE / comparisons / 2
        low, high = np.clip(np.quantile(self.draws, [outside, 1 - outside]), self.lowest, self.highest)
        return float(low), float(high)


class Evidence(StrEnum):
    """What a comparison shows."""

    SHOWN = "shown"  # also when all comparisons beside it are taken into account
    ALONE = "not shown"  # its own interval leaves out 0, but it is one of several that could have by chance
    NONE = "no difference shown"
    ONE_SEED = "one seed"  # the noise of trainings is not known


@dataclass(frozen=True)
class Comparison:
    """Average precision of one arm less another's on the same seeds and images. name: of the difference, in words.
    beside: how many comparisons are made of this regime and accounting, this one included."""

    name: str
    first: Arm
    second: Arm
    ap: Estimate
    ap_trapezoid: Estimate
    beside: int

    @property
    def evidence(self) -> Evidence:
        if self.ap.seeds < 2:
            return Evidence.ONE_SEED
        if _leaves_out_zero(self.ap.interval(self.beside)):
            return Evidence.SHOWN
        return Evidence.ALONE if _leaves_out_zero(self.ap.interval()) else Evidence.NONE


@dataclass(frozen=True)
class Trace:
    """Whether a classifier takes what the diffusion model's encoder and decoder leave in a picture for a defect.

    real, reconstructed: false-alarm rates of real test normals and of reconstructed ones, at the version's threshold.
    difference: reconstructed less real. above: chance that a reconstructed normal scores higher than a real one (area
    under the ROC curve), less 0.5, so that 0 is no trace. The latter two None where the scores of reconstructed normals
    were not kept.
    """

    arm: Arm
    real: np.ndarray
    reconstructed: np.ndarray
    difference: Estimate | None
    above: Estimate | None


@dataclass(frozen=True)
class ImageErrors:
    """How often one test image is judged wrongly. wrong: arm -> (trainings that were wrong, trainings). out_of_order:
    mean share of the other label's images on the wrong side of it, whatever the threshold: normals above a defect,
    defects below a normal. score: mean."""

    image: ImageScore
    wrong: dict[Arm, tuple[int, int]]
    out_of_order: float
    score: float

    @property
    def share_wrong(self) -> float:
        return sum(wrong for wrong, _ in self.wrong.values()) / sum(of for _, of in self.wrong.values())


def sample_deviation(values: np.ndarray) -> float | None:
    """Square root of the squares' sum divided by n - 1; None of fewer than two."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def resample(labels: np.ndarray) -> np.ndarray:
    """How often each image is drawn in each resample: int32, RESAMPLES x N; within each label as many as there are.

    labels: 0/1, N. The same for the same labels.
    """
    return _resample(labels.astype(np.uint8).tobytes())


def average_precisions(labels: np.ndarray, scores: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(average precision, area by trapezoids), float64, R each, of images that are there `counts` times.

    labels: 0/1, N. scores: N. counts: R x N, each row with at least one defect. Definitions: see `CellResult`.
    """
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    ranked = counts[:, order]
    found = np.cumsum(ranked * (labels[order] != 0), axis=1, dtype=np.int32)[:, last_of_tie]
    called = np.cumsum(ranked, axis=1, dtype=np.int32)[:, last_of_tie]
    precision = np.divide(found, called, out=np.ones(found.shape), where=called > 0)
    recall = found / found[:, -1:]
    gained = np.diff(recall, axis=1, prepend=0.0)
    before = np.concatenate([np.ones((len(counts), 1)), precision[:, :-1]], axis=1)
    return (gained * precision).sum(axis=1), (gained * (precision + before) / 2).sum(axis=1)


def real_scores(result: CellResult) -> list[ImageScore]:
    """Of the real test images, in an order that all cells share."""
    real = [one for one in result.test_scores if one.source is Source.REAL]
    return sorted(real, key=lambda one: (one.label, one.image, one.path))


def measure(results: Sequence[CellResult]) -> list[Measured]:
    """Resamples every cell's test images, the same ones for all cells of a regime.

    Raises InvalidArgumentError where cells of a regime were not tested on the same images, or where a cell's scores do
    not give its average precision.
    """
    first: dict[Regime, CellResult] = {}
    measured = []
    for result in results:
        images = [(one.label, one.image) for one in real_scores(result)]
        other = first.setdefault(result.cell.regime, result)
        expected = [(one.label, one.image) for one in real_scores(other)]
        if images != expected:
            raise InvalidArgumentError(
                "BENCH_TEST_IMAGES_DIFFER",
                f"{result.classifier} was tested on other images than {other.classifier}: "
                f"{len(set(images) ^ set(expected))} are in only one of the two. Cells are compared on the same test "
                "images: keep runs on different data in folders of their own.",
            )
        measured.append(_measure(result))
    return measured


def estimate(cells: Sequence[Measured]) -> tuple[Estimate, Estimate]:
    """(average precision, area by trapezoids) of an arm's cells; of several N_aug, each seed's mean over them."""
    return _both([(cell.seed, cell.values, cell.draws) for cell in cells], 0.0)


def compare(first: Sequence[Measured], second: Sequence[Measured]) -> tuple[Estimate, Estimate] | None:
    """(average precision, area by trapezoids) of the first arm's cells less the second's; None without a shared seed.

    Paired: each seed's difference, on the same resampled images; with several N_aug, each seed's mean over those that
    both arms have. An arm without N_aug stands beside each N_aug of the other.
    """
    pairs = [
        (one.seed, one.values - other.values, one.draws - other.draws)
        for one in first
        for other in second
        if one.seed == other.seed and (one.n_aug == other.n_aug or 0 in (one.n_aug, other.n_aug))
    ]
    return _both(pairs, -1.0) if pairs else None


def comparisons(cells: Sequence[Measured]) -> list[Comparison]:
    """All that are made of one regime and accounting: arms (see PAIRS), and each arm's largest N_aug with its smallest.

    cells: of that regime and accounting.
    """
    by_arm = {arm: [one for one in cells if one.arm == arm] for arm in Arm}
    found: list[tuple[str, Arm, Arm, tuple[Estimate, Estimate]]] = []
    for first, second in PAIRS:
        pair = compare(by_arm[first], by_arm[second])
        if pair is not None:
            found.append((f"{first} − {second}", first, second, pair))
    for arm in Arm:
        sizes = sorted({one.n_aug for one in by_arm[arm]})
        smallest = {one.seed: one for one in by_arm[arm] if one.n_aug == sizes[0]}
        shared = [(one, smallest[one.seed]) for one in by_arm[arm] if one.n_aug == sizes[-1] and one.seed in smallest]
        if len(sizes) > 1 and shared:
            terms = [(one.seed, one.values - other.values, one.draws - other.draws) for one, other in shared]
            found.append((f"{arm}, N_aug {sizes[-1]} − {sizes[0]}", arm, arm, _both(terms, -1.0)))
    return [Comparison(name, first, second, *pair, beside=len(found)) for name, first, second, pair in found]


def traces(cells: Sequence[Measured]) -> list[Trace]:
    """Of the arms that reconstructed normals were tested with. cells: of one regime and accounting."""
    found = []
    for arm in Arm:
        of_arm = [one for one in cells if one.arm == arm and one.result.reconstructed_false_alarm_rate is not None]
        if not of_arm:
            continue
        drawn = [(cell.seed, *_trace(cell)) for cell in of_arm if cell.reconstructed.size]
        found.append(
            Trace(
                arm,
                np.array([one.result.at_threshold.false_alarm_rate for one in of_arm]),
                np.array([one.result.reconstructed_false_alarm_rate for one in of_arm], float),
                *_both(drawn, -1.0) if len(drawn) == len(of_arm) else (None, None),
            )
        )
    return found


def honest_point(result: CellResult) -> OperatingPoint:
    """At a threshold that was not picked on the test: of best F1 on validation, the version's own (by rule, on
    validation's normals) where validation has no defects."""
    return result.at_best_f1_of_validation or result.at_threshold


def errors_by_image(cells: Sequence[Measured], label: Label) -> list[ImageErrors]:
    """Of the real test images of a label, the most often wrong first; among equals, those most out of order.

    cells: of one regime and accounting. Wrong: by `honest_point`.
    """
    defects = label is Label.DEFECT
    images = [one for one in real_scores(cells[0].result) if one.label is label]
    wrong: list[dict[Arm, tuple[int, int]]] = [{} for _ in images]
    out_of_order, scores = np.zeros(len(images)), np.zeros(len(images))
    for cell in cells:
        ours, others = cell.scores[cell.labels == defects], cell.scores[cell.labels != defects]
        called = ours >= honest_point(cell.result).threshold
        before = ours[:, None] <= others if defects else ours[:, None] >= others
        out_of_order += before.mean(axis=1) / len(cells)
        scores += ours / len(cells)
        for counts, is_wrong in zip(wrong, ~called if defects else called, strict=True):
            so_far, of = counts.get(cell.arm, (0, 0))
            counts[cell.arm] = (so_far + int(is_wrong), of + 1)
    found = [
        ImageErrors(image, counts, float(share), float(score))
        for image, counts, share, score in zip(images, wrong, out_of_order, scores, strict=True)
    ]
    return sorted(found, key=lambda one: (-one.share_wrong, -one.out_of_order))


def _measure(result: CellResult) -> Measured:
    real = real_scores(result)
    labels = np.array([one.label is Label.DEFECT for one in real], int)
    scores = np.array([one.score for one in real])
    reconstructed = np.array([one.score for one in result.test_scores if one.source is not Source.REAL])
    recomputed = np.concatenate(average_precisions(labels, scores, np.ones((1, len(labels)), int)))
    values = np.array([result.ap, result.ap_trapezoid])
    if np.abs(recomputed - values).max() > 1e-3:
        raise InvalidArgumentError(
            "BENCH_SCORES_DISAGREE",
            f"{result.classifier}: its test scores give an average precision of {recomputed[0]:.4f} (by trapezoids "
            f"{recomputed[1]:.4f}), its evaluation says {values[0]:.4f} ({values[1]:.4f}). They are not of the same "
            "evaluation: remove the cell's line from the results to measure it again.",
        )
    draws = np.stack(average_precisions(labels, scores, resample(labels)))
    return Measured(result, labels, scores, reconstructed, values, draws)


def _trace(cell: Measured) -> tuple[np.ndarray, np.ndarray]:
    """Of one cell, two figures (see `Trace`: difference, above) and RESAMPLES of each: 2; 2 x RESAMPLES.

    Reconstructed normals are resampled apart from real ones, which is cautious: those that were made from easy
    normals tend to be easy.
    """
    normals = np.sort(cell.scores[cell.labels == 0])
    counts = resample(cell.labels)[:, cell.labels == 0][:, np.argsort(cell.scores[cell.labels == 0])]
    extra = resample(np.zeros(len(cell.reconstructed), int))
    threshold = cell.result.at_threshold.threshold
    # Normals below a reconstructed one and half of those level with it, of `counts` of each normal.
    level = (normals == cell.reconstructed[:, None]) / 2 + (normals < cell.reconstructed[:, None])

    def figures(real: np.ndarray, made: np.ndarray) -> np.ndarray:
        """real: R x normals, made: R x reconstructed, how often each is there."""
        reals, mades = real.sum(axis=1), made.sum(axis=1)
        difference = made @ (cell.reconstructed >= threshold) / mades - real @ (normals >= threshold) / reals
        return np.stack([difference, ((made @ level) * real).sum(axis=1) / mades / reals - 0.5])

    once = figures(np.ones((1, len(normals))), np.ones((1, len(cell.reconstructed))))
    return once[:, 0], figures(counts.astype(float), extra.astype(float))


def _both(terms: Sequence[tuple[int, np.ndarray, np.ndarray]], lowest: float) -> tuple[Estimate, Estimate]:
    """Two figures' estimates. terms: (seed, the figures: 2, their draws: 2 x RESAMPLES); a seed's are averaged."""
    seeds = sorted({seed for seed, _, _ in terms})
    values = np.stack([np.mean([value for own, value, _ in terms if own == seed], axis=0) for seed in seeds])
    draws = np.mean([np.mean([drawn for own, _, drawn in terms if own == seed], axis=0) for seed in seeds], axis=0)
    first, second = (
        Estimate(values[:, row], draws[row] + _noise_of_seeds(values[:, row]), lowest, 1.0) for row in range(2)
    )
    return first, second


def _noise_of_seeds(values: np.ndarray) -> np.ndarray:
    """RESAMPLES of how far the mean of so few seeds may be from that of all seeds; zeros of one seed."""
    deviation = sample_deviation(values)
    if deviation is None:
        return np.zeros(RESAMPLES)
    student = np.random.default_rng(1).standard_t(len(values) - 1, RESAMPLES)
    return deviation / np.sqrt(len(values)) * student


def _leaves_out_zero(interval: tuple[float, float] | None) -> bool:
    return interval is not None and not interval[0] <= 0.0 <= interval[1]


@lru_cache(maxsize=8)
def _resample(labels: bytes) -> np.ndarray:
    values = np.frombuffer(labels, np.uint8)
    counts = np.zeros((RESAMPLES, len(values)), np.int32)
    generator = np.random.default_rng(0)
    for label in np.unique(values):
        rows = np.flatnonzero(values == label)
        counts[:, rows] = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), RESAMPLES)
    counts.flags.writeable = False
    return counts
