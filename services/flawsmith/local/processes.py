"""Processes that the local platform starts, watches and stops by their own ids."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from flawsmith.common.errors import UnavailableError

# Not a preexec_fn: that forks in full, and grpc's fork handlers have hung between fork and exec in a process that
# has channels. The wrapper asks for a SIGTERM at its parent's death and becomes the command.
_DIES_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"

_GIVEN: set[int] = set()
"""Ports of `free_port`: servers that were given theirs start only later."""


class Process:
    """A child in a session of its own (a terminal's Ctrl-C reaches only us), which dies with us. Its output goes
    to `log`."""

    def __init__(self, name: str, command: list[str], *, log: Path, environment: Mapping[str, str]) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.environment = dict(environment)
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while it runs."""
        return self._popen.pid if self._popen is not None and self._popen.poll() is None else None

    def start(self) -> None:
        """Start it (again)."""
        self._sweep()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-ISc", _DIES_WITH_PARENT, *self.command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip

    def wait_until(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Poll until it is ready; one that does not get there is ended.

        Raises UnavailableError (PROCESS_ENDED or PROCESS_NOT_READY) with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while not ready():
            if self.pid is None:
                code = self._popen.returncode if self._popen is not None else None
                raise UnavailableError("PROCESS_ENDED", f"{self.name} ended with code {code}:\n{self.tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise UnavailableError(
                    "PROCESS_NOT_READY", f"{self.name} was not ready after {timeout_s:.0f} s:\n{self.tail()}"
                )
            time.sleep(0.1)

    def stop(self, timeout_s: float = 40.0) -> int | None:
        """Ask it to end, insist after the timeout; returns the exit code."""
        if self._popen is None:
            return None
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        self._sweep()
        return self._popen.returncode

    def kill(self) -> None:
        """End it at once (SIGKILL)."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.kill()
            self._popen.wait()

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        if self._popen is not None and self._popen.poll() is None:
            self._popen.send_signal(number)

    def _sweep(self) -> None:
        """End what it left behind: a Triton that is killed leaves the processes of its Python models."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def tail(self, characters: int = 2000) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""


def free_port() -> int:
    """A port that nobody listens on now and that no former call gave, below the range that the kernel gives to outgoing
    connections (one of those could take it before our server does)."""
    while True:
        port = random.randint(20000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


def accepts_connections(address: str) -> bool:
    """Whether something listens at `host:port`."""
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, int(port))) == 0
