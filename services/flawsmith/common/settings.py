"""Every setting of every process: environment variables `FLAWSMITH_<GROUP>__<NAME>`. Nothing else reads them."""

from __future__ import annotations

import os
import re
import socket
import sys
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

_IPV4 = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
SERVICES = ("generation", "augmentation", "assembly", "classification")


class ObjectStoreSettings(BaseModel):
    """Any S3 server. `public_endpoint` is the address that callers outside reach (signed URLs); the same when unset."""

    endpoint: str = "127.0.0.1:9000"
    public_endpoint: str | None = None
    access_key: str = "flawsmith"
    secret_key: SecretStr = SecretStr("flawsmith-local")
    region: str = "us-east-1"
    secure: bool = False
    bucket: str = "flawsmith"
    timeout_s: float = Field(default=10.0, gt=0)


class TritonSettings(BaseModel):
    """Triton's gRPC address and the prefix of its model repository inside the bucket.

    url: `host:port`, where every address of the host is a Triton of its own, or several `ipv4:port` with commas.
    A reconciler's is exactly its own Triton's. reconcile_s: how often it looks. unload_after_s: how long a model that
    nobody wants any more goes on answering, for callers that still believe in it. classifier_backend: Triton's backend
    of classifiers: `python` (on the CPU) where its image has no `onnxruntime` (with TensorRT, on GPUs).
    """

    url: str = "127.0.0.1:8001"
    repository: str = "triton"
    load_timeout_s: float = Field(default=300.0, gt=0)
    infer_timeout_s: float = Field(default=300.0, gt=0)
    reconcile_s: float = Field(default=2.0, gt=0)
    unload_after_s: float = Field(default=30.0, ge=0)
    classifier_backend: Literal["python", "onnxruntime"] = "python"

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        addresses = url.split(",")
        for address in addresses:
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit() or (len(addresses) > 1 and not _IPV4.fullmatch(host)):
                raise ValueError(f"{address!r} is not host:port (of several addresses each: ipv4:port)")
        return url


class JobSettings(BaseModel):
    """Durable jobs.

    database_url: SQLite or Postgres; each service gets its own file or schema. SQLite in `state_dir` when unset.
    executor_id: stable and unique for each worker (StatefulSet pod name); a restarted worker finds its jobs by it.
    concurrency: jobs that a worker runs at once; those that compute share its CPUs.
    application_version: jobs stay with the version that began them; raise it when a workflow's steps change.
    """

    database_url: str | None = None
    executor_id: str | None = None
    application_version: str = "1"
    concurrency: int = Field(default=1, ge=1)
    max_queued: int = Field(default=64, ge=1)
    heartbeat_s: float = Field(default=3.0, gt=0)
    silent_after_s: float = Field(default=20.0, gt=0)
    outage_patience_s: float = Field(default=600.0, ge=0)
    database_timeout_s: float = Field(default=8.0, gt=0)


class TlsSettings(BaseModel):
    """PEM files. certificate, key: our servers speak TLS with them; both or none. ca: our channels speak TLS and trust
    servers that it vouches for; without it they speak plaintext."""

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: set both or none")
        return self


class RpcSettings(BaseModel):
    """gRPC servers. Inline images are at most 4 MiB, pages of lists 3 MiB; the rest of a message is small.

    health_listen: grpc.health.v1 of every process, always in plaintext, for probes (see `common.health`).
    max_connection_age_s: then a server closes a connection, so that clients look for new servers; calls on it have
    max_connection_age_grace_s to end, which bounds long streams.
    """

    listen: str = "127.0.0.1:0"
    health_listen: str = "127.0.0.1:0"
    max_message_bytes: int = Field(default=6 * 2**20, ge=4 * 2**20)
    max_connection_age_s: float = Field(default=120.0, gt=0)
    max_connection_age_grace_s: float = Field(default=3600.0, gt=0)
    drain_s: float = Field(default=25.0, ge=0)
    default_deadline_s: float = Field(default=60.0, gt=0)
    tls: TlsSettings = TlsSettings()


