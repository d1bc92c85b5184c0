"""The report's plots. Matplotlib is imported when one is drawn: who only asks for results needs none."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flawsmith.bench import statistics
from flawsmith.bench.cells import Accounting, Arm, Regime
from flawsmith.bench.statistics import Comparison, Evidence, Measured, honest_point
from flawsmith.bench.tables import ACCOUNTING_NAMES, REGIME_NAMES, group_name, groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which most kinds of colour blindness tell apart.
COLORS = {
    Arm.NONE: "#555555",
    Arm.PER_REGION: "#0072b2",
    Arm.DIFFUSION: "#d55e00",
    Arm.MIXED: "#009e73",
    Arm.CONTROL: "#cc79a7",
}
MARKERS = {Arm.NONE: "s", Arm.PER_REGION: "o", Arm.DIFFUSION: "^", Arm.MIXED: "D", Arm.CONTROL: "v"}
_WIDTH = 7.2
"""Inches."""


def plot_average_precision(cells: Sequence[Measured], regime: Regime, accounting: Accounting) -> Figure:
    """A row for each arm and N_aug: every seed's AP (dots), their mean (tick), its 95 % interval (bar); dotted, the AP
    of guessing where it is near."""
    rows = groups(cells)
    figure = _figure(1.1 + 0.38 * len(rows))
    axes = figure.add_subplot()
    lowest, share = 1.0, float(cells[0].labels.mean())
    for row, (arm, size) in enumerate(rows):
        of_row = [one for one in cells if (one.arm, one.n_aug) == (arm, size)]
        ap, _ = statistics.estimate(of_row)
        interval = ap.interval()
        lowest = min(lowest, *(interval or ()), *ap.values)
        if interval:
            axes.plot(interval, [row, row], color=COLORS[arm], linewidth=7, alpha=0.25, solid_capstyle="butt")
        axes.plot(ap.values, np.full(ap.seeds, row), ".", color=COLORS[arm], markersize=6, alpha=0.8)
        axes.plot([ap.mean], [row], "|", color=COLORS[arm], markersize=15, markeredgewidth=2.2)
    left = share - 0.03 if share > lowest - 0.3 else lowest - 0.25 * (1 - lowest) - 0.01
    if share > left:
        # Otherwise it is far to the left of all arms, and to show it would press them against the right.
        axes.axvline(share, color="black", linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(rows)), [group_name(arm, size) for arm, size in rows])
    axes.set(xlabel="average precision", xlim=(left, 1 + 0.02 * (1 - left)), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{REGIME_NAMES[regime]}, {ACCOUNTING_NAMES[accounting]}", fontsize=9.5)
    return figure


def plot_differences(compared: Sequence[Comparison], regime: Regime, accounting: Accounting) -> Figure:
    """A row for each comparison: the difference (circle), its own 95 % interval (thick), the wider one of all together
    (thin); coloured where a difference is shown."""
    figure = _figure(1.1 + 0.38 * len(compared))
    axes = figure.add_subplot()
    for row, one in enumerate(compared):
        color = "#009e73" if one.ap.mean > 0 else "#d55e00"
        if one.evidence is not Evidence.SHOWN:
            color = "#777777"
        for comparisons, width in ((one.beside, 1.5), (1, 5)):
            interval = one.ap.interval(comparisons)
            if interval:
                axes.plot(
                    interval, [row, row], color=color, linewidth=width, alpha=0.55 if width > 2 else 1,
                    solid_capstyle="butt",
                )  # fmt: skip
        axes.plot([one.ap.mean], [row], "o", color=color, markersize=6, markerfacecolor="white", markeredgewidth=1.6)
    axes.axvline(0, color="black", linewidth=0.9)
    axes.set_yticks(range(len(compared)), [one.name for one in compared])
    axes.set(xlabel="difference in average precision", ylim=(len(compared) - 0.4, -0.6))
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title(f"{REGIME_NAMES[regime]}, {ACCOUNTING_NAMES[accounting]}", fontsize=9.5)
    return figure


def plot_against_n_aug(cells: Sequence[Measured], regime: Regime, accounting: Accounting) -> Figure:
    """Precision and recall, mean and sample deviation over seeds, at a threshold that was not picked on the test."""
    figure = _figure(3.3)
    arms = [arm for arm in Arm if any(one.arm is arm for one in cells)]
    sizes = sorted({one.n_aug for one in cells})
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("precision", "recall"), strict=True):
        for place, arm in enumerate(arms):
            own = sorted({one.n_aug for one in cells if one.arm is arm})
            values = [
                np.array([getattr(honest_point(one.result), name) for one in cells if (one.arm, one.n_aug) == (arm, n)])
                for n in own
            ]
            # Side by side, so that arms of one N_aug do not hide each other.
            at = [sizes.index(n) + 0.09 * (place - (len(arms) - 1) / 2) for n in own]
            axes.errorbar(
                at, [one.mean() for one in values], [statistics.sample_deviation(one) or 0.0 for one in values],
                fmt=f"{MARKERS[arm]}-", color=COLORS[arm], capsize=3, linewidth=1.3, markersize=5, label=arm,
            )  # fmt: skip
        axes.set(xlabel="N_aug", ylim=(-0.03, 1.05))
        axes.set_title(name, fontsize=9.5)
        axes.set_xticks(range(len(sizes)), [str(n) for n in sizes])
        axes.set_xlim(-0.5, len(sizes) - 0.5)
        axes.grid(axis="y", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    on_validation = all(one.result.at_best_f1_of_validation is not None for one in cells)
    threshold = "best F1 on validation" if on_validation else "the version's rule"
    figure.suptitle(f"{REGIME_NAMES[regime]}, {ACCOUNTING_NAMES[accounting]}; threshold by {threshold}", fontsize=9.5)
    return figure


def png(figure: Figure) -> bytes:
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=150, metadata={"Software": None})
    return target.getvalue()


def svg(figure: Figure) -> str:
    """As an element to put into HTML, the same text for the same data."""
    import matplotlib

    target = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "flawsmith", "svg.fonttype": "none"}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    return text[text.index("<svg") :]


def _figure(height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
