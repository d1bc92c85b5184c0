"""Each rule finds what it is for: one thing broken in an overlay that keeps all rules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from tests.kubernetes import rules
from tests.kubernetes.rules import Manifest


class Platform:
    """A copy of an overlay's manifests, to break."""

    def __init__(self, manifests: list[Manifest]) -> None:
        self.manifests = copy.deepcopy(manifests)

    def get(self, kind: str, name: str) -> Any:
        (found,) = (each for each in self.manifests if (each["kind"], each["metadata"]["name"]) == (kind, name))
        return found

    def pod(self, name: str) -> Any:
        (found,) = (pod.spec for pod in rules.pods(self.manifests) if pod.name == name)
        return found

    def container(self, name: str, index: int = 0) -> Any:
        return self.pod(name)["containers"][index]

    def settings(self) -> Any:
        (found,) = (
            each["data"]
            for each in self.manifests
            if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("settings-")
        )
        return found

    def policy(self, name: str) -> Any:
        return self.get("NetworkPolicy", name)["spec"]

    def drop(self, kind: str, name: str) -> None:
        self.manifests.remove(self.get(kind, name))

    def add(self, text: str) -> None:
        self.manifests += list(yaml.safe_load_all(text))


@dataclass
class Break:
    rule: rules.Rule
    says: str
    change: Callable[[Platform], Any]
    overlay: str = "production"


def env(container: Any, name: str, **entry: Any) -> None:
    container["env"] = [each for each in container["env"] if each["name"] != name] + [{"name": name, **entry}]


