"""The one way to build a gRPC server here, and the client channel.

Order of the interceptors, outermost first: OpenTelemetry, then one that measures, authenticates and maps domain
errors to statuses. Servicers raise domain errors and know no status codes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_status import rpc_status
from opentelemetry.instrumentation.grpc import aio_server_interceptor

from flawsmith.common import channels, telemetry
from flawsmith.common.channels import read_pem
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.settings import AuthSettings, RpcSettings, TlsSettings
from flawsmith.common.statuses import internal_status, status_of

_LOG = telemetry.log(__name__)


class Principal:
    """Who calls, from the metadata: a bearer token's principal, or on one machine the name that callers give."""

    def __init__(self, settings: AuthSettings) -> None:
        self._tokens = settings.tokens

    def of(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> str | None:
        """The caller's name; None where a token is needed and absent or wrong."""
        values = {key: value for key, value in metadata or () if isinstance(value, str)}
        if self._tokens:
            return self._tokens.get(values.get("authorization", "").removeprefix("Bearer "))
        return values.get("x-flawsmith-principal", "anonymous")


def principal(context: grpc.aio.ServicerContext) -> str:
    """The caller whom the interceptor let in."""
    return str(getattr(context, "flawsmith_principal", "anonymous"))


class CallInterceptor(grpc.aio.ServerInterceptor):
    """Authenticates, bounds and measures every call, and maps what it raises to a status."""

    def __init__(self, service: str, rpc: RpcSettings, auth: AuthSettings) -> None:
        self._service = service
        self._deadline_s = rpc.default_deadline_s
        self._principals = Principal(auth)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        handler = await continuation(details)
        if handler is None or details.method.startswith("/grpc."):
            return handler
        method = details.method.rpartition("/")[2]
        caller = self._principals.of(details.invocation_metadata)
        if handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(
                self._stream(handler.stream_stream, method, caller),
                handler.request_deserializer,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            self._unary(handler.unary_unary, method, caller), handler.request_deserializer, handler.response_serializer
        )

    def _unary(self, call: Callable[..., Awaitable[Any]], method: str, caller: str | None) -> Any:
        async def unary(request: Any, context: Any) -> Any:
            async with self._guard(context, method, caller):
                remaining = context.time_remaining()
                # Calls without a deadline get one: nothing hangs for ever.
                async with asyncio.timeout(self._deadline_s if remaining is None else max(remaining, 0.0)):
                    return await call(request, _Context(context, caller))

        return unary

    def _stream(self, call: Callable[..., AsyncIterator[Any]], method: str, caller: str | None) -> Any:
        async def stream(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
            async with self._guard(context, method, caller):
                async for response in call(requests, _Context(context, caller)):
                    yield response

        return stream

    @contextlib.asynccontextmanager
    async def _guard(self, context: Any, method: str, caller: str | None) -> AsyncIterator[None]:
        started, code = time.perf_counter(), "OK"
        try:
            if caller is None:
                code = "UNAUTHENTICATED"
                await context.abort(
                    grpc.StatusCode.UNAUTHENTICATED, "send a known token as `authorization: Bearer TOKEN`"
                )
            yield
        except FlawsmithError as error:
            code = error.code
            status = rpc_status.to_status(status_of(error))
            # Clients' channels try again by themselves what nobody answered. This was answered: RetryInfo says when.
            metadata = (*status.trailing_metadata, ("grpc-retry-pushback-ms", "-1"))
            await context.abort_with_status(status._replace(trailing_metadata=metadata))
        except TimeoutError:
            code = "DEADLINE_EXCEEDED"
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"{method} did not end within its deadline")
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except grpc.aio.AbortError:
            code = code if code != "OK" else "ABORTED"
            raise
        except Exception:
            code = "INTERNAL"
            _LOG.exception("call failed", method=method)
            await context.abort_with_status(rpc_status.to_status(internal_status()))
        finally:
            telemetry.REQUESTS.labels(self._service, method, code).inc()
            telemetry.LATENCY.labels(self._service, method).observe(time.perf_counter() - started)


class _Context:
    """The call's context with its caller; grpc's own class takes no new attributes."""

    def __init__(self, context: Any, caller: str | None) -> None:
        self._context = context
        self.flawsmith_principal = caller

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Server:
    """A gRPC server with health, reflection, bounded messages, connection age and drain.

    Health says NOT_SERVING until every dependency has answered once, and then stays SERVING (an outage of a
    dependency yields UNAVAILABLE with RetryInfo on the calls that need it, not a service without endpoints).
    """

    def __init__(self, service: str, rpc: RpcSettings, auth: AuthSettings) -> None:
        self._rpc = rpc
        self._health = health.aio.HealthServicer()
        self._names: list[str] = []
        self.grpc = grpc.aio.server(
            interceptors=[aio_server_interceptor(), CallInterceptor(service, rpc, auth)],
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", rpc.max_message_bytes),
                ("grpc.max_send_message_length", rpc.max_message_bytes),
                ("grpc.max_connection_age_ms", int(rpc.max_connection_age_s * 1000)),
                ("grpc.max_connection_age_grace_ms", int(rpc.max_connection_age_grace_s * 1000)),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.grpc)

    def add(self, name: str, add_servicer: Callable[[Any, grpc.aio.Server], None], servicer: Any) -> None:
        """Add a servicer under its full service name."""
        add_servicer(servicer, self.grpc)
        self._names.append(name)

    async def start(self) -> int:
        """Listen; returns the port. Raises RuntimeError when the address is taken, NotFoundError (TLS_FILE_MISSING)."""
        reflection.enable_server_reflection((*self._names, health.SERVICE_NAME, reflection.SERVICE_NAME), self.grpc)
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.NOT_SERVING)
        if self._rpc.tls.certificate is None:
            port = self.grpc.add_insecure_port(self._rpc.listen)
        else:
            port = self.grpc.add_secure_port(self._rpc.listen, _server_credentials(self._rpc.tls))
        await self.grpc.start()
        return int(port)

    async def become_ready(self, checks: list[Callable[[], Awaitable[None]]]) -> None:
        """Turn SERVING once every dependency has answered."""
        await answered_once(checks)
        for name in ("", *self._names):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def stop(self) -> None:
        """Say NOT_SERVING, let calls end within the drain time, close."""
        await self._health.enter_graceful_shutdown()
        await self.grpc.stop(self._rpc.drain_s)


