"""The report's tables, as text cells; how they are set is the renderer's matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from flawsmith.bench import statistics
from flawsmith.bench.cells import Accounting, Arm, Regime
from flawsmith.bench.results import CellResult, OperatingPoint
from flawsmith.bench.statistics import Comparison, Estimate, Evidence, ImageErrors, Measured, Trace

NOTHING = "–"
PAPERS_SIZES = (80, 100, 120)
REGIME_NAMES = {Regime.ZERO: "Zero-shot", Regime.FEW: "Few-shot", Regime.FULL: "Full-shot"}
ACCOUNTING_NAMES = {Accounting.STEPS: "equal optimiser steps", Accounting.EPOCHS: "the paper's epochs"}

PAPER: dict[Regime, dict[Arm, tuple[tuple[float, float | None], ...]]] = {
    Regime.ZERO: {
        Arm.PER_REGION: ((0.514, 0.026), (0.388, 0.066), (0.511, 0.050), (0.471, None)),
        Arm.DIFFUSION: ((0.547, 0.086), (0.532, 0.028), (0.445, 0.186), (0.508, None)),
        Arm.MIXED: ((0.556, 0.085), (0.626, 0.059), (0.536, 0.023), (0.573, None)),
    },
    Regime.FEW: {
        Arm.PER_REGION: ((0.582, 0.018), (0.511, 0.086), (0.593, 0.044), (0.562, None)),
        Arm.DIFFUSION: ((0.580, 0.045), (0.526, 0.075), (0.535, 0.063), (0.547, None)),
        Arm.MIXED: ((0.531, 0.041), (0.578, 0.041), (0.575, 0.025), (0.561, None)),
    },
    Regime.FULL: {
        Arm.NONE: ((0.747, 0.055),),
        Arm.PER_REGION: ((0.744, 0.007), (0.774, 0.016), (0.734, 0.032), (0.751, None)),
        Arm.DIFFUSION: ((0.758, 0.007), (0.763, 0.008), (0.772, 0.034), (0.764, None)),
        Arm.MIXED: ((0.747, 0.022), (0.775, 0.013), (0.782, 0.030), (0.768, None)),
    },
}
"""In&Out's AP on KolektorSDD2: (mean, deviation) over four seeds at N_aug 80, 100, 120, and the three's average; of
`none`, the only figure."""
PAPERS_ARMS = {Arm.NONE: "none", Arm.PER_REGION: "MemSeg", Arm.DIFFUSION: "DDPM", Arm.MIXED: "In&Out"}


@dataclass(frozen=True)
class Table:
    """head: names of the columns. rows: as many cells each; the first names the row. note: below it, may be empty."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def mean_and_deviation(values: ArrayLike) -> str:
    """`.556 (.085)`: mean and sample deviation; a dash for the deviation of one."""
    numbers = np.asarray(values, float)
    if not numbers.size:
        return NOTHING
    return f"{numbers.mean():.3f} ({number(statistics.sample_deviation(numbers))})"


def interval_text(interval: tuple[float, float] | None, show: Callable[[float], str] = number) -> str:
    return NOTHING if interval is None else f"{show(interval[0])} to {show(interval[1])}"


def average_precision_table(cells: Sequence[Measured], regime: Regime) -> Table:
    """The paper's table with ours below each of its rows. cells: of one regime and accounting, as in all tables."""
    sizes = tuple(sorted({*PAPERS_SIZES, *(one.n_aug for one in cells if one.arm.synthetic)}))
    rows: list[tuple[str, ...]] = []
    stars: list[Estimate] = []
    for arm in Arm:
        of_arm = [one for one in cells if one.arm is arm]
        paper = PAPER[regime].get(arm)
        if paper:
            rows.append((f"{PAPERS_ARMS[arm]} (paper)", *_paper_cells(arm, paper, sizes), NOTHING))
        if of_arm:
            for row, name in ((1, "by trapezoids"), (0, "AP")):
                by_size = [[one.values[row] for one in of_arm if one.n_aug == size] for size in sizes]
                each = statistics.estimate(of_arm)[row]
                stars.append(each)
                shown = [mean_and_deviation(values) for values in by_size] if arm.synthetic else [""] * len(sizes)
                rows.append((f"{arm}, {name} (ours)", *shown, mean_and_deviation(each.values), _starred(each)))
    return Table(
        "Average precision, mean (deviation) over seeds",
        ("", *(f"N_aug {size}" for size in sizes), "average", "95 % interval of the average"),
        tuple(rows),
        "The paper's AP is the area by trapezoids, on KolektorSDD2: compare it with the row by trapezoids, and only "
        "where the data is the same. The paper gives no deviation of its averages; ours is over seeds, each averaged "
        "over N_aug first." + _star_note(stars),
    )


