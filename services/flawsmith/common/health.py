"""grpc.health.v1 on a plaintext port of its own, served by APIs, workers and the reconciler; and a check of it.

    python -m flawsmith.common.health ADDRESS [SERVICE]

exits with 0 when SERVICE (`liveness` or `readiness`; readiness when left out) is SERVING, else with 1. Container
health checks run it every few seconds, so this module imports nothing but grpc.
"""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LIVENESS = "liveness"
READINESS = "readiness"
LOOP_PATIENCE_S = 10.0
"""How long the event loop may take to answer until the process counts as stuck."""
_CHECK_TIMEOUT_S = 5.0
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVING = health_pb2.HealthCheckResponse.SERVING


class HealthServer:
    """The health port of a process that runs an event loop.

    `liveness` asks the event loop and nobody else, so that an outage elsewhere restarts nothing. `readiness` (and "")
    is NOT_SERVING until `set_ready(True)`, and again from the beginning of the drain.
    """

    def __init__(self, listen: str) -> None:
        # A server of threads answers even where the event loop does not.
        self._server = grpc.server(ThreadPoolExecutor(4, "health"), options=[("grpc.so_reuseport", 0)])
        self._servicer = _Servicer(asyncio.get_running_loop())
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, self._server)
        self._servicer.set(LIVENESS, _SERVING)
        self.set_ready(False)
        self.port = int(self._server.add_insecure_port(listen))

    def start(self) -> None:
        """Answer."""
        self._server.start()

    def set_ready(self, ready: bool) -> None:
        """Say whether calls (an API), jobs (a worker) or inferences (a Triton) may come."""
        for service in (READINESS, health.OVERALL_HEALTH):
            self._servicer.set(service, _SERVING if ready else _NOT_SERVING)

    def stop(self) -> None:
        """Close the port at once."""
        self._server.stop(grace=None).wait()


class _Servicer(health.HealthServicer):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop

    def Check(self, request: Any, context: Any) -> Any:
        if request.service == LIVENESS and not self._loop_answers():
            return health_pb2.HealthCheckResponse(status=_NOT_SERVING)
        return super().Check(request, context)

    def _loop_answers(self) -> bool:
        try:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self._loop).result(LOOP_PATIENCE_S)
        except (TimeoutError, RuntimeError):  # RuntimeError: the loop is closed
            return False
        return True


def is_serving(address: str, service: str = READINESS) -> bool:
    """Whether a service answers SERVING at a health port (or any plaintext gRPC port with grpc.health.v1)."""
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=_CHECK_TIMEOUT_S)
        except grpc.RpcError:
            return False
    return bool(answer.status == _SERVING)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: python -m flawsmith.common.health ADDRESS [SERVICE]")
    sys.exit(0 if is_serving(*sys.argv[1:]) else 1)