BREAKS = [
    Break(
        rules.probes,
        "assembly-api/api has no livenessProbe",
        lambda p: p.container("assembly-api").pop("livenessProbe"),
    ),
    Break(rules.probes, "reconciler has no readinessProbe", lambda p: p.container("triton", 1).pop("readinessProbe")),
    Break(
        rules.probes,
        "asks port 7111",
        lambda p: p.container("assembly-worker")["startupProbe"]["grpc"].update(port=7111),
    ),
    Break(
        rules.probes,
        "asks for readiness, not liveness",
        lambda p: p.container("assembly-api")["livenessProbe"]["grpc"].update(service="readiness"),
    ),
    Break(
        rules.probes,
        "does not use the plaintext health port",
        lambda p: p.container("assembly-api")["readinessProbe"]["grpc"].update(port=7100),
    ),
    Break(
        rules.resources,
        "no memory in its limits",
        lambda p: p.container("grafana")["resources"]["limits"].pop("memory"),
    ),
    Break(
        rules.resources, "no cpu in its requests", lambda p: p.container("prepare")["resources"]["requests"].pop("cpu")
    ),
    Break(rules.privileges, "triton may run as root", lambda p: p.pod("triton")["securityContext"].pop("runAsNonRoot")),
    Break(rules.privileges, "may run as root", lambda p: p.pod("triton")["securityContext"].update(runAsUser=0)),
    Break(rules.privileges, "no seccomp", lambda p: p.pod("prometheus")["securityContext"].pop("seccompProfile")),
    Break(
        rules.privileges,
        "prepare mounts a service account token",
        lambda p: p.pod("prepare").pop("automountServiceAccountToken"),
    ),
    Break(
        rules.privileges,
        "share the service account",
        lambda p: p.pod("assembly-api").update(serviceAccountName="generation-api"),
    ),
    Break(rules.privileges, "no service account triton", lambda p: p.drop("ServiceAccount", "triton")),
    Break(
        rules.privileges,
        "may write to its root",
        lambda p: p.container("generation-worker")["securityContext"].update(readOnlyRootFilesystem=False),
    ),
    Break(
        rules.privileges,
        "keeps capabilities",
        lambda p: p.container("triton")["securityContext"].update(capabilities={"drop": ["ALL"], "add": ["SYS_ADMIN"]}),
    ),
    Break(
        rules.privileges,
        "may gain privileges",
        lambda p: p.container("grafana")["securityContext"].pop("allowPrivilegeEscalation"),
    ),
    Break(
        rules.privileges,
        "mounts the node's /data",
        lambda p: p.pod("triton")["volumes"].append({"name": "models", "hostPath": {"path": "/data"}}),
    ),
    Break(rules.images, "changes under us", lambda p: p.container("grafana").update(image="grafana/grafana:latest")),
    Break(rules.images, "neither tag nor digest", lambda p: p.container("grafana").update(image="grafana/grafana")),
    Break(
        rules.images,
        "not the project's version",
        lambda p: p.container("prepare").update(image="registry.example.com/flawsmith/prepare:0.0.9"),
    ),
    Break(
        rules.commands,
        "which is no module of ours",
        lambda p: p.container("prepare").update(command=["python", "-m", "flawsmith.common.prepare"]),
    ),
    Break(rules.commands, "['serve']", lambda p: p.container("assembly-api").update(args=["serve"])),
    Break(
        rules.commands,
        "runs flawsmith.classification out of registry.example.com/flawsmith/generation-worker",
        lambda p: p.container("classification-worker").update(
            image="registry.example.com/flawsmith/generation-worker:0.1.0-cuda"
        ),
    ),
    Break(
        rules.variables,
        "no setting reads FLAWSMITH_TRITON__ADDRESS",
        lambda p: p.settings().update(FLAWSMITH_TRITON__ADDRESS="triton:8001"),
    ),
    Break(
        rules.variables,
        "no setting reads FLAWSMITH_JOBS__EXECUTOR",
        lambda p: env(p.container("assembly-worker"), "FLAWSMITH_JOBS__EXECUTOR", value="w"),
    ),
    Break(
        rules.variables,
        "is not known to read AWS_REGION",
        lambda p: env(p.container("triton"), "AWS_REGION", value="us-east-1"),
    ),
    Break(
        rules.variables,
        "uses $(FLAWSMITH_TRITON__REPOSITORY), which nothing sets",
        lambda p: p.settings().pop("FLAWSMITH_TRITON__REPOSITORY"),
    ),
    Break(
        rules.references,
        "FLAWSMITH_JOBS__DATABASE_URL does not come from a secret",
        lambda p: env(p.container("assembly-api"), "FLAWSMITH_JOBS__DATABASE_URL", value="postgresql://a:b@postgres/c"),
    ),
    Break(
        rules.references,
        "holds the secret FLAWSMITH_OBJECT_STORE__SECRET_KEY",
        lambda p: p.settings().update(FLAWSMITH_OBJECT_STORE__SECRET_KEY="hush"),
    ),
    Break(
        rules.references,
        "Secret postgres stands in the manifests",
        lambda p: p.add("{apiVersion: v1, kind: Secret, metadata: {name: postgres}, stringData: {password: hush}}"),
    ),
    Break(
        rules.references,
        "mounts state, which is not there",
        lambda p: p.pod("assembly-api")["volumes"].pop(),
    ),
    Break(
        rules.listening,
        "told to listen on 7200",
        lambda p: p.settings().update(FLAWSMITH_RPC__LISTEN="0.0.0.0:7200"),
    ),
    Break(
        rules.listening,
        "declares metrics 8003",
        lambda p: p.container("triton")["ports"][2].update(containerPort=8003),
    ),
    Break(
        rules.listening,
        "told to listen on None",
        lambda p: p.container("object-store")["args"].remove("-s3.port=9000"),
        "local",
    ),
    Break(
        rules.listening,
        "two containers want the same port",
        lambda p: p.container("triton", 1)["ports"][0].update(containerPort=8000),
    ),
    Break(
        rules.addresses,
        "FLAWSMITH_PEERS__GENERATION is generation:7100, which no Service offers",
        lambda p: p.settings().update(FLAWSMITH_PEERS__GENERATION="generation:7100"),
    ),
    Break(
        rules.addresses,
        "object-store:8333, which no Service offers",
        lambda p: p.settings().update(FLAWSMITH_OBJECT_STORE__ENDPOINT="object-store:8333"),
        "local",
    ),
    Break(
        rules.addresses,
        "on which nothing in the pod listens",
        lambda p: env(p.container("triton", 1), "FLAWSMITH_TRITON__URL", value="127.0.0.1:9001"),
    ),
    Break(
        rules.services,
        "Service generation-api is not headless",
        lambda p: p.get("Service", "generation-api")["spec"].pop("clusterIP"),
    ),
    Break(
        rules.services,
        "nothing in triton listens on http2",
        lambda p: p.get("Service", "triton")["spec"]["ports"][0].update(targetPort="http2"),
    ),
    Break(
        rules.services,
        "Service assembly-api selects the pods of []",
        lambda p: p.get("Service", "assembly-api")["spec"]["selector"].update({"app.kubernetes.io/name": "assemble"}),
    ),
    Break(
        rules.services,
        "selects the pods of ['assembly-api', 'assembly-worker']",
        lambda p: p.get("Service", "assembly-api")["spec"]["selector"].pop("app.kubernetes.io/component"),
    ),
    Break(
        rules.services,
        "StatefulSet assembly-worker has no Service",
        lambda p: p.drop("Service", "assembly-worker"),
    ),
    Break(
        rules.availability,
        "classification-api has no PodDisruptionBudget",
        lambda p: p.drop("PodDisruptionBudget", "classification-api"),
    ),
    Break(
        rules.availability,
        "not spread over nodes",
        lambda p: p.pod("triton").pop("topologySpreadConstraints"),
    ),
    Break(
        rules.availability,
        "stops listening while clients still come",
        lambda p: p.container("generation-api").pop("lifecycle"),
    ),
    Break(
        rules.availability,
        "killed before its drain of 65 s ends",
        lambda p: p.settings().update(FLAWSMITH_RPC__DRAIN_S="60"),
    ),
    Break(
        rules.availability,
        "callers do not find new Tritons",
        lambda p: p.container("triton")["args"].remove("--grpc-max-connection-age=60000"),
    ),
    Break(
        rules.availability,
        "not the stable name of its pod",
        lambda p: env(p.container("assembly-worker"), "FLAWSMITH_JOBS__EXECUTOR_ID", value="assembly-worker"),
    ),
    Break(
        rules.autoscalers,
        "which is not there",
        lambda p: p.get("HorizontalPodAutoscaler", "generation-api")["spec"]["scaleTargetRef"].update(
            name="generation"
        ),
    ),
    Break(
        rules.autoscalers,
        "triton sets its replicas back",
        lambda p: p.get("Deployment", "triton")["spec"].update(replicas=1),
    ),
    Break(
        rules.autoscalers,
        "goes down within 300 s",
        lambda p: p.get("ScaledObject", "triton")["spec"]["advanced"]["horizontalPodAutoscalerConfig"]["behavior"][
            "scaleDown"
        ].update(stabilizationWindowSeconds=300),
    ),
    Break(
        rules.autoscalers,
        "no process exports nv_inference_queue_time_us",
        lambda p: p.get("ScaledObject", "triton")["spec"]["triggers"][0]["metadata"].update(
            query="sum(rate(nv_inference_queue_time_us[2m]))"
        ),
    ),
    Break(
        rules.node_pools,
        "serving and training are not apart",
        lambda p: [
            p.pod("triton")["nodeSelector"].update({"flawsmith/pool": "training"}),
            p.pod("triton")["tolerations"][0].update(value="training"),
        ],
    ),
    Break(rules.node_pools, "tolerates []", lambda p: p.pod("generation-worker").pop("tolerations")),
    Break(
        rules.node_pools,
        "classification-worker lacks a GPU",
        lambda p: p.container("classification-worker")["resources"]["limits"].pop("nvidia.com/gpu"),
    ),
    Break(
        rules.node_pools,
        "triton has the image",
        lambda p: p.container("triton").update(image="registry.example.com/flawsmith/triton:0.1.0"),
    ),
    Break(
        rules.node_pools,
        "assembly-worker takes a place",
        lambda p: p.pod("assembly-worker").update(nodeSelector={"flawsmith/pool": "training"}),
    ),
    Break(rules.network, "client cannot reach assembly-api:7100/TCP", lambda p: p.drop("NetworkPolicy", "apis")),
    Break(
        rules.network,
        "assembly-worker cannot reach generation-api:7100/TCP",
        lambda p: p.drop("NetworkPolicy", "to-peers-of-assembly"),
    ),
    Break(
        rules.network,
        "assembly-worker cannot reach augmentation-api:7100/TCP",
        lambda p: p.policy("peers-of-assembly")["podSelector"]["matchExpressions"][0].update(values=["generation"]),
    ),
    Break(
        rules.network,
        "generation-api cannot reach triton:8001/TCP",
        lambda p: p.policy("to-triton")["podSelector"].update(
            matchExpressions=[{"key": "app.kubernetes.io/component", "operator": "In", "values": ["worker"]}]
        ),
    ),
    Break(
        rules.network,
        "assembly-worker may reach triton:8001/TCP",
        lambda p: [
            p.policy("triton")["ingress"][0].pop("from"),
            p.policy("to-triton").update(podSelector={}),
        ],
    ),
    Break(
        rules.network,
        "generation-api cannot reach dns:53/UDP",
        lambda p: p.policy("to-dns")["egress"][0]["ports"].pop(0),
    ),
    Break(rules.network, "prometheus cannot reach triton:9464/TCP", lambda p: p.policy("triton")["ingress"].pop(1)),
    Break(
        rules.network,
        "keda cannot reach prometheus:9090/TCP",
        lambda p: p.drop("NetworkPolicy", "prometheus-from-keda"),
    ),
    Break(
        rules.network,
        "triton cannot leave the cluster on port 443",
        lambda p: p.policy("to-object-store")["egress"][0]["ports"][0].update(port=8443),
    ),
    Break(
        rules.network,
        "augmentation-worker cannot leave the cluster on port 9000",
        lambda p: p.settings().update(FLAWSMITH_OBJECT_STORE__ENDPOINT="s3.example.com:9000"),
    ),
    Break(
        rules.network,
        "grafana may leave the cluster on port 443",
        lambda p: p.policy("to-object-store").update(podSelector={}),
    ),
    Break(
        rules.network,
        "prepare cannot reach postgres:5432/TCP",
        lambda p: p.policy("postgres")["ingress"][0]["from"][0]["podSelector"]["matchExpressions"][0].update(
            values=["api", "worker"]
        ),
        "local",
    ),
    Break(
        rules.network,
        "grafana may reach postgres:5432/TCP",
        lambda p: [
            p.policy("postgres")["ingress"][0].pop("from"),
            p.policy("to-postgres").update(podSelector={}),
        ],
        "local",
    ),
    Break(
        rules.policy_ports,
        "opens 7101, on which assembly-api does not listen",
        lambda p: p.policy("apis")["ingress"][0]["ports"][0].update(port=7101),
    ),
    Break(
        rules.policy_ports,
        "policy scrapes opens 9464, on which generation-api does not listen",
        lambda p: p.container("generation-api")["ports"].pop(2),
    ),
    Break(
        rules.policy_ports,
        "opens 4318, on which otel-collector does not listen",
        lambda p: p.policy("to-otel-collector")["egress"][0]["ports"][0].update(port=4318),
    ),
    Break(
        rules.policy_ports,
        "policy triton selects no pod",
        lambda p: p.policy("triton")["podSelector"]["matchLabels"].update({"app.kubernetes.io/name": "tritonserver"}),
    ),
    Break(
        rules.policy_ports,
        "names a peer that is not there",
        lambda p: p.policy("to-postgres")["egress"][0].update(
            to=[{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "postgresql"}}}]
        ),
        "local",
    ),
    Break(rules.policy_ports, "policy apis opens every port", lambda p: p.policy("apis")["ingress"][0].pop("ports")),
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: f"{broken.rule.__name__}: {broken.says}")
def test_a_rule_finds_what_is_broken(overlay: Callable[[str], list[Manifest]], broken: Break) -> None:
    platform = Platform(overlay(broken.overlay))
    assert broken.rule(platform.manifests) == []
    broken.change(platform)
    found = broken.rule(platform.manifests)
    assert any(broken.says in text for text in found), found


def test_without_the_default_nothing_is_closed(overlay: Callable[[str], list[Manifest]]) -> None:
    platform = Platform(overlay("production"))
    platform.drop("NetworkPolicy", "default-deny")
    platform.drop("NetworkPolicy", "apis")
    platform.drop("NetworkPolicy", "peers-of-assembly")
    platform.drop("NetworkPolicy", "scrapes")
    assert "stranger may reach assembly-api:7100/TCP" in rules.network(platform.manifests)


def test_every_rule_is_broken_somewhere() -> None:
    assert {broken.rule for broken in BREAKS} == {*rules.PLATFORM_RULES, rules.node_pools}


def test_settings_are_walked_to_their_leaves() -> None:
    names = rules.settings_variables()
    assert {"FLAWSMITH_STATE_DIR", "FLAWSMITH_RPC__TLS__KEY", "FLAWSMITH_JOBS__DATABASE_URL"} <= names
    assert not names & {"FLAWSMITH_RPC", "FLAWSMITH_RPC__TLS", "FLAWSMITH_MODEL_CONFIG"}
