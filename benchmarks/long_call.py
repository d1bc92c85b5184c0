"""Is the long call bound by the object store and the codec, or by us?

AugmentImages over stored images, against a bare loop over the same server: get the parent, decode it, encode the image
and the mask that the call had made of it, put every object that the call had put. The loop has no service, no job
database, no random numbers and no drawing. It keeps so many images in flight as serves it best.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import ratios, summary
from benchmarks.plates import plates
from benchmarks.sides import ROOT, check
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.client import Client
from flawsmith.common import jobs
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import accepts_connections
from flawsmith.local.servers import object_store_server

SIZE = (600, 200)
PRODUCT = "products/benchmark"
_THREADS = (1, 2, 4, 8, 16)
_TRIAL = 250


@dataclass(frozen=True)
class Work:
    """What the long call did for one image: what it read, made, and wrote beside the two pictures."""

    parent: ObjectRef
    image: np.ndarray
    mask: np.ndarray
    sidecar: bytes | None


def measure(*, images: int, rounds: int, method: str) -> dict[str, Any]:
    """Images a second of both, in turn. Raises CheckFailedError when the long call's results are none."""
    with _platform() as platform, Client(platform.settings.peers, principal="benchmark") as client:
        store = platform.store
        source, parents = _store_parents(store, images)
        _long_call(client, source, count=32, seed=0, method=method)  # the worker starts and loads its code
        _, batch = _long_call(client, source, count=images, seed=1, method=method)
        work = _work(store, parents, batch)
        trials = {count: _bare(store, work[:_TRIAL], f"trial-{count}", count) for count in _THREADS}
        threads = max(trials, key=lambda count: trials[count])
        long, bare = [], []
        for number in range(rounds):
            bare.append(_bare(store, work, f"round-{number}", threads))
            seconds, _ = _long_call(client, source, count=images, seed=2 + number, method=method)
            long.append(images / seconds)
    return {
        "size": "{}x{}".format(*SIZE),
        "images": images,
        "rounds": rounds,
        "method": method,
        "long_call": summary(long),
        "bare": summary(bare),
        "bare_threads": threads,
        "bare_by_threads": {str(count): round(rate, 1) for count, rate in trials.items()},
        "ratio": summary(ratios(long, bare), 3),
    }


@contextmanager
def _platform() -> Iterator[LocalPlatform]:
    """The object store and the augmentation service; nothing else runs that could take a core."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="long-call-") as folder:
        platform = LocalPlatform(Path(folder), free_ports=True)
        settings = platform.settings
        try:
            platform.processes["object-store"] = object_store_server(
                settings.object_store, platform.state_dir / "objects", platform.state_dir / "logs/object-store.log"
            )
            jobs.migrate("augmentation", settings)
            api = platform.start_process("augmentation", "api")
            platform.start_process("augmentation", "worker")
            api.wait_until(lambda: accepts_connections(platform.address("augmentation")), 60.0)
            yield platform
        finally:
            platform.stop()


def _store_parents(store: ObjectStore, count: int) -> tuple[common_pb2.ObjectRef, dict[str, ObjectRef]]:
    """Good plates as an import of the product. Returns its manifest's reference, and the plates' by sha256."""

    def put(plate: np.ndarray) -> ImageRecord:
        return ImageRecord(
            image=store.put_blob(encode_png(plate), ".png"), height=SIZE[0], width=SIZE[1],
            label=Label.NORMAL, source=Source.REAL, split=Split.TRAIN,
        )  # fmt: skip

    with ThreadPoolExecutor(8) as pool:
        records = tuple(pool.map(put, plates(count, *SIZE)))
    manifest = ImportManifest(
        name=f"{PRODUCT}/imports/plates", product=PRODUCT, layout="kolektorsdd2", split_rule="all train", seed=0,
        images=records, create_time=datetime.now(UTC),
    )  # fmt: skip
    ref = Resources(store).publish(manifest.name, manifest)
    return common_pb2.ObjectRef(**ref.model_dump()), {record.image.sha256: record.image for record in records}


def _long_call(
    client: Client, source: common_pb2.ObjectRef, *, count: int, seed: int, method: str
) -> tuple[float, augmentation_pb2.AugmentedBatch]:
    """Seconds from the request to the published batch, as a caller sees them, and the batch."""
    request = augmentation_pb2.AugmentImagesRequest(
        parent=PRODUCT, batch_id=f"seed-{seed}", import_manifest=source, method=method, count=count, seed=seed
    )
    start = time.perf_counter()
    batch = client.wait(client.augmentation.AugmentImages(request), augmentation_pb2.AugmentedBatch, timeout_s=300)
    return time.perf_counter() - start, batch


def _work(store: ObjectStore, parents: dict[str, ObjectRef], batch: augmentation_pb2.AugmentedBatch) -> list[Work]:
    """What the long call did, in memory. Raises CheckFailedError."""
    manifest, _ = Resources(store).get(batch.name, BatchManifest)

    def load(record: ImageRecord) -> Work:
        assert record.mask is not None
        parent = parents[record.parents[0]]
        image, mask = decode_image(store.get(record.image)), decode_mask(store.get(record.mask))
        check(decode_image(store.get(parent)), image, mask > 0)
        return Work(parent, image, mask, store.get(record.sidecar) if record.sidecar is not None else None)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(load, manifest.images))


def _bare(store: ObjectStore, work: Sequence[Work], prefix: str, threads: int) -> float:
    """Images a second of the bare loop. prefix: of the keys that it writes, which must be new: as in the long call no
    object is there yet."""

    def put(data: bytes, suffix: str) -> None:
        digest = hashlib.sha256(data).hexdigest()
        store.put(f"{prefix}/{digest[:2]}/{digest}{suffix}", data)

    def one(item: Work) -> None:
        decode_image(store.get(item.parent))
        put(encode_png(item.image), ".png")
        put(encode_png(item.mask), ".png")
        if item.sidecar is not None:
            put(item.sidecar, ".json")

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, work):
            pass
    return len(work) / (time.perf_counter() - start)
