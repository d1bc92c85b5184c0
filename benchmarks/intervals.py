"""How often do the benchmark's intervals hold the truth? Measured where the truth is known.

    .venv/bin/python -m benchmarks.intervals --json out/intervals.json

Scores are drawn: every image is hard or easy by itself (which arms share), every training adds noise of its own and
separates defects by a margin of its own. The truth is the mean over very many tests and trainings. A 95 % interval that
holds it in fewer than 95 of 100 experiments claims too much.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from flawsmith.bench import statistics
from flawsmith.bench.cells import Accounting, Arm, Cell, Regime
from flawsmith.bench.results import CellResult, ImageScore, OperatingPoint
from flawsmith.bench.statistics import Estimate
from flawsmith.common.manifests import Label

DEFECTS, NORMALS = 16, 105
"""Of the test: few defects, as a small public data set has."""
IMAGE, TRAINING, MARGIN = 0.7, 0.4, 0.3
"""Deviations of what images, trainings and seeds do to scores, before the logistic function."""
CASES: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("an arm, hard", (1.2,)),
    ("an arm, middling", (1.8,)),
    ("an arm, easy", (2.5,)),
    ("two arms alike, hard", (1.2, 1.2)),
    ("two arms alike, easy", (2.5, 2.5)),
    ("two arms, hard", (1.8, 1.2)),
    ("two arms, easy", (2.5, 1.8)),
)
"""Name, and each arm's margin; of two arms it is their difference that is estimated."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the figures go as well")
    parser.add_argument("--experiments", type=int, default=200, help="of each row (200)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[4], help="trainings of an arm in one experiment (4)")
    arguments = parser.parse_args()
    rows = [
        measure(name, margins, seeds, arguments.experiments) for seeds in arguments.seeds for name, margins in CASES
    ]
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        record = {"time": datetime.now(UTC).isoformat(), "defects": DEFECTS, "normals": NORMALS, "rows": rows}
        arguments.json.write_text(json.dumps(record, indent=1))


def measure(name: str, margins: Sequence[float], seeds: int, experiments: int) -> dict[str, Any]:
    """How often the interval of AP (of a difference, with two margins) held the truth, and left out 0."""
    generator = np.random.default_rng(0)
    truth = np.mean([figure(draw(generator, margins, 1)) for _ in range(3000)])
    held, left_out, widths = 0, 0, []
    for _ in range(experiments):
        low, high = estimate(draw(generator, margins, seeds)).interval() or (np.nan, np.nan)
        held += low <= truth <= high
        left_out += not low <= 0 <= high
        widths.append(high - low)
    row = {
        "case": name, "seeds": seeds, "truth": float(truth), "held": held / experiments,
        "left_out_zero": left_out / experiments if len(margins) > 1 else None, "width": float(np.nanmean(widths)),
    }  # fmt: skip
    zero = "" if row["left_out_zero"] is None else f", left out 0 in {100 * row['left_out_zero']:.1f} %"
    print(
        f"{name:<22} {seeds} seeds: truth {truth:+.3f}, held in {100 * row['held']:.1f} %{zero}, "
        f"width {row['width']:.3f}",
        flush=True,
    )
    return row


def draw(generator: np.random.Generator, margins: Sequence[float], seeds: int) -> list[list[CellResult]]:
    """Each arm's cells."""
    labels = np.repeat([1, 0], [DEFECTS, NORMALS])
    image = generator.normal(0, IMAGE, len(labels))
    return [
        [
            cell(
                arm, seed, labels,
                image + generator.normal(0, TRAINING, len(labels)) + generator.normal(margin, MARGIN) * labels,
            )
            for seed in range(seeds)
        ]
        for arm, margin in zip((Arm.NONE, Arm.CONTROL), margins, strict=False)
    ]  # fmt: skip


def cell(arm: Arm, seed: int, labels: np.ndarray, values: np.ndarray) -> CellResult:
    scores = 1 / (1 + np.exp(-values))
    ap, trapezoid = statistics.average_precisions(labels, scores, np.ones((1, len(labels)), int))
    point = OperatingPoint(threshold=0.5, precision=0.0, recall=0.0, f1=0.0, false_alarm_rate=0.0)
    return CellResult(
        cell=Cell(regime=Regime.FEW, arm=arm, n_aug=0, accounting=Accounting.STEPS, seed=seed),
        ap=ap[0], ap_trapezoid=trapezoid[0], at_threshold=point, at_best_f1_of_validation=None,
        at_best_f1_of_test=point, optimiser_steps=0, seconds=0.0, dataset="", classifier=f"{arm} {seed}",
        test_scores=tuple(
            ImageScore(image=str(row), label=Label.DEFECT if label else Label.NORMAL, score=score)
            for row, (label, score) in enumerate(zip(labels, scores, strict=True))
        ),
    )  # fmt: skip


def figure(arms: list[list[CellResult]]) -> float:
    means = [np.mean([one.ap for one in cells]) for cells in arms]
    return float(means[0] if len(means) == 1 else means[0] - means[1])


def estimate(arms: list[list[CellResult]]) -> Estimate:
    measured = [statistics.measure(cells) for cells in arms]
    if len(measured) == 1:
        return statistics.estimate(measured[0])[0]
    compared = statistics.compare(*measured)
    assert compared is not None
    return compared[0]


if __name__ == "__main__":
    main()
