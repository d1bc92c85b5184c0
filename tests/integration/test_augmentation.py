"""The augmentation service on the real platform: one image, a stream, and batches."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from google.longrunning import operations_pb2
from google.protobuf import struct_pb2
from torch.utils.data import DataLoader

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError, InvalidArgumentError
from flawsmith.common.images import decode_grey_or_rgb, decode_image, decode_mask, encode_png
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.resources import Resources
from flawsmith.common.statuses import error_of_call
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing import draw_sample
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.local.platform import LocalPlatform
from flawsmith.torch_stream import AugmentedStream

PRODUCT = "products/augmented"
METHODS = {"anomalib", "cutpaste", "draem", "memseg", "realnet"}
FLAWSMITH = Path(sys.executable).with_name("flawsmith")
EXAMPLE = Path(__file__).parents[2] / "examples" / "train_with_stream.py"
TEXTURES = {"blue.png": (20, 40, 200), "folder/green.png": (10, 180, 60), "red.png": (220, 30, 20)}
# Every defect is a texture, whole: what is inside the mask says where it came from.
ALL_TEXTURE = {"texture_probability": 1, "opacity_min": 1, "opacity_max": 1}
ALL_ANOMALY = {"anomaly_probability": 1, "anomaly_opacity_min": 1, "anomaly_opacity_max": 1}
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


def make_batch(client: Client, imported: assembly_pb2.Import, **values) -> augmentation_pb2.AugmentedBatch:
    parameters = struct_pb2.Struct()
    parameters.update(values.pop("parameters", {}))
    values = {"parent": PRODUCT, "import_manifest": imported.manifest, "count": 20} | values
    operation = client.augmentation.AugmentImages(
        augmentation_pb2.AugmentImagesRequest(parameters=parameters, **values)
    )
    return client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=120)


def load(platform: LocalPlatform, ref: common_pb2.ObjectRef) -> BatchManifest:
    stored = ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size)
    return BatchManifest.model_validate_json(platform.store.get(stored))


def test_methods_describe_their_parameters(client: Client) -> None:
    methods = client.augmentation.ListMethods(augmentation_pb2.ListMethodsRequest()).methods
    names = [method.name for method in methods]
    assert names == sorted(names)
    assert set(names) == METHODS
    memseg = next(method for method in methods if method.name == "memseg")
    assert "MemSeg" in memseg.description
    assert memseg.parameters_schema["properties"]["opacity_min"]["default"] == 0.15


@pytest.mark.parametrize("method", ["", *sorted(METHODS)])
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


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_grey_file_stays_grey(client: Client, plate: np.ndarray, method: str) -> None:
    grey = np.ascontiguousarray(plate[:, :, 1])
    answer = client.augmentation.AugmentImage(request(grey, method=method, seed=3))
    image, mask = decode_grey_or_rgb(answer.image), decode_mask(answer.mask)
    assert image.shape == grey.shape
    np.testing.assert_array_equal(image[mask == 0], grey[mask == 0])


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
    for call in (
        lambda: client.augmentation.AugmentImage(augmentation_pb2.AugmentImageRequest()),
        lambda: client.augmentation.PreviewPlacement(augmentation_pb2.PreviewPlacementRequest()),
    ):
        with pytest.raises(FlawsmithError) as caught:
            call()
        assert caught.value.reason == "INVALID_IMAGE"


def test_a_stream_answers_before_the_next_request_is_sent(client: Client, plate: np.ndarray) -> None:
    answered = threading.Event()

    def requests() -> Iterator[augmentation_pb2.AugmentImageRequest]:
        yield request(plate, seed=0)
        assert answered.wait(10)
        yield request(plate, seed=1)

    answers = client.augmentation.AugmentStream(requests(), timeout_s=30)
    assert next(answers) == client.augmentation.AugmentImage(request(plate, seed=0))
    answered.set()
    assert next(answers) == client.augmentation.AugmentImage(request(plate, seed=1))


def test_an_error_in_a_stream_comes_after_the_answers_before_it(client: Client, plate: np.ndarray) -> None:
    answers = client.augmentation.AugmentStream(
        [request(plate, seed=0), request(plate, seed=1), request(b"no image"), request(plate, seed=2)], timeout_s=30
    )
    assert [next(answers), next(answers)] == [
        client.augmentation.AugmentImage(request(plate, seed=seed)) for seed in (0, 1)
    ]
    with pytest.raises(InvalidArgumentError) as caught:
        next(answers)
    assert caught.value.reason == "IMAGE_UNREADABLE"


@pytest.fixture(scope="module")
def coloured() -> np.ndarray:
    """A plate without grey pixels, so that methods draw in colour."""
    plate = draw_sample(np.random.default_rng(1), 96, 80, defective=False)[0]
    return np.clip(plate.astype(np.int16) + np.array([0, 20, 40]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def textures(platform: LocalPlatform, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three textures of one colour each, uploaded; their prefix."""
    folder = tmp_path_factory.mktemp("textures")
    for name, colour in TEXTURES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode_png(np.full((40, 50, 3), colour, np.uint8)))
    (folder / ".hidden").write_text("of no interest")
    with Client(platform.settings.peers, principal="tester") as client:
        return client.upload_folder(folder)


