"""What commands print: progress to stderr, results to stdout, errors that say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn, Self

from google.protobuf import json_format
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from flawsmith.bench.cells import Cell
from flawsmith.bench.results import CellResult
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


class RunLog:
    """What a run of many cells says: a line for each that is done or failed, and what goes on in between.

    A `flawsmith.bench.driver.Watch`.
    """

    def __init__(self) -> None:
        columns = (
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(),
        )  # fmt: skip
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._total, self._done = 0, 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def expect(self, total: int, done: int) -> None:
        """How many cells there are, and how many of them have results from before."""
        self._total, self._done = total, done
        console.print(f"{total} cells, {done} done before", markup=False)

    @contextmanager
    def operation(self, title: str) -> Iterator[OnProgress]:
        """See Watch."""
        if not console.is_terminal:
            console.print(title, markup=False, soft_wrap=True)
        task = self._progress.add_task(title, total=None)

        def update(metadata: common_pb2.OperationMetadata) -> None:
            self._progress.update(
                task, description=f"{title}: {metadata.stage}", completed=metadata.step, total=metadata.total or None
            )

        try:
            yield update
        finally:
            self._progress.remove_task(task)

    def done(self, result: CellResult) -> None:
        """See Watch."""
        self._done += 1
        self._say(f"{result.cell}: AP {result.ap:.3f} ({result.seconds:.0f} s)")

    def failed(self, cell: Cell, error: FlawsmithError) -> None:
        """See Watch."""
        self._say(f"{cell}: failed, {error.reason}: {error.message}")

    def _say(self, text: str) -> None:
        console.print(f"{self._done} of {self._total}  {text}", markup=False, soft_wrap=True)


def fail(error: FlawsmithError) -> NoReturn:
    """Print an error and leave with exit code 1."""
    console.print(f"[red]{error.reason}[/red]: {error.message}", markup=True, soft_wrap=True)
    listed = {violation.description for violation in error.fields if violation.description in error.message}
    for violation in error.fields:
        if violation.description not in listed:
            console.print(f"  {violation.field}: {violation.description}", markup=False, soft_wrap=True)
    sys.exit(1)
