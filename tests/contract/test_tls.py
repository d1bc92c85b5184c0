"""TLS between clients and servers, with certificates made here by openssl."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from pydantic import ValidationError

from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.client import Client
from flawsmith.common import rpc
from flawsmith.common.errors import NotFoundError, UnavailableError
from flawsmith.common.health import LIVENESS, is_serving
from flawsmith.common.settings import AuthSettings, PeerSettings, RpcSettings, TlsSettings
from flawsmith.local.processes import Process, free_port

NAME = "flawsmith.augmentation.v1.AugmentationService"


def openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


def make_ca(folder: Path, name: str) -> Path:
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-subj", f"/CN={name}", "-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"),
    )  # fmt: skip
    return folder / f"{name}.pem"


def make_certificate(folder: Path, ca: Path, names: str = "DNS:localhost,IP:127.0.0.1") -> TlsSettings:
    """A server's certificate, which replaces a former one at its place."""
    openssl(
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
        "-subj", "/CN=server", "-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE",
        "-CA", str(ca), "-CAkey", str(ca.with_suffix(".key")),
        "-keyout", str(folder / "new.key"), "-out", str(folder / "new.crt"),
    )  # fmt: skip
    (folder / "new.key").replace(folder / "tls.key")
    (folder / "new.crt").replace(folder / "tls.crt")
    return TlsSettings(certificate=folder / "tls.crt", key=folder / "tls.key", ca=ca)


class Servicer(augmentation_pb2_grpc.AugmentationServiceServicer):
    async def ListMethods(self, request: object, context: object) -> augmentation_pb2.ListMethodsResponse:
        return augmentation_pb2.ListMethodsResponse(next_page_token="answered")


@pytest.fixture
def tls(tmp_path: Path) -> TlsSettings:
    return make_certificate(tmp_path, make_ca(tmp_path, "ca"))


@pytest.fixture
async def port(tls: TlsSettings) -> AsyncIterator[int]:
    server = rpc.Server("augmentation", RpcSettings(drain_s=0, tls=tls), AuthSettings())
    server.add(NAME, augmentation_pb2_grpc.add_AugmentationServiceServicer_to_server, Servicer())
    yield await server.start()
    await server.stop()


async def ask(port: int, tls: TlsSettings | None, host: str = "127.0.0.1") -> str:
    async with rpc.channel(f"{host}:{port}", tls=tls) as channel:
        stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
        return (await stub.ListMethods(augmentation_pb2.ListMethodsRequest(), timeout=10)).next_page_token


async def test_a_channel_that_trusts_the_ca_is_answered(port: int, tls: TlsSettings) -> None:
    assert await ask(port, tls) == "answered"
    assert await ask(port, tls, "localhost") == "answered"


async def test_plaintext_and_strangers_are_refused(port: int, tls: TlsSettings, tmp_path: Path) -> None:
    for stranger in (None, TlsSettings(ca=make_ca(tmp_path, "other"))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(port, stranger)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_client_says_what_to_do_about_a_certificate(port: int, tls: TlsSettings, tmp_path: Path) -> None:
    def list_methods(tls: TlsSettings) -> str:
        with Client(PeerSettings(augmentation=f"127.0.0.1:{port}"), tls=tls) as client:
            return client.augmentation.ListMethods(augmentation_pb2.ListMethodsRequest()).next_page_token

    assert await asyncio.to_thread(list_methods, tls) == "answered"
    with pytest.raises(UnavailableError, match="FLAWSMITH_RPC__TLS__CA") as caught:
        await asyncio.to_thread(list_methods, TlsSettings(ca=make_ca(tmp_path, "other")))
    assert caught.value.reason == "TLS_FAILED"
    with pytest.raises(NotFoundError) as missing:
        await asyncio.to_thread(list_methods, TlsSettings(ca=tmp_path / "none.pem"))
    assert missing.value.reason == "TLS_FILE_MISSING"


async def test_a_renewed_certificate_is_taken_up_without_a_restart(port: int, tls: TlsSettings, tmp_path: Path) -> None:
    assert await ask(port, tls) == "answered"
    renewed = make_certificate(tmp_path, make_ca(tmp_path, "next"))
    assert await ask(port, renewed) == "answered"
    with pytest.raises(grpc.aio.AioRpcError):
        await ask(port, tls)


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="both or none"):
        TlsSettings(certificate=tmp_path / "tls.crt")


def test_health_stays_plaintext_in_a_process_with_tls(tls: TlsSettings, tmp_path: Path) -> None:
    port, health = free_port(), f"127.0.0.1:{free_port()}"
    process = Process(
        "assembly-api",
        [sys.executable, "-m", "flawsmith.assembly", "api"],
        log=tmp_path / "log",
        environment={
            "FLAWSMITH_STATE_DIR": str(tmp_path),
            "FLAWSMITH_RPC__LISTEN": f"127.0.0.1:{port}",
            "FLAWSMITH_RPC__HEALTH_LISTEN": health,
            "FLAWSMITH_RPC__TLS__CERTIFICATE": str(tls.certificate),
            "FLAWSMITH_RPC__TLS__KEY": str(tls.key),
        },
    )
    process.start()
    try:
        process.wait_until(lambda: is_serving(health, LIVENESS), 30)
        process.wait_until(lambda: "listening" in process.tail(100_000), 30)
        environment = {
            **os.environ,
            "FLAWSMITH_RPC__TLS__CA": str(tls.ca),
            "FLAWSMITH_PEERS__ASSEMBLY": f"127.0.0.1:{port}",
        }
        started = time.monotonic()
        command = [sys.executable, "-m", "flawsmith.cli.main", "--state", str(tmp_path), "doctor"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        # It answers through TLS; not ready, for it has no object store here.
        assert f"assembly at 127.0.0.1:{port} says NOT_SERVING" in done.stdout + done.stderr, done
        assert time.monotonic() - started < 50
    finally:
        assert process.stop() == 0