def publish_batch(platform: LocalPlatform, colours: list[tuple[int, int, int]], **changes) -> common_pb2.ObjectRef:
    """A batch as the generation service publishes it, of images of one colour each."""
    name = f"{PRODUCT}/batches/b{uuid.uuid4().hex[:8]}"
    records = []
    for colour in colours:
        ref = platform.store.put_blob(encode_png(np.full((64, 64, 3), colour, np.uint8)), ".png")
        records.append(
            ImageRecord(
                image=ref, height=64, width=64, label=Label.DEFECT, source=Source.IN_DISTRIBUTION, split=Split.TRAIN
            )
        )
    values = {
        "name": name, "product": PRODUCT, "source": Source.IN_DISTRIBUTION, "method": "text_to_image", "seed": 1,
        "images": tuple(records), "create_time": datetime(2026, 1, 2, tzinfo=UTC),
    }  # fmt: skip
    ref = Resources(platform.store).publish(name, BatchManifest(**values | changes))
    return common_pb2.ObjectRef(**ref.model_dump())


def test_textures_of_the_callers(client: Client, coloured: np.ndarray, textures: str) -> None:
    seen = set()
    for seed in range(12):
        call = request(coloured, method="memseg", parameters=ALL_TEXTURE, seed=seed, texture_prefix=textures)
        answer = client.augmentation.AugmentImage(call)
        image, mask = decode_image(answer.image), decode_mask(answer.mask)
        name = answer.drawn["texture"]["image"]
        assert (image[mask > 0] == TEXTURES[name]).all()
        np.testing.assert_array_equal(image[mask == 0], coloured[mask == 0])
        assert next(client.augmentation.AugmentStream([call])) == answer
        seen.add(name)
    assert seen == set(TEXTURES)


def test_anomalies_of_a_generated_batch(platform: LocalPlatform, client: Client, coloured: np.ndarray) -> None:
    batch = publish_batch(platform, [(250, 0, 120), (0, 250, 120)])
    manifest = load(platform, batch)
    colours = dict(
        zip([record.image.sha256 for record in manifest.images], [(250, 0, 120), (0, 250, 120)], strict=True)
    )
    seen = set()
    for seed in range(8):
        answer = client.augmentation.AugmentImage(
            request(coloured, method="realnet", parameters=ALL_ANOMALY, seed=seed, generated_batch=batch)
        )
        image, mask = decode_image(answer.image), decode_mask(answer.mask)
        name = answer.drawn["anomaly"]["image"]
        assert (image[mask > 0] == colours[name]).all()
        seen.add(name)
    assert seen == set(colours)


def test_a_batch_names_what_it_was_drawn_from(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, textures: str
) -> None:
    generated = publish_batch(platform, [(250, 0, 120), (0, 250, 120)])
    anomalies = {record.image.sha256 for record in load(platform, generated).images}
    digests = {
        hashlib.sha256(encode_png(np.full((40, 50, 3), colour, np.uint8))).hexdigest() for colour in TEXTURES.values()
    }
    batch = make_batch(
        client, imported, count=70, seed=3, method="realnet", texture_prefix=textures, generated_batch=generated
    )
    manifest = load(platform, batch.manifest)
    files = {record.sidecar.uri: record.sidecar for record in manifest.images}
    told = {
        line["image"]: line for ref in files.values() for line in map(json.loads, platform.store.get(ref).splitlines())
    }
    assert set(told) == {record.image.sha256 for record in manifest.images}
    assert len(files) == 2
    drawn = [line["drawn"] for line in told.values()]
    assert {entry["texture"]["image"] for entry in drawn if "texture" in entry} == digests
    assert {entry["anomaly"]["image"] for entry in drawn if "anomaly" in entry} == anomalies


