"""The S3 calls that we use, against the real server that is configured; Triton's own S3 loader included."""

from __future__ import annotations

import hashlib
import resource
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import urllib3
from pydantic import BaseModel

from flawsmith.common.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.settings import ObjectStoreSettings, TritonSettings
from flawsmith.common.triton import TritonClient
from flawsmith.local.processes import free_port
from flawsmith.local.servers import object_store_server, triton_server


class Thing(BaseModel):
    name: str
    value: int


def test_blobs_lie_under_their_hash(store: ObjectStore) -> None:
    ref = store.put_blob(b"hello", ".txt")
    digest = hashlib.sha256(b"hello").hexdigest()
    assert ref == ObjectRef(uri=f"s3://flawsmith/blobs/{digest[:2]}/{digest}.txt", sha256=digest, size=5)
    assert store.get(ref) == b"hello"
    assert store.put_blob(b"hello", ".txt") == ref


def test_large_objects_go_in_parts(store: ObjectStore) -> None:
    data = np.random.default_rng(0).bytes(12 * 2**20)
    assert store.get(store.put_blob(data, ".bin")) == data


def test_files_of_any_size_come_and_go_in_pieces(store: ObjectStore, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.write_bytes(np.random.default_rng(1).bytes(70 * 2**20))
    ref = store.put_file(file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert ref == ObjectRef(
        uri=f"s3://flawsmith/blobs/{digest[:2]}/{digest}.safetensors", sha256=digest, size=70 * 2**20
    )
    copy = store.get_file(ref, tmp_path / "new/copy")
    assert copy.read_bytes() == file.read_bytes()
    assert sum(map(len, store.read_pieces(store.key(ref.uri)))) == ref.size
    wrong = ref.model_copy(update={"sha256": "0" * 64})
    with pytest.raises(DataLossError):
        store.get_file(wrong, tmp_path / "wrong")
    with pytest.raises(NotFoundError):
        store.get_file(ref.model_copy(update={"uri": "s3://flawsmith/none"}), tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_missing_objects_are_not_found(store: ObjectStore) -> None:
    assert not store.exists("nothing/here")
    with pytest.raises(NotFoundError):
        store.get_key("nothing/here")
    assert list(store.list_keys("nothing/")) == []
    store.delete_key("nothing/here")


def test_a_changed_object_is_noticed(store: ObjectStore) -> None:
    ref = store.put("things/changing", b"before")
    store.put("things/changing", b"after!")
    with pytest.raises(DataLossError):
        store.get(ref)


def test_no_more_is_read_than_a_reference_says(store: ObjectStore) -> None:
    """Whoever sends a reference also says how large it is, and what is accepted depends on that."""
    whole = np.random.default_rng(2).bytes(64 * 2**20)
    ref = store.put_blob(whole, ".bin")
    tracemalloc.start()
    for size in (1, 2**20, ref.size - 1, ref.size + 1):
        # Not even where the hash is that of the part.
        for digest in (ref.sha256, hashlib.sha256(whole[: size + 1]).hexdigest()):
            with pytest.raises(DataLossError) as caught:
                store.get(ref.model_copy(update={"size": size, "sha256": digest}))
            assert caught.value.reason == "OBJECT_CHANGED"
        if size <= 2**20:
            assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    tracemalloc.stop()
    assert store.get(ref) == whole


def test_other_buckets_are_refused(store: ObjectStore) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        store.get(ObjectRef(uri="s3://elsewhere/secret", sha256="0" * 64, size=1))
    assert caught.value.reason == "FOREIGN_URI"


def test_lists_are_in_order_and_by_level(store: ObjectStore) -> None:
    for key in ("list/b/2", "list/a/1", "list/c"):
        store.put(key, b"x")
    assert list(store.list_keys("list/")) == ["list/a/1", "list/b/2", "list/c"]
    assert sorted(store.list_keys("list/", recursive=False)) == ["list/a/", "list/b/", "list/c"]


def test_signed_urls_work_without_keys(store: ObjectStore) -> None:
    key = "uploads/x/with space & ümlaut.png"
    assert urllib3.request("PUT", store.upload_url(key), body=b"png").status == 200
    assert urllib3.request("GET", store.download_url(key)).data == b"png"
    assert urllib3.request("GET", store.download_url(key).partition("?")[0]).status in (400, 403)


def test_many_writers_may_begin_the_same_folder(store: ObjectStore) -> None:
    def write(number: int) -> None:
        store.put(f"crowded/{number // 8}/{number % 8}", b"x")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    assert len(list(store.list_keys("crowded/"))) == 400


def test_published_resources_are_immutable(store: ObjectStore) -> None:
    resources = Resources(store)
    ref = resources.publish("products/p/things/a", Thing(name="a", value=1))
    assert resources.publish("products/p/things/a", Thing(name="a", value=1)) == ref
    with pytest.raises(AlreadyExistsError):
        resources.publish("products/p/things/a", Thing(name="a", value=2))
    assert resources.get("products/p/things/a", Thing) == (Thing(name="a", value=1), ref)
    with pytest.raises(NotFoundError) as caught:
        resources.get("products/p/things/b", Thing)
    assert caught.value.reason == "RESOURCE_NOT_FOUND"


def test_resources_are_listed_in_pages(store: ObjectStore) -> None:
    resources = Resources(store)
    for number in range(5):
        resources.publish(f"products/q/things/t{number}", Thing(name=str(number), value=number))
    first, token = resources.list_page("products/q", "things", Thing, page_size=3, page_token="")
    rest, end = resources.list_page("products/q", "things", Thing, page_size=3, page_token=token)
    assert [item.value for item, _ in first + rest] == [0, 1, 2, 3, 4]
    assert end == ""


def test_events_are_kept_in_order(store: ObjectStore) -> None:
    resources = Resources(store)
    for number in range(4):
        resources.append_event("products/p/things/a", "decisions", Thing(name="d", value=number))
    assert [event.value for event in resources.events("products/p/things/a", "decisions", Thing)] == [0, 1, 2, 3]


def test_a_server_that_is_down_is_unavailable(tmp_path: Path) -> None:
    settings = ObjectStoreSettings(endpoint=f"127.0.0.1:{free_port()}")
    process = object_store_server(settings, tmp_path / "objects", tmp_path / "log")
    store = ObjectStore(settings)
    ref = store.put_blob(b"x", ".txt")
    process.stop()
    for call in (lambda: store.get(ref), lambda: store.put("a", b"b"), lambda: store.exists("a"), store.check):
        started = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            call()
        assert caught.value.reason == "OBJECT_STORE_UNAVAILABLE"
        assert caught.value.retry_after_s
        assert time.monotonic() - started < 10


def test_wrong_keys_are_named(object_store_settings: ObjectStoreSettings) -> None:
    settings = object_store_settings.model_copy(update={"access_key": "somebody"})
    with pytest.raises(UnavailableError) as caught:
        ObjectStore(settings).check()
    assert caught.value.reason == "OBJECT_STORE_DENIED"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    settings = ObjectStoreSettings(endpoint=f"127.0.0.1:{free_port()}")
    process = object_store_server(settings, tmp_path / "objects", tmp_path / "log")
    store = ObjectStore(settings)
    assert process.pid is not None
    # Files end at 64 KiB, as on a disk without space.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (65536, 65536))
    with pytest.raises(UnavailableError, match="disk is full") as caught:
        store.put("too/large", bytes(200_000))
    assert caught.value.reason == "OBJECT_STORE_WRITE_FAILED"
    assert not store.exists("too/large")
    process.stop()


ECHO = """
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            array = pb.get_input_tensor_by_name(request, "x").as_numpy()
            if array.sum() < 0:
                raise pb.TritonModelException("INVALID_ARGUMENT/BAD_SUM: send a sum of 0 or more")
            answers.append(pb.InferenceResponse([pb.Tensor("y", array)]))
        return answers
"""
CONFIG = """
backend: "python"
max_batch_size: 0
input [{ name: "x" data_type: TYPE_FP32 dims: [ -1 ] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [ -1 ] }]
"""


async def test_triton_loads_models_from_the_store(
    object_store_settings: ObjectStoreSettings, store: ObjectStore, tmp_path: Path
) -> None:
    store.put("conformance/echo/config.pbtxt", CONFIG.encode())
    store.put("conformance/echo/1/model.py", ECHO.encode())
    url = f"127.0.0.1:{free_port()}"
    server = triton_server(
        object_store_settings, grpc=url, metrics=f"127.0.0.1:{free_port()}", repository="conformance", state=tmp_path,
        log=tmp_path / "triton.log", environment={},
    )  # fmt: skip
    client = TritonClient(TritonSettings(url=url))
    values = np.arange(5, dtype=np.float32)
    for missing in ("unknown", "echo"):
        with pytest.raises(UnavailableError) as not_loaded:
            await client.infer(missing, {"x": values}, ["y"])
        assert not_loaded.value.reason == "MODEL_NOT_LOADED"
    store.put("conformance/broken/config.pbtxt", CONFIG.encode())
    store.put("conformance/broken/1/model.py", b"import nothing_of_that_name")
    for bad in ("unknown", "broken"):
        with pytest.raises(FailedPreconditionError) as unknown:
            await client.load(bad)
        assert unknown.value.reason == "MODEL_NOT_LOADABLE"
    assert await client.loaded_models() == frozenset()
    await client.load("echo")
    assert await client.loaded_models() == {"echo"}
    np.testing.assert_array_equal((await client.infer("echo", {"x": values}, ["y"]))["y"], values)
    with pytest.raises(InvalidArgumentError) as raised:
        await client.infer("echo", {"x": -values}, ["y"])
    assert (raised.value.reason, raised.value.message) == ("BAD_SUM", "send a sum of 0 or more")
    assert await client.is_loaded("echo")
    await client.unload("echo")
    assert not await client.is_loaded("echo")
    server.stop()
    with pytest.raises(UnavailableError) as down:
        await client.infer("echo", {"x": values}, ["y"])
    assert down.value.reason == "TRITON_UNAVAILABLE"
    await client.close()
