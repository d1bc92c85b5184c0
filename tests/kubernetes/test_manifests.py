"""Every overlay and every component renders, fits the schemas of Kubernetes and KEDA, and keeps our rules."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.kubernetes import rules
from tests.kubernetes.conftest import COMPONENTS, OVERLAYS
from tests.kubernetes.rules import Manifest, of_kind, pods

# The oldest that knows the pause before a stop by default, and the newest that the validator knows.
VERSIONS = ("1.30", "1.37")
KEDA = json.loads((Path(__file__).parent / "schemas/keda-2.16.1-scaledobject.json").read_text())


def problem(manifest: Manifest, version: str) -> str | None:
    """What a manifest's schema finds wrong, if anything."""
    where = f"{manifest['kind']} {manifest['metadata']['name']}"
    try:
        if manifest["apiVersion"].startswith("keda.sh/"):
            jsonschema.Draft202012Validator(KEDA).validate(manifest)
        else:
            kubernetes_validate.validate(manifest, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        return f"{where}: {'.'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        return f"{where}: {error.message}"
    return None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_fit_the_schemas(overlay: Callable[[str], list[Manifest]], name: str, version: str) -> None:
    assert [text for each in overlay(name) if (text := problem(each, version))] == []


@pytest.mark.parametrize("name", COMPONENTS)
def test_components_render_alone_and_fit_the_schemas(component: Callable[[str], list[Manifest]], name: str) -> None:
    assert [text for each in component(name) for version in VERSIONS if (text := problem(each, version))] == []


@pytest.mark.parametrize("rule", rules.PLATFORM_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", OVERLAYS)
def test_overlays_keep_the_rules(overlay: Callable[[str], list[Manifest]], name: str, rule: rules.Rule) -> None:
    assert rule(overlay(name)) == []


@pytest.mark.parametrize("rule", rules.CONTAINER_RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("name", COMPONENTS)
def test_components_keep_the_rules_of_containers(
    component: Callable[[str], list[Manifest]], name: str, rule: rules.Rule
) -> None:
    assert rule(component(name)) == []


def test_training_and_serving_have_gpus_of_their_own(overlay: Callable[[str], list[Manifest]]) -> None:
    assert rules.node_pools(overlay("production")) == []


def test_the_data_flow_is_what_the_code_does() -> None:
    for service in rules.SERVICES:
        files = (rules.ROOT / "services/flawsmith" / service).rglob("*.py")
        code = "\n".join(path.read_text() for path in files if "v1" not in path.parts)
        definition = import_module(f"flawsmith.{service}.service").DEFINITION
        assert ("platform.triton" in code) == definition.needs_triton
        peers = re.findall(r"platform\.channel\(.*\bin \((.*?)\)", code)
        assert peers == (['"generation", "augmentation"'] if service == "assembly" else [])


def test_the_local_overlay_asks_for_nothing_outside_the_cluster(overlay: Callable[[str], list[Manifest]]) -> None:
    local = overlay("local")
    assert rules.external_flow(local) == set()
    assert not of_kind(local, "ScaledObject", "HorizontalPodAutoscaler")
    assert not any("nvidia.com/gpu" in str(pod.spec) for pod in pods(local))


def test_each_service_has_its_parts(overlay: Callable[[str], list[Manifest]]) -> None:
    names = {(each["kind"], each["metadata"]["name"]) for each in overlay("production")}
    for service in rules.SERVICES:
        assert {
            ("Deployment", f"{service}-api"), ("Service", f"{service}-api"), ("ServiceAccount", f"{service}-api"),
            ("PodDisruptionBudget", f"{service}-api"), ("HorizontalPodAutoscaler", f"{service}-api"),
            ("StatefulSet", f"{service}-worker"), ("ServiceAccount", f"{service}-worker"),
        } <= names  # fmt: skip
    assert {("Job", "prepare"), ("Deployment", "triton"), ("ScaledObject", "triton")} <= names


def test_tls_serves_every_api_and_leaves_the_probes_in_plaintext(overlay: Callable[[str], list[Manifest]]) -> None:
    production = overlay("production")
    for pod in pods(production):
        (container, *_) = pod.containers
        values = rules.environment_of(container, production)
        if pod.role == "api":
            secrets = [each["secret"]["secretName"] for each in pod.spec["volumes"] if "secret" in each]
            assert secrets == [f"{pod.service}-tls"]
            for name in ("FLAWSMITH_RPC__TLS__CERTIFICATE", "FLAWSMITH_RPC__TLS__KEY"):
                assert Path(values[name] or "").parent == Path("/etc/flawsmith/tls")
            assert container["livenessProbe"]["grpc"]["port"] == 7110
        assert ("FLAWSMITH_RPC__TLS__CA" in values) == (pod.name == "assembly-worker")


def test_triton_in_production_differs_in_the_scheme_alone(overlay: Callable[[str], list[Manifest]]) -> None:
    local, production = (
        next(pod for pod in pods(overlay(name)) if pod.name == "triton").containers[0]["args"] for name in OVERLAYS
    )
    assert [each.replace("s3://http://", "s3://https://") for each in local] == production


def test_outside_images_are_those_of_compose(overlay: Callable[[str], list[Manifest]]) -> None:
    files = [rules.ROOT / "docker-compose.yml", rules.ROOT / "deploy/compose/observability.yml"]
    composed = {
        # `pin-images` adds digests there.
        service["image"].partition("@")[0]
        for path in files
        for service in yaml.safe_load(path.read_text())["services"].values()
        if "image" in service and not service["image"].startswith("flawsmith-")
    }
    used = {each["image"] for pod in pods(overlay("local")) for each in pod.containers}
    assert {image for image in used if not image.startswith("flawsmith-")} == composed


def test_a_misspelt_field_does_not_fit(overlay: Callable[[str], list[Manifest]]) -> None:
    production = overlay("production")
    deployment = copy.deepcopy(of_kind(production, "Deployment")[0])
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    assert "livenesProbe" in (problem(deployment, VERSIONS[0]) or "")
    scaled = copy.deepcopy(of_kind(production, "ScaledObject")[0])
    scaled["spec"]["cooldown"] = 1800
    assert "cooldown" in (problem(scaled, VERSIONS[0]) or "")
    scaled = copy.deepcopy(of_kind(production, "ScaledObject")[0])
    scaled["spec"]["triggers"][0]["metadata"]["threshold"] = 100
    assert "not of type 'string'" in (problem(scaled, VERSIONS[0]) or "")
