"""What the image builds take from the repository: locks, versions, pins."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
IMAGES = ROOT / "deploy/images"
OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64


def locked(path: Path) -> dict[str, set[str]]:
    """Versions of each package that a lock has; several where they depend on the Python."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+-]+)", path.read_text(), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("lock", sorted(IMAGES.glob("*.lock")), ids=lambda path: path.stem)
def test_images_hold_the_versions_that_are_tested(lock: Path) -> None:
    tested = locked(ROOT / "requirements.lock")
    in_image = locked(lock)
    assert in_image
    assert {name: versions for name, versions in in_image.items() if versions != tested.get(name)} == {}


@pytest.mark.parametrize("lock", ["server", "augmentation", "classification"])
def test_small_images_lock_no_training_stack(lock: str) -> None:
    assert not {"torch", "transformers", "diffusers", "scikit-learn", "onnx"} & set(locked(IMAGES / f"{lock}.lock"))


def test_images_carry_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)) == {version}
    for name in ("docker-compose.yml", "deploy/compose/gpu.yml"):
        defaults = re.findall(r"\$\{FLAWSMITH_VERSION:-([^}]*)\}", (ROOT / name).read_text())
        assert set(defaults) == {version}


@pytest.fixture(scope="module")
def pin() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pin", IMAGES / "pin.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_pins_reach_every_outside_image_and_none_of_ours(pin: ModuleType) -> None:
    asked: set[str] = set()

    def digest(image: str) -> str:
        asked.add(image)
        return OLD

    texts = {name: pin.pinned((ROOT / name).read_text(), digest) for name in pin.FILES}
    assert {image.rpartition(":")[0] for image in asked} == {
        "python", "nvcr.io/nvidia/tritonserver", "chrislusf/seaweedfs", "postgres",
        "prom/prometheus", "grafana/grafana", "otel/opentelemetry-collector-contrib",
    }  # fmt: skip
    assert not any(image.startswith("flawsmith") for image in asked)
    for name, text in texts.items():
        unpinned = re.sub(r"@sha256:[0-9a-f]{64}", "", text)
        assert unpinned == re.sub(r"@sha256:[0-9a-f]{64}", "", (ROOT / name).read_text())
        assert pin.pinned(text, lambda image: NEW) == text.replace(OLD, NEW)


def test_no_outside_image_is_the_latest(pin: ModuleType) -> None:
    for name in pin.FILES:
        text = (ROOT / name).read_text()
        assert ":latest" not in text
        for image in re.findall(r"^\s*image: (\S+)$", text, re.MULTILINE):
            assert ":" in image
