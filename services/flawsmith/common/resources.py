"""Named resources: `products/{product}/{collection}/{id}`, each a manifest in the object store.

A resource is immutable once published. What people decide later (approvals, reviews, aliases) is appended as
events beside it; the newest event counts, and nothing is ever overwritten, so no two writers can lose a decision.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from flawsmith.common.errors import AlreadyExistsError, InvalidArgumentError, NotFoundError
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore

Item = TypeVar("Item")
Model = TypeVar("Model", bound=BaseModel)
_SEGMENT = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
MAX_PAGE = 1000
PAGE_BYTES = 3 * 2**20
"""Of a page's entries. A message may have `RpcSettings.max_message_bytes`, and at gRPC's clients 4 MiB unless they say
otherwise."""


def check_name(name: str, pattern: str, field: str) -> dict[str, str]:
    """Match a name with a pattern such as `products/{product}/adapters/{adapter}`.

    Returns the parts by name. Raises InvalidArgumentError (INVALID_NAME) that shows the pattern.
    """
    regex = re.sub(r"\{(\w+)\}", rf"(?P<\1>{_SEGMENT})", pattern)
    match = re.fullmatch(regex, name)
    if match is None:
        raise InvalidArgumentError(
            "INVALID_NAME",
            f"{field}: {name!r} does not look like {pattern!r} (ids: 1 to 63 of a-z, 0-9 and -, "
            "not - at either end)",
        )  # fmt: skip
    return match.groupdict()


class Resources:
    """Manifests by name, and events beside them. Methods block; async code uses `asyncio.to_thread`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def publish(self, name: str, manifest: BaseModel) -> ObjectRef:
        """Write a manifest under its name: the moment from which the resource exists.

        Publishing the same bytes again changes nothing, so a repeated step is harmless.
        Raises AlreadyExistsError (RESOURCE_EXISTS) when another manifest has the name.
        """
        data = manifest.model_dump_json(indent=1).encode()
        key = _manifest_key(name)
        if self.store.exists(key):
            if self.store.get_key(key) != data:
                raise AlreadyExistsError("RESOURCE_EXISTS", f"{name} exists and is immutable; choose another id")
            return ObjectRef(uri=self.store.uri(key), sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        return self.store.put(key, data)

    def exists(self, name: str) -> bool:
        """Whether a resource was published."""
        return self.store.exists(_manifest_key(name))

    def get(self, name: str, model: type[Model]) -> tuple[Model, ObjectRef]:
        """Read a manifest and its reference. Raises NotFoundError (RESOURCE_NOT_FOUND)."""
        try:
            data = self.store.get_key(_manifest_key(name))
        except NotFoundError as error:
            raise NotFoundError("RESOURCE_NOT_FOUND", f"{name} does not exist; list its collection") from error
        ref = ObjectRef(
            uri=self.store.uri(_manifest_key(name)), sha256=hashlib.sha256(data).hexdigest(), size=len(data)
        )
        return model.model_validate_json(data), ref

    def load(self, ref: ObjectRef, model: type[Model]) -> Model:
        """Read a manifest by its reference.

        Raises what `ObjectStore.get` raises, and InvalidArgumentError (NOT_A_MANIFEST) for any other object.
        """
        data = self.store.get(ref)
        try:
            return model.model_validate_json(data)
        except ValidationError as error:
            kind = model.__name__.removesuffix("Manifest").lower()
            raise InvalidArgumentError(
                "NOT_A_MANIFEST", f"{ref.uri} is not the manifest of a {kind}; give the `manifest` of one"
            ) from error

    def list_ids(self, parent: str, collection: str) -> list[str]:
        """Ids in a collection, published or not yet."""
        prefix = f"{parent}/{collection}/" if parent else f"{collection}/"
        keys = self.store.list_keys(prefix, recursive=False)
        return sorted(key.removeprefix(prefix).rstrip("/") for key in keys if key.endswith("/"))

    def list_page(
        self,
        parent: str,
        collection: str,
        model: type[Model],
        *,
        page_size: int,
        page_token: str,
        brief: Callable[[Model], Model] = lambda manifest: manifest,
    ) -> tuple[list[tuple[Model, ObjectRef]], str]:
        """One page of published resources in order of their names, and the next page's token; see `page`.

        brief: what the page shows of a manifest; all by default.
        """

        @functools.cache
        def read(item: str) -> tuple[Model, ObjectRef] | None:
            name = f"{parent}/{collection}/{item}"
            if not self.exists(name):
                return None
            manifest, ref = self.get(name, model)
            return brief(manifest), ref

        def size_of(item: str) -> int:
            found = read(item)
            return described_bytes(found[0]) if found else 0

        ids, token = page(
            self.list_ids(parent, collection), page_size=page_size, page_token=page_token, size_of=size_of
        )
        return [found for item in ids if (found := read(item))], token

    def append_event(self, name: str, kind: str, event: BaseModel) -> None:
        """Append a decision beside a resource."""
        # Time orders events; the random part keeps two of one nanosecond apart.
        key = f"{name}/{kind}/{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        self.store.put(key, event.model_dump_json().encode())

    def events(self, name: str, kind: str, model: type[Model], known: dict[str, Model] | None = None) -> list[Model]:
        """All decisions beside a resource, oldest first.

        known: of former calls, by key, for callers that ask again and again; new ones are added to it.
        """
        known = {} if known is None else known
        keys = sorted(self.store.list_keys(f"{name}/{kind}/"))
        for key in keys:
            if key not in known:
                known[key] = model.model_validate_json(self.store.get_key(key))
        return [known[key] for key in keys]


def page(
    items: list[Item], *, page_size: int, page_token: str, size_of: Callable[[Item], int] = lambda item: 0
) -> tuple[list[Item], str]:
    """A page of a sorted list, and the next page's token ("" at the end): where it starts, in hex digits.

    A page holds page_size items; fewer where they have PAGE_BYTES sooner, but one at least. size_of: an item's bytes.
    Raises InvalidArgumentError (INVALID_PAGE) for a negative size or a token that no response gave.
    """
    if page_size < 0:
        raise InvalidArgumentError("INVALID_PAGE", "page_size must be 0 (for 50) or more")
    start = 0
    if page_token:
        try:
            start = int(page_token, 16)
        except ValueError as error:
            raise InvalidArgumentError("INVALID_PAGE", "page_token did not come from a former response") from error
    size = min(page_size or 50, MAX_PAGE)
    found: list[Item] = []
    room = PAGE_BYTES
    for item in items[start : start + size]:
        room -= size_of(item)
        if found and room < 0:
            break
        found.append(item)
    following = start + len(found)
    return found, f"{following:x}" if following < len(items) else ""


def described_bytes(manifest: BaseModel) -> int:
    """Bytes of what `describe` says of a manifest: as JSON, which is hardly ever shorter than protobuf."""
    return len(manifest.model_dump_json(exclude={"images"}).encode())


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys: the same value is the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()


def _manifest_key(name: str) -> str:
    return f"{name}/manifest.json"


def describe(manifest: BaseModel, ref: ObjectRef, **extra: Any) -> dict[str, Any]:
    """A manifest as the JSON values of its API message: without its images, with its reference and their number."""
    values = manifest.model_dump(mode="json", exclude={"images"})
    if (images := getattr(manifest, "images", None)) is not None:
        values["image_count"] = len(images)
    return {**values, "manifest": ref.model_dump(mode="json"), **extra}
