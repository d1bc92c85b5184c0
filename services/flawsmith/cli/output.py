"""What commands print: progress to stderr, results to stdout, errors that say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from flawsmith.client import Progress as OnProgress
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.v1 import common_pb2

console = Console(stderr=True, highlight=False)
_State = common_pb2.OperationMetadata.State


def show(message: Message | list[Message], *, as_json: bool, text: str = "") -> None:
    """Print a result: its JSON, or a text for people (its name by default)."""
    if as_json:
        print(json.dumps(_values(message), indent=1))
    else:
        print(text or getattr(message, "name", "") or json.dumps(_values(message), indent=1))


def _values(message: Message | list[Message]) -> Any:
    if isinstance(message, list):
        return [_values(item) for item in message]
    return json_format.MessageToDict(message, preserving_proto_field_name=True)


@contextmanager
def progress_bar(title: str) -> Iterator[OnProgress]:
    """A bar for one operation; gives what `Client.wait` calls with each piece of progress.

    Where stderr is no terminal, a line a stage.
    """
    if not console.is_terminal:
        yield _Lines(title).update
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, note="")
        said = ""

        def update(metadata: common_pb2.OperationMetadata) -> None:
            nonlocal said
            note = f"loss {metadata.loss:.4f}" if metadata.HasField("loss") else ""
            if metadata.state == _State.STATE_QUEUED:
                note = f"queued behind {metadata.queue_position}"
            progress.update(
                task, description=f"{title}: {metadata.stage}", completed=metadata.step, total=metadata.total or None,
                note=note,
            )  # fmt: skip
            if metadata.message and metadata.message != said:
                said = metadata.message
                progress.console.print(f"  {said}")

        yield update


class _Lines:
    """Progress for logs: each stage and each message once."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._said = ""

    def update(self, metadata: common_pb2.OperationMetadata) -> None:
        text = metadata.message or metadata.stage
        if text and text != self._said:
            self._said = text
            console.print(f"{self._title}: {text}", markup=False, soft_wrap=True)


def fail(error: FlawsmithError) -> NoReturn:
    """Print an error and leave with exit code 1."""
    console.print(f"[red]{error.reason}[/red]: {error.message}", markup=True, soft_wrap=True)
    listed = {violation.description for violation in error.fields if violation.description in error.message}
    for violation in error.fields:
        if violation.description not in listed:
            console.print(f"  {violation.field}: {violation.description}", markup=False, soft_wrap=True)
    sys.exit(1)