def test_textures_that_cannot_be_used(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, coloured: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(encode_png(coloured))
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("no image either")
    mixed = client.upload_folder(tmp_path)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "c.png").write_bytes(encode_png(coloured)[:-100])
    cut = client.upload_folder(tmp_path / "cut")
    bucket = platform.store.bucket

    def one(prefix: str) -> None:
        for seed in range(20):  # until the bad one is drawn
            client.augmentation.AugmentImage(
                request(coloured, method="memseg", parameters=ALL_TEXTURE, texture_prefix=prefix, seed=seed)
            )

    def batch(prefix: str) -> None:
        make_batch(client, imported, method="memseg", parameters=ALL_TEXTURE, texture_prefix=prefix)

    for call in (one, batch):
        for prefix, code, reason in (
            (f"s3://{bucket}/uploads/none", "NOT_FOUND", "NO_TEXTURES"),
            ("s3://elsewhere/textures", "INVALID_ARGUMENT", "FOREIGN_URI"),
            (f"s3://{bucket}/", "INVALID_ARGUMENT", "INVALID_TEXTURE_PREFIX"),
            (mixed, "INVALID_ARGUMENT", "TEXTURE_UNREADABLE"),
            (cut, "INVALID_ARGUMENT", "TEXTURE_UNREADABLE"),
        ):
            with pytest.raises(FlawsmithError) as caught:
                call(prefix)
            assert (caught.value.code, caught.value.reason) == (code, reason), (prefix, caught.value.message)
    # A batch lists every bad file before it begins.
    with pytest.raises(FlawsmithError) as caught:
        batch(mixed)
    assert {violation.field for violation in caught.value.fields} == {f"{mixed}b.png", f"{mixed}notes.txt"}


def test_batches_that_anomalies_cannot_be_drawn_from(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, coloured: np.ndarray
) -> None:
    good = publish_batch(platform, [(1, 2, 3)])
    cases = [
        (publish_batch(platform, []), "realnet", "BATCH_EMPTY"),
        (publish_batch(platform, [(1, 2, 3)], source=Source.OUT_OF_DISTRIBUTION), "realnet", "BATCH_NOT_GENERATED"),
        (imported.manifest, "realnet", "NOT_A_MANIFEST"),
        (common_pb2.ObjectRef(uri="s3://elsewhere/x", sha256="0" * 64, size=1), "realnet", "FOREIGN_URI"),
        (good, "memseg", "GENERATED_BATCH_UNUSED"),
    ]
    for ref, method, reason in cases:
        with pytest.raises(InvalidArgumentError) as caught:
            client.augmentation.AugmentImage(request(coloured, method=method, generated_batch=ref))
        assert caught.value.reason == reason
    other = publish_batch(platform, [(1, 2, 3)], product="products/other")
    for ref, method, reason in [*cases, (other, "realnet", "BATCH_OF_OTHER_PRODUCT")]:
        with pytest.raises(InvalidArgumentError) as caught:
            make_batch(client, imported, method=method, generated_batch=ref)
        assert caught.value.reason == reason


LEFT_HALF = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]


def preview_request(image: np.ndarray, **values) -> augmentation_pb2.PreviewPlacementRequest:
    made = request(image, **{name: value for name, value in values.items() if name != "count"})
    return augmentation_pb2.PreviewPlacementRequest(
        image=made.image, method=made.method, parameters=made.parameters, seed=made.seed, count=values.get("count", 0)
    )


def test_a_preview_shows_where_defects_go(client: Client, plate: np.ndarray) -> None:
    parameters = {"forbidden_zones": [LEFT_HALF]}
    call = preview_request(plate, parameters=parameters, seed=4, count=5)
    answer = client.augmentation.PreviewPlacement(call)
    allowed, overlay = decode_grey_or_rgb(answer.allowed), decode_grey_or_rgb(answer.overlay)
    assert set(np.unique(allowed)) == {0, 255}
    assert not allowed[:, :38].any()
    assert (allowed[:, 42:] == 255).all()
    assert overlay.shape == plate.shape
    assert len(answer.masks) == 5
    for mask in map(decode_mask, answer.masks):
        assert mask.any()
        assert not mask[allowed == 0].any()
    assert client.augmentation.PreviewPlacement(call) == answer
    # The first is what AugmentImage draws.
    drawn = client.augmentation.AugmentImage(request(plate, parameters=parameters, seed=4))
    np.testing.assert_array_equal(decode_mask(drawn.mask), decode_mask(answer.masks[0]))
    assert len(client.augmentation.PreviewPlacement(preview_request(plate)).masks) == 8


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"count": 17}, "INVALID_FIELDS"),
        ({"count": -1}, "INVALID_FIELDS"),
        ({"method": "nope"}, "UNKNOWN_METHOD"),
        ({"parameters": {"forbidden_zones": [[[0, 0], [2, 0], [0, 1]]]}}, "INVALID_PARAMETERS"),
        ({"parameters": {"region_of_interest": [LEFT_HALF], "forbidden_zones": [LEFT_HALF]}}, "NO_ROOM_FOR_DEFECTS"),
    ],
)
def test_bad_previews(client: Client, plate: np.ndarray, changes: dict, reason: str) -> None:
    with pytest.raises(FlawsmithError) as caught:
        client.augmentation.PreviewPlacement(preview_request(plate, **changes))
    assert caught.value.reason == reason


