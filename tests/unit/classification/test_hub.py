"""Against a server that speaks the hub's protocol on this machine."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flawsmith.classification.hub import fetch_weights
from flawsmith.common.errors import NotFoundError, UnavailableError

WEIGHTS = b"weights" * 100
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """Has owner/net at one commit with one file."""

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(WEIGHTS)

    def _answer(self, body: bytes) -> None:
        known = self.path == f"/owner/net/resolve/{COMMIT}/model.safetensors"
        self.send_response(200 if known else 404)
        if known:
            self.send_header("ETag", f'"{hashlib.sha256(WEIGHTS).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(WEIGHTS)))
        else:
            missing = "RepoNotFound" if "/owner/net/" not in self.path else "RevisionNotFound"
            self.send_header("X-Error-Code", missing)
            self.send_header("Content-Length", "0")
        self.end_headers()
        if known:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_of_a_commit_arrive(hub: str, tmp_path: Path) -> None:
    assert fetch_weights(f"owner/net@{COMMIT}", tmp_path, hub).read_bytes() == WEIGHTS


@pytest.mark.parametrize("model", [f"owner/net@{'1' * 40}", f"nobody/net@{COMMIT}"])
def test_what_the_hub_lacks_is_said(hub: str, tmp_path: Path, model: str) -> None:
    with pytest.raises(NotFoundError) as error:
        fetch_weights(model, tmp_path, hub)
    assert error.value.reason == "HUB_MODEL_NOT_FOUND"
    assert model in error.value.message


def test_a_hub_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError) as error:
        fetch_weights(f"owner/net@{COMMIT}", tmp_path, "http://127.0.0.1:9")
    assert error.value.reason == "HUB_UNREACHABLE"
    assert "initial_weights" in error.value.message
