"""Options of `bench in-and-out` that are wrong whatever the platform says, and how lists are written."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from flawsmith.bench.cells import Cell
from flawsmith.bench.results import CellResult, ImageScore, OperatingPoint, append_result
from flawsmith.bench.run_folder import Settings, digest_data, open_run_folder
from flawsmith.cli.main import main
from flawsmith.common.manifests import Label


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "train"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(b"not looked at here")
    return folder.parent


def invoke(tmp_path: Path, data: Path, *arguments: str) -> Result:
    command = ["--state", str(tmp_path), "bench", "in-and-out", "--data", str(data), "--out", str(tmp_path / "out")]
    return CliRunner().invoke(main, [*command, *arguments], env={"FLAWSMITH_PEERS__ASSEMBLY": "127.0.0.1:9"})


@pytest.mark.parametrize(
    ("arguments", "reason", "says"),
    [
        (("--regimes", "zero", "--arms", "none", "control"), "EMPTY_GRID", "zero-shot"),
        (("--n-aug", "80", "0"), "N_AUG_OUT_OF_RANGE", "--n-aug"),
        (("--n-aug", "20000"), "N_AUG_OUT_OF_RANGE", "10000"),
        (("--n-aug", "1", "--arms", "mixed"), "N_AUG_TOO_SMALL", "2 or more"),
        (("--drawn-height", "64"), "ONE_SIDE_ONLY", "--drawn-width"),
        (("--initial-weights", "none-such.safetensors"), "FILE_NOT_FOUND", "hub:OWNER/NAME@COMMIT"),
        (("--adapter-config", '{"ranks": 3}'), "INVALID_JSON", "--adapter-config"),
        (("--drawing-config", '{"guidances": 3}'), "INVALID_JSON", "--drawing-config"),
        (("--drawing-config", '{"count": 3, "alpha": 0.5}'), "FIXED_BY_GRID", "cannot set count:"),
        (("--drawing-config", '{"inpaint": {"min_area": 0.01}}'), "FIXED_BY_GRID", "--strategy inpaint"),
        (
            ("--strategy", "inpaint", "--drawing-config", '{"inpaint": {"min_area": 0.01, "prompts": ["p"]}}'),
            "FIXED_BY_GRID",
            "cannot set inpaint.prompts:",
        ),
    ],
)
def test_the_error_says_what_to_do(
    arguments: tuple[str, ...], reason: str, says: str, data: Path, tmp_path: Path
) -> None:
    done = invoke(tmp_path, data, *arguments)
    assert done.exit_code == 1
    assert done.output.startswith(reason)
    assert says in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "known"), [("--regimes", "few"), ("--arms", "per-region"), ("--accounting", "epochs")]
)
def test_an_unknown_name_is_answered_with_the_known_ones(option: str, known: str, data: Path, tmp_path: Path) -> None:
    done = invoke(tmp_path, data, option, "many")
    assert done.exit_code == 2
    assert known in done.output


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("nothing")
    done = invoke(tmp_path, tmp_path / "data")
    assert (done.exit_code, done.output.split(":")[0]) == (1, "BENCH_NO_IMAGES")
    assert "train/10000_GT.png" in done.output


def test_lists_are_written_in_one_go_or_by_repeating_the_option(data: Path, tmp_path: Path) -> None:
    """Two regimes x two arms x two N_aug x two seeds; --n-aug=... takes more after it, too."""
    for arguments in (
        ("--regimes", "few", "full", "--arms", "mixed", "diffusion", "--n-aug", "80", "100"),
        ("--regimes", "few", "--regimes", "full", "--arms", "mixed", "--arms=diffusion", "--n-aug=80", "100"),
    ):
        done = invoke(tmp_path, data, *arguments, "--seeds", "2", "--accounting", "steps")
        assert "16 cells, 0 done before" in done.output
        assert "SERVICE_UNREACHABLE" in done.output
        assert done.exit_code == 1


def test_a_folder_with_results_of_other_settings_is_refused(data: Path, tmp_path: Path) -> None:
    settings = Settings(data=digest_data(data), steps=600, parameters={"opacity": 0.5})
    with open_run_folder(tmp_path / "out", settings) as folder:
        append_result(folder.folder / "cells.jsonl", _result())
    same = ("--steps", "600", "--parameter", "opacity=0.5")
    done = invoke(tmp_path, data, *same, "--n-aug", "80", "--seeds", "1", "--regimes", "full", "--accounting", "steps")
    assert "4 cells, 1 done before" in done.output
    done = invoke(tmp_path, data, "--steps", "700", "--height", "300")
    assert done.exit_code == 1
    assert done.output.startswith("BENCH_OTHER_SETTINGS")
    assert "steps: was 600, is 700" in done.output
    assert "height: was 600, is 300" in done.output
    (data / "train" / "2.png").write_bytes(b"another")
    done = invoke(tmp_path, data, *same)
    assert done.output.startswith("BENCH_OTHER_SETTINGS")
    assert "data: was" in done.output


def _result() -> CellResult:
    point = OperatingPoint(threshold=0.5, precision=1.0, recall=1.0, f1=1.0, false_alarm_rate=0.0)
    return CellResult(
        cell=Cell(regime="full", arm="none", n_aug=0, accounting="steps", seed=0),
        ap=1.0,
        ap_trapezoid=1.0,
        at_threshold=point,
        at_best_f1_of_validation=None,
        at_best_f1_of_test=point,
        test_scores=(
            ImageScore(image="a", label=Label.NORMAL, score=0.1),
            ImageScore(image="b", label=Label.DEFECT, score=0.9),
        ),
        optimiser_steps=600,
        seconds=1.0,
        dataset="products/p/datasets/d",
        classifier="products/p/classifiers/c/versions/1",
    )