def effects_table(compared: Sequence[Comparison]) -> Table:
    beside = len(compared)
    rows = tuple(
        (
            one.name,
            signed(one.ap.mean),
            _starred(one.ap, signed),
            _starred(one.ap, signed, beside),
            f"{signed(one.ap_trapezoid.mean)} [{interval_text(one.ap_trapezoid.interval(), signed)}]",
            str(one.ap.seeds),
            evidence_words(one),
        )
        for one in compared
    )
    return Table(
        "AP of the first arm less that of the second",
        ("", "difference", "95 % interval", f"of all {beside} together", "by trapezoids", "seeds", "says"),
        rows,
        "Paired: the same seeds on the same test images." + _star_note([one.ap for one in compared]),
    )


def evidence_words(one: Comparison) -> str:
    if one.evidence is Evidence.SHOWN:
        return "higher" if one.ap.mean > 0 else "lower"
    if one.evidence is Evidence.ALONE:
        return f"not shown: may be chance among {one.beside}"
    return "one seed: nothing shown" if one.evidence is Evidence.ONE_SEED else "no difference shown"


def operating_points_table(cells: Sequence[Measured]) -> Table:
    """Precision, recall, F1 and false alarms at three thresholds, two of them honest."""
    choices: tuple[tuple[str, Callable[[CellResult], OperatingPoint | None]], ...] = (
        ("best F1 on validation", lambda result: result.at_best_f1_of_validation),
        ("version's rule", lambda result: result.at_threshold),
        ("best F1 on test (flatters)", lambda result: result.at_best_f1_of_test),
    )
    on_validation = any(one.result.at_best_f1_of_validation is not None for one in cells)
    rows = []
    for arm, size in groups(cells):
        results = [one.result for one in cells if (one.arm, one.n_aug) == (arm, size)]
        for name, chosen in choices:
            points = [point for point in map(chosen, results) if point is not None]
            if points:
                columns = ("precision", "recall", "f1", "false_alarm_rate")
                values = [mean_and_deviation([getattr(point, column) for point in points]) for column in columns]
                rows.append((group_name(arm, size), name, *values))
    return Table(
        "At a threshold, mean (deviation) over seeds",
        ("", "threshold by", "precision", "recall", "F1", "false alarms"),
        tuple(rows),
        "The last threshold of each arm is picked on the test images that it is measured on, as the paper's code does: "
        "for comparison with papers only." + ("" if on_validation else " Validation has no defects to pick one on."),
    )


def training_table(cells: Sequence[Measured]) -> Table:
    rows = []
    for arm, size in groups(cells):
        results = [one.result for one in cells if (one.arm, one.n_aug) == (arm, size)]
        first = results[0]
        rows.append(
            (
                group_name(arm, size),
                ", ".join(str(one.cell.seed) for one in results),
                _span([one.optimiser_steps for one in results]),
                *(
                    NOTHING if value is None else str(value)
                    for value in (
                        first.train_normals,
                        first.train_reconstructed_normals,
                        first.train_real_defects,
                        first.train_synthetic_defects,
                    )
                ),
                f"{np.mean([one.seconds for one in results]) / 60:.1f}",
            )
        )
    return Table(
        "What was trained",
        (
            "", "seeds", "optimiser steps", "normals", "reconstructed normals", "real defects", "synthetic defects",
            "minutes each",
        ),
        tuple(rows),
    )  # fmt: skip


