"""A Triton on this machine reads large inputs from shared memory, and answers the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest

from flawsmith.common.errors import UnavailableError
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.settings import ObjectStoreSettings, TritonSettings
from flawsmith.common.triton import TritonClient
from flawsmith.local.processes import Process, free_port
from flawsmith.local.servers import triton_server

CONFIG = """
backend: "python"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_UINT8 dims: [ -1 ] }]
output [{ name: "total" data_type: TYPE_INT64 dims: [ 1 ] }]
"""
TOTAL = """
import time
import numpy as np
import triton_python_backend_utils as pb

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            if x.flat[0] == 255:
                time.sleep(1.0)
            total = x.sum(axis=1, keepdims=True, dtype=np.int64)
            responses.append(pb.InferenceResponse([pb.Tensor("total", total)]))
        return responses
"""
REGION = "flawsmith-"


@pytest.fixture(scope="module")
def server(
    object_store_settings: ObjectStoreSettings, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Process, TritonSettings]]:
    """A real Triton with one model."""
    store = ObjectStore(object_store_settings)
    store.put("shared/total/1/model.py", TOTAL.encode())
    store.put("shared/total/config.pbtxt", CONFIG.encode())
    state, address = tmp_path_factory.mktemp("triton"), f"127.0.0.1:{free_port()}"
    process = triton_server(
        object_store_settings, grpc=address, metrics=f"127.0.0.1:{free_port()}", repository="shared", state=state,
        log=state / "triton.log", environment={},
    )  # fmt: skip
    yield process, TritonSettings(url=address, repository="shared")
    process.stop()


@pytest.fixture
async def triton(server: tuple[Process, TritonSettings]) -> AsyncIterator[TritonClient]:
    client = TritonClient(server[1])
    await client.load("total")
    yield client
    await client.close()


async def regions(client: TritonClient) -> int:
    status = await client._client.get_system_shared_memory_status()
    return sum(name.startswith(REGION) for name in status.regions)


def images(count: int, seed: int = 0) -> np.ndarray:
    found = np.random.default_rng(seed).integers(0, 255, (count, 200_000), dtype=np.uint8)
    found[:, 0] = 0
    return found


async def total(client: TritonClient, array: np.ndarray, timeout_s: float = 60.0) -> list[int]:
    found = await client.infer("total", {"x": array}, ["total"], timeout_s=timeout_s)
    return found["total"].ravel().tolist()


def expected(array: np.ndarray) -> list[int]:
    return array.sum(axis=1, dtype=np.int64).tolist()


async def test_answers_are_those_of_each_caller(triton: TritonClient) -> None:
    batches = [images(1 + seed % 3, seed) for seed in range(24)]
    found = await asyncio.gather(*(total(triton, batch) for batch in batches))
    assert found == [expected(batch) for batch in batches]
    made = await regions(triton)
    assert 1 <= made <= 24
    for batch in batches:  # one after the other: the regions are used again
        assert await total(triton, batch) == expected(batch)
    assert await regions(triton) == made
    assert not list(Path("/dev/shm").glob(f"{REGION}*"))  # nothing is left behind by whoever dies


async def test_small_inputs_go_inline(server: tuple[Process, TritonSettings], triton: TritonClient) -> None:
    before = await regions(triton)
    small = images(1)[:, :100]
    assert await total(triton, small) == expected(small)
    assert await regions(triton) == before


async def test_memory_of_a_call_that_was_given_up_is_not_written_to(triton: TritonClient) -> None:
    slow = images(1, 5)
    slow[0, 0] = 255
    with pytest.raises(UnavailableError):
        await total(triton, slow, timeout_s=0.2)
    # Triton reads it meanwhile: a next call must not overwrite what it reads, and gets memory of its own.
    before = await regions(triton)
    assert await total(triton, images(1, 6)) == expected(images(1, 6))
    assert await regions(triton) == before + 1


async def test_a_triton_that_started_anew_is_told_of_its_memory_again(
    server: tuple[Process, TritonSettings], triton: TritonClient
) -> None:
    assert await total(triton, images(2)) == expected(images(2))
    server[0].kill()
    server[0].start()
    for _ in range(600):
        try:
            await triton.load("total")
            break
        except UnavailableError:
            await asyncio.sleep(0.2)
    assert await total(triton, images(2)) == expected(images(2))
    assert await total(triton, images(2)) == expected(images(2))
    assert await regions(triton) >= 1
