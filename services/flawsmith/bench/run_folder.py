"""The folder that a run of the benchmark writes into, and continues from after whatever stopped it.

`run.json`: the run's id, its settings, and what was uploaded. `cells.jsonl`: results. `failures.jsonl`: what ended with
an error. Requests get ids that follow from the run, what is asked for, and how often that failed before: the platform
answers a request that is sent again with the operation that exists, and one that failed with a new try.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from google.protobuf.message import Message
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flawsmith.bench.cells import Cell
from flawsmith.bench.results import CellResult, append_result, read_results
from flawsmith.common.errors import FailedPreconditionError, FieldViolation, FlawsmithError, InvalidArgumentError

_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


class Settings(BaseModel):
    """What decides the figures of a cell, apart from the cell itself; a folder holds results of one such set only.

    data: digest of the data set's files. seed: of the splits, and the first of each other kind. vary: what a cell's
    seed changes: `training` alone (initial weights, sampling, flips: one adapter and one pool of synthetic defects a
    regime), or `everything` (which positives the few-shot regime knows, the adapter and the pool too).
    steps: optimiser steps of the `steps` accounting; None: what the paper's epochs come to with 120 synthetic defects.
    height, width: of the classifier's input, pixels. recipe, backbone (the recipe's when empty): see TrainClassifier.
    initial_weights: `none`, `hub:OWNER/NAME@COMMIT`, or `sha256:DIGEST` of a file.
    method, parameters: of per-region augmentation. base_model, strategy (`text-to-image` or `inpaint`),
    prompts (the regime's published ones when empty), denoising_steps, adapter_config (fields of FineTuneConfig),
    drawing_config (fields of GenerateImagesRequest): of diffusion. drawn_height, drawn_width: what it is tuned and
    draws at, pixels; both None: the product's aspect ratio on the area that `mini` was trained at, and for other base
    models what the platform chooses.
    validation_share: of the train images; the import's default when None. control_images: whether normals that went
    through the diffusion model's encoder and decoder are extra test images of every cell.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    seed: int = Field(default=1234, ge=0, lt=2**31)
    vary: str = "training"
    steps: int | None = Field(default=None, ge=1)
    height: int = 600
    width: int = 200
    recipe: str = "in-and-out"
    backbone: str = ""
    initial_weights: str = "none"
    method: str = "memseg"
    parameters: dict[str, Any] = {}
    base_model: str = "mini"
    strategy: str = "text-to-image"
    prompts: tuple[str, ...] = ()
    drawn_height: int | None = None
    drawn_width: int | None = None
    denoising_steps: int | None = None
    adapter_config: dict[str, Any] = {}
    drawing_config: dict[str, Any] = {}
    validation_share: float | None = None
    control_images: bool = True


class _Run(BaseModel):
    """`run.json`. id: part of all names that the run makes. uploads: where in the object store what was uploaded is."""

    model_config = ConfigDict(extra="forbid")

    id: str
    settings: Settings
    uploads: dict[str, Any] = {}


class _Failure(BaseModel):
    """A line of `failures.jsonl`. request: digest of what was asked for."""

    model_config = ConfigDict(extra="ignore")

    request: str
    step: str
    reason: str
    message: str
    time: datetime


class RunFolder:
    """One run's state on disk; safe to use from several threads. Made by `open_run_folder`."""

    def __init__(self, folder: Path, run: _Run) -> None:
        self.folder = folder
        self._run = run
        self._lock = Lock()
        self._failed = Counter(failure.request for failure in _read_failures(folder / "failures.jsonl"))

    @property
    def id(self) -> str:
        """The run's id: 8 hexadecimal digits."""
        return self._run.id

    @property
    def settings(self) -> Settings:
        """What the run was started with."""
        return self._run.settings

    def results(self) -> list[CellResult]:
        """Of all cells that are done."""
        return read_results(self.folder / "cells.jsonl")

    def done(self) -> set[Cell]:
        """Cells that have results."""
        return {result.cell for result in self.results()}

    def add_result(self, result: CellResult) -> None:
        """Keep a cell's result."""
        with self._lock:
            append_result(self.folder / "cells.jsonl", result)

    def upload(self, what: str) -> Any:
        """Where something was uploaded to; None if it was not."""
        return self._run.uploads.get(what)

    def add_upload(self, what: str, where: Any) -> None:
        """Keep where something was uploaded to."""
        with self._lock:
            self._run.uploads[what] = where
            _write(self.folder, self._run)

    def request_id(self, request: Message) -> str:
        """The id of a request whose own is empty: the same until it fails."""
        digest = _digest(request)
        return f"bench-{self.id}-{digest}-{self._failed[digest]}"

    def add_failure(self, request: Message, step: str, error: FlawsmithError) -> None:
        """Keep that an operation ended with an error, so that the next one of this request is a new one."""
        failure = _Failure(
            request=_digest(request), step=step, reason=error.reason, message=error.message, time=datetime.now(UTC)
        )
        with self._lock, (self.folder / "failures.jsonl").open("a") as file:
            file.write(failure.model_dump_json() + "\n")
            self._failed[failure.request] += 1


@contextmanager
def open_run_folder(folder: Path, settings: Settings) -> Iterator[RunFolder]:
    """The run in a folder, a new one where there is none; nobody else can open it meanwhile.

    Raises FailedPreconditionError: BENCH_FOLDER_IN_USE, BENCH_OTHER_SETTINGS (with each one that differs);
    InvalidArgumentError BENCH_FOLDER_UNREADABLE.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FailedPreconditionError(
                "BENCH_FOLDER_IN_USE", f"another benchmark writes into {folder}; wait for it, or give another --out"
            ) from error
        yield RunFolder(folder, _find_run(folder, settings))


def digest_data(folder: Path) -> str:
    """SHA-256 of a data set's paths and bytes. Raises InvalidArgumentError BENCH_NO_IMAGES."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not any(path.suffix.lower() in _IMAGES for path in paths):
        raise InvalidArgumentError(
            "BENCH_NO_IMAGES",
            f"--data {folder} holds no images; it takes a data set as KolektorSDD2 is laid out: train/10000.png with "
            "train/10000_GT.png, and the same in test/",
        )
    digest = hashlib.sha256()
    for path in paths:
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _find_run(folder: Path, settings: Settings) -> _Run:
    """The folder's run; a new one where there is none, or one of other settings without any result."""
    path = folder / "run.json"
    if path.exists():
        try:
            run = _Run.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise InvalidArgumentError(
                "BENCH_FOLDER_UNREADABLE", f"{path} is not of this version of the benchmark; give another --out"
            ) from error
        if run.settings == settings:
            return run
        if read_results(folder / "cells.jsonl"):
            _refuse(folder, run.settings, settings)
    run = _Run(id=secrets.token_hex(4), settings=settings)
    _write(folder, run)
    return run


def _refuse(folder: Path, before: Settings, now: Settings) -> NoReturn:
    differing = [
        FieldViolation(name, f"was {json.dumps(old)}, is {json.dumps(new)}")
        for name, old in before.model_dump().items()
        if (new := getattr(now, name)) != old
    ]
    names = ", ".join(violation.field for violation in differing)
    raise FailedPreconditionError(
        "BENCH_OTHER_SETTINGS",
        f"{folder} holds results of other settings ({names}), which do not compare; give another --out, or the "
        "settings as they were",
        fields=differing,
    )


def _write(folder: Path, run: _Run) -> None:
    unfinished = folder / "run.json.part"
    unfinished.write_text(run.model_dump_json(indent=1) + "\n")
    os.replace(unfinished, folder / "run.json")


def _read_failures(path: Path) -> list[_Failure]:
    """A line that a crash cut off says nothing: its request is then answered with the failed operation once more."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            found.append(_Failure.model_validate_json(line))
        except ValidationError:
            continue
    return found


def _digest(request: Message) -> str:
    name = request.DESCRIPTOR.full_name.encode()
    return hashlib.sha256(name + request.SerializeToString(deterministic=True)).hexdigest()[:16]
