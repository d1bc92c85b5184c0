"""Our own rules for the rendered manifests. Each takes a list of manifests and returns what is wrong, in sentences."""

from __future__ import annotations

import re
import tomllib
import typing
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flawsmith.common.settings import SERVICES, Settings

Manifest = dict[str, Any]
Rule = Callable[[list[Manifest]], list[str]]
ROOT = Path(__file__).parents[2]
NAMESPACE = "flawsmith"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
CUDA = "-cuda"
"""Suffix of the images with the CUDA build of torch, as in deploy/compose/gpu.yml."""
WORKLOADS = ("Deployment", "StatefulSet", "Job")
# Variables of programs that are not ours, by image. Grafana takes its whole configuration as GF_<SECTION>_<KEY>.
FOREIGN_VARIABLES = {
    "postgres": r"POSTGRES_(DB|USER|PASSWORD)",
    "grafana": r"GF_[A-Z_]+",
    "triton": r"AWS_(ACCESS_KEY_ID|SECRET_ACCESS_KEY|DEFAULT_REGION)|MALLOC_(MMAP|TRIM)_THRESHOLD_|MALLOC_TOP_PAD_"
    r"|OMP_WAIT_POLICY",
}
SECRET_VARIABLES = re.compile(r"PASSWORD|SECRET|ACCESS_KEY|TOKENS|DATABASE_URL")
# Where programs that are not ours are told their ports.
PORT_FLAGS = {
    ("triton", "http"): r"--http-port=(\d+)",
    ("triton", "grpc"): r"--grpc-port=(\d+)",
    ("triton", "metrics"): r"--metrics-port=(\d+)",
    ("seaweedfs", "s3"): r"-s3\.port=(\d+)",
}
PORT_SETTINGS = {
    "grpc": "FLAWSMITH_RPC__LISTEN",
    "health": "FLAWSMITH_RPC__HEALTH_LISTEN",
    "metrics": "FLAWSMITH_TELEMETRY__METRICS_LISTEN",
    "wish-metrics": "FLAWSMITH_TELEMETRY__METRICS_LISTEN",
}


