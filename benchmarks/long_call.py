"""Is the long call bound by the object store and the codec, or by us?

AugmentImages over stored images, against a bare loop over the same server: get the parent, decode it, encode the image
and the mask that the call had made of it, put every object that the call had put. The loop has no service, no job
database, no random numbers and no drawing. It keeps so many images in flight as serves it best, and its threads hand
the interpreter over as soon as the services' do.
"""

from __future__ import annotations

import hashlib
import os
import sys
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
from flawsmith.common.images import decode_grey_or_rgb, decode_mask, encode_png
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.process import SWITCH_INTERVAL_S
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.processes import accepts_connections
from flawsmith.local.servers import object_store_server

SIZE = (600, 200)
PRODUCT = "products/benchmark"
_THREADS = (1, 2, 4, 8, 16, 32)
_TRIAL = 250


@dataclass(frozen=True)
class Work:
    """What the long call did for one image: what it read, made, and wrote beside the two pictures.

    sidecar: with the first image of those that share one.
    """

    parent: ObjectRef
    image: np.ndarray
    mask: np.ndarray
    sidecar: bytes | None


@dataclass(frozen=True)
class Run:
    """One run of either. cpu_seconds: of all processes that had part in it, the object store among them."""

    images: int
    seconds: float
    cpu_seconds: float

    @property
    def images_per_s(self) -> float:
        """Images a second."""
        return self.images / self.seconds

    @property
    def cpu_ms(self) -> float:
        """Milliseconds of the processors' time for an image."""
        return 1000 * self.cpu_seconds / self.images


def measure(*, images: int, rounds: int, method: str, limit_s: float) -> dict[str, Any]:
    """Both in turn, for so many rounds; after limit_s seconds no more than the second is begun.

    Raises CheckFailedError when the long call's results are none.
    """
    start = time.perf_counter()
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with _platform() as platform, Client(platform.settings.peers, principal="benchmark") as client:
        store = platform.store
        source, parents = _store_parents(store, images)

        def long_call(seed: int, count: int = images) -> tuple[Run, augmentation_pb2.AugmentedBatch]:
            request = augmentation_pb2.AugmentImagesRequest(
                parent=PRODUCT, batch_id=f"seed-{seed}", import_manifest=source, method=method, count=count, seed=seed
            )
            with _timed(platform, ("object-store", "augmentation-api", "augmentation-worker"), count) as runs:
                batch = client.wait(
                    client.augmentation.AugmentImages(request), augmentation_pb2.AugmentedBatch, timeout_s=300
                )
            return runs[0], batch

        def bare(prefix: str, threads: int, work: Sequence[Work]) -> Run:
            with _timed(platform, ("object-store",), len(work)) as runs:
                _bare_loop(store, work, prefix, threads)
            return runs[0]

        long_call(0, 64)  # the worker starts and loads its code
        work = _work(store, parents, long_call(1)[1])
        trials = {threads: bare(f"trial-{threads}", threads, work[:_TRIAL]).images_per_s for threads in _THREADS}
        best = max(trials, key=lambda threads: trials[threads])
        found: dict[str, list[Run]] = {"long_call": [], "bare": []}
        for number in range(rounds):
            if number > 1 and time.perf_counter() - start > limit_s:
                break
            found["bare"].append(bare(f"round-{number}", best, work))
            found["long_call"].append(long_call(2 + number)[0])
    speeds = {name: [run.images_per_s for run in runs] for name, runs in found.items()}
    cpu_ms = {name: [run.cpu_ms for run in runs] for name, runs in found.items()}
    return {
        "size": "{}x{}".format(*SIZE),
        "images": images,
        "rounds": len(found["bare"]),
        "method": method,
        **{name: summary(values) for name, values in speeds.items()},
        "ratio": summary(ratios(speeds["long_call"], speeds["bare"]), 3),
        "cpu_ms_per_image": {name: summary(values, 2)["median"] for name, values in cpu_ms.items()},
        "ratio_by_cpu_time": summary(ratios(cpu_ms["bare"], cpu_ms["long_call"]), 3),
        "bare_threads": best,
        "bare_by_threads": {str(threads): round(speed, 1) for threads, speed in trials.items()},
    }


@contextmanager
def _timed(platform: LocalPlatform, names: Sequence[str], images: int) -> Iterator[list[Run]]:
    """Time a block: the list that is given holds its run afterwards. names: processes beside this one."""
    runs: list[Run] = []
    pids = [pid for name in names if (pid := platform.processes[name].pid) is not None]
    cpu, start = time.process_time() + sum(map(_cpu_seconds, pids)), time.perf_counter()
    yield runs
    seconds = time.perf_counter() - start
    runs.append(Run(images, seconds, time.process_time() + sum(map(_cpu_seconds, pids)) - cpu))


def _cpu_seconds(pid: int) -> float:
    """User's and system's time of a process and its threads so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


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


def _work(store: ObjectStore, parents: dict[str, ObjectRef], batch: augmentation_pb2.AugmentedBatch) -> list[Work]:
    """What the long call did, in memory. Raises CheckFailedError."""
    manifest, _ = Resources(store).get(batch.name, BatchManifest)

    first = {record.sidecar.uri: record for record in reversed(manifest.images) if record.sidecar is not None}

    def load(record: ImageRecord) -> Work:
        assert record.mask is not None
        parent = parents[record.parents[0]]
        image, mask = decode_grey_or_rgb(store.get(record.image)), decode_mask(store.get(record.mask))
        check(decode_grey_or_rgb(store.get(parent)), image, mask > 0)
        sidecar = record.sidecar
        if sidecar is None or first[sidecar.uri] is not record:
            return Work(parent, image, mask, None)
        return Work(parent, image, mask, store.get(sidecar))

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(load, manifest.images))


def _bare_loop(store: ObjectStore, work: Sequence[Work], prefix: str, threads: int) -> None:
    """What cannot be left out. prefix: of the keys that it writes, which must be new: as in the long call no object is
    there yet."""

    def put(data: bytes, suffix: str) -> None:
        digest = hashlib.sha256(data).hexdigest()
        store.put(f"{prefix}/{digest[:2]}/{digest}{suffix}", data)

    def one(item: Work) -> None:
        decode_grey_or_rgb(store.get(item.parent))
        put(encode_png(item.image), ".png")
        put(encode_png(item.mask), ".png")
        if item.sidecar is not None:
            put(item.sidecar, ".jsonl")

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(one, work):
            pass
