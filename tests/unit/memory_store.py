"""An object store in memory, for tests of what is read from one and written to it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from flawsmith.common.errors import NotFoundError
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore, blob_key
from flawsmith.common.settings import ObjectStoreSettings


class MemoryStore(ObjectStore):
    """What `ObjectStore` does with whole objects, without a server."""

    def __init__(self) -> None:
        super().__init__(ObjectStoreSettings())
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> ObjectRef:
        self.objects[key] = data
        return ObjectRef(uri=self.uri(key), sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    def put_blob(self, data: bytes, suffix: str) -> ObjectRef:
        return self.put(blob_key(hashlib.sha256(data).hexdigest(), suffix), data)

    def get_key(self, key: str, *, at_most: int | None = None) -> bytes:
        if key not in self.objects:
            raise NotFoundError("OBJECT_NOT_FOUND", f"the object store has no object {key!r}")
        return self.objects[key][:at_most]

    def exists(self, key: str) -> bool:
        return key in self.objects

    def list_keys(self, prefix: str, *, recursive: bool = True) -> Iterator[str]:
        inside = [key.removeprefix(prefix) for key in sorted(self.objects) if key.startswith(prefix)]
        if not recursive:
            inside = list(dict.fromkeys(first + slash for first, slash, _ in (key.partition("/") for key in inside)))
        return iter([prefix + key for key in inside])
