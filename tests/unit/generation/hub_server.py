"""A model hub on this machine: the few endpoints of the real one that pulling a model asks for, over a folder.

Large files have the LFS metadata and the sha256 etag that the real hub gives; small ones git's own hash.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

LARGE = 2000
"""Bytes from which on files have LFS metadata."""


@dataclass(frozen=True)
class Published:
    """A repository at its only commit."""

    commit: str
    folder: Path


class HubServer:
    """Serves repositories by their names. token: that callers must send, if any. replaced: other bytes for some paths,
    under the listing's old hashes. asked: paths that were downloaded."""

    def __init__(self, repositories: Mapping[str, Published], *, token: str = "") -> None:
        self.repositories = repositories
        self.token = token
        self.replaced: dict[str, bytes] = {}
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
        elif (asked := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/revision/(\w+))?", path)) is not None:
            found = self._find(asked[1], asked[2])
            self._send_found(request, found and self._listing(asked[1], found), {}, body)
        elif (asked := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/(\w+)/(.+)", path)) is not None:
            found = self._find(asked[1], asked[2])
            data = (found.folder / asked[3]).read_bytes() if found else None
            etag = _sha256(data or b"") if len(data or b"") >= LARGE else _git(data or b"")
            if body:
                self.asked.append(asked[3])
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": asked[2], "Accept-Ranges": "bytes"}
            self._send_found(request, self.replaced.get(asked[3], data), headers, body)
        else:
            self._send_found(request, None, {}, body)

    def _find(self, repository: str, commit: str | None) -> Published | None:
        found = self.repositories.get(repository)
        return found if found is not None and commit in (None, found.commit) else None

    @staticmethod
    def _listing(repository: str, published: Published) -> bytes:
        siblings: list[dict[str, object]] = []
        for path in sorted(path for path in published.folder.rglob("*") if path.is_file()):
            data = path.read_bytes()
            entry: dict[str, object] = {
                "rfilename": path.relative_to(published.folder).as_posix(), "size": len(data), "blobId": _git(data),
            }  # fmt: skip
            if len(data) >= LARGE:
                entry["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
            siblings.append(entry)
        return json.dumps({"id": repository, "sha": published.commit, "siblings": siblings}).encode()

    def _send_found(
        self, request: BaseHTTPRequestHandler, data: bytes | None, headers: dict[str, str], body: bool
    ) -> None:
        if data is None:
            missing = {"X-Error-Code": "RevisionNotFound"}
            self._send(request, HTTPStatus.NOT_FOUND, b'{"error": "none"}', missing, body)
        else:
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
