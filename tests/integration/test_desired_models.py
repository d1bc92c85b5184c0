"""Wishes for Triton's models, in a real S3 server."""

from __future__ import annotations

import time

import pytest

from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.object_store import ObjectStore


def test_models_that_are_asked_for_again_stay_wanted(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.ensure_bucket()
    desired, start = DesiredModels(store, "kept-on"), time.time()

    def at(seconds: float) -> None:
        monkeypatch.setattr(time, "time", lambda: start + seconds)

    def wishes() -> list[str]:
        return list(store.list_keys("kept-on-desired/model/"))

    at(0)
    desired.keep_on("model", 100)
    desired.keep_on("model__other", 100)
    assert desired.wanted() == {"model", "model__other"}
    first = wishes()
    at(40)
    desired.keep_on("model", 100)
    assert wishes() == first  # for long enough yet
    at(60)
    desired.keep_on("model", 100)
    assert len(wishes()) == 1
    assert wishes() != first
    at(155)
    assert desired.wanted() == {"model"}
    at(165)
    assert desired.wanted() == set()
    desired.keep("model")
    desired.keep_on("model", 100)
    desired.give_up("model")
    assert desired.wanted() == {"model"}
