"""What the tables and the report say of grids whose truth is known."""

from __future__ import annotations

import statistics as python_statistics
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from flawsmith.bench import statistics, tables
from flawsmith.bench.cells import Accounting, Arm, Regime
from flawsmith.bench.report import write_report
from flawsmith.bench.results import CellResult
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import Label
from tests.unit.bench.grids import cell_result, scores_of

LABELS = (np.arange(60) < 12).astype(int)


def grid(
    separations: dict[str, float], seeds: int = 4, sizes: tuple[int, ...] = (80,), regime: str = "few", **fields
) -> list[CellResult]:
    return [
        cell_result(
            arm, seed, LABELS, scores_of(LABELS, separation, 100 * seed + size), regime=regime, n_aug=size, **fields
        )
        for arm, separation in separations.items()
        for seed in range(seeds)
        for size in (sizes if Arm(arm).synthetic else (0,))
    ]


def row(table: tables.Table, name: str) -> dict[str, str]:
    (found,) = [one for one in table.rows if one[0] == name]
    return dict(zip(table.head, found, strict=True))


def test_the_papers_averages_are_of_its_three_sizes() -> None:
    for arms in tables.PAPER.values():
        for figures in arms.values():
            if len(figures) == 4:
                assert figures[3][0] == pytest.approx(np.mean([mean for mean, _ in figures[:3]]), abs=0.0011)


def test_means_and_sample_deviations_stand_beside_the_papers() -> None:
    results = grid({"none": 1.0, "mixed": 1.5}, sizes=(80, 120))
    table = tables.average_precision_table(statistics.measure(results), Regime.FULL)
    of_80 = [one.ap_trapezoid for one in results if one.cell.n_aug == 80]
    ours = row(table, "mixed, by trapezoids (ours)")
    assert ours["N_aug 80"] == f"{np.mean(of_80):.3f} ({python_statistics.stdev(of_80):.3f})"
    assert ours["N_aug 100"] == tables.NOTHING
    each_seed = [
        np.mean([one.ap_trapezoid for one in results if one.cell.arm is Arm.MIXED and one.cell.seed == seed])
        for seed in range(4)
    ]
    assert ours["average"] == f"{np.mean(each_seed):.3f} ({python_statistics.stdev(each_seed):.3f})"
    assert row(table, "In&Out (paper)")["N_aug 120"] == "0.782 (0.030)"
    assert row(table, "none (paper)")["average"] == "0.747 (0.055)"
    assert row(table, "none, AP (ours)")["N_aug 80"] == ""
    assert not any("per-region" in one[0] for one in table.rows)


def test_one_seed_has_no_deviation_and_its_interval_is_marked() -> None:
    cells = statistics.measure(grid({"none": 1.0, "mixed": 2.5}, seeds=1))
    table = tables.average_precision_table(cells, Regime.FEW)
    assert row(table, "mixed, AP (ours)")["N_aug 80"].endswith(f"({tables.NOTHING})")
    assert row(table, "mixed, AP (ours)")["95 % interval of the average"].endswith("*")
    assert "One seed" in table.note
    effects = tables.effects_table(statistics.comparisons(cells))
    assert row(effects, "mixed − none")["says"] == "one seed: nothing shown"


def test_thresholds_that_flatter_are_marked() -> None:
    table = tables.operating_points_table(statistics.measure(grid({"none": 1.0})))
    assert [one[1] for one in table.rows] == ["best F1 on validation", "version's rule", "best F1 on test (flatters)"]
    without = tables.operating_points_table(statistics.measure(grid({"mixed": 1.0}, regime="zero")))
    assert [one[1] for one in without.rows] == ["version's rule", "best F1 on test (flatters)"]
    assert "Validation has no defects" in without.note


def test_misses_are_counted_by_defect_type() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    cells = statistics.measure(
        [
            cell_result(
                "none", seed, labels, np.array([0.1, 0.2, 0.3, 0.9, 0.4 + 0.2 * seed]),
                defect_types=["", "", "crack", "crack", "stain"],
            )
            for seed in range(2)
        ]
    )  # fmt: skip
    found = statistics.errors_by_image(cells, Label.DEFECT)
    table = tables.defect_types_table(found, [Arm.NONE], "types")
    assert table is not None
    assert row(table, "crack")["missed by none"] == "2 of 4"
    assert row(table, "stain")["missed by none"] == "1 of 2"
    images = tables.errors_table(found, True, [Arm.NONE, Arm.MIXED], "images")
    assert images.rows[0] == ("image-2", "crack", "2 of 2", tables.NOTHING, "0.300", "0.0 %")


def test_a_report_of_part_of_the_grid_holds_its_figures_plots_and_pictures(tmp_path: Path) -> None:
    names = [f"test/{number}.png" for number in range(60)]
    (tmp_path / "data" / "test").mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(tmp_path / "data" / name), np.full((40, 20), 90, np.uint8))
    reconstructed = scores_of(np.zeros(30), 0, 3)
    results = [
        *grid({"none": 0.5, "per-region": 1.5}, seeds=3, names=names, reconstructed=reconstructed),
        *grid({"mixed": 1.0}, seeds=1, names=names),
        *grid({"mixed": 1.0, "diffusion": 0.7}, seeds=2, regime="zero", names=names),
        *grid({"none": 0.5, "per-region": 1.5}, seeds=2, names=names, accounting="epochs"),
    ]
    path = write_report(results, tmp_path / "report", tmp_path / "data")
    text, html = (tmp_path / "report" / "report.md").read_text(), path.read_text()
    assert "arms have different seeds so far" in text
    assert f"{np.mean([one.ap for one in results[:3]]):.3f}" in text
    for plot in ("ap-few-steps", "differences-zero-steps", "n-aug-few-epochs"):
        assert f"({plot}.png)" in text
        pixels = cv2.imread(str(tmp_path / "report" / f"{plot}.png"))
        assert pixels is not None
        assert np.ptp(pixels) > 100
    assert "data:image/jpeg;base64," in html
    assert html.count("<svg") == 9
    assert "http" not in _addresses(html)


def test_a_report_is_the_same_for_the_same_results_in_any_order(tmp_path: Path) -> None:
    results = grid({"none": 0.5, "mixed": 1.5}, seeds=2)
    texts = []
    for name, ordered in (("one", results), ("two", results[::-1])):
        path = write_report(ordered, tmp_path / name)
        texts.append((path.read_text(), (tmp_path / name / "report.md").read_text()))
    assert texts[0] == texts[1]


def test_names_from_outside_are_escaped(tmp_path: Path) -> None:
    names = [f"<script>{number}|" for number in range(60)]
    path = write_report(grid({"none": 0.5, "mixed": 0.5}, seeds=2, names=names), tmp_path)
    assert "<script>" not in path.read_text()
    assert "\\<script>" in (tmp_path / "report.md").read_text()


def test_no_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        write_report([], tmp_path)
    assert raised.value.reason == "BENCH_NO_RESULTS"


def test_every_regime_and_accounting_has_a_name() -> None:
    assert set(tables.REGIME_NAMES) == set(Regime)
    assert set(tables.ACCOUNTING_NAMES) == set(Accounting)


def _addresses(html: str) -> str:
    """What the page would load."""
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value or "" for name, value in attrs if name in ("src", "href") and tag != "use")

    Reader().feed(html)
    return " ".join(one[:40] for one in found)
