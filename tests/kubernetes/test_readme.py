"""Commands of the Kubernetes README name what exists: objects of the overlays, commands and options of the CLI."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable

import click
import pytest

from flawsmith.cli.main import main
from tests.kubernetes import rules
from tests.kubernetes.conftest import KUBERNETES, OVERLAYS
from tests.kubernetes.rules import ROOT, Manifest

TEXT = (KUBERNETES / "README.md").read_text()
SCRIPTS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
LINES = [line for script in SCRIPTS for line in script.splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in LINES if line.startswith("flawsmith ")]


@pytest.mark.parametrize("script", SCRIPTS, ids=range(len(SCRIPTS)))
def test_scripts_are_shell(script: str) -> None:
    done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_of_ours_exist_with_these_options(command: list[str]) -> None:
    group: click.Command = main
    arguments = command[1:]
    while isinstance(group, click.Group):
        name = arguments.pop(0)
        group = group.commands[name]
    known = {option for parameter in group.params for option in parameter.opts}
    given = {argument for argument in arguments if argument.startswith("--")}
    assert given <= known
    required = {
        parameter.opts[0] for parameter in group.params if isinstance(parameter, click.Option) and parameter.required
    }
    assert required <= given


def test_the_objects_that_commands_name_exist(overlay: Callable[[str], list[Manifest]]) -> None:
    existing = {f"{each['kind'].lower()}/{each['metadata']['name']}" for name in OVERLAYS for each in overlay(name)}
    named = set(re.findall(r"\b(?:service|deployment|statefulset|job)/[a-z-]+\b(?!\$)", TEXT))
    assert named
    assert named <= existing


def test_forwards_lead_to_ports_of_the_services_and_where_the_client_looks(
    overlay: Callable[[str], list[Manifest]],
) -> None:
    ports = {
        each["metadata"]["name"]: {port["port"] for port in each["spec"]["ports"]}
        for each in rules.of_kind(overlay("local"), "Service")
    }
    forwards = re.findall(r"port-forward service/([a-z-]+) (\d+):(\d+)", TEXT)
    assert {name for name, _, _ in forwards} == {
        *(f"{service}-api" for service in rules.SERVICES), "object-store", "grafana"
    }  # fmt: skip
    for name, here, there in forwards:
        assert int(there) in ports[name]
        if name.endswith("-api"):
            assert getattr(rules.Settings().peers, name.removesuffix("-api")) == f"127.0.0.1:{here}"


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_secret_that_pods_read_is_explained(overlay: Callable[[str], list[Manifest]], name: str) -> None:
    wanted: dict[str, set[str]] = {}
    for pod in rules.pods(overlay(name)):
        for container in pod.containers:
            for entry in container.get("env", ()):
                if ref := entry.get("valueFrom", {}).get("secretKeyRef"):
                    wanted.setdefault(ref["name"], set()).add(ref["key"])
        for volume in pod.spec.get("volumes", ()):
            if "secret" in volume:
                keys = {item["key"] for item in volume["secret"].get("items", ())} or {"tls.crt", "tls.key"}
                wanted.setdefault(volume["secret"]["secretName"], set()).update(keys)
    if name == "local":
        said = {
            text.split()[0]: set(re.findall(r"--from-literal=([\w.-]+)=", text.partition("kubectl")[0]))
            for text in TEXT.split("create secret generic ")[1:]
        }
    else:
        rows = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| (.*) \|$", TEXT, re.MULTILINE)
        said = {
            secret: set(re.findall(r"`([\w.-]+)`", keys))
            for secrets, keys in rows
            for secret in re.findall(r"`([\w-]+)`", secrets)
        }
    for secret, keys in wanted.items():
        assert keys <= said.get(secret, set()), secret


def test_the_images_that_are_loaded_are_those_of_the_local_overlay(overlay: Callable[[str], list[Manifest]]) -> None:
    (names,) = re.findall(r"^for image in (.*); do$", TEXT, re.MULTILINE)
    used = {
        container["image"].removeprefix("flawsmith-").partition(":")[0]
        for pod in rules.pods(overlay("local"))
        for container in pod.containers
        if container["image"].startswith("flawsmith-")
    }
    assert set(names.split()) == used
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert used <= set(re.findall(r"^FROM .* AS (\S+)$", dockerfile, re.MULTILINE))
