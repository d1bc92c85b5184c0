"""Pages of a data set's images fit into a message."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from types import SimpleNamespace

from flawsmith.assembly.servicer import AssemblyServicer
from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.common.manifests import DatasetManifest, ImageRecord, Label, ObjectRef, Regime, Source, Split
from flawsmith.common.resources import Resources
from tests.unit.memory_store import MemoryStore

GRPC_CLIENTS_TAKE = 4 * 2**20


async def test_images_with_many_parents_are_listed_in_pages_that_fit() -> None:
    store = MemoryStore()
    parents = tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(2000))
    digests = [hashlib.sha256(b"image %d" % number).hexdigest() for number in range(60)]
    records = tuple(
        ImageRecord(
            image=ObjectRef(uri="s3://b/i", sha256=digest, size=1), height=64, width=64, label=Label.DEFECT,
            source=Source.IN_DISTRIBUTION, split=Split.TRAIN, parents=parents,
        )
        for digest in digests
    )  # fmt: skip
    manifest = DatasetManifest(
        name="products/p/datasets/d", product="products/p", regime=Regime.FULL_SHOT, images=records, counts={},
        inputs=(), seed=0, create_time=datetime(2026, 1, 2, tzinfo=UTC),
    )  # fmt: skip
    Resources(store).publish(manifest.name, manifest)
    servicer = AssemblyServicer(SimpleNamespace(store=store, resources=Resources(store)), None)  # type: ignore[arg-type]
    request = assembly_pb2.ListDatasetImagesRequest(parent=manifest.name, page_size=1000)
    listed: list[str] = []
    while True:
        answer = await servicer.ListDatasetImages(request, None)
        assert 0 < answer.ByteSize() < GRPC_CLIENTS_TAKE
        listed += [record.image.sha256 for record in answer.images]
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert listed == digests
