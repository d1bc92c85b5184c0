"""A client of the four services: stubs that raise domain errors, operations with progress, files by reference.

with Client(PeerSettings(), principal="line-7") as client:
    for answer in client.classify("products/p/classifiers/main", [png, other_png]):
        print(answer.verdict, answer.score)
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import urllib3
from google.longrunning import operations_pb2, operations_pb2_grpc
from google.protobuf import duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2

from flawsmith.assembly.v1 import assembly_pb2, assembly_pb2_grpc
from flawsmith.augmentation.v1 import augmentation_pb2_grpc
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common import channels
from flawsmith.common.errors import (
    DataLossError,
    DeadlineExceededError,
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from flawsmith.common.settings import SERVICES, PeerSettings, TlsSettings
from flawsmith.common.statuses import error_of, error_of_call, status_of
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.layouts import INDEX, architecture_of, select_files
from flawsmith.generation.v1 import generation_pb2, generation_pb2_grpc

Response = TypeVar("Response", bound=Message)
Progress = Callable[[common_pb2.OperationMetadata], None]

_STUBS = {
    "generation": generation_pb2_grpc.GenerationServiceStub,
    "augmentation": augmentation_pb2_grpc.AugmentationServiceStub,
    "assembly": assembly_pb2_grpc.AssemblyServiceStub,
    "classification": classification_pb2_grpc.ClassificationServiceStub,
}
_DOWNLOAD_CHUNK = 500
_PEFT_FILES = ("adapter_config.json", "adapter_model.safetensors")
_BATCH_IMAGES = 32
_BATCH_BYTES = 4 * 2**20
_LEAST_PAUSE_S, _MOST_PAUSE_S = 0.1, 2.0
_PASSING = {code_pb2.UNAVAILABLE, code_pb2.RESOURCE_EXHAUSTED}
_UPLOAD_TIMEOUT_S = 60.0
"""For a connection, and for each answer on it: not for a whole file."""
_UPLOAD_READ = 2**20


class Client:
    """Connections to the four services in one caller's name.

    Every call raises the FlawsmithError that the service raised, a stream while its answers are read. timeout_s:
    deadline of a short call; streams have none unless they are given one.
    tls: `TlsSettings(ca=...)` where the services speak TLS.
    """

    def __init__(
        self,
        addresses: PeerSettings,
        *,
        principal: str = "",
        token: str = "",
        tls: TlsSettings | None = None,
        timeout_s: float = 60.0,
        outage_patience_s: float = 60.0,
    ) -> None:
        self._patience_s = outage_patience_s
        metadata = [("x-flawsmith-principal", principal)] if principal else []
        metadata += [("authorization", f"Bearer {token}")] if token else []
        self._channels = {service: channels.connect(grpc, getattr(addresses, service), tls) for service in SERVICES}
        stubs = {
            service: _Calls(_STUBS[service](channel), metadata, timeout_s, getattr(addresses, service))
            for service, channel in self._channels.items()
        }
        self.generation = stubs["generation"]
        self.augmentation = stubs["augmentation"]
        self.assembly = stubs["assembly"]
        self.classification = stubs["classification"]
        self._operations = {
            service: _Calls(
                operations_pb2_grpc.OperationsStub(channel), metadata, timeout_s, getattr(addresses, service)
            )
            for service, channel in self._channels.items()
        }
        # Object stores answer 5xx in races of their own, which the next try does not meet.
        retries = urllib3.Retry(
            4,
            backoff_factor=0.2,
            status_forcelist=(500, 502, 503, 504),
            allowed_methods=None,
            raise_on_status=False,
        )
        self._http = urllib3.PoolManager(maxsize=8, retries=retries)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()

    def operations(self, name: str) -> Any:
        """The Operations service that has an operation, by its name (`operations/generation-...`).

        Raises NotFoundError (OPERATION_NOT_FOUND).
        """
        service = name.removeprefix("operations/").partition("-")[0]
        if service not in self._operations:
            raise NotFoundError("OPERATION_NOT_FOUND", f"{name!r} is no operation; see `flawsmith operations list`")
        return self._operations[service]

    def list_operations(self, service: str, limit: int) -> list[operations_pb2.Operation]:
        """Newest operations of one service."""
        request = operations_pb2.ListOperationsRequest(page_size=limit)
        return list(self._operations[service].ListOperations(request).operations)

    def wait(
        self,
        operation: operations_pb2.Operation,
        response: type[Response],
        *,
        on_progress: Progress | None = None,
        timeout_s: float | None = None,
    ) -> Response:
        """Wait for an operation and return its response; a service that restarts or stalls meanwhile, or a machine
        that sleeps, is waited for.

        Raises the operation's error, or TimeoutError (the operation goes on).
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        stub = self.operations(operation.name)
        request = operations_pb2.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(seconds=1))
        lost_since: float | None = None
        while not operation.done:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"{operation.name} goes on; `flawsmith operations wait {operation.name}`")
            try:
                operation = stub.WaitOperation(request)
                lost_since = None
            except (UnavailableError, DeadlineExceededError):
                lost_since = lost_since or time.monotonic()
                if time.monotonic() - lost_since > self._patience_s:
                    raise
                time.sleep(0.5)
                continue
            if on_progress is not None:
                on_progress(metadata_of(operation))
        if operation.HasField("error"):
            raise error_of(operation.error)
        result = response()
        operation.response.Unpack(result)
        return result

    def classify(
        self, classifier: str, images: Iterable[bytes], *, heat_map: bool = False, timeout_s: float = 30.0
    ) -> Iterator[classification_pb2.ClassifyResponse]:
        """Answers of a classifier's champion, in the order of the images (whole files), sent many a call.

        An image that cannot be judged has `error` set in its answer. What passes (a service or Triton that starts anew,
        a full queue) is tried again for timeout_s after a batch was first sent.
        Raises the FlawsmithError that concerns all images: no champion, say, or nobody who answers in time.
        """
        batch: list[bytes] = []
        for image in images:
            if batch and (len(batch) == _BATCH_IMAGES or sum(map(len, batch)) + len(image) > _BATCH_BYTES):
                yield from self._classify_batch(classifier, batch, heat_map, timeout_s)
                batch = []
            if len(image) <= _BATCH_BYTES:
                batch.append(image)
                continue
            too_large = InvalidArgumentError(
                "INLINE_IMAGE_TOO_LARGE",
                f"the image has {len(image):,} bytes; at most {_BATCH_BYTES:,} fit in a call: upload it, then classify "
                "its reference",
            )
            yield classification_pb2.ClassifyResponse(error=status_of(too_large))
        if batch:
            yield from self._classify_batch(classifier, batch, heat_map, timeout_s)

    def _classify_batch(
        self, classifier: str, batch: list[bytes], heat_map: bool, timeout_s: float
    ) -> list[classification_pb2.ClassifyResponse]:
        deadline, pause_s = time.monotonic() + timeout_s, _LEAST_PAUSE_S
        answers: dict[int, classification_pb2.ClassifyResponse] = {}
        asked = list(range(len(batch)))
        while True:
            request = classification_pb2.BatchClassifyRequest(
                classifier=classifier,
                images=[common_pb2.ImageSource(content=batch[index]) for index in asked],
                heat_map=heat_map,
            )
            try:
                found = self.classification.BatchClassify(request, timeout_s=max(deadline - time.monotonic(), 0.001))
                answers.update(zip(asked, found.responses, strict=True))
                asked = [index for index in asked if answers[index].error.code in _PASSING]
            except (UnavailableError, ResourceExhaustedError, DeadlineExceededError):
                if time.monotonic() + pause_s > deadline and len(answers) < len(batch):
                    raise
            if not asked or time.monotonic() + pause_s > deadline:
                return [answers[index] for index in range(len(batch))]
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)

    def upload_folder(
        self,
        folder: Path,
        on_file: Callable[[int, int], None] = lambda done, total: None,
        *,
        part_bytes: int | None = None,
    ) -> str:
        """Put a folder's files into the object store; returns their prefix for ImportImages and ImportBaseModel.

        on_file: told how many of how many files, or parts of files, are there. part_bytes: as in `upload_model`.
        Raises NotFoundError (FOLDER_EMPTY), UnavailableError (UPLOAD_FAILED).
        """
        names = _file_names(folder)
        if not names:
            raise NotFoundError("FOLDER_EMPTY", f"{folder} has no files")
        return self._upload(folder, names, on_file, part_bytes)

    def upload_model(
        self,
        folder: Path,
        model: str,
        on_file: Callable[[int, int], None] = lambda done, total: None,
        *,
        part_bytes: int | None = None,
    ) -> str:
        """Put the files of a folder that a base model is loaded from into the object store; returns their prefix for
        ImportBaseModel. Pickles, weights in other precisions and whatever else a repository has stay where they are.

        model: the id that it is imported as. on_file: told how many of how many files, or parts of files, are there.
        part_bytes: cut larger files into parts of that size, `PATH.part-0000` and so on, as ImportBaseModel reads them.
        Raises what `architecture_of` and `select_files` raise, and UnavailableError (UPLOAD_FAILED).
        """
        known = self.generation.ListBaseModels(generation_pb2.ListBaseModelsRequest(page_size=1000)).base_models
        variant = next((entry.variant for entry in known if entry.id == model), "")
        index = folder / INDEX
        architecture = architecture_of(index.read_bytes() if index.is_file() else b"")
        names = select_files(_file_names(folder), architecture, variant=variant or None)
        return self._upload(folder, names, on_file, part_bytes)

    def _upload(
        self,
        folder: Path,
        names: Iterable[str],
        on_file: Callable[[int, int], None],
        part_bytes: int | None,
    ) -> str:
        pieces = [piece for name in names for piece in _pieces(folder / name, name, part_bytes)]
        # All names at once, so that one that cannot be is refused before anything is sent.
        names_of_pieces = [piece.name for piece in pieces]
        prefix = self.assembly.CreateUpload(assembly_pb2.CreateUploadRequest(paths=names_of_pieces)).prefix

        def put(piece: _Piece) -> None:
            # Signed when its turn comes: a URL lives for an hour, and a model may take longer to upload.
            signing = assembly_pb2.CreateUploadRequest(prefix=prefix, paths=[piece.name])
            url = self.assembly.CreateUpload(signing).urls[0]
            size = {"Content-Length": str(piece.size)}
            answer = self._http.request("PUT", url, body=piece, headers=size, timeout=_UPLOAD_TIMEOUT_S)
            if answer.status != 200:
                raise UnavailableError("UPLOAD_FAILED", f"{piece.path}: the object store answered {answer.status}")

        with ThreadPoolExecutor(8) as pool:
            for done, _ in enumerate(pool.map(put, pieces), start=1):
                on_file(done, len(pieces))
        return str(prefix)

    def upload_file(self, path: Path) -> common_pb2.ObjectRef:
        """Put one file into the object store. Raises UnavailableError (UPLOAD_FAILED)."""
        data = path.read_bytes()
        places = self.assembly.CreateUpload(assembly_pb2.CreateUploadRequest(paths=[path.name]))
        answer = self._http.request("PUT", places.urls[0], body=data, timeout=_UPLOAD_TIMEOUT_S)
        if answer.status != 200:
            raise UnavailableError("UPLOAD_FAILED", f"{path}: the object store answered {answer.status}")
        digest = hashlib.sha256(data).hexdigest()
        return common_pb2.ObjectRef(uri=f"{places.prefix}{path.name}", sha256=digest, size=len(data))

    def upload_adapter(self, path: Path) -> dict[str, Any]:
        """Put an adapter into the object store, a file or a folder of peft's; returns the field of ImportAdapterRequest
        that names it. Of a folder everything but peft's own files is left out.

        Raises NotFoundError (FOLDER_EMPTY), UnavailableError (UPLOAD_FAILED).
        """
        if path.is_file():
            return {"file": self.upload_file(path)}
        found = sorted(file for name in _PEFT_FILES for file in path.rglob(name))
        if not found:
            raise NotFoundError("FOLDER_EMPTY", f"{path} has no {' and '.join(_PEFT_FILES)}, which peft saves")
        return {
            "files": [
                generation_pb2.AdapterFolderFile(path=file.relative_to(path).as_posix(), object=self.upload_file(file))
                for file in found
            ]
        }

    def download(self, refs: Iterable[common_pb2.ObjectRef]) -> Iterator[bytes]:
        """Bytes of stored objects, in order, compared with their sha256.

        Raises UnavailableError (DOWNLOAD_FAILED), DataLossError (OBJECT_CHANGED).
        """
        wanted = list(refs)
        for start in range(0, len(wanted), _DOWNLOAD_CHUNK):
            chunk = wanted[start : start + _DOWNLOAD_CHUNK]
            urls = self.assembly.CreateDownload(assembly_pb2.CreateDownloadRequest(objects=chunk)).urls
            for ref, url in zip(chunk, urls, strict=True):
                answer = self._http.request("GET", url, timeout=60.0)
                if answer.status != 200:
                    raise UnavailableError("DOWNLOAD_FAILED", f"{ref.uri}: the object store answered {answer.status}")
                if hashlib.sha256(answer.data).hexdigest() != ref.sha256:
                    raise DataLossError(
                        "OBJECT_CHANGED",
                        f"{ref.uri}: its sha256 differs from its reference; try again, and where it stays so put the "
                        "object back from a backup",
                    )
                yield answer.data

    def download_export(self, export: generation_pb2.BatchExport, folder: Path) -> list[Path]:
        """Write an exported batch's files into a folder; returns their paths. Existing files of the same names are
        overwritten. Raises what `download` raises."""
        listing = json.loads(next(self.download([export.manifest])))["files"]
        refs = {folder / entry["path"]: common_pb2.ObjectRef(**entry["object"]) for entry in listing}
        return self._download_files(refs)

    def download_adapter(self, exported: generation_pb2.AdapterFile, path: Path) -> list[Path]:
        """Write an exported adapter into a file, or into a folder where its format is one; returns the paths of what
        was written. Existing files are overwritten. Raises what `download` raises."""
        if not exported.files:
            return self._download_files({path: exported.file})
        return self._download_files({path / file.path: file.object for file in exported.files})

    def _download_files(self, refs: Mapping[Path, common_pb2.ObjectRef]) -> list[Path]:
        for path, data in zip(refs, self.download(refs.values()), strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return list(refs)


class _Calls:
    """A stub whose calls carry the caller, a deadline and a request id, and raise domain errors."""

    def __init__(self, stub: Any, metadata: list[tuple[str, str]], timeout_s: float, address: str) -> None:
        self._stub = stub
        self._metadata = metadata
        self._timeout_s = timeout_s
        self._address = address

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._stub, name)

        def call(request: Any, *, timeout_s: float | None = None) -> Any:
            if isinstance(request, Message) and "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = request.request_id or uuid.uuid4().hex  # type: ignore[attr-defined]
            try:
                return method(request, timeout=timeout_s or self._timeout_s, metadata=self._metadata)
            except grpc.RpcError as error:
                raise self._translate(error) from error

        def stream(requests: Iterable[Any], *, timeout_s: float | None = None) -> Iterator[Any]:
            answers = method(iter(requests), timeout=timeout_s, metadata=self._metadata)
            try:
                yield from answers
            except grpc.RpcError as error:
                raise self._translate(error) from error
            finally:
                answers.cancel()  # of whoever stops before the end; a call that has ended takes no notice

        return stream if isinstance(method, grpc.StreamStreamMultiCallable) else call

    def _translate(self, error: grpc.RpcError) -> FlawsmithError:
        translated = error_of_call(error)
        if translated.reason != "UNAVAILABLE":
            return translated
        # Nobody of ours said so: the connection failed.
        if "handshake failed" in translated.message:
            return UnavailableError(
                "TLS_FAILED",
                f"{self._address} is not trusted: it must speak TLS with a certificate that names this host and comes "
                "from the CA in FLAWSMITH_RPC__TLS__CA",
            )
        return UnavailableError(
            "SERVICE_UNREACHABLE",
            f"nothing answers at {self._address}; `flawsmith up` starts the platform here, "
            "`flawsmith doctor` says what is wrong",
        )


@dataclass(frozen=True)
class _Piece:
    """A file, or a part of it, to upload under a name."""

    path: Path
    name: str
    start: int
    size: int

    def __iter__(self) -> Iterator[bytes]:
        """Its bytes, from the beginning each time: an upload may be tried again."""
        left = self.size
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (data := file.read(min(left, _UPLOAD_READ))):
                left -= len(data)
                yield data


def _file_names(folder: Path) -> list[str]:
    """Files of a folder but for hidden ones, by their paths in it, with forward slashes, in order."""
    return [
        path.relative_to(folder).as_posix()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    ]


def _pieces(path: Path, name: str, part_bytes: int | None) -> list[_Piece]:
    size = path.stat().st_size
    if part_bytes is None or size <= part_bytes:
        return [_Piece(path, name, 0, size)]
    return [
        _Piece(path, f"{name}.part-{number:04d}", start, min(part_bytes, size - start))
        for number, start in enumerate(range(0, size, part_bytes))
    ]


def metadata_of(operation: operations_pb2.Operation) -> common_pb2.OperationMetadata:
    """Where an operation stands."""
    metadata = common_pb2.OperationMetadata()
    operation.metadata.Unpack(metadata)
    return metadata
