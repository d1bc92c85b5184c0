"""The file of results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from flawsmith.bench.results import CellResult, append_result, read_results
from flawsmith.common.errors import InvalidArgumentError
from tests.unit.bench.grids import cell_result

LABELS, SCORES = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.2, 0.9])


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    assert read_results(path) == []
    written = [
        cell_result("none", 0, LABELS, SCORES),
        cell_result("mixed", 1, LABELS, SCORES, regime="zero", reconstructed=np.array([0.4, 0.6])),
    ]
    for one in written:
        append_result(path, one)
    assert read_results(path) == written


def test_the_last_result_of_a_cell_counts(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    again = cell_result("none", 0, LABELS, SCORES, seconds=7)
    for one in (cell_result("none", 0, LABELS, SCORES), cell_result("none", 1, LABELS, SCORES), again):
        append_result(path, one)
    assert [(one.cell.seed, one.seconds) for one in read_results(path)] == [(1, 60.0), (0, 7.0)]


def test_a_line_that_a_crash_cut_off_is_left_out_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    first, second = cell_result("none", 0, LABELS, SCORES), cell_result("none", 1, LABELS, SCORES)
    append_result(path, first)
    append_result(path, second)
    path.write_bytes(path.read_bytes()[:-40])
    assert read_results(path) == [first]
    append_result(path, second)
    assert read_results(path) == [first, second]


def test_a_line_that_is_no_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    append_result(path, cell_result("none", 0, LABELS, SCORES))
    path.write_bytes(path.read_bytes() + b'{"cell": 3}\n')
    with pytest.raises(InvalidArgumentError, match=r"Line 2 of .* remove the line") as raised:
        read_results(path)
    assert raised.value.reason == "BENCH_RESULT_UNREADABLE"


def test_a_result_needs_real_defects_and_real_normals_to_be_ranked() -> None:
    fields = cell_result("none", 0, LABELS, SCORES, reconstructed=np.array([0.4])).model_dump()
    fields["test_scores"] = [
        one for one in fields["test_scores"] if one["label"] == "defect" or one["source"] == "reconstructed"
    ]
    with pytest.raises(ValidationError, match="real normals"):
        CellResult.model_validate(fields)