def traces_table(found: Sequence[Trace]) -> Table:
    rows = tuple(
        (
            str(one.arm),
            mean_and_deviation(one.real),
            mean_and_deviation(one.reconstructed),
            signed(float(one.reconstructed.mean() - one.real.mean())),
            NOTHING if one.difference is None else interval_text(one.difference.interval(), signed),
            NOTHING if one.above is None else number(one.above.mean + 0.5),
            NOTHING if one.above is None else interval_text(one.above.interval(), lambda value: number(value + 0.5)),
        )
        for one in found
    )
    return Table(
        "False alarms on reconstructed normals, mean (deviation) over seeds",
        (
            "", "normals", "reconstructed normals", "difference", "95 % interval",
            "reconstructed scores above", "95 % interval",
        ),
        rows,
        "Reconstructed: test normals through the diffusion model's encoder and decoder, nothing drawn. False-alarm "
        "rates at the version's threshold. The last figure needs no threshold: how often a reconstructed normal "
        "scores above a real one; 0.5 where the classifier sees no trace of the decoder.",
    )  # fmt: skip


def errors_table(found: Sequence[ImageErrors], defects: bool, arms: Sequence[Arm], title: str) -> Table:
    rows = tuple(
        (
            one.image.path or one.image.image[:12],
            *((one.image.defect_type or "not stated",) if defects else ()),
            *(_of(one.wrong.get(arm)) for arm in arms),
            number(one.score),
            f"{100 * one.out_of_order:.1f} %",
        )
        for one in found
    )
    what, others = ("missed by", "normals above it") if defects else ("called by", "defects below it")
    return Table(
        title,
        (
            "image", *(("defect type",) if defects else ()), *(f"{what} {arm}" for arm in arms), "mean score", others,
        ),
        rows,
    )  # fmt: skip


def defect_types_table(found: Sequence[ImageErrors], arms: Sequence[Arm], title: str) -> Table | None:
    """Misses by type of defect; None where no type is known."""
    types = sorted({one.image.defect_type for one in found})
    if not any(types):
        return None
    rows = []
    for name in types:
        of_type = [one for one in found if one.image.defect_type == name]
        counts = [[one.wrong[arm] for one in of_type if arm in one.wrong] for arm in arms]
        rows.append(
            (
                name or "not stated",
                str(len(of_type)),
                *(_of((sum(wrong for wrong, _ in one), sum(of for _, of in one)) if one else None) for one in counts),
                f"{100 * np.mean([one.out_of_order for one in of_type]):.1f} %",
            )
        )
    return Table(
        title,
        ("defect type", "images", *(f"missed by {arm}" for arm in arms), "normals above it"),
        tuple(rows),
        "Missed of judged: images times trainings.",
    )


def groups(cells: Sequence[Measured]) -> list[tuple[Arm, int]]:
    """(arm, N_aug) that were measured, in the arms' order."""
    order = list(Arm)
    return sorted({(one.arm, one.n_aug) for one in cells}, key=lambda group: (order.index(group[0]), group[1]))


def group_name(arm: Arm, size: int) -> str:
    return f"{arm} {size}" if arm.synthetic else str(arm)


def _paper_cells(arm: Arm, figures: Sequence[tuple[float, float | None]], sizes: Sequence[int]) -> tuple[str, ...]:
    shown = [f"{mean:.3f}" if deviation is None else f"{mean:.3f} ({deviation:.3f})" for mean, deviation in figures]
    if not arm.synthetic:
        return (*[""] * len(sizes), shown[0])
    by_size = dict(zip(PAPERS_SIZES, shown, strict=False))
    return (*(by_size.get(size, NOTHING) for size in sizes), shown[-1])


def _starred(estimate: Estimate, show: Callable[[float], str] = number, comparisons: int = 1) -> str:
    return interval_text(estimate.interval(comparisons), show) + ("*" if estimate.seeds < 2 else "")


def _star_note(estimates: Sequence[Estimate]) -> str:
    if all(one.seeds > 1 for one in estimates):
        return ""
    return " * One seed: the interval holds the noise of the test images only, not that of training."


def _of(counts: tuple[int, int] | None) -> str:
    return NOTHING if counts is None else f"{counts[0]} of {counts[1]}"


def _span(values: Sequence[int]) -> str:
    return str(values[0]) if min(values) == max(values) else f"{min(values)} to {max(values)}"
