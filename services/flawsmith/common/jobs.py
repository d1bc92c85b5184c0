"""Durable jobs on DBOS: API servers enqueue, workers run, and a job outlives both.

One DBOS workflow runs every kind of job; a kind is an async function `run(job, spec)` whose side effects all lie
in `job.step(...)`. What a finished step returned is recorded once: a worker killed in the middle repeats only the
step that was cut off. A step that two workers ran (one was slow, and taken for dead) is recorded by the first; the
other one's result is discarded. Steps therefore write content-addressed objects and return references, and a last
step publishes the manifest from what was recorded.

Own tables beside DBOS's: progress of each operation, and the heartbeat of each worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
import structlog
from dbos import DBOS, DBOSClient, DBOSConfig, Serializer, WorkflowStatus
from dbos._error import DBOSException, DBOSNonExistentWorkflowError
from dbos._error import DBOSWorkflowCancelledError as JobCancelledError
from opentelemetry import propagate, trace
from pydantic import BaseModel, ValidationError
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from flawsmith.common import telemetry
from flawsmith.common.child import error_from_dict, error_to_dict
from flawsmith.common.errors import (
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from flawsmith.common.settings import Settings

__all__ = ["Job", "JobCancelledError", "JobClient", "JobState", "JsonSerializer", "Worker", "Workflow", "migrate"]

_LOG = telemetry.log(__name__)
_WORKFLOW = "flawsmith.job"
_WAITING_CONCURRENCY = 64
"""Jobs of one worker that mostly wait: they take next to nothing."""
_ACTIVE = ("ENQUEUED", "DELAYED", "PENDING")
Result = TypeVar("Result")


class JsonSerializer(Serializer):
    """Arguments and results as JSON: readable, and safe to load whoever wrote them."""

    def serialize(self, data: Any) -> str:
        return json.dumps({"error": repr(data)} if isinstance(data, BaseException) else {"value": data})

    def deserialize(self, serialized_data: str) -> Any:
        data = json.loads(serialized_data)
        return RuntimeError(data["error"]) if "error" in data else data["value"]

    def name(self) -> str:
        return "flawsmith-json"


@dataclass(frozen=True)
class Workflow:
    """A kind of job. run: the durable function. spec: the model of its request. waits: it mostly waits for people
    or for other services, so that many may run in one worker."""

    run: Callable[[Job, Any], Awaitable[dict[str, Any]]]
    spec: type[BaseModel]
    waits: bool = False


@dataclass
class JobState:
    """Where a job stands, as callers see it. state: the name of OperationMetadata.State in lower case."""

    id: str
    kind: str
    target: str
    principal: str
    state: str
    create_time: datetime
    update_time: datetime
    stage: str = ""
    step: int = 0
    total: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    message: str = ""
    queue_position: int = 0
    result: dict[str, Any] | None = None
    error: FlawsmithError | None = None
    spec: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def done(self) -> bool:
        """Whether it ended, well or not."""
        return self.state in ("succeeded", "failed", "cancelled")


class _Database:
    """Our own tables in a service's job database."""

    def __init__(self, service: str, settings: Settings) -> None:
        url = settings.database_url(service)
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.schema = None if self.is_sqlite else f"flawsmith_{service}"
        metadata = sa.MetaData(schema=self.schema)
        self.progress = sa.Table(
            "operation_progress", metadata,
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("values", sa.Text, nullable=False),
            sa.Column("updated_at", sa.Float, nullable=False),
        )  # fmt: skip
        self.workers = sa.Table(
            "worker_heartbeats", metadata,
            sa.Column("executor_id", sa.Text, primary_key=True),
            sa.Column("seen_at", sa.Float, nullable=False),
        )  # fmt: skip
        self._metadata = metadata
        if self.is_sqlite:
            Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            self.engine = sa.create_engine(url, connect_args={"timeout": 30})
        else:
            # A host that vanished without a word is noticed within seconds; DBOS takes the URL as well.
            bounded = sa.make_url(url).update_query_dict(
                {"connect_timeout": "3", "tcp_user_timeout": "5000", "keepalives_idle": "5", "keepalives_interval": "2"}
            )
            self.url = bounded.set(drivername="postgresql").render_as_string(hide_password=False)
            self.engine = sa.create_engine(
                bounded.set(drivername="postgresql+psycopg"), creator=self.connect, pool_pre_ping=True, pool_size=3,
                pool_timeout=5,
            )  # fmt: skip

    def connect(self) -> psycopg.Connection[Any]:
        """A connection to Postgres.

        DBOS waits for a database that is away when the error's text begins so, and fails the job otherwise, e.g. of a
        container that is stopped, whose name does not resolve.
        """
        try:
            return psycopg.connect(self.url)
        except psycopg.OperationalError as error:
            raise psycopg.OperationalError(f"connection failed: {error}") from error

    def migrate(self) -> None:
        """Make the schema and our tables unless they exist; safe to call from several processes at once."""
        with self.engine.begin() as connection:
            if self.is_sqlite:
                # Readers do not wait for writers then; SQLite remembers it in the file.
                connection.execute(sa.text("PRAGMA journal_mode=WAL"))
            else:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('flawsmith-migrate'))"))
                connection.execute(sa.text(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"'))
            self._metadata.create_all(connection)

    def upsert(self, table: sa.Table, key: str, values: dict[str, Any]) -> None:
        """Insert a row or update it."""
        column = next(iter(table.primary_key))
        with self.engine.begin() as connection:
            changed = connection.execute(table.update().where(column == key).values(**values))
            if changed.rowcount == 0:
                with contextlib.suppress(sa.exc.IntegrityError):  # another process was faster
                    connection.execute(table.insert().values(**{column.name: key}, **values))


def _guarded(method: Callable[..., Result]) -> Callable[..., Awaitable[Result]]:
    """Run a blocking database method of a JobClient in one of its threads; a database that is down, or takes longer
    than `jobs.database_timeout_s`, is UnavailableError."""

    @functools.wraps(method)
    async def call(client: JobClient, *args: Any, **kwargs: Any) -> Result:
        run = functools.partial(contextvars.copy_context().run, method, client, *args, **kwargs)
        try:
            async with asyncio.timeout(client.settings.jobs.database_timeout_s):
                return await asyncio.get_running_loop().run_in_executor(client.threads, run)
        except FlawsmithError:
            raise
        except (DBAPIError, SQLAlchemyError, DBOSException, TimeoutError) as error:
            _LOG.warning("job database failed", problem=str(error))
            raise UnavailableError(
                "DATABASE_UNAVAILABLE", "the job database does not answer; try again later"
            ) from error

    return call


class JobClient:
    """Starts jobs and says where they stand; runs none of them. For API servers."""

    def __init__(self, service: str, settings: Settings) -> None:
        self.service = service
        self.settings = settings
        self._database = _Database(service, settings)
        self._client: DBOSClient | None = None
        # Its own: calls that hang on a frozen database take no thread from those that need none.
        self.threads = ThreadPoolExecutor(8, "jobs")

    def _dbos(self) -> DBOSClient:
        if self._client is None:
            self._client = DBOSClient(
                system_database_url=self._database.url,
                dbos_system_schema=self._database.schema or "dbos",
                serializer=JsonSerializer(),
                retry_connection_errors=False,
            )
        return self._client

    def operation_id(self, principal: str, request_id: str) -> str:
        """Id of a new operation; the same caller and request id give the same one."""
        text = f"{principal}\n{request_id}" if request_id else os.urandom(16).hex()
        return f"{self.service}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

    @_guarded
    def check(self) -> None:
        """Raise unless the database answers and was migrated."""
        with self._database.engine.connect() as connection:
            connection.execute(sa.select(sa.func.count()).select_from(self._database.workers))

    @_guarded
    def start(self, operation: str, kind: str, spec: BaseModel, *, target: str, principal: str, waits: bool) -> bool:
        """Enqueue a job; returns False when it exists already with the same specification.

        Raises InvalidArgumentError (REQUEST_ID_REUSED) when it exists with another one, and
        ResourceExhaustedError (QUEUE_FULL).
        """
        values = spec.model_dump(mode="json")
        known = self._find(operation)
        if known is None:
            queued = self._count("ENQUEUED")
            if queued >= self.settings.jobs.max_queued:
                raise ResourceExhaustedError(
                    "QUEUE_FULL", f"{queued} jobs wait already; try again later or add workers", retry_after_s=30.0
                )
            carrier: dict[str, str] = {}
            propagate.inject(carrier)  # the job's logs and spans belong to the call that started it
            job = {
                "kind": kind, "spec": values, "target": target, "principal": principal, "trace": carrier,
            }  # fmt: skip
            self._dbos().enqueue(
                {
                    "queue_name": queue_name(self.service, waits),
                    "workflow_name": _WORKFLOW,
                    "workflow_id": operation,
                    "app_version": self.settings.jobs.application_version,
                    "authenticated_user": principal,
                },
                operation,
                job,
            )
            known = self._find(operation)  # of two calls at the same moment one was first: compare with that
            if known is not None and _asks_the_same(known, kind, spec):
                return True
        if known is not None and not _asks_the_same(known, kind, spec):
            raise InvalidArgumentError(
                "REQUEST_ID_REUSED",
                "this request_id was used for another request; take a new one, or send the same request again",
            )
        return False

    @_guarded
    def get(self, operation: str) -> JobState:
        """Where a job stands. Raises NotFoundError (OPERATION_NOT_FOUND)."""
        state = self._find(operation)
        if state is None:
            raise _unknown(operation)
        if state.state == "queued":
            state.queue_position = self._position(operation)
        return state

    @_guarded
    def is_done(self, operation: str) -> bool:
        """Whether a job ended, well or not: cheaper than `get`. Raises NotFoundError (OPERATION_NOT_FOUND)."""
        rows = self._dbos().list_workflows(workflow_ids=[operation], load_input=False, load_output=False)
        if not rows:
            raise _unknown(operation)
        return rows[0].status not in _ACTIVE

    @_guarded
    def list(self, *, limit: int, offset: int) -> list[JobState]:
        """Jobs, newest first."""
        rows = self._dbos().list_workflows(limit=limit, offset=offset, sort_desc=True, name=_WORKFLOW)
        return [self._state(row) for row in rows]

    @_guarded
    def cancel(self, operation: str) -> None:
        """Ask a job to stop; one that ended stays as it is. Raises NotFoundError (OPERATION_NOT_FOUND)."""
        if self._find(operation) is None:
            raise _unknown(operation)
        with contextlib.suppress(DBOSNonExistentWorkflowError):
            self._dbos().cancel_workflow(operation)

    @_guarded
    def counts(self) -> dict[str, int]:
        """Active jobs by DBOS status, for metrics."""
        return {status: self._count(status) for status in ("ENQUEUED", "PENDING")}

    def close(self) -> None:
        """Give the connections back."""
        if self._client is not None:
            self._client.destroy()
        self._database.engine.dispose()
        self.threads.shutdown(wait=False, cancel_futures=True)

    def _count(self, status: str) -> int:
        rows = self._dbos().list_workflows(
            status=status, name=_WORKFLOW, load_input=False, load_output=False,
            limit=self.settings.jobs.max_queued + 1,
        )  # fmt: skip
        return len(rows)

    def _position(self, operation: str) -> int:
        rows = self._dbos().list_workflows(
            status="ENQUEUED", name=_WORKFLOW, load_input=False, load_output=False, limit=1000
        )
        return [row.workflow_id for row in rows].index(operation) if any(
            row.workflow_id == operation for row in rows
        ) else 0  # fmt: skip

    def _find(self, operation: str) -> JobState | None:
        rows = self._dbos().list_workflows(workflow_ids=[operation])
        return self._state(rows[0]) if rows else None

    def _state(self, row: WorkflowStatus) -> JobState:
        job = row.input["args"][1] if row.input else {}
        with self._database.engine.connect() as connection:
            table = self._database.progress
            found = connection.execute(sa.select(table).where(table.c.id == row.workflow_id)).one_or_none()
        progress: dict[str, Any] = json.loads(found.values) if found is not None else {}
        updated = max((row.updated_at or 0) / 1000, found.updated_at if found is not None else 0.0)
        state = JobState(
            id=row.workflow_id,
            kind=job.get("kind", ""),
            target=job.get("target", ""),
            principal=job.get("principal", ""),
            spec=job.get("spec", {}),
            state={"PENDING": "running", "CANCELLED": "cancelled", "SUCCESS": "succeeded"}.get(
                row.status, "queued" if row.status in _ACTIVE else "failed"
            ),
            create_time=datetime.fromtimestamp((row.created_at or 0) / 1000, UTC),
            update_time=datetime.fromtimestamp(updated, UTC),
            **progress,
        )
        if state.state == "running" and state.stage.startswith("awaiting"):
            state.state = "waiting_for_approval"
        if row.status == "SUCCESS" and isinstance(row.output, dict):
            if "error" in row.output:
                state.state, state.error = "failed", error_from_dict(row.output["error"])
            else:
                state.result = row.output["result"]
        elif state.state == "failed":
            state.error = FlawsmithError("INTERNAL", "internal error; the worker's log has the details")
            state.error.code = "INTERNAL"
        return state


class Job:
    """What a workflow function works with: durable steps, progress, and what it was asked for."""

    def __init__(self, operation: str, values: dict[str, Any], worker: Worker) -> None:
        self.operation = operation
        self.kind: str = values["kind"]
        self.target: str = values["target"]
        self.principal: str = values["principal"]
        self.settings = worker.settings
        self.platform = worker.platform
        self._worker = worker
        self._stage_started = ("", 0.0, 0)

    async def step(self, name: str, run: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run a step once: arguments and result are JSON values. Cancelling the job interrupts it.

        While a dependency is down the step is tried again, for `jobs.outage_patience_s` at most.
        Raises the step's FlawsmithError, also when the job is replayed.
        """

        async def guarded() -> dict[str, Any]:
            deadline, pause = time.monotonic() + self.settings.jobs.outage_patience_s, 1.0
            while True:
                try:
                    return {"value": await run(*args)}
                except UnavailableError as error:
                    if time.monotonic() + pause > deadline:
                        return {"error": error_to_dict(error)}
                    _LOG.warning("a dependency is down; the step waits", step=name, reason=error.reason)
                    with contextlib.suppress(Exception):
                        await self.progress(name, 0, 0, message=f"{error.message} (waiting)")
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, 15.0)
                except FlawsmithError as error:
                    return {"error": error_to_dict(error)}

        outcome = await DBOS.run_step_async({"name": name, "preemptible": True}, guarded)
        if "error" in outcome:
            raise error_from_dict(outcome["error"])
        return outcome["value"]

    async def now(self) -> datetime:
        """The time, recorded: a replay sees the same."""

        async def read() -> str:
            return datetime.now(UTC).isoformat()

        return datetime.fromisoformat(await self.step("now", read))

    async def progress(
        self, stage: str, step: int, total: int, *, loss: float | None = None, message: str = ""
    ) -> None:
        """Show callers where the job stands. A stage that begins with `awaiting` waits for a person."""
        now = time.monotonic()
        if self._stage_started[0] != stage or step < self._stage_started[2]:
            self._stage_started = (stage, now, step)
        _, since, first = self._stage_started
        left = (now - since) / (step - first) * (total - step) if step > first and total >= step else None
        values = {
            "stage": stage, "step": step, "total": total, "loss": loss, "seconds_left": left, "message": message,
        }  # fmt: skip
        await self._worker.save_progress(self.operation, values)

    @contextlib.asynccontextmanager
    async def folder(self) -> AsyncIterator[Path]:
        """A work folder of this attempt, removed afterwards."""
        import shutil
        import tempfile

        root = self.settings.state_dir / "work"
        root.mkdir(parents=True, exist_ok=True)
        path = Path(tempfile.mkdtemp(prefix=f"{self.operation}-", dir=root))
        try:
            yield path
        finally:
            await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)


class Worker:
    """Runs a service's jobs. One a process.

    platform: whatever the workflows need (object store, Triton); handed to them as `job.platform`.
    """

    def __init__(self, service: str, settings: Settings, workflows: dict[str, Workflow], platform: Any) -> None:
        self.service = service
        self.settings = settings
        self.workflows = workflows
        self.platform = platform
        self.executor = settings.executor_id(service)
        self._database = _Database(service, settings)
        self._beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Migrate, say that we live, take up our own unfinished jobs, listen to the queues."""
        self._database.migrate()
        self._beat()
        config: DBOSConfig = {
            "name": f"flawsmith-{self.service}",
            "system_database_url": self._database.url,
            "dbos_system_schema": self._database.schema or "dbos",
            "application_version": self.settings.jobs.application_version,
            "executor_id": self.executor,
            "serializer": JsonSerializer(),
            "log_level": "WARNING",
            "notification_listener_polling_interval_sec": 1.0,
        }
        if not self._database.is_sqlite:
            config["db_engine_kwargs"] = {"creator": self._database.connect}
        DBOS(config=config)

        async def run(operation: str, values: dict[str, Any]) -> dict[str, Any]:  # DBOS takes functions, not methods
            return await self._run(operation, values)

        DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=1000)(run)
        # Every queue is asked for jobs five times a second: one that nothing is put into is not listened to.
        kinds = sorted({workflow.waits for workflow in self.workflows.values()})
        DBOS.listen_queues([queue_name(self.service, waits) for waits in kinds])
        DBOS.launch()
        for waits in kinds:
            DBOS.register_queue(
                queue_name(self.service, waits),
                worker_concurrency=_WAITING_CONCURRENCY if waits else self.settings.jobs.concurrency,
                polling_interval_sec=0.2,
                on_conflict="always_update",
            )

    async def watch(self) -> None:
        """Say that we live, and take over the jobs of workers that do not, until cancelled."""
        while True:
            try:
                await asyncio.to_thread(self._beat)
                await asyncio.to_thread(self._take_over)
            except SQLAlchemyError as error:
                _LOG.warning("job database failed", problem=str(error))
            except DBOSException as error:
                _LOG.warning("taking over failed", problem=str(error))
            await asyncio.sleep(self.settings.jobs.heartbeat_s)

    def stop(self) -> None:
        """Stop taking jobs and leave the unfinished to others at once."""
        with contextlib.suppress(SQLAlchemyError):
            self._database.upsert(self._database.workers, self.executor, {"seen_at": 0.0})
        DBOS.destroy(workflow_completion_timeout_sec=0)
        self._database.engine.dispose()

    async def save_progress(self, operation: str, values: dict[str, Any]) -> None:
        """Write an operation's progress; losing one is harmless."""
        row = {"values": json.dumps(values), "updated_at": time.time()}
        with contextlib.suppress(SQLAlchemyError):
            await asyncio.to_thread(self._database.upsert, self._database.progress, operation, row)

    async def _run(self, operation: str, values: dict[str, Any]) -> dict[str, Any]:
        workflow = self.workflows[values["kind"]]
        started, outcome = time.monotonic(), "cut off"
        with (
            trace.get_tracer(__name__).start_as_current_span(
                values["kind"], context=propagate.extract(values["trace"]), attributes={"operation": operation}
            ),
            structlog.contextvars.bound_contextvars(operation=operation, kind=values["kind"]),
        ):
            _LOG.info("job started", target=values["target"])
            try:
                job = Job(operation, values, self)
                result = await workflow.run(job, workflow.spec.model_validate(values["spec"]))
                outcome = "succeeded"
                return {"result": result}
            except FlawsmithError as error:
                outcome = "failed"
                _LOG.warning("job failed", reason=error.reason, problem=error.message)
                return {"error": error_to_dict(error)}
            except DBOSException:
                raise
            except Exception:
                outcome = "internal error"
                _LOG.exception("job failed for a reason that nobody foresaw")
                raise
            finally:
                _LOG.info("job ended", outcome=outcome)
                telemetry.JOB_SECONDS.labels(self.service, values["kind"], outcome).observe(time.monotonic() - started)

    def _beat(self) -> None:
        self._database.upsert(self._database.workers, self.executor, {"seen_at": time.time()})

    def _take_over(self) -> None:
        """Put the unfinished jobs of silent workers back into the queue.

        Whoever moves a silent worker's heartbeat first has the right to do it; should that one die in between, the
        heartbeat falls silent again and another tries.
        """
        table = self._database.workers
        limit = time.time() - self.settings.jobs.silent_after_s
        with self._database.engine.connect() as connection:
            silent = connection.execute(
                sa.select(table).where(table.c.seen_at < limit, table.c.executor_id != self.executor)
            ).all()
        for row in silent:
            with self._database.engine.begin() as connection:
                claimed = connection.execute(
                    table.update()
                    .where(table.c.executor_id == row.executor_id, table.c.seen_at == row.seen_at)
                    .values(seen_at=time.time())
                )
            if claimed.rowcount != 1:
                continue
            pending = DBOS.list_workflows(
                status="PENDING", executor_id=row.executor_id, load_input=False, load_output=False
            )
            for job in pending:
                _LOG.warning("taking over a job", operation=job.workflow_id, silent_worker=row.executor_id)
                DBOS.resume_workflow(job.workflow_id, queue_name=job.queue_name)
            with self._database.engine.begin() as connection:
                connection.execute(table.delete().where(table.c.executor_id == row.executor_id))


def _asks_the_same(known: JobState, kind: str, spec: BaseModel) -> bool:
    """Whether a job is what a request asks for. Fields that an earlier version did not have mean their defaults."""
    try:
        asked = type(spec).model_validate(known.spec)
    except ValidationError:
        return False
    return known.kind == kind and asked.model_dump(mode="json") == spec.model_dump(mode="json")


def _unknown(operation: str) -> NotFoundError:
    return NotFoundError("OPERATION_NOT_FOUND", f"operations/{operation} does not exist; list the operations")


def migrate(service: str, settings: Settings) -> None:
    """Make or update a service's job tables, DBOS's and ours, without starting anything.

    Raises UnavailableError (DATABASE_UNAVAILABLE).
    """
    database = _Database(service, settings)
    try:
        database.migrate()
        DBOS.migrate(database.url, schema=database.schema or "dbos")
    except (SQLAlchemyError, DBOSException) as error:
        raise UnavailableError(
            "DATABASE_UNAVAILABLE", f"the job database cannot be migrated: {str(error).splitlines()[0]}"
        ) from error
    finally:
        database.engine.dispose()


def queue_name(service: str, waits: bool) -> str:
    """Queue of a service's computing jobs, or of those that mostly wait."""
    return f"{service}-waiting" if waits else service