@dataclass(frozen=True)
class Pod:
    """The pods of one workload; or, with a namespace of its own and no manifest, pods that others run."""

    name: str
    labels: dict[str, str]
    namespace: str = NAMESPACE
    namespace_labels: dict[str, str] = field(default_factory=dict)
    manifest: Manifest = field(default_factory=dict, repr=False)

    @property
    def spec(self) -> dict[str, Any]:
        return typing.cast(dict[str, Any], self.manifest["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]] if self.manifest else []

    @property
    def ports(self) -> dict[int, str]:
        """Numbers and names of the ports that the containers declare."""
        return {port["containerPort"]: port["name"] for each in self.containers for port in each.get("ports", ())}

    @property
    def service(self) -> str:
        return self.labels.get("app.kubernetes.io/name", "")

    @property
    def role(self) -> str:
        return self.labels.get("app.kubernetes.io/component", "")


def pods(manifests: Iterable[Manifest]) -> list[Pod]:
    """All workloads' pods."""
    return [
        Pod(each["metadata"]["name"], each["spec"]["template"]["metadata"]["labels"], manifest=each)
        for each in manifests
        if each["kind"] in WORKLOADS
    ]


def of_kind(manifests: Iterable[Manifest], *kinds: str) -> list[Manifest]:
    """The manifests of some kinds."""
    return [each for each in manifests if each["kind"] in kinds]


def _containers(manifests: Iterable[Manifest]) -> Iterator[tuple[Pod, dict[str, Any], str]]:
    for pod in pods(manifests):
        for container in pod.containers:
            yield pod, container, f"{pod.name}/{container['name']}"


def _repository(container: dict[str, Any]) -> str:
    """Last part of an image's name: `flawsmith-triton` or `registry.example.com/flawsmith/triton` are `triton`."""
    name = container["image"].partition("@")[0].rpartition("/")[2].partition(":")[0]
    return str(name.removeprefix("flawsmith-"))


def _is_ours(container: dict[str, Any]) -> bool:
    return "flawsmith" in container["image"]


# --------------------------------------------------------------------------------------------------------- containers


def probes(manifests: list[Manifest]) -> list[str]:
    """Every container has a startup, a liveness and a readiness probe on a port of its own; one-shot jobs have none."""
    wrong = []
    for pod, container, where in _containers(manifests):
        if pod.manifest["kind"] == "Job":
            continue
        declared = {*pod.ports, *pod.ports.values()}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = container.get(kind)
            if probe is None:
                wrong.append(f"{where} has no {kind}")
                continue
            port = probe.get("grpc", probe.get("httpGet", {})).get("port")
            if port is not None and port not in declared:
                wrong.append(f"{where}: {kind} asks port {port}, on which nothing listens")
            if port is None and "exec" not in probe:
                wrong.append(f"{where}: {kind} asks nothing")
            if _is_ours(container) and "grpc" in probe:
                service = "readiness" if kind == "readinessProbe" else "liveness"
                if probe["grpc"].get("service") != service:
                    wrong.append(f"{where}: {kind} asks for {probe['grpc'].get('service')}, not {service}")
                if pod.ports.get(port) != "health":
                    wrong.append(f"{where}: {kind} does not use the plaintext health port")
    return wrong


def resources(manifests: list[Manifest]) -> list[str]:
    """Every container says what CPU and memory it needs and may take at most."""
    wrong = []
    for _, container, where in _containers(manifests):
        for kind in ("requests", "limits"):
            for resource in ("cpu", "memory"):
                if resource not in container.get("resources", {}).get(kind, {}):
                    wrong.append(f"{where} has no {resource} in its {kind}")
    return wrong


def privileges(manifests: list[Manifest]) -> list[str]:
    """Pods run without privileges on a read-only root, each under a service account of its own, with no token."""
    wrong, accounts = [], {each["metadata"]["name"]: each for each in of_kind(manifests, "ServiceAccount")}
    used: dict[str, str] = {}
    for pod in pods(manifests):
        security, account = pod.spec.get("securityContext", {}), pod.spec.get("serviceAccountName", "default")
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            wrong.append(f"{pod.name} may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            wrong.append(f"{pod.name} has no seccomp profile")
        if pod.spec.get("automountServiceAccountToken") is not False:
            wrong.append(f"{pod.name} mounts a service account token")
        if account not in accounts:
            wrong.append(f"{pod.name}: there is no service account {account}")
        elif accounts[account].get("automountServiceAccountToken") is not False:
            wrong.append(f"service account {account} mounts its token")
        if account in used:
            wrong.append(f"{pod.name} and {used[account]} share the service account {account}")
        used[account] = pod.name
        for host in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(host):
                wrong.append(f"{pod.name} sets {host}")
        for volume in pod.spec.get("volumes", ()):
            if "hostPath" in volume:
                wrong.append(f"{pod.name} mounts the node's {volume['hostPath']['path']}")
    for _, container, where in _containers(manifests):
        security = container.get("securityContext", {})
        if security.get("readOnlyRootFilesystem") is not True:
            wrong.append(f"{where} may write to its root file system")
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            wrong.append(f"{where} may gain privileges")
        if security.get("capabilities", {}) != {"drop": ["ALL"]}:
            wrong.append(f"{where} keeps capabilities")
        if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
            wrong.append(f"{where} may run as root")
    return wrong


def images(manifests: list[Manifest]) -> list[str]:
    """Every image has a version (ours the project's); none is `latest`."""
    wrong = []
    for _, container, where in _containers(manifests):
        _, _, rest = container["image"].rpartition("/")
        tag = rest.partition("@")[0].partition(":")[2]
        if not tag and "@sha256:" not in rest:
            wrong.append(f"{where}: {container['image']} has neither tag nor digest")
        if tag == "latest":
            wrong.append(f"{where}: {container['image']} changes under us")
        if _is_ours(container) and tag.removesuffix(CUDA) != VERSION:
            wrong.append(f"{where}: {container['image']} is not the project's version {VERSION}")
    return wrong


def commands(manifests: list[Manifest]) -> list[str]:
    """Containers of ours run a module that exists, in a role that it has, out of the image that is made for it."""
    wrong = []
    for pod, container, where in _containers(manifests):
        if not _is_ours(container) or _repository(container) == "triton":
            continue
        python, _, module = (*container.get("command", ()), "", "", "")[:3]
        if python != "python" or find_spec(module or "none") is None:
            wrong.append(f"{where} runs {container.get('command')}, which is no module of ours")
        if pod.role in ("api", "worker"):
            if container.get("args") != [pod.role] or module != f"flawsmith.{pod.service}":
                wrong.append(f"{where} runs {module} {container.get('args')}")
            if _repository(container) not in (pod.service, f"{pod.service}-worker"):
                wrong.append(f"{where} runs {module} out of {container['image']}")
    return wrong


# ------------------------------------------------------------------------------------------------------------ settings


def settings_variables(model: type[BaseModel] = Settings, prefix: str = "FLAWSMITH_") -> set[str]:
    """Every environment variable that a settings model reads."""
    names: set[str] = set()
    for name, info in model.model_fields.items():
        kinds = [info.annotation, *typing.get_args(info.annotation)]
        groups = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        for group in groups:
            names |= settings_variables(group, f"{prefix}{name.upper()}__")
        if not groups:
            names.add(f"{prefix}{name.upper()}")
    return names


def environment_of(container: dict[str, Any], manifests: list[Manifest]) -> dict[str, str | None]:
    """A container's variables; None for what comes by reference."""
    maps = {each["metadata"]["name"]: each.get("data", {}) for each in of_kind(manifests, "ConfigMap")}
    values: dict[str, str | None] = {}
    for source in container.get("envFrom", ()):
        values |= maps.get(source.get("configMapRef", {}).get("name"), {})
    for entry in container.get("env", ()):
        values[entry["name"]] = entry.get("value")
    return values


def variables(manifests: list[Manifest]) -> list[str]:
    """Every variable that is set is one that the program reads, and every one that is used is set."""
    wrong, known = [], settings_variables()
    for _, container, where in _containers(manifests):
        values = environment_of(container, manifests)
        foreign = FOREIGN_VARIABLES.get(_repository(container), "")
        for name in values:
            if name.startswith("FLAWSMITH_"):
                if name not in known:
                    wrong.append(f"{where}: no setting reads {name}")
                elif not _is_ours(container):
                    wrong.append(f"{where}: {container['image']} does not read {name}")
            elif not re.fullmatch(foreign, name):
                wrong.append(f"{where}: {container['image']} is not known to read {name}")
        texts = [*container.get("command", ()), *container.get("args", ()), *filter(None, values.values())]
        for name in re.findall(r"\$\((\w+)\)", "\n".join(texts)):
            if name not in values:
                wrong.append(f"{where} uses $({name}), which nothing sets")
    return wrong


def references(manifests: list[Manifest]) -> list[str]:
    """What a pod refers to exists; secrets stand in no manifest and come by reference."""
    wrong = [f"Secret {each['metadata']['name']} stands in the manifests" for each in of_kind(manifests, "Secret")]
    maps = {each["metadata"]["name"] for each in of_kind(manifests, "ConfigMap")}
    for each in of_kind(manifests, "ConfigMap"):
        for name in each.get("data", {}):
            if SECRET_VARIABLES.search(name):
                wrong.append(f"ConfigMap {each['metadata']['name']} holds the secret {name}")
    for pod, container, where in _containers(manifests):
        for entry in container.get("env", ()):
            if SECRET_VARIABLES.search(entry["name"]) and "secretKeyRef" not in entry.get("valueFrom", {}):
                wrong.append(f"{where}: {entry['name']} does not come from a secret")
        for source in container.get("envFrom", ()):
            if source.get("configMapRef", {}).get("name") not in maps:
                wrong.append(f"{where} takes its environment from {source}, which is not there")
        templates = pod.manifest["spec"].get("volumeClaimTemplates", ())
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        volumes |= {template["metadata"]["name"] for template in templates}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                wrong.append(f"{where} mounts {mount['name']}, which is not there")
        for volume in pod.spec.get("volumes", ()):
            if "configMap" in volume and volume["configMap"]["name"] not in maps:
                wrong.append(f"{where}: there is no ConfigMap {volume['configMap']['name']}")
    return wrong


def listening(manifests: list[Manifest]) -> list[str]:
    """The ports that containers declare are those that their settings or flags name, each once in a pod."""
    wrong = []
    for pod, container, where in _containers(manifests):
        values = environment_of(container, manifests)
        flags = "\n".join(container.get("args", ()))
        for port in container.get("ports", ()):
            name, number = port["name"], port["containerPort"]
            pattern = PORT_FLAGS.get((container["name"], name))
            if pattern is not None:
                found = re.search(pattern, flags)
                told = int(found[1]) if found else None
            elif _is_ours(container):
                told = int((values.get(PORT_SETTINGS[name]) or ":0").rpartition(":")[2])
            else:
                continue
            if told != number:
                wrong.append(f"{where} declares {name} {number}, but is told to listen on {told}")
        numbers = [port["containerPort"] for each in pod.containers for port in each.get("ports", ())]
        if len(numbers) != len(set(numbers)):
            wrong.append(f"{pod.name}: two containers want the same port")
    return wrong


def addresses(manifests: list[Manifest]) -> list[str]:
    """The addresses in the settings are Services with that port, ports of the same pod, or outside the cluster."""
    wrong = []
    services = {each["metadata"]["name"]: each for each in of_kind(manifests, "Service")}
    for pod, container, where in _containers(manifests):
        for name, value in environment_of(container, manifests).items():
            if not re.fullmatch(
                r"FLAWSMITH_(PEERS__\w+|TRITON__URL|OBJECT_STORE__ENDPOINT|TELEMETRY__OTLP_ENDPOINT)", name
            ):
                continue
            host, _, port = str(value).removeprefix("http://").rpartition(":")
            if host == "127.0.0.1":
                if int(port) not in pod.ports:
                    wrong.append(f"{where}: {name} is {value}, on which nothing in the pod listens")
            elif "." not in host:
                ports = {each["port"] for each in services.get(host, {}).get("spec", {}).get("ports", ())}
                if int(port) not in ports:
                    wrong.append(f"{where}: {name} is {value}, which no Service offers")
    return wrong


# -------------------------------------------------------------------------------------------- objects around the pods


def services(manifests: list[Manifest]) -> list[str]:
    """Services find pods and their ports; whatever gRPC clients resolve, and a StatefulSet's own one, is headless."""
    wrong, all_pods = [], pods(manifests)
    for each in of_kind(manifests, "Service"):
        name, spec = each["metadata"]["name"], each["spec"]
        found = [pod for pod in all_pods if spec["selector"].items() <= pod.labels.items()]
        if len(found) != 1:
            wrong.append(f"Service {name} selects the pods of {[pod.name for pod in found]}")
            continue
        for port in spec["ports"]:
            target = port.get("targetPort", port["port"])
            if target not in found[0].ports and target not in found[0].ports.values():
                wrong.append(f"Service {name}: nothing in {found[0].name} listens on {target}")
        if found[0].role in ("api", "worker", "inference") and spec.get("clusterIP") != "None":
            wrong.append(f"Service {name} is not headless")
    names = {each["metadata"]["name"] for each in of_kind(manifests, "Service")}
    for each in of_kind(manifests, "StatefulSet"):
        if each["spec"].get("serviceName") not in names:
            wrong.append(f"StatefulSet {each['metadata']['name']} has no Service {each['spec'].get('serviceName')}")
    return wrong


def availability(manifests: list[Manifest]) -> list[str]:
    """APIs and Triton: a disruption budget, spread over nodes, time to drain. Workers: spread, named by their pod."""
    wrong, all_pods = [], pods(manifests)
    budgets = of_kind(manifests, "PodDisruptionBudget")
    for each in budgets:
        labels = each["spec"]["selector"]["matchLabels"]
        if not any(labels.items() <= pod.labels.items() for pod in all_pods):
            wrong.append(f"PodDisruptionBudget {each['metadata']['name']} selects nothing")
    for pod in all_pods:
        if pod.role not in ("api", "worker", "inference"):
            continue
        if not pod.spec.get("topologySpreadConstraints"):
            wrong.append(f"{pod.name} is not spread over nodes")
        if pod.role in ("api", "inference") and not any(
            each["spec"]["selector"]["matchLabels"].items() <= pod.labels.items() for each in budgets
        ):
            wrong.append(f"{pod.name} has no PodDisruptionBudget")
        for container in pod.containers:
            values, where = environment_of(container, manifests), f"{pod.name}/{container['name']}"
            if pod.role == "api":
                pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                needed = pause + float(values.get("FLAWSMITH_RPC__DRAIN_S") or Settings().rpc.drain_s)
                if not pause:
                    wrong.append(f"{where} stops listening while clients still come")
                if pod.spec.get("terminationGracePeriodSeconds", 30) <= needed:
                    wrong.append(f"{where} is killed before its drain of {needed:.0f} s ends")
            if container["name"] == "triton" and not any(
                flag.startswith("--grpc-max-connection-age=") for flag in container["args"]
            ):
                wrong.append(f"{where} keeps connections for ever: callers do not find new Tritons")
            if pod.role == "worker":
                sources = [
                    entry.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
                    for entry in container.get("env", ())
                    if entry["name"] == "FLAWSMITH_JOBS__EXECUTOR_ID"
                ]
                if sources != ["metadata.name"] or pod.manifest["kind"] != "StatefulSet":
                    wrong.append(f"{where}: its executor id is not the stable name of its pod")
    return wrong


def autoscalers(manifests: list[Manifest]) -> list[str]:
    """Autoscalers' targets exist, one each, and say no number of replicas themselves; Triton's goes down slowly."""
    wrong = []
    targets = {(each["kind"], each["metadata"]["name"]): each for each in of_kind(manifests, *WORKLOADS)}
    seen: set[tuple[str, str]] = set()
    for each in of_kind(manifests, "HorizontalPodAutoscaler", "ScaledObject"):
        name, ref = each["metadata"]["name"], each["spec"]["scaleTargetRef"]
        key = (ref.get("kind", "Deployment"), ref["name"])
        if key not in targets:
            wrong.append(f"{each['kind']} {name} scales {key}, which is not there")
        elif "replicas" in targets[key]["spec"]:
            wrong.append(f"{key[1]} sets its replicas back at every apply")
        if key in seen:
            wrong.append(f"{key[1]} is scaled twice")
        seen.add(key)
        if each["kind"] == "ScaledObject":
            behavior = each["spec"].get("advanced", {}).get("horizontalPodAutoscalerConfig", {}).get("behavior", {})
            window = behavior.get("scaleDown", {}).get("stabilizationWindowSeconds", 0)
            if min(window, each["spec"].get("cooldownPeriod", 0)) < 600:
                wrong.append(f"ScaledObject {name} goes down within {window} s; starting again takes minutes")
            for trigger in each["spec"]["triggers"]:
                wrong += [f"ScaledObject {name}: {text}" for text in unknown_metrics(trigger["metadata"]["query"])]
    return wrong


def node_pools(manifests: list[Manifest]) -> list[str]:
    """Where there are GPUs: Triton and the workers that train have one each, on pools apart, which tolerate them."""
    wrong, pools = [], {}
    for pod in pods(manifests):
        wants = any("nvidia.com/gpu" in each["resources"].get("limits", {}) for each in pod.containers)
        expected = pod.role == "inference" or (pod.role == "worker" and pod.service in ("generation", "classification"))
        if wants != expected:
            wrong.append(f"{pod.name} {'asks for' if wants else 'lacks'} a GPU")
        if wants != pod.spec["containers"][0]["image"].endswith(CUDA):
            wrong.append(f"{pod.name} has the image {pod.spec['containers'][0]['image']}")
        pool = pod.spec.get("nodeSelector", {}).get("flawsmith/pool")
        if wants:
            pools[pod.name] = pool
            tolerated = {
                each.get("value") for each in pod.spec.get("tolerations", ()) if each["key"] == "flawsmith/pool"
            }
            if pool is None or tolerated != {pool}:
                wrong.append(f"{pod.name} is bound to pool {pool} and tolerates {sorted(map(str, tolerated))}")
        elif pool is not None:
            wrong.append(f"{pod.name} takes a place on the GPU pool {pool}")
    if len(set(pools.values())) != 2 or list(pools.values()).count(pools.get("triton")) != 1:
        wrong.append(f"serving and training are not apart: {pools}")
    return wrong


# -------------------------------------------------------------------------------------------------------------- metrics

# https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/metrics.html
TRITON_METRICS = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count", "nv_gpu_utilization", "nv_gpu_memory_used_bytes", "nv_gpu_memory_total_bytes",
    "nv_gpu_power_usage", "nv_gpu_power_limit", "nv_energy_consumption",
}  # fmt: skip


def unknown_metrics(text: str) -> list[str]:
    """Names in a query or a page that look like metrics of ours or of Triton's, and that neither exports."""
    from prometheus_client import REGISTRY

    import flawsmith.classification.observing
    import flawsmith.common.telemetry  # noqa: F401  both register our metrics

    ours: set[str] = set()
    for family in REGISTRY.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        ours |= {family.name + suffix for suffix in suffixes} | ({family.name} if family.type == "histogram" else set())
    names = set(re.findall(r"\b(?:flawsmith|nv|process)_[a-z0-9_]+[a-z0-9]\b", text))
    return [f"no process exports {name}" for name in sorted(names - ours - TRITON_METRICS)]


# ------------------------------------------------------------------------------------------------------------- network

OUTSIDERS = (
    Pod("dns", {"k8s-app": "kube-dns"}, "kube-system"),
    Pod("client", {}, "line-7", {"flawsmith/clients": "true"}),
    Pod("keda", {"app": "keda-operator"}, "keda"),
    Pod("stranger", {"app.kubernetes.io/name": "prometheus", "app.kubernetes.io/component": "api"}, "default"),
)
OUTSIDER_PORTS = {"dns": {(53, "UDP"), (53, "TCP")}}
Flow = tuple[str, str, int, str]


def data_flow(manifests: list[Manifest]) -> set[Flow]:
    """Every call that the platform makes or takes inside the cluster: source, destination, port, protocol.

    From the code: only assembly's worker calls other services; whoever says `needs_triton` asks Triton already when it
    starts, and its worker infers, loads or compares there; everything of ours uses object store and collector.
    """
    names = {pod.name for pod in pods(manifests)}
    flows: set[Flow] = {(name, "dns", 53, protocol) for name in names for protocol in ("UDP", "TCP")}
    processes = [f"{service}-{role}" for service in SERVICES for role in ("api", "worker")]
    flows |= {(name, "object-store", 9000, "TCP") for name in [*processes, "prepare", "triton"]}
    flows |= {(name, "postgres", 5432, "TCP") for name in [*processes, "prepare"]}
    flows |= {(name, "otel-collector", 4317, "TCP") for name in [*processes, "prepare", "triton"]}
    for service in SERVICES:
        if import_module(f"flawsmith.{service}.service").DEFINITION.needs_triton:
            flows |= {(f"{service}-{role}", "triton", 8001, "TCP") for role in ("api", "worker")}
    flows |= {("assembly-worker", f"{peer}-api", 7100, "TCP") for peer in ("generation", "augmentation")}
    flows |= {("prometheus", name, 9464, "TCP") for name in [*processes, "triton"]}
    flows |= {("prometheus", "triton", 8002, "TCP"), ("prometheus", "otel-collector", 8888, "TCP")}
    flows |= {("grafana", "prometheus", 9090, "TCP")}
    flows |= {("client", f"{service}-api", 7100, "TCP") for service in SERVICES}
    flows |= {("client", "object-store", 9000, "TCP"), ("client", "grafana", 3000, "TCP")}
    if of_kind(manifests, "ScaledObject"):
        flows.add(("keda", "prometheus", 9090, "TCP"))
    known = names | {pod.name for pod in OUTSIDERS}
    return {flow for flow in flows if flow[0] in known and flow[1] in known}


def external_flow(manifests: list[Manifest]) -> set[tuple[str, int]]:
    """Calls that leave the cluster: source and port, where the object store or Postgres is not in it."""
    names = {pod.name for pod in pods(manifests)}
    flows: set[tuple[str, int]] = set()
    for pod in pods(manifests):
        for container in pod.containers:
            values = environment_of(container, manifests)
            endpoint = values.get("FLAWSMITH_OBJECT_STORE__ENDPOINT")
            if "object-store" not in names and "FLAWSMITH_OBJECT_STORE__SECRET_KEY" in values and endpoint:
                flows.add((pod.name, int(endpoint.rpartition(":")[2])))
            if "postgres" not in names and "FLAWSMITH_JOBS__DATABASE_URL" in values:
                flows.add((pod.name, 5432))
    return flows


def network(manifests: list[Manifest]) -> list[str]:
    """What the policies let through is the data flow, all of it and nothing else."""
    policies, inside = of_kind(manifests, "NetworkPolicy"), pods(manifests)
    expected, everyone = data_flow(manifests), [*inside, *OUTSIDERS]
    wrong = []
    for source in everyone:
        for destination in everyone:
            if source == destination or (source.namespace != NAMESPACE and destination.namespace != NAMESPACE):
                continue
            ports = {(number, "TCP") for number in destination.ports} | OUTSIDER_PORTS.get(destination.name, set())
            for port, protocol in sorted(ports):
                open_ = _allows(policies, "Egress", source, destination, port, protocol) and _allows(
                    policies, "Ingress", destination, source, port, protocol
                )
                flow = (source.name, destination.name, port, protocol)
                if open_ != (flow in expected):
                    verb = "may reach" if open_ else "cannot reach"
                    wrong.append(f"{source.name} {verb} {destination.name}:{port}/{protocol}")
    leaving = external_flow(manifests)
    opened = {
        (pod.name, int(port["port"]))
        for policy in policies
        for pod in inside
        if _selects(policy["spec"]["podSelector"], pod.labels)
        for rule in policy["spec"].get("egress", ())
        if any("ipBlock" in peer for peer in rule.get("to", ()))
        for port in rule["ports"]
    }
    wrong += [f"{name} cannot leave the cluster on port {port}" for name, port in sorted(leaving - opened)]
    wrong += [f"{name} may leave the cluster on port {port}" for name, port in sorted(opened - leaving)]
    return wrong


def policy_ports(manifests: list[Manifest]) -> list[str]:
    """Every port that a policy opens is one on which each pod behind it listens; every policy selects something."""
    wrong, everyone = [], [*pods(manifests), *OUTSIDERS]
    for policy in of_kind(manifests, "NetworkPolicy"):
        name, spec = policy["metadata"]["name"], policy["spec"]
        selected = [pod for pod in everyone if pod.namespace == NAMESPACE and _selects(spec["podSelector"], pod.labels)]
        if not selected:
            wrong.append(f"policy {name} selects no pod")
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction) or ():
                found = [pod for pod in everyone if any(_is_peer(peer, pod) for peer in rule.get(peers) or ())]
                if not found and not any("ipBlock" in peer for peer in rule.get(peers) or ()):
                    wrong.append(f"policy {name} names a peer that is not there: {rule.get(peers)}")
                if not rule.get("ports"):
                    wrong.append(f"policy {name} opens every port")
                for port in rule.get("ports") or ():
                    for pod in selected if direction == "ingress" else found:
                        known = {(number, "TCP") for number in pod.ports} | OUTSIDER_PORTS.get(pod.name, set())
                        if (port["port"], port.get("protocol", "TCP")) not in known:
                            wrong.append(f"policy {name} opens {port['port']}, on which {pod.name} does not listen")
    return wrong


def _allows(policies: list[Manifest], way: str, pod: Pod, peer: Pod, port: int, protocol: str) -> bool:
    """Kubernetes' rule: a pod that some policy selects for a direction may do only what one of them allows."""
    if pod.namespace != NAMESPACE:
        return True
    selecting = [
        each["spec"]
        for each in policies
        if way in each["spec"]["policyTypes"] and _selects(each["spec"]["podSelector"], pod.labels)
    ]
    if not selecting:
        return True
    for rule in [rule for spec in selecting for rule in spec.get(way.lower()) or ()]:
        peers, ports = rule.get("from" if way == "Ingress" else "to"), rule.get("ports")
        is_peer = not peers or any(_is_peer(each, peer) for each in peers)
        if is_peer and (
            not ports or any((each["port"], each.get("protocol", "TCP")) == (port, protocol) for each in ports)
        ):
            return True
    return False


def _is_peer(peer: dict[str, Any], pod: Pod) -> bool:
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        labels = {"kubernetes.io/metadata.name": pod.namespace} | pod.namespace_labels
        if not _selects(peer["namespaceSelector"], labels):
            return False
    elif pod.namespace != NAMESPACE:
        return False
    return _selects(peer.get("podSelector", {}), pod.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    if not (selector.get("matchLabels") or {}).items() <= labels.items():
        return False
    for expression in selector.get("matchExpressions") or ():
        if expression["operator"] != "In":
            raise NotImplementedError(f"operator {expression['operator']}")
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True


CONTAINER_RULES = (probes, resources, privileges, images, commands, variables, references, listening)
"""Hold for every component alone."""
PLATFORM_RULES = (*CONTAINER_RULES, addresses, services, availability, autoscalers, network, policy_ports)
"""Hold for a whole overlay."""