class ComputeSettings(BaseModel):
    """Short calls that compute, of the augmentation and the classification service.

    threads: how many are computed at once; one a CPU of the container's limit when None. max_pending: calls taken and
    not answered yet; more are refused. A caller alone holds at most half of them. stream_window: requests of a stream
    worked on at once. texture_cache_bytes: decoded textures of callers, all together.
    """

    threads: int | None = Field(default=None, ge=1)
    max_pending: int = Field(default=128, ge=2)
    stream_window: int = Field(default=16, ge=1)
    texture_cache_bytes: int = Field(default=512 * 2**20, ge=2**20)

    def thread_count(self) -> int:
        """Threads to start."""
        return self.threads or _cpus()


def _cpus(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """CPUs that this process may use. A container's limit shows in its cgroup alone, not in the CPUs that it sees."""
    seen = len(os.sched_getaffinity(0))
    try:
        quota, period = map(int, limit.read_text().split())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return seen
    return max(1, min(seen, quota // period))


class ClassifySettings(BaseModel):
    """Answers of the classification service.

    shadow_below: a candidate's inference starts when no more than so many of a champion's run: 0 where both share CPUs,
    more where a GPU has room for both.
    """

    shadow_below: int = Field(default=0, ge=0)


class HubSettings(BaseModel):
    """The model hub that base models are pulled from. endpoint, token: those of the environment that its own library
    reads (HF_ENDPOINT, HF_TOKEN) when unset."""

    endpoint: str | None = None
    token: SecretStr | None = None


class DrawingSettings(BaseModel):
    """The diffusion model in Triton. adapter_cache_bytes: memory for adapters that are ready to be merged, those used
    last; on a CPU each takes two bytes a weight that it adapts."""

    adapter_cache_bytes: int = Field(default=2**30, ge=0)


class AuthSettings(BaseModel):
    """tokens: bearer token -> principal. Without any, callers name themselves and are believed (one machine)."""

    tokens: dict[str, str] = Field(default_factory=dict)


class PeerSettings(BaseModel):
    """gRPC addresses of the services, for those that call them."""

    generation: str = "127.0.0.1:7101"
    augmentation: str = "127.0.0.1:7102"
    assembly: str = "127.0.0.1:7103"
    classification: str = "127.0.0.1:7104"


class TelemetrySettings(BaseModel):
    """metrics_listen: where Prometheus scrapes this process. otlp_endpoint: traces go there when set."""

    log_level: str = "INFO"
    log_format: str = Field(default="json", pattern="^(json|console)$")
    metrics_listen: str = "127.0.0.1:0"
    otlp_endpoint: str | None = None


class Settings(BaseSettings):
    """All groups. state_dir: where SQLite files and work folders lie. allow_non_commercial_models: base models whose
    licence lets no products be made with them."""

    model_config = SettingsConfigDict(env_prefix="FLAWSMITH_", env_nested_delimiter="__", extra="ignore")

    state_dir: Path = Path(".state")
    require_approved_prompts: bool = True
    allow_non_commercial_models: bool = False
    object_store: ObjectStoreSettings = ObjectStoreSettings()
    triton: TritonSettings = TritonSettings()
    jobs: JobSettings = JobSettings()
    rpc: RpcSettings = RpcSettings()
    compute: ComputeSettings = ComputeSettings()
    drawing: DrawingSettings = DrawingSettings()
    classify: ClassifySettings = ClassifySettings()
    hub: HubSettings = HubSettings()
    auth: AuthSettings = AuthSettings()
    peers: PeerSettings = PeerSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    def database_url(self, service: str) -> str:
        """SQLAlchemy URL of a service's job database."""
        if self.jobs.database_url:
            return self.jobs.database_url
        return f"sqlite:///{(self.state_dir / 'jobs' / f'{service}.sqlite').absolute()}"

    def executor_id(self, service: str) -> str:
        """This worker's stable name."""
        return self.jobs.executor_id or f"{service}-{socket.gethostname()}"

    def job_threads(self) -> int:
        """Threads that a job computes with: the CPUs of this process, shared by the jobs that may run at once."""
        return max(1, _cpus() // self.jobs.concurrency)


def load_settings() -> Settings:
    """The settings of a process, which ends with a line for each variable that is wrong."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = [("__".join(str(part).upper() for part in found["loc"]), found["msg"]) for found in error.errors()]
        sys.exit("\n".join(f"FLAWSMITH_{name}: {message}" for name, message in wrong))
    except SettingsError as error:  # JSON was expected, e.g. in FLAWSMITH_AUTH__TOKENS
        sys.exit(f"FLAWSMITH_*: {error}: {error.__cause__}")
