"""Structured logs, Prometheus metrics and OpenTelemetry traces of every process."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

import structlog
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from prometheus_client import Counter, Gauge, Histogram, start_http_server

from flawsmith.common.settings import TelemetrySettings

REQUESTS = Counter("flawsmith_requests_total", "gRPC calls answered.", ["service", "method", "code"])
LATENCY = Histogram(
    "flawsmith_request_seconds", "Time from a gRPC call's arrival to its end.", ["service", "method"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
)  # fmt: skip
JOBS = Gauge("flawsmith_jobs", "Operations by state.", ["service", "state"])
QUEUE_DEPTH = Gauge("flawsmith_queue_depth", "Operations that wait for a worker.", ["service"])
PENDING_CALLS = Gauge("flawsmith_pending_calls", "Computing calls that were taken and not answered yet.", ["service"])
JOB_SECONDS = Histogram(
    "flawsmith_job_seconds", "Time from an operation's start on a worker to its end.", ["service", "kind", "outcome"],
    buckets=(1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600),
)  # fmt: skip
TRITON_MODELS = Gauge("flawsmith_triton_models", "Models of this Triton by state: wanted, loaded, missing.", ["state"])
TRITON_CHANGES = Counter(
    "flawsmith_triton_model_changes_total", "Models that this Triton was told to load or unload.", ["action", "outcome"]
)


def start(settings: TelemetrySettings, process: str) -> None:
    """Set up logs, traces and the metrics endpoint of this process (e.g. `generation-worker`)."""
    _start_logs(settings, process)
    # Without a collector calls keep their trace ids, for the logs, but nothing is recorded that nobody would get.
    sampler = ParentBased(ALWAYS_ON) if settings.otlp_endpoint else ALWAYS_OFF
    provider = TracerProvider(sampler, Resource.create({"service.name": f"flawsmith-{process}"}))
    if settings.otlp_endpoint:
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint)))
    trace.set_tracer_provider(provider)
    host, _, port = settings.metrics_listen.rpartition(":")
    if int(port):
        start_http_server(int(port), addr=host or "127.0.0.1")


def stop() -> None:
    """Send the traces that wait to be sent."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


def log(name: str) -> Any:
    """A structured logger; `structlog.contextvars` adds the operation id where one runs."""
    return structlog.get_logger(name)


def _start_logs(settings: TelemetrySettings, process: str) -> None:
    def add_process(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        # Not a context variable: threads that libraries start do not inherit those.
        return {**event, "process": process}

    shared: list[Any] = [
        add_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace_id,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer() if settings.log_format == "json" else structlog.dev.ConsoleRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for noisy in ("dbos", "urllib3", "PIL"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))
    # DBOS gives its logger an unstructured handler unless it has one.
    logging.getLogger("dbos").handlers[:] = [handler]
    logging.getLogger("dbos").propagate = False
    logging.captureWarnings(True)
    # What ends a process or one of its threads is a line of the log too.
    sys.excepthook = lambda kind, error, _: logging.critical("unforeseen", exc_info=error)
    threading.excepthook = lambda thread: logging.critical("unforeseen", exc_info=thread.exc_value)


def _add_trace_id(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = f"{context.trace_id:032x}"
    return event
