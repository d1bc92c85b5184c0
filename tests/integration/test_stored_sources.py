"""Textures in a real object store: listed, kept and let go."""

from __future__ import annotations

import uuid

import numpy as np
import pytest

from flawsmith.augmentation import stored_sources
from flawsmith.augmentation.stored_sources import SourceCache, list_textures
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.images import encode_png
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources


@pytest.fixture
def folder(store: ObjectStore) -> str:
    """A folder with two textures; its URI."""
    store.ensure_bucket()
    name = f"uploads/{uuid.uuid4().hex}"
    for number in range(2):
        store.put(f"{name}/{number}.png", encode_png(np.full((8, 8, 3), number + 1, np.uint8)))
    return store.uri(name)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the cache believes to have passed."""
    now = [1000.0]
    monkeypatch.setattr(stored_sources.time, "monotonic", lambda: now[0])
    return now


def drawn(pool: stored_sources.ImagePool) -> set[str]:
    rng = np.random.default_rng(0)
    return {pool(rng, 40, 40)[1]["image"] for _ in range(50)}


def test_a_folder_is_listed_again_after_a_minute(store: ObjectStore, folder: str, clock: list[float]) -> None:
    cache = SourceCache(store, Resources(store), max_bytes=2**20)
    first = cache.textures(folder)
    assert drawn(first) == {"0.png", "1.png"}
    store.put(store.key(folder) + "/deep/2.png", encode_png(np.full((8, 8, 3), 3, np.uint8)))
    clock[0] += 59
    assert cache.textures(folder) is first
    clock[0] += 2
    second = cache.textures(folder)
    assert drawn(second) == {"0.png", "1.png", "deep/2.png"}
    # As long as nothing changes, what was decoded is kept.
    clock[0] += 61
    assert cache.textures(folder) is second


def test_the_pools_used_last_are_kept(store: ObjectStore, folder: str, clock: list[float]) -> None:
    cache = SourceCache(store, Resources(store), max_bytes=2**20)
    others = [f"{folder}-{number}" for number in range(4)]
    for uri in others:
        store.put(store.key(uri) + "/a.png", encode_png(np.zeros((8, 8, 3), np.uint8)))
    pool = cache.textures(folder)
    for uri in others[:3]:
        cache.textures(uri)
    assert cache.textures(folder) is pool
    cache.textures(others[3])
    # The folder was asked for after the first of the others, which had to go instead.
    assert cache.textures(folder) is pool


def test_a_folder_that_begins_alike_is_another(store: ObjectStore, folder: str) -> None:
    store.put(store.key(folder) + "-more/a.png", b"other")
    keys = list_textures(store, folder)
    assert keys == [f"{store.key(folder)}/{number}.png" for number in range(2)]
    assert list_textures(store, folder + "/") == keys


def test_too_many_textures_are_refused(store: ObjectStore, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_sources, "MAX_TEXTURES", 1)
    with pytest.raises(InvalidArgumentError) as caught:
        list_textures(store, folder)
    assert caught.value.reason == "TOO_MANY_TEXTURES"
