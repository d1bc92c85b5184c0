"""Settings that are wrong are refused when a process starts, with a sentence that says what is right."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from flawsmith.common import settings as common_settings
from flawsmith.common.settings import ComputeSettings, JobSettings, Settings, TritonSettings, load_settings


@pytest.mark.parametrize("url", ["triton:8001", "127.0.0.1:8001", "127.0.0.1:8001,127.0.0.2:8001", "[::1]:8001"])
def test_triton_is_one_name_or_several_addresses(url: str) -> None:
    assert TritonSettings(url=url).url == url


@pytest.mark.parametrize("url", ["triton", "triton:", "triton:port", "a:8001,b:8001", "127.0.0.1:8001,", ""])
def test_other_triton_addresses_are_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="host:port"):
        TritonSettings(url=url)


def test_groups_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAWSMITH_RPC__HEALTH_LISTEN", "0.0.0.0:7110")
    monkeypatch.setenv("FLAWSMITH_RPC__TLS__CA", "/etc/tls/ca.crt")
    settings = Settings()
    assert settings.rpc.health_listen == "0.0.0.0:7110"
    assert str(settings.rpc.tls.ca) == "/etc/tls/ca.crt"
    assert settings.rpc.tls.certificate is None


def test_a_process_ends_with_the_names_of_all_wrong_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAWSMITH_TRITON__URL", "triton")
    monkeypatch.setenv("FLAWSMITH_RPC__TLS__KEY", "/etc/tls/tls.key")
    with pytest.raises(SystemExit) as ended:
        load_settings()
    lines = str(ended.value).splitlines()
    assert any(line.startswith("FLAWSMITH_TRITON__URL: ") and "host:port" in line for line in lines)
    assert any(line.startswith("FLAWSMITH_RPC__TLS: ") and "both or none" in line for line in lines)


@pytest.mark.parametrize(
    ("text", "threads"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", 4), ("300000 100000", 3), ("6400000 100000", 4)],
)
def test_a_containers_cpu_limit_sets_the_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert common_settings._cpus(tmp_path / "cpu.max") == threads
    assert common_settings._cpus(tmp_path / "missing") == 4
    assert ComputeSettings(threads=7).thread_count() == 7


@pytest.mark.parametrize(("concurrency", "threads"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_jobs_that_run_at_once_share_the_cpus(monkeypatch: pytest.MonkeyPatch, concurrency: int, threads: int) -> None:
    monkeypatch.setattr(common_settings, "_cpus", lambda: 4)
    assert Settings(jobs=JobSettings(concurrency=concurrency)).job_threads() == threads
