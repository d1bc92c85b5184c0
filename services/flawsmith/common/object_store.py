"""The object store: one code path for any S3 server, through the minio SDK.

Objects are immutable and lie at `blobs/<first 2 digits>/<sha256><suffix>`; what has a name is a manifest
(`common.resources`) that is written after everything that it names.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError
from urllib3.exceptions import HTTPError

from flawsmith.common.errors import (
    DataLossError,
    FlawsmithError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.settings import ObjectStoreSettings

URL_LIFETIME = timedelta(hours=1)
# As S3 clients do: a 5xx is often a race inside the server (rclone answers one when two writers make the same folder).
RETRIES = urllib3.Retry(
    total=4,
    connect=1,
    read=1,
    backoff_factor=0.1,
    status_forcelist=(500, 502, 503, 504),
    allowed_methods=None,
    raise_on_status=False,
)
_CONNECTIONS = 64
"""Kept open; threads beyond them connect anew for each call."""
_PIECE, _PART = 2**20, 64 * 2**20
"""Bytes read at once, and those of one request of an upload in parts."""
_CONTENT_TYPES = {".png": "image/png", ".json": "application/json", ".jsonl": "application/jsonl"}
_FULL_DISK = ("no space left", "file too large", "quota exceeded", "storagefull", "xminiostoragefull")


class ObjectStore:
    """A bucket. Methods block; async code calls them through `asyncio.to_thread`.

    All raise UnavailableError (OBJECT_STORE_UNAVAILABLE) when the server does not answer and
    ResourceExhaustedError (STORAGE_FULL) when its disk is full.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self.settings = settings
        self.bucket = settings.bucket
        self._client = self._connect(settings.endpoint)
        # Signing needs no connection: the region is given, so a public name that only callers resolve is fine.
        self._signer = self._connect(settings.public_endpoint or settings.endpoint)

    def _connect(self, endpoint: str) -> Minio:
        timeout = urllib3.Timeout(connect=3.0, read=self.settings.timeout_s)
        pool = urllib3.PoolManager(timeout=timeout, maxsize=_CONNECTIONS, retries=RETRIES)
        return Minio(
            endpoint=endpoint,
            access_key=self.settings.access_key,
            secret_key=self.settings.secret_key.get_secret_value(),
            secure=self.settings.secure,
            region=self.settings.region,
            http_client=pool,
        )

    def ensure_bucket(self) -> None:
        """Make the bucket unless it exists."""
        try:
            if not self._client.bucket_exists(bucket_name=self.bucket):
                self._client.make_bucket(bucket_name=self.bucket)
        except Exception as error:
            raise _translate(error, self.bucket) from error

    def check(self) -> None:
        """Raise unless the server answers and the bucket exists."""
        try:
            exists = self._client.bucket_exists(bucket_name=self.bucket)
        except Exception as error:
            raise _translate(error, self.bucket) from error
        if not exists:
            raise UnavailableError("BUCKET_MISSING", f"the bucket {self.bucket} does not exist; create it")

    def put(self, key: str, data: bytes) -> ObjectRef:
        """Write an object at a key of the caller's."""
        return self._put(key, data, hashlib.sha256(data).hexdigest())

    def _put(self, key: str, data: bytes, digest: str) -> ObjectRef:
        try:
            self._client.put_object(
                bucket_name=self.bucket, object_name=key, data=io.BytesIO(data), length=len(data),
                content_type=_content_type(key),
            )  # fmt: skip
        except Exception as error:
            raise _translate(error, key, writing=True) from error
        return ObjectRef(uri=self.uri(key), sha256=digest, size=len(data))

    def put_blob(self, data: bytes, suffix: str) -> ObjectRef:
        """Write an immutable object under its own hash; writing the same bytes twice is one object."""
        digest = hashlib.sha256(data).hexdigest()
        return self._put(blob_key(digest, suffix), data, digest)

    def put_file(self, path: Path, suffix: str | None = None) -> ObjectRef:
        """Write a file of any size as an immutable object, read piece by piece."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        key = blob_key(digest, path.suffix if suffix is None else suffix)
        try:
            self._client.fput_object(
                bucket_name=self.bucket, object_name=key, file_path=str(path), content_type=_content_type(key),
                part_size=_PART,
            )  # fmt: skip
        except Exception as error:
            raise _translate(error, key, writing=True) from error
        return ObjectRef(uri=self.uri(key), sha256=digest, size=path.stat().st_size)

    def get(self, ref: ObjectRef) -> bytes:
        """Read an object and compare it with its reference; of a longer one no more than that takes.

        Raises NotFoundError (OBJECT_NOT_FOUND), DataLossError (OBJECT_CHANGED),
        InvalidArgumentError (FOREIGN_URI) for a URI outside of the bucket.
        """
        data = self.get_key(self.key(ref.uri), at_most=ref.size + 1)
        if len(data) != ref.size or hashlib.sha256(data).hexdigest() != ref.sha256:
            raise _changed(ref)
        return data

    def get_file(self, ref: ObjectRef, path: Path) -> Path:
        """Read an object of any size into a file, whose folder is made. Raises what `get` raises; there is no file
        then."""
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with path.open("wb") as file:
                for piece in self.read_pieces(self.key(ref.uri)):
                    digest.update(piece)
                    file.write(piece)
            if digest.hexdigest() != ref.sha256:
                raise _changed(ref)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path

    def read_pieces(self, key: str) -> Iterator[bytes]:
        """Whatever lies at a key, a piece at a time. Raises what `get_key` raises, on the way too."""
        try:
            response = self._client.get_object(bucket_name=self.bucket, object_name=key)
            try:
                yield from response.stream(_PIECE)
            finally:
                response.close()
                response.release_conn()
        except Exception as error:
            raise _translate(error, key) from error

    def get_key(self, key: str, *, at_most: int | None = None) -> bytes:
        """Read whatever lies at a key. at_most: bytes to read of it. Raises NotFoundError (OBJECT_NOT_FOUND)."""
        try:
            response = self._client.get_object(bucket_name=self.bucket, object_name=key)
            try:
                return response.read(at_most)
            finally:
                response.close()
                response.release_conn()
        except Exception as error:
            raise _translate(error, key) from error

    def exists(self, key: str) -> bool:
        """Whether an object lies at a key."""
        try:
            self._client.stat_object(bucket_name=self.bucket, object_name=key)
        except Exception as error:
            translated = _translate(error, key)
            if isinstance(translated, NotFoundError):
                return False
            raise translated from error
        return True

    def list_keys(self, prefix: str, *, recursive: bool = True) -> Iterator[str]:
        """Keys under a prefix in order; with recursive=False one level, folders with a trailing slash."""
        try:
            for item in self._client.list_objects(bucket_name=self.bucket, prefix=prefix, recursive=recursive):
                if item.object_name:
                    yield item.object_name
        except Exception as error:
            translated = _translate(error, prefix)
            if isinstance(translated, NotFoundError):  # some servers say so of an empty prefix
                return
            raise translated from error

    def delete_key(self, key: str) -> None:
        """Remove the object at a key; nothing happens where there is none."""
        try:
            self._client.remove_object(bucket_name=self.bucket, object_name=key)
        except Exception as error:
            translated = _translate(error, key)
            if not isinstance(translated, NotFoundError):
                raise translated from error

    def uri(self, key: str) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{key}"

    def key(self, uri: str) -> str:
        """Key of a URI in this bucket. Raises InvalidArgumentError (FOREIGN_URI)."""
        prefix = f"s3://{self.bucket}/"
        if not uri.startswith(prefix):
            raise InvalidArgumentError("FOREIGN_URI", f"{uri!r} is not in this platform's bucket; upload it first")
        return uri.removeprefix(prefix)

    def upload_url(self, key: str) -> str:
        """A URL that takes one PUT within the hour, without keys."""
        return self._signer.presigned_put_object(bucket_name=self.bucket, object_name=key, expires=URL_LIFETIME)

    def download_url(self, key: str) -> str:
        """A URL that answers GET within the hour, without keys."""
        return self._signer.presigned_get_object(bucket_name=self.bucket, object_name=key, expires=URL_LIFETIME)


def blob_key(digest: str, suffix: str) -> str:
    """Where an immutable object lies. digest: its sha256, 64 hex digits."""
    return f"blobs/{digest[:2]}/{digest}{suffix}"


def _content_type(key: str) -> str:
    return _CONTENT_TYPES.get(Path(key).suffix, "application/octet-stream")


def _changed(ref: ObjectRef) -> DataLossError:
    return DataLossError(
        "OBJECT_CHANGED",
        f"{ref.uri} is not what its reference says: its size or its sha256 differs; correct the reference, or put the "
        "object back from a backup",
    )


def _translate(error: Exception, what: str, *, writing: bool = False) -> FlawsmithError:
    """Map the SDK's and the transport's errors to ours.

    rclone answers errors as text/xml, which the SDK reports as InvalidResponseError with the status inside. Of a full
    disk it says no more than "internal error", so a write that fails inside the server is reported as what it most
    likely is.
    """
    if isinstance(error, FlawsmithError):
        return error
    text = str(error).lower()
    if any(sign in text for sign in _FULL_DISK):
        return ResourceExhaustedError(
            "STORAGE_FULL", "the object store has no space left; free some or add a disk, then start the call again"
        )
    status = _status(error)
    if status == 404 or (isinstance(error, S3Error) and error.code in ("NoSuchKey", "NoSuchBucket")):
        return NotFoundError("OBJECT_NOT_FOUND", f"the object store has no object {what!r}")
    if status in (401, 403) or (isinstance(error, S3Error) and error.code in ("AccessDenied", "SignatureDoesNotMatch")):
        return UnavailableError(
            "OBJECT_STORE_DENIED", "the object store refuses our keys; check FLAWSMITH_OBJECT_STORE__ACCESS_KEY"
        )
    if writing and status is not None and status >= 500:
        return UnavailableError(
            "OBJECT_STORE_WRITE_FAILED",
            "the object store answers but cannot write; most likely its disk is full: free some space or add a disk",
        )
    if isinstance(error, HTTPError | OSError | ServerError | S3Error | InvalidResponseError):
        return UnavailableError("OBJECT_STORE_UNAVAILABLE", "the object store does not answer; try again later")
    raise error


def _status(error: Exception) -> int | None:
    for name in ("_code", "status_code", "_status_code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    response = getattr(error, "response", None)
    return getattr(response, "status", None)
