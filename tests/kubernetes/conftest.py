"""Manifests as `kubectl kustomize` renders them; nothing here talks to a cluster."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.kubernetes.rules import ROOT, Manifest

KUBERNETES = ROOT / "deploy/kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
COMPONENTS = sorted(path.parent.name for path in KUBERNETES.glob("components/*/kustomization.yaml"))


@pytest.fixture(scope="session")
def kustomize() -> Callable[[Path], list[Manifest]]:
    """Renders a folder. Skips without kubectl, and with one whose kustomize is older than 5."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed: `make kubectl` fetches it")
    said = subprocess.run([kubectl, "version", "--client"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"Kustomize Version: v(\d+)", said)
    if version is None or int(version[1]) < 5:
        pytest.skip(f"kustomize 5 is needed, kubectl says: {said}")

    def render(folder: Path) -> list[Manifest]:
        done = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "deprecated" not in done.stderr, done.stderr
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return render


@pytest.fixture(scope="session")
def overlay(kustomize: Callable[[Path], list[Manifest]]) -> Callable[[str], list[Manifest]]:
    """Manifests of an overlay, rendered once; tests that change them make a copy."""
    return functools.cache(lambda name: kustomize(KUBERNETES / "overlays" / name))


@pytest.fixture(scope="session")
def component(
    kustomize: Callable[[Path], list[Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], list[Manifest]]:
    """Manifests of the base with one component, rendered once."""

    @functools.cache
    def render(name: str) -> list[Manifest]:
        place = tmp_path_factory.mktemp(name).resolve()
        text = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": "flawsmith",
            # kustomize takes relative paths only.
            "resources": [os.path.relpath(KUBERNETES / "base", place)],
            "components": [os.path.relpath(KUBERNETES / "components" / name, place)],
        }
        (place / "kustomization.yaml").write_text(yaml.safe_dump(text))
        return kustomize(place)

    return render
