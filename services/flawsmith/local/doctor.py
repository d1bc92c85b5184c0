"""What is missing, unsuitable or unreachable on this machine, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform as machine
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from flawsmith.common import channels
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.settings import SERVICES, PeerSettings, TlsSettings

_PACKAGES = {
    "torch": "generation and classification train with it",
    "diffusers": "generation draws with it",
    "dbos": "jobs run on it",
    "pytriton": "it carries the Triton server",
    "onnxruntime": "classifiers answer with it",
    "cv2": "images are worked on with it",
}
_MIN_GLIBC = (2, 35)
_MIN_FREE_GB = 5.0


@dataclass(frozen=True)
class Finding:
    """One thing looked at. level: ok, warning or problem. mend: what to do; empty when ok."""

    level: str
    what: str
    mend: str = ""


def examine(state: Path, addresses: PeerSettings, tls: TlsSettings) -> list[Finding]:
    """Look at everything; never raises."""
    return [
        _python(),
        _glibc(),
        _cpu(),
        *_packages(),
        _numpy(),
        _binary("rclone", "the object store of the local platform"),
        _checkout(),
        _disk(state),
        _memory(),
        *_services(state, addresses, tls),
    ]


def _python() -> Finding:
    version = machine.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        return Finding("ok", f"Python {version}")
    return Finding("problem", f"Python {version}", "use Python 3.11 or 3.12: `make setup PYTHON=python3.11`")


def _glibc() -> Finding:
    name, version = machine.libc_ver()
    if name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) >= _MIN_GLIBC:
        return Finding("ok", f"glibc {version}")
    mend = "Triton needs glibc 2.35 or newer, e.g. Debian 12 or Ubuntu 22.04"
    return Finding("problem", f"C library {name or 'unknown'} {version}", mend)


def _cpu() -> Finding:
    if machine.machine() != "x86_64":
        return Finding("problem", f"processor {machine.machine()}", "the Triton wheel is for x86-64 only")
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if " avx2" not in flags:
        return Finding("warning", "processor without AVX2", "everything runs, but several times slower")
    note = " with AVX-512 bf16" if "avx512_bf16" in flags else ""
    return Finding("ok", f"x86-64, {os.cpu_count()} cores{note}")


def _packages() -> list[Finding]:
    found = []
    for package, why in _PACKAGES.items():
        if importlib.util.find_spec(package) is None:
            found.append(Finding("problem", f"{package} is not installed ({why})", "run `make setup`"))
    return found or [Finding("ok", "packages of all services are installed")]


def _numpy() -> Finding:
    version = importlib.metadata.version("numpy") if importlib.util.find_spec("numpy") else "none"
    if version.startswith("1."):
        return Finding("ok", f"NumPy {version}")
    return Finding("problem", f"NumPy {version}", "Triton's python backend answers nothing with NumPy 2: `make setup`")


def _binary(name: str, why: str) -> Finding:
    if Path(sys.executable).with_name(name).exists():
        return Finding("ok", f"{name} is installed")
    return Finding("problem", f"{name} is not installed ({why})", "run `make setup`")


def _checkout() -> Finding:
    from flawsmith.prepare import repository_root

    try:
        root = repository_root()
    except FlawsmithError as error:
        return Finding("problem", "models/mini is not here", error.message)
    weights = list((root / "models/mini").rglob("*.safetensors"))
    if len(weights) < 3:
        return Finding(
            "problem", f"{root}/models/mini lacks weights", "get them from the repository: `git checkout models`"
        )
    return Finding("ok", f"base model mini in {root}/models/mini")


def _disk(state: Path) -> Finding:
    folder = state if state.exists() else Path.cwd()
    free = shutil.disk_usage(folder).free / 1e9
    if free < _MIN_FREE_GB:
        return Finding(
            "warning", f"{free:.1f} GB free at {folder.absolute()}", "free some space or use another --state"
        )
    return Finding("ok", f"{free:.0f} GB free at {folder.absolute()}")


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if total < 8:
        return Finding("warning", f"{total:.1f} GB of memory", "training may be killed; 8 GB and more are comfortable")
    return Finding("ok", f"{total:.0f} GB of memory")


def _services(state: Path, addresses: PeerSettings, tls: TlsSettings) -> list[Finding]:
    if not (state / "platform.json").exists():
        mend = "`flawsmith up` starts it; one elsewhere is reached through FLAWSMITH_PEERS__GENERATION and so on"
        if not any(_health(getattr(addresses, service), tls) for service in SERVICES):
            return [Finding("warning", f"no platform runs on {state.absolute()}", mend)]
    found = []
    for service in SERVICES:
        address = getattr(addresses, service)
        answer = _health(address, tls)
        if answer == "SERVING":
            found.append(Finding("ok", f"{service} serves at {address}"))
        elif answer:
            mend = f"a dependency has not answered yet; see {state}/logs/{service}-api.log"
            found.append(Finding("problem", f"{service} at {address} says {answer}", mend))
        else:
            mend = f"see {state}/logs/{service}-api.log, or start the platform again with `flawsmith up`"
            found.append(Finding("problem", f"{service} does not answer at {address}", mend))
    return found


def _health(address: str, tls: TlsSettings) -> str:
    with channels.connect(grpc, address, tls) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2)
        except grpc.RpcError:
            return ""
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