def test_results_that_no_message_takes(platform: LocalPlatform, client: Client) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), dtype=np.uint8)
    ref = common_pb2.ObjectRef(**platform.store.put_blob(encode_png(noise), ".png").model_dump())
    image = common_pb2.ImageSource(ref=ref)
    for call in (
        lambda: client.augmentation.AugmentImage(augmentation_pb2.AugmentImageRequest(image=image)),
        lambda: client.augmentation.PreviewPlacement(augmentation_pb2.PreviewPlacementRequest(image=image, count=1)),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            call()
        assert caught.value.reason == "RESULT_TOO_LARGE"


def raw_calls(platform: LocalPlatform, caller: str, requests: list) -> tuple[grpc.Channel, list]:
    """Calls of one caller, all sent at once, without the client's retries."""
    channel = grpc.insecure_channel(platform.address("augmentation"), options=[("grpc.enable_retries", 0)])
    stub = augmentation_pb2_grpc.AugmentationServiceStub(channel)
    metadata = [("x-flawsmith-principal", caller)]
    return channel, [stub.AugmentImage.future(call, timeout=60, metadata=metadata) for call in requests]


def test_a_full_queue_says_when_to_come_back_and_lets_others_in(platform: LocalPlatform, client: Client) -> None:
    large = encode_png(draw_sample(np.random.default_rng(1), 1000, 1000, defective=False)[0])
    limits = platform.settings.compute
    greedy, calls = raw_calls(platform, "greedy", [request(large, seed=seed) for seed in range(2 * limits.max_pending)])
    with greedy:
        waiting = [call for call in calls if not call.done()]
        # While they wait, another caller's calls are taken, and answered in turn with theirs.
        modest = [client.augmentation.AugmentImage(request(large, seed=seed)) for seed in range(3)]
        answered_meanwhile = sum(call.done() and call.code() == grpc.StatusCode.OK for call in calls)
        outcomes = [call.code() for call in calls]
        refused = [call for call in calls if call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert len(waiting) > 10
        assert len(modest) == 3
        assert set(outcomes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        # He holds half of the places at most, and three calls in turn with his do not wait for all of those.
        assert outcomes.count(grpc.StatusCode.OK) >= limits.max_pending // 2
        assert answered_meanwhile < limits.max_pending // 2
        error = error_of_call(refused[0].exception())
        assert (error.reason, error.code) == ("QUEUE_FULL", "RESOURCE_EXHAUSTED")
        assert error.retry_after_s == 1.0
    assert client.augmentation.AugmentImage(request(large, seed=1)) == modest[1]


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


def test_a_dataset_draws_for_a_training_loop(platform: LocalPlatform, coloured: np.ndarray) -> None:
    images = [np.roll(coloured, shift, axis=1) for shift in range(12)]
    connect = partial(Client, platform.settings.peers, principal="loop")
    dataset = AugmentedStream(images, connect, method="draem", defect_share=0.5, seed=3)
    assert len(dataset) == 12
    normal, items = 0, list(dataset)
    for image, mask in items:
        assert (image.dtype, image.shape) == (torch.uint8, (3, 96, 80))
        assert (mask.dtype, mask.shape) == (torch.uint8, (96, 80))
        assert set(mask.unique().tolist()) <= {0, 1}
        pixels, region = image.numpy().transpose(1, 2, 0), mask.numpy() > 0
        parents = [parent for parent in images if (parent[~region] == pixels[~region]).all()]
        assert len(parents) == 1
        assert (pixels[region] != parents[0][region]).any() == region.any()
        normal += not region.any()
    assert 0 < normal < 12
    # Every image once an epoch, the same with the same seed, others in the next epoch.
    again = list(AugmentedStream(images, connect, method="draem", defect_share=0.5, seed=3))
    assert all(
        torch.equal(a, b)
        for first, second in zip(items, again, strict=True)
        for a, b in zip(first, second, strict=True)
    )
    dataset.set_epoch(1)
    assert not all(torch.equal(first[0], second[0]) for first, second in zip(items, dataset, strict=True))


def test_a_dataset_in_workers(platform: LocalPlatform, coloured: np.ndarray) -> None:
    images = [np.roll(coloured, shift, axis=1) for shift in range(6)]
    dataset = AugmentedStream(images, partial(Client, platform.settings.peers), seed=3)

    def drawn(**options) -> set[bytes]:
        return {image.numpy().tobytes() for batch, _ in DataLoader(dataset, batch_size=2, **options) for image in batch}

    alone = drawn()
    assert len(alone) == 6
    assert drawn(num_workers=2, multiprocessing_context="spawn") == alone
    with pytest.raises(RuntimeError, match="spawn"):
        drawn(num_workers=1, multiprocessing_context="fork")


def test_a_dataset_outlives_a_restart_of_the_service(platform: LocalPlatform, coloured: np.ndarray) -> None:
    images = [np.roll(coloured, shift, axis=1) for shift in range(80)]
    dataset = AugmentedStream(images, partial(Client, platform.settings.peers), seed=3)
    undisturbed = [image for image, _ in dataset]
    items = iter(dataset)
    disturbed = [next(items)[0]]
    platform.processes["augmentation-api"].kill()
    platform.start_process("augmentation", "api")
    disturbed += [image for image, _ in items]
    assert all(torch.equal(first, second) for first, second in zip(undisturbed, disturbed, strict=True))


def test_a_dataset_raises_what_the_service_does(platform: LocalPlatform, coloured: np.ndarray) -> None:
    connect = partial(Client, platform.settings.peers)
    with pytest.raises(InvalidArgumentError) as caught:
        next(iter(AugmentedStream([coloured], connect, parameters={"opacity_min": 2})))
    assert caught.value.reason == "INVALID_PARAMETERS"


@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["prefetched", "workers"])
def test_the_example_learns_to_find_defects(platform: LocalPlatform, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--json", *options, "--epochs", "2" if options else "8"],
        env=os.environ | {"FLAWSMITH_PEERS__AUGMENTATION": platform.address("augmentation")},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    if not options:
        assert figures["iou"] > 0.3, figures


def test_the_command_line_augments_with_textures_and_previews(
    platform: LocalPlatform, imported: assembly_pb2.Import, coloured: np.ndarray, tmp_path: Path
) -> None:
    def flawsmith(*arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        command = [str(FLAWSMITH), "--state", str(platform.state_dir), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done

    (tmp_path / "textures").mkdir()
    red = encode_png(np.full((40, 40, 3), (220, 30, 20), np.uint8))
    (tmp_path / "textures" / "red.png").write_bytes(red)
    product = PRODUCT.removeprefix("products/")
    name = flawsmith(
        "augment", "--product", product, "--textures", str(tmp_path / "textures"), "--method", "memseg",
        "--parameter", "texture_probability=1", "--parameter", "foreground=texture", "--count", "2",
    ).stdout.strip()  # fmt: skip
    manifest = Resources(platform.store).get(name, BatchManifest)[0]
    assert manifest.images[0].sidecar is not None
    for line in map(json.loads, platform.store.get(manifest.images[0].sidecar).splitlines()):
        assert line["drawn"]["texture"]["image"] == hashlib.sha256(red).hexdigest()
        assert line["parameters"]["texture_probability"] == 1
    picture = tmp_path / "part.png"
    picture.write_bytes(encode_png(coloured))
    zones = f"forbidden_zones={json.dumps([LEFT_HALF])}"
    out = flawsmith("preview", str(picture), "--method", "draem", "--parameter", zones, "--count", "3").stdout.strip()
    assert out == str(tmp_path / "part-preview.png")
    overlay = decode_image(Path(out).read_bytes())
    assert (overlay[:, :38] <= coloured[:, :38]).all()
    assert (overlay[:, :38] < coloured[:, :38]).any()
    assert "memseg" in flawsmith("methods").stdout
    assert "NAME=VALUE" in flawsmith("preview", str(picture), "--parameter", "nothing", fails=True).stderr
    assert "not both" in flawsmith(
        "augment", "--product", product, "--textures", str(tmp_path), "--texture-prefix", "s3://a/b", fails=True
    ).stderr  # fmt: skip
