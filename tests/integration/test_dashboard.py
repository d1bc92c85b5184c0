"""The real processes export what the dashboard, the autoscaler and the sizing guide ask for."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

from flawsmith.local.platform import LocalPlatform

DEPLOY = Path(__file__).parents[2] / "deploy"
PAGES = (
    DEPLOY / "kubernetes/README.md",
    DEPLOY / "kubernetes/components/autoscaling/triton.yaml",
    DEPLOY / "observability/grafana/dashboards/flawsmith.json",
)


def test_every_metric_that_we_look_at_is_exported(platform: LocalPlatform) -> None:
    pages = [urllib.request.urlopen(f"http://{each}/metrics").read().decode() for each in platform.metrics.values()]
    exported = set(re.findall(r"^# TYPE (\S+) ", "\n".join(pages), re.MULTILINE))
    exported |= {f"{name}_{part}" for name in exported for part in ("bucket", "count", "sum")}
    asked = {
        name for page in PAGES for name in re.findall(r"\b(?:flawsmith|nv|process)_[a-z0-9_]+\b", page.read_text())
    }
    # Triton exports those of GPUs where it has one.
    assert {name for name in asked if not name.startswith("nv_gpu_")} <= exported


def test_panels_have_titles_of_their_own() -> None:
    titles = [panel["title"] for panel in json.loads(PAGES[-1].read_text())["panels"]]
    assert len(titles) == len(set(titles))
