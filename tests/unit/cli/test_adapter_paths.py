"""Where adapters are written to and read from; none of these commands gets as far as the platform."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from flawsmith.cli.main import main


@pytest.mark.parametrize(
    ("form", "path", "reason"),
    [("peft", "file", "NOT_A_FOLDER"), ("kohya", "folder", "NOT_A_FILE"), ("diffusers", "folder", "NOT_A_FILE")],
)
def test_an_adapter_is_not_written_over_something_of_another_kind(
    tmp_path: Path, form: str, path: str, reason: str
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    arguments = ["adapters", "export", "products/p/adapters/a", str(tmp_path / path), "--format", form]
    done = CliRunner().invoke(main, ["--state", str(tmp_path / "state"), *arguments])
    assert done.exit_code == 1
    assert done.output.startswith(reason)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_without_an_adapter_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    done = CliRunner().invoke(
        main, ["--state", str(tmp_path / "state"), "adapters", "import", str(tmp_path), "--product", "p"]
    )
    assert done.exit_code == 1
    assert done.output.startswith("FOLDER_EMPTY")
    assert "adapter_model.safetensors" in done.output
