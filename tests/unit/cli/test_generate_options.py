"""Options of `generate` that are wrong whatever the platform says; none of these commands connects."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from flawsmith.cli.main import main

PROMPT = ("--prompt", "products/p/prompts/a")


@pytest.mark.parametrize(
    ("arguments", "reason", "says"),
    [
        (("--reconstruct", "test", *PROMPT), "NOT_DRAWING", "--prompt"),
        (("--reconstruct", "test", "--inpaint"), "NOT_DRAWING", "--inpaint"),
        ((*PROMPT, "--preset", "diag"), "NOT_INPAINTING", "--inpaint"),
        ((), "NO_PROMPT", "--prompt"),
    ],
)
def test_the_error_is_one_line_that_says_what_to_do(
    arguments: tuple[str, ...], reason: str, says: str, tmp_path: Path
) -> None:
    done = CliRunner().invoke(main, ["--state", str(tmp_path), "generate", "--product", "p", *arguments])
    assert done.exit_code == 1
    assert done.output.startswith(reason)
    assert says in done.output
