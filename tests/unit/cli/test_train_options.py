"""Options of `train` and `evaluate` that are wrong whatever the platform says; none of these commands connects."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from flawsmith.cli.main import main

TRAIN = ("train", "--product", "p", "--dataset", "products/p/datasets/d")


@pytest.mark.parametrize(
    ("arguments", "reason", "says"),
    [
        ((*TRAIN, "--recall", "0.9", "--cost", "10", "0.01"), "TWO_RULES", "--two-thresholds"),
        ((*TRAIN, "--two-thresholds", "0.9", "0.1", "--false-alarm-rate", "0.1"), "TWO_RULES", "--cost"),
        ((*TRAIN, "--initial-weights", "none-such.safetensors"), "FILE_NOT_FOUND", "hub:OWNER/NAME@COMMIT"),
        ((*TRAIN, "--initial-weights", "{}/broken.json"), "INVALID_JSON", "--initial-weights"),
        (("evaluate", "v", "--dataset", "d", "--detach", "--save", "r.html"), "SAVE_NEEDS_WAITING", "--detach"),
    ],
)
def test_the_error_is_one_line_that_says_what_to_do(
    arguments: tuple[str, ...], reason: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "broken.json").write_text("{")
    done = CliRunner().invoke(
        main, ["--state", str(tmp_path), *(argument.replace("{}", str(tmp_path)) for argument in arguments)]
    )
    assert done.exit_code == 1
    assert done.output.startswith(reason)
    assert says in done.output
