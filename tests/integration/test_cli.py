"""The command line against the real platform: results, progress, and errors that say what to do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import Process

FLAWSMITH = str(Path(sys.executable).with_name("flawsmith"))


def flawsmith(platform: LocalPlatform, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    command = [FLAWSMITH, "--state", str(platform.state_dir), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def imported(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    write_sample_dataset(
        folder, seed=8, train_normal=8, train_defect=4, test_normal=3, test_defect=3, height=64, width=64
    )
    return flawsmith(platform, "import", str(folder), "--product", "cli").stdout.strip()


def test_import_prints_the_name(imported: str) -> None:
    assert imported.startswith("products/cli/imports/")


def test_steps_chain_by_names_and_json(platform: LocalPlatform, imported: str) -> None:
    batch = flawsmith(platform, "augment", "--product", "cli", "--count", "3").stdout.strip()
    done = flawsmith(platform, "--json", "assemble", "--product", "cli", "--regime", "full", "--batch", batch)
    dataset = json.loads(done.stdout)
    assert dataset["counts"]["train"]["out_of_distribution"] == 3
    listed = json.loads(flawsmith(platform, "--json", "operations", "list", "--service", "assembly").stdout)
    assert {item["metadata"]["kind"] for item in listed} >= {"ImportImages", "AssembleDataset"}
    waited = flawsmith(platform, "operations", "wait", listed[0]["name"])
    assert waited.stdout.strip().startswith("products/")


def test_detached_operations_are_named(platform: LocalPlatform, imported: str) -> None:
    name = flawsmith(platform, "augment", "--product", "cli", "--count", "2", "--detach").stdout.strip()
    assert name.startswith("operations/augmentation-")
    assert flawsmith(platform, "operations", "wait", name).stdout.strip().startswith("products/cli/augmentedBatches/")


def test_a_bad_folder_lists_every_problem(platform: LocalPlatform, tmp_path: Path) -> None:
    write_sample_dataset(
        tmp_path, seed=9, train_normal=4, train_defect=2, test_normal=2, test_defect=2, height=64, width=64
    )
    (tmp_path / "train/10000.png").write_bytes(b"not an image")
    (tmp_path / "train/10001.png").write_bytes((tmp_path / "train/10001.png").read_bytes()[:200])
    Image.new("L", (10, 10)).save(tmp_path / "train/10002_GT.png")
    done = flawsmith(platform, "import", str(tmp_path), "--product", "bad", fails=True)
    for path in ("train/10000.png", "train/10001.png", "train/10002_GT.png"):
        assert path in done.stderr
    assert flawsmith(platform, "augment", "--product", "bad", fails=True).stderr.startswith("NO_IMPORT")


def test_an_unknown_layout_names_the_known_ones(platform: LocalPlatform, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "pictures/a.png")
    done = flawsmith(platform, "import", str(tmp_path), "--product", "bad", fails=True)
    assert "kolektorsdd2" in done.stderr.lower()
    assert "mvtec" in done.stderr.lower()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("operations", "wait", "operations/none-1"), "OPERATION_NOT_FOUND"),
        (("operations", "cancel", "operations/assembly-0"), "OPERATION_NOT_FOUND"),
        (("generate", "--product", "cli", "--adapter", "products/cli/adapters/x", "--prompt", "p"), None),
        (("train", "--product", "cli", "--dataset", "products/cli/datasets/none"), "RESOURCE_NOT_FOUND"),
        (("deploy", "products/cli/classifiers/c/versions/none"), None),
        (("finetune", "--product", "cli", "--config", "{"), "INVALID_JSON"),
        (("train", "--product", "c", "--dataset", "d", "--recall", "1", "--false-alarm-rate", "0"), "TWO_RULES"),
    ],
)
def test_errors_are_one_line_that_says_what_to_do(
    platform: LocalPlatform, imported: str, arguments: tuple[str, ...], reason: str | None
) -> None:
    done = flawsmith(platform, *arguments, fails=True)
    assert "Traceback" not in done.stderr
    if reason is not None:
        assert done.stderr.startswith(reason)
    else:
        assert done.stderr.partition(":")[0].isupper()


def test_out_of_range_alpha_is_refused(platform: LocalPlatform, imported: str) -> None:
    done = flawsmith(
        platform, "generate", "--product", "cli", "--adapter", "products/cli/adapters/x",
        "--prompt", "products/cli/prompts/p", "--alpha", "1.5", fails=True,
    )  # fmt: skip
    assert "alpha" in done.stderr


def test_a_second_platform_is_refused(platform: LocalPlatform) -> None:
    done = flawsmith(platform, "up", fails=True)
    assert done.stderr.startswith("ALREADY_RUNNING")


def test_the_doctor_finds_a_running_platform(platform: LocalPlatform) -> None:
    findings = json.loads(flawsmith(platform, "--json", "doctor").stdout)
    assert not [finding for finding in findings if finding["level"] == "problem"]
    assert sum("serves at" in finding["what"] for finding in findings) == 4


def test_without_a_platform_commands_say_how_to_start_one(tmp_path: Path) -> None:
    command = [FLAWSMITH, "--state", str(tmp_path), "operations", "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("SERVICE_UNREACHABLE")
    assert "flawsmith up" in done.stderr


def test_up_stops_cleanly(tmp_path: Path) -> None:
    process = Process(
        "up",
        [FLAWSMITH, "--state", str(tmp_path / "state"), "up", "--free-ports"],
        log=tmp_path / "log",
        environment={},
    )
    process.start()
    process.wait_until(lambda: "the platform is up" in process.tail(), 120)
    described = json.loads((tmp_path / "state/platform.json").read_text())
    process.send(signal.SIGINT)
    assert process.stop(60) == 0
    assert not (tmp_path / "state/platform.json").exists()
    assert not Path(f"/proc/{described['pid']}").exists()
    left = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout.split()
    assert left == []
