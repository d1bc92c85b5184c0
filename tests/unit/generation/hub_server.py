"""A model hub on this machine: the few endpoints of the real one that pulling a model asks for, over a folder.

Large files have the LFS metadata and the sha256 etag that the real hub gives; small ones git's own hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

LARGE = 2000
"""Bytes from which on files have LFS metadata."""
COMMIT = "c0ffee" + "0" * 34


class HubServer:
    """Serves `repository` from a folder. token: that callers must send, if any. replaced: other bytes for some paths,
    under the listing's old hashes. cut: paths whose download ends half-way, each time."""

    def __init__(self, repository: str, folder: Path, *, token: str = "") -> None:
        self.repository = repository
        self.folder = folder
        self.token = token
        self.replaced: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.partition("?")[0]
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            self._send(request, HTTPStatus.UNAUTHORIZED, b'{"error": "no"}', {"X-Error-Code": "GatedRepo"}, body)
        elif re.fullmatch(rf"/api/models/{self.repository}(/revision/{COMMIT})?", path):
            listing = {"id": self.repository, "modelId": self.repository, "sha": COMMIT, "siblings": self._siblings()}
            self._send(request, HTTPStatus.OK, json.dumps(listing).encode(), {}, body)
        elif (file := re.fullmatch(rf"/{self.repository}/resolve/{COMMIT}/(.+)", path)) is not None:
            self._send_file(request, file[1], body)
        else:
            self._send(request, HTTPStatus.NOT_FOUND, b'{"error": "none"}', {"X-Error-Code": "RevisionNotFound"}, body)

    def _siblings(self) -> list[dict[str, object]]:
        siblings: list[dict[str, object]] = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            entry: dict[str, object] = {
                "rfilename": path.relative_to(self.folder).as_posix(), "size": len(data), "blobId": _git(data),
            }  # fmt: skip
            if len(data) >= LARGE:
                entry["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return siblings

    def _send_file(self, request: BaseHTTPRequestHandler, name: str, body: bool) -> None:
        data = (self.folder / name).read_bytes()
        etag = _sha256(data) if len(data) >= LARGE else _git(data)
        data = self.replaced.get(name, data)
        if body:
            self.asked.append(name)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if name in self.cut and body:
            request.send_response(HTTPStatus.OK)
            for key, value in {**headers, "Content-Length": str(len(data))}.items():
                request.send_header(key, value)
            request.end_headers()
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
            return
        self._send(request, HTTPStatus.OK, data, headers, body)

    @staticmethod
    def _send(
        request: BaseHTTPRequestHandler, status: HTTPStatus, data: bytes, headers: dict[str, str], body: bool
    ) -> None:
        request.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _git(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