async def answered_once(checks: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Wait until every dependency has answered once; each check raises FlawsmithError until then."""
    for check in checks:
        while True:
            try:
                await check()
                break
            except FlawsmithError as error:
                _LOG.warning("waiting for a dependency", reason=error.reason, problem=error.message)
                await asyncio.sleep(0.5)


def _server_credentials(tls: TlsSettings) -> grpc.ServerCredentials:
    """A certificate that is renewed on disk is taken up without a restart."""
    known = b""

    def read() -> grpc.ServerCertificateConfiguration | None:
        nonlocal known
        assert tls.certificate is not None
        assert tls.key is not None
        certificate = read_pem(tls.certificate)
        if certificate == known:
            return None  # gRPC goes on with the one that it has
        key, known = read_pem(tls.key), certificate
        return grpc.ssl_server_certificate_configuration([(key, certificate)])

    return grpc.dynamic_ssl_server_credentials(read(), read)


def channel(
    address: str, *, tls: TlsSettings | None = None, caller: str | None = None, token: str | None = None
) -> grpc.aio.Channel:
    """A channel to one of our services that names its caller (see `common.channels`)."""
    return channels.connect(grpc.aio, address, tls, interceptors=_caller_interceptors(caller, token))


def _caller_interceptors(caller: str | None, token: str | None) -> list[grpc.aio.ClientInterceptor]:
    entries = [("authorization", f"Bearer {token}")] if token else []
    entries += [("x-flawsmith-principal", caller)] if caller else []
    if not entries:
        return []

    def named(details: grpc.aio.ClientCallDetails) -> grpc.aio.ClientCallDetails:
        metadata = grpc.aio.Metadata(*(details.metadata or ()), *entries)
        return details._replace(metadata=metadata)

    class Unary(grpc.aio.UnaryUnaryClientInterceptor):
        async def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            return await continuation(named(details), request)

    class Stream(grpc.aio.StreamStreamClientInterceptor):
        async def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
            return await continuation(named(details), requests)

    return [Unary(), Stream()]
