"""The augmentation service on the real platform: one image, a stream, and batches."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf import struct_pb2

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.common.manifests import BatchManifest, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing import draw_sample
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.local.platform import LocalPlatform

PRODUCT = "products/augmented"
State = common_pb2.OperationMetadata.State


@pytest.fixture(scope="module")
def imported(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> assembly_pb2.Import:
    folder = tmp_path_factory.mktemp("sample")
    write_sample_dataset(
        folder, seed=5, train_normal=10, train_defect=6, test_normal=4, test_defect=3, height=96, width=80
    )
    with Client(platform.settings.peers, principal="tester") as client:
        operation = client.assembly.ImportImages(
            assembly_pb2.ImportImagesRequest(parent=PRODUCT, prefix=client.upload_folder(folder), seed=1)
        )
        return client.wait(operation, assembly_pb2.Import, timeout_s=120)


@pytest.fixture(scope="module")
def plate() -> np.ndarray:
    return draw_sample(np.random.default_rng(1), 96, 80, defective=False)[0]


def request(image: np.ndarray | bytes, **values) -> augmentation_pb2.AugmentImageRequest:
    parameters = struct_pb2.Struct()
    parameters.update(values.pop("parameters", {}))
    content = image if isinstance(image, bytes) else encode_png(image)
    return augmentation_pb2.AugmentImageRequest(
        image=common_pb2.ImageSource(content=content), parameters=parameters, **values
    )


def load(platform: LocalPlatform, ref: common_pb2.ObjectRef) -> BatchManifest:
    stored = ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size)
    return BatchManifest.model_validate_json(platform.store.get(stored))


def test_methods_describe_their_parameters(client: Client) -> None:
    methods = client.augmentation.ListMethods(augmentation_pb2.ListMethodsRequest()).methods
    names = [method.name for method in methods]
    assert names == sorted(names)
    assert {"memseg", "cutpaste"} <= set(names)
    memseg = next(method for method in methods if method.name == "memseg")
    assert "MemSeg" in memseg.description
    assert memseg.parameters_schema["properties"]["opacity_min"]["default"] == 0.15


@pytest.mark.parametrize("method", ["", "memseg", "cutpaste"])
def test_one_image(client: Client, plate: np.ndarray, method: str) -> None:
    answer = client.augmentation.AugmentImage(request(plate, method=method, seed=3))
    image, mask = decode_image(answer.image), decode_mask(answer.mask)
    assert mask.any()
    assert image.shape == plate.shape
    np.testing.assert_array_equal(image[mask == 0], plate[mask == 0])
    assert (image[mask > 0] != plate[mask > 0]).any()
    assert answer.drawn["method"] == (method or "memseg")
    assert client.augmentation.AugmentImage(request(plate, method=method, seed=3)) == answer
    assert client.augmentation.AugmentImage(request(plate, method=method, seed=4)).image != answer.image


def test_one_stored_image(platform: LocalPlatform, client: Client, plate: np.ndarray) -> None:
    stored = platform.store.put_blob(encode_png(plate), ".png")
    by_ref = augmentation_pb2.AugmentImageRequest(
        image=common_pb2.ImageSource(ref=common_pb2.ObjectRef(**stored.model_dump())), seed=3
    )
    assert client.augmentation.AugmentImage(by_ref) == client.augmentation.AugmentImage(request(plate, seed=3))


def test_a_stream_answers_in_order(client: Client, plate: np.ndarray) -> None:
    def requests() -> Iterator[augmentation_pb2.AugmentImageRequest]:
        for seed in range(8):
            yield request(plate, seed=seed)

    answers = list(client.augmentation.AugmentStream(requests()))
    assert len(answers) == 8
    assert answers[5] == client.augmentation.AugmentImage(request(plate, seed=5))


@pytest.mark.parametrize(
    ("changes", "code", "reason", "fields"),
    [
        ({"method": "memsec"}, "INVALID_ARGUMENT", "UNKNOWN_METHOD", {"method"}),
        (
            {"parameters": {"opacity_max": 2, "colour": "red"}}, "INVALID_ARGUMENT", "INVALID_PARAMETERS",
            {"parameters.opacity_max", "parameters.colour"},
        ),
        ({"seed": -1}, "INVALID_ARGUMENT", "INVALID_FIELDS", {"seed"}),
        ({"image": b"not an image"}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", set()),
        ({"image": b""}, "INVALID_ARGUMENT", "IMAGE_UNREADABLE", set()),
        ({"image": bytes(4 * 2**20 + 1)}, "INVALID_ARGUMENT", "INVALID_IMAGE", {"image"}),
        ({"image": np.zeros((16, 40, 3), np.uint8)}, "INVALID_ARGUMENT", "IMAGE_SIZE_UNSUPPORTED", {"image"}),
        (
            {"parameters": {"min_area": 7680, "max_draws": 3}}, "FAILED_PRECONDITION", "NO_DEFECT_DRAWN",
            {"parameters.max_draws"},
        ),
    ],
)  # fmt: skip
def test_bad_requests(
    client: Client, plate: np.ndarray, changes: dict, code: str, reason: str, fields: set[str]
) -> None:
    image = changes.pop("image", plate)
    with pytest.raises(FlawsmithError) as caught:
        client.augmentation.AugmentImage(request(image, **changes))
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert {violation.field for violation in caught.value.fields} == fields


def test_an_image_must_be_named(client: Client) -> None:
    with pytest.raises(FlawsmithError) as caught:
        client.augmentation.AugmentImage(augmentation_pb2.AugmentImageRequest())
    assert caught.value.reason == "INVALID_IMAGE"


def test_a_batch_is_made_from_train_normals(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import
) -> None:
    call = augmentation_pb2.AugmentImagesRequest(
        parent=PRODUCT, import_manifest=imported.manifest, count=20, seed=7, request_id="batch-of-20"
    )
    operation = client.augmentation.AugmentImages(call)
    assert client.augmentation.AugmentImages(call).name == operation.name
    batch = client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=120)
    assert (batch.image_count, batch.method, batch.seed) == (20, "memseg", 7)
    assert client.augmentation.GetAugmentedBatch(augmentation_pb2.GetAugmentedBatchRequest(name=batch.name)) == batch
    listed = client.augmentation.ListAugmentedBatches(augmentation_pb2.ListAugmentedBatchesRequest(parent=PRODUCT))
    assert batch in listed.augmented_batches

    ref = imported.manifest
    source = ImportManifest.model_validate_json(
        platform.store.get(ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size))
    )
    normals = {
        record.image.sha256: record
        for record in source.images
        if record.split == Split.TRAIN and record.label == Label.NORMAL
    }
    manifest = load(platform, batch.manifest)
    assert len({record.image.sha256 for record in manifest.images}) == 20
    for record in manifest.images:
        assert (record.source, record.label, record.split) == (
            Source.OUT_OF_DISTRIBUTION, Label.DEFECT, Split.TRAIN,
        )  # fmt: skip
        assert set(record.parents) <= set(normals)
        assert record.mask is not None
        assert record.sidecar is not None
        image, mask = decode_image(platform.store.get(record.image)), decode_mask(platform.store.get(record.mask))
        parent = decode_image(platform.store.get(normals[record.parents[0]].image))
        np.testing.assert_array_equal(image[mask == 0], parent[mask == 0])
        lines = [json.loads(line) for line in platform.store.get(record.sidecar).splitlines()]
        sidecar = next(line for line in lines if line["image"] == record.image.sha256)
        assert sidecar["parent"] == record.parents[0]
        assert sidecar["drawn"]["area"] == int((mask > 0).sum())
        assert {"numpy", "opencv", "flawsmith"} <= set(sidecar["versions"])


def test_a_killed_worker_changes_nothing_that_shows(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import
) -> None:
    def start(batch_id: str) -> operations_pb2.Operation:
        return client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(
                parent=PRODUCT, batch_id=batch_id, import_manifest=imported.manifest, count=1500, seed=9
            )
        )

    operation = start("killed")
    get = client.operations(operation.name).GetOperation
    deadline = time.monotonic() + 60
    while metadata_of(operation).step == 0:
        assert time.monotonic() < deadline
        operation = get(operations_pb2.GetOperationRequest(name=operation.name))
    platform.processes["augmentation-worker"].kill()
    assert not get(operations_pb2.GetOperationRequest(name=operation.name)).done
    platform.start_process("augmentation", "worker")
    killed = client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=120)
    calm = client.wait(start("calm"), augmentation_pb2.AugmentedBatch, timeout_s=120)
    assert load(platform, killed.manifest).images == load(platform, calm.manifest).images


def test_bad_batches(client: Client, imported: assembly_pb2.Import) -> None:
    def start(**values) -> operations_pb2.Operation:
        values = {"parent": PRODUCT, "import_manifest": imported.manifest, "count": 3} | values
        return client.augmentation.AugmentImages(augmentation_pb2.AugmentImagesRequest(**values))

    for values, reason in (
        ({"count": 0}, "INVALID_FIELDS"),
        ({"count": 100_001}, "INVALID_FIELDS"),
        ({"import_manifest": None}, "INVALID_FIELDS"),
        ({"method": "nope"}, "UNKNOWN_METHOD"),
        ({"parent": "Products/x"}, "INVALID_NAME"),
    ):
        with pytest.raises(FlawsmithError) as caught:
            start(**values)
        assert caught.value.reason == reason
        assert caught.value.code == "INVALID_ARGUMENT"
    missing = common_pb2.ObjectRef(uri=imported.manifest.uri + "x", sha256="0" * 64, size=3)
    for values, reason in (
        ({"parent": "products/other"}, "IMPORT_OF_OTHER_PRODUCT"),
        ({"import_manifest": missing}, "OBJECT_NOT_FOUND"),
    ):
        with pytest.raises(FlawsmithError) as caught:
            client.wait(start(**values), augmentation_pb2.AugmentedBatch, timeout_s=60)
        assert caught.value.reason == reason
    with pytest.raises(FlawsmithError) as caught:
        client.augmentation.GetAugmentedBatch(
            augmentation_pb2.GetAugmentedBatchRequest(name=f"{PRODUCT}/augmentedBatches/none")
        )
    assert caught.value.reason == "RESOURCE_NOT_FOUND"
