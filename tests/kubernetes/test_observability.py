"""What Prometheus scrapes exists, in Kubernetes and in compose, and what the dashboard shows is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kubernetes import rules
from tests.kubernetes.conftest import KUBERNETES, OVERLAYS
from tests.kubernetes.rules import ROOT, Manifest, of_kind

OBSERVABILITY = ROOT / "deploy/observability"
TARGETS = {
    (name, config["dns_sd_configs"][0]["port"])
    for config in yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())["scrape_configs"]
    for name in config["dns_sd_configs"][0]["names"]
}
DASHBOARD = json.loads((OBSERVABILITY / "grafana/dashboards/flawsmith.json").read_text())


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_target_is_a_service_and_every_metrics_port_a_target(
    overlay: Callable[[str], list[Manifest]], name: str
) -> None:
    offered = {
        (each["metadata"]["name"], port["port"])
        for each in of_kind(overlay(name), "Service")
        for port in each["spec"]["ports"]
    }
    # In compose a container of its own, in Kubernetes beside Triton.
    assert TARGETS - {("triton-reconciler", 9464)} <= offered
    assert {entry for entry in offered if entry[1] in (9464, 8002, 8888)} <= TARGETS


def test_every_target_in_compose_is_a_service_of_that_name() -> None:
    named = {name for name, _ in TARGETS} - {"otel-collector"}
    assert named <= set(yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"])


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_the_dashboard_shows_what_is_exported(panel: dict[str, Any]) -> None:
    assert panel["description"]
    for target in panel["targets"]:
        assert rules.unknown_metrics(target["expr"]) == []
        # A query has a metric of ours, of Triton's or of Prometheus's own.
        assert re.search(r"\b(flawsmith_|nv_|process_|up\b)", target["expr"])


def test_panels_read_from_the_provisioned_data_source() -> None:
    (source,) = yaml.safe_load((OBSERVABILITY / "grafana/datasources/prometheus.yaml").read_text())["datasources"]
    uids = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}
    assert uids == {source["uid"]}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_an_unknown_metric_is_found() -> None:
    assert rules.unknown_metrics("sum(rate(flawsmith_request_total[5m]))") == [
        "no process exports flawsmith_request_total"
    ]
    assert rules.unknown_metrics("nv_inference_wait_us + flawsmith_job_seconds_bucket") == [
        "no process exports nv_inference_wait_us"
    ]


def test_the_collector_listens_where_traces_are_sent_and_probes_ask(overlay: Callable[[str], list[Manifest]]) -> None:
    config = yaml.safe_load((OBSERVABILITY / "otel-collector.yaml").read_text())
    told = {
        "otlp": config["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"],
        "health": config["extensions"]["health_check"]["endpoint"],
    }
    reader = config["service"]["telemetry"]["metrics"]["readers"][0]["pull"]["exporter"]["prometheus"]
    (pod,) = (each for each in rules.pods(overlay("local")) if each.name == "otel-collector")
    listens = {name: int(endpoint.rpartition(":")[2]) for name, endpoint in told.items()} | {"metrics": reader["port"]}
    assert listens == {name: number for number, name in pod.ports.items()}
    pipeline = config["service"]["pipelines"]["traces"]
    for kind in ("receivers", "processors", "exporters"):
        assert set(pipeline[kind]) <= set(config[kind])


@pytest.mark.parametrize("page", [KUBERNETES / "README.md"], ids=lambda page: page.parent.name)
def test_pages_name_metrics_that_exist(page: Path) -> None:
    assert rules.unknown_metrics(page.read_text()) == []


@pytest.fixture(scope="module")
def promtool() -> Callable[..., None]:
    """Checks files with Prometheus's own tool."""
    tool = shutil.which("promtool")
    if tool is None:
        pytest.skip("promtool is not installed: Debian's package prometheus has it")

    def check(*arguments: str) -> None:
        done = subprocess.run([tool, "check", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    return check


def test_prometheus_accepts_its_configuration(promtool: Callable[..., None]) -> None:
    promtool("config", str(OBSERVABILITY / "prometheus.yml"))


def test_prometheus_understands_every_query(
    promtool: Callable[..., None], overlay: Callable[[str], list[Manifest]], tmp_path: Path
) -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    queries += [
        trigger["metadata"]["query"]
        for each in of_kind(overlay("production"), "ScaledObject")
        for trigger in each["spec"]["triggers"]
    ]
    rules_file = {
        "groups": [
            {
                "name": "queries",
                "rules": [
                    # Grafana puts a duration in the place of its variable.
                    {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "1m")}
                    for number, query in enumerate(queries)
                ],
            }
        ]
    }
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump(rules_file))
    promtool("rules", str(path))
