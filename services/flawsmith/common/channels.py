"""How clients of ours connect to our services, whether they wait in threads or in an event loop.

Every address of a name is used in turn, and a call that failed before anyone answered it is tried again: with servers
that close their connections after a while, new ones are found and none that leaves costs a call.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc

from flawsmith.common.errors import NotFoundError
from flawsmith.common.settings import TlsSettings

_SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:")
# Nobody answered, or a server that stops has dropped the call without a look at it: gRPC's core says CANCELLED for
# that (grpc/grpc#41785). What the caller itself cancels is not tried again.
_RETRY = {
    "maxAttempts": 4,
    "initialBackoff": "0.2s",
    "maxBackoff": "2s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
}
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        # Calls that start an operation have a request id; others read, or say the same twice.
        {"name": [{}], "retryPolicy": _RETRY},
        # A second roll-back would go one version further back.
        {"name": [{"service": "flawsmith.classification.v1.ClassificationService", "method": "RollBackClassifier"}]},
    ],
}
OPTIONS = [
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", 64 * 2**20),
    ("grpc.max_send_message_length", 64 * 2**20),
    # A request that does not fit is not tried again; the default holds no image.
    ("grpc.per_rpc_retry_buffer_size", 8 * 2**20),
    # A connection that a server closed is the sign to look the name up anew, at most this often.
    ("grpc.dns_min_time_between_resolutions_ms", 5000),
    ("grpc.max_reconnect_backoff_ms", 5000),
]


def target(address: str) -> str:
    """gRPC target of `host:port`, whose every address is a server; a target with a scheme stays as it is."""
    return address if address.startswith(_SCHEMES) else f"dns:///{address}"


def connect(kind: Any, address: str, tls: TlsSettings | None, **options: Any) -> Any:
    """A channel of `kind`, which is the module `grpc` or `grpc.aio`; with TLS where a CA is set.

    Raises NotFoundError (TLS_FILE_MISSING).
    """
    if tls is None or tls.ca is None:
        return kind.insecure_channel(target(address), options=OPTIONS, **options)
    credentials = grpc.ssl_channel_credentials(root_certificates=read_pem(tls.ca))
    return kind.secure_channel(target(address), credentials, options=OPTIONS, **options)


def read_pem(path: Path) -> bytes:
    """A file of `rpc.tls`. Raises NotFoundError (TLS_FILE_MISSING)."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            "TLS_FILE_MISSING", f"{path} cannot be read ({error.strerror}); see FLAWSMITH_RPC__TLS__*"
        ) from error
