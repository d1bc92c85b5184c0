"""What methods draw from when it lies in the object store: a caller's textures, a generated batch's images."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from flawsmith.augmentation.sources import ImagePool
from flawsmith.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from flawsmith.common.images import decode_image, image_size
from flawsmith.common.manifests import BatchManifest, ObjectRef, Source
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources

MAX_TEXTURES = 20_000
"""The largest public collection that such methods use, DTD, has 5,640."""

_KEPT_POOLS = 4
_LISTING_LIFETIME_S = 60.0
_READERS = 8
_SHOWN = 20


def list_textures(store: ObjectStore, prefix: str) -> list[str]:
    """Keys of the textures at `s3://bucket/folder`, in order; files whose names begin with a dot do not count.

    Raises InvalidArgumentError (FOREIGN_URI, INVALID_TEXTURE_PREFIX, TOO_MANY_TEXTURES), NotFoundError (NO_TEXTURES).
    """
    folder = store.key(prefix).strip("/") + "/"
    if folder == "/":
        raise InvalidArgumentError(
            "INVALID_TEXTURE_PREFIX", "texture_prefix: name a folder of the bucket, not the whole bucket",
            fields=[FieldViolation("texture_prefix", "s3://bucket/folder")],
        )  # fmt: skip
    keys = []
    for key in store.list_keys(folder):
        if key.endswith("/") or key.rpartition("/")[2].startswith("."):
            continue
        keys.append(key)
        if len(keys) > MAX_TEXTURES:
            raise InvalidArgumentError(
                "TOO_MANY_TEXTURES", f"there are more than {MAX_TEXTURES:,} files at {prefix}; choose among them",
                fields=[FieldViolation("texture_prefix", prefix)],
            )  # fmt: skip
    if not keys:
        raise NotFoundError(
            "NO_TEXTURES",
            f"there is no file at {prefix}; upload a folder of images first, or leave texture_prefix empty for "
            "procedural textures",
            fields=[FieldViolation("texture_prefix", prefix)],
        )
    return sorted(keys)


def texture_images(store: ObjectStore, prefix: str) -> list[ObjectRef]:
    """References to the textures at a prefix, each read once.

    Raises the errors of `list_textures`, and InvalidArgumentError (TEXTURE_UNREADABLE) that lists the bad files.
    """
    keys = list_textures(store, prefix)
    bad: list[FieldViolation] = []

    def read(key: str) -> ObjectRef:
        data = store.get_key(key)
        try:
            image_size(data)
        except InvalidArgumentError as error:
            bad.append(FieldViolation(store.uri(key), error.message))
        return ObjectRef(uri=store.uri(key), sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    with ThreadPoolExecutor(_READERS) as pool:
        refs = list(pool.map(read, keys))
    if bad:
        bad.sort(key=lambda violation: violation.field)
        listing = ", ".join(violation.field for violation in bad[:_SHOWN])
        raise InvalidArgumentError(
            "TEXTURE_UNREADABLE",
            f"{len(bad)} of {len(keys)} files at {prefix} are no readable images; remove them, or upload them again: "
            + listing,
            fields=bad[:_SHOWN],
        )
    return refs


def generated_images(resources: Resources, batch: ObjectRef, product: str = "") -> list[ObjectRef]:
    """The images of a generated batch. product: which it must belong to; any when "".

    Raises InvalidArgumentError: NOT_A_MANIFEST, BATCH_OF_OTHER_PRODUCT, BATCH_NOT_GENERATED, BATCH_EMPTY; and what
    `ObjectStore.get` raises.
    """
    manifest = resources.load(batch, BatchManifest)

    def wrong(reason: str, text: str) -> InvalidArgumentError:
        return InvalidArgumentError(reason, text, fields=[FieldViolation("generated_batch", manifest.name)])

    if product and manifest.product != product:
        raise wrong(
            "BATCH_OF_OTHER_PRODUCT", f"{manifest.name} belongs to {manifest.product}; name a batch of {product}"
        )
    if manifest.source != Source.IN_DISTRIBUTION:
        raise wrong(
            "BATCH_NOT_GENERATED", f"{manifest.name} holds no drawn defects; name a batch that GenerateImages drew"
        )
    if not manifest.images:
        raise wrong("BATCH_EMPTY", f"{manifest.name} has no images to draw anomalies from; generate some")
    return [record.image for record in manifest.images]


def open_images(store: ObjectStore, refs: Sequence[ObjectRef], *, max_bytes: int) -> ImagePool:
    """A pool of stored images, which are read when they are drawn and named by their sha256.

    Drawing from it raises what `ObjectStore.get` raises, and InvalidArgumentError (TEXTURE_UNREADABLE).
    """
    names = [ref.sha256 for ref in refs]
    return ImagePool(names, lambda index: _decode(store.get(refs[index]), refs[index].uri), max_bytes=max_bytes)


class SourceCache:
    """Pools for short calls, those used last. Methods block, and threads may share a cache.

    max_bytes: of scaled images, of all pools together. A folder is listed again after a minute. That a file was
    overwritten goes unnoticed: changed textures belong into a folder of their own, as uploads make one.
    """

    def __init__(self, store: ObjectStore, resources: Resources, *, max_bytes: int) -> None:
        self._store = store
        self._resources = resources
        self._max_bytes = max_bytes // _KEPT_POOLS
        self._pools: OrderedDict[str, _Listed] = OrderedDict()
        self._lock = threading.Lock()

    def textures(self, prefix: str) -> ImagePool:
        """The textures at a prefix, named by their paths below it. Raises the errors of `list_textures`.

        Drawing from it raises InvalidArgumentError (TEXTURE_UNREADABLE).
        """
        known = self._find(prefix)
        if known is not None and time.monotonic() - known.at < _LISTING_LIFETIME_S:
            return known.pool
        keys = list_textures(self._store, prefix)
        if known is None or known.keys != keys:
            folder = self._store.key(prefix).strip("/") + "/"
            pool = ImagePool(
                [key.removeprefix(folder) for key in keys],
                lambda index: _decode(self._store.get_key(keys[index]), self._store.uri(keys[index])),
                max_bytes=self._max_bytes,
            )
        else:
            pool = known.pool
        return self._keep(prefix, _Listed(time.monotonic(), keys, pool))

    def anomalies(self, batch: ObjectRef) -> ImagePool:
        """The images of a generated batch. Raises the errors of `generated_images`."""
        known = self._find(batch.sha256)
        if known is not None:
            return known.pool
        refs = generated_images(self._resources, batch)
        return self._keep(batch.sha256, _Listed(0.0, [], open_images(self._store, refs, max_bytes=self._max_bytes)))

    def _find(self, name: str) -> _Listed | None:
        with self._lock:
            if name in self._pools:
                self._pools.move_to_end(name)
            return self._pools.get(name)

    def _keep(self, name: str, listed: _Listed) -> ImagePool:
        with self._lock:
            self._pools[name] = listed
            self._pools.move_to_end(name)
            while len(self._pools) > _KEPT_POOLS:
                self._pools.popitem(last=False)
        return listed.pool


@dataclass(frozen=True)
class _Listed:
    """A pool, and when its keys were listed."""

    at: float
    keys: list[str]
    pool: ImagePool


def _decode(data: bytes, uri: str) -> np.ndarray:
    try:
        return decode_image(data)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(
            "TEXTURE_UNREADABLE",
            f"{uri}, which a method draws from, cannot be used: {error.message}",
            fields=[FieldViolation("texture_prefix", uri)],
        ) from error
