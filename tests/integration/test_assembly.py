"""The assembly service on the real platform: uploads, imports, data sets, and everything that must be refused."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import pytest
from google.longrunning import operations_pb2

from flawsmith.assembly.assembling import Batch
from flawsmith.assembly.publishing import find_adapter
from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.images import decode_image, encode_png
from flawsmith.common.manifests import (
    AdapterManifest,
    BatchManifest,
    DatasetManifest,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
)
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing import draw_sample
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform

PRODUCT = "products/assembled"
FEW, ZERO, FULL = common_pb2.REGIME_FEW_SHOT, common_pb2.REGIME_ZERO_SHOT, common_pb2.REGIME_FULL_SHOT
State = common_pb2.OperationMetadata.State


def upload(client: Client, folder: Path, product: str = PRODUCT, **values) -> operations_pb2.Operation:
    return client.assembly.ImportImages(
        assembly_pb2.ImportImagesRequest(parent=product, prefix=client.upload_folder(folder), seed=1, **values)
    )


def refused(client: Client, operation: operations_pb2.Operation) -> FlawsmithError:
    with pytest.raises(FlawsmithError) as caught:
        client.wait(operation, assembly_pb2.Dataset, timeout_s=60)
    return caught.value


def model(platform: LocalPlatform, ref: common_pb2.ObjectRef, kind: type) -> ImportManifest | DatasetManifest:
    return kind.model_validate_json(platform.store.get(ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size)))


def message(ref: ObjectRef) -> common_pb2.ObjectRef:
    return common_pb2.ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plates")
    write_sample_dataset(
        path, seed=6, train_normal=14, train_defect=9, test_normal=6, test_defect=4, height=96, width=80
    )
    return path


@pytest.fixture(scope="module")
def imported(platform: LocalPlatform, folder: Path) -> assembly_pb2.Import:
    with Client(platform.settings.peers, principal="tester") as client:
        return client.wait(upload(client, folder, import_id="plates"), assembly_pb2.Import, timeout_s=120)


@pytest.fixture(scope="module")
def batch(platform: LocalPlatform, imported: assembly_pb2.Import) -> augmentation_pb2.AugmentedBatch:
    with Client(platform.settings.peers, principal="tester") as client:
        operation = client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(parent=PRODUCT, import_manifest=imported.manifest, count=6, seed=2)
        )
        return client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=120)


def test_an_import_holds_what_was_uploaded(
    platform: LocalPlatform, client: Client, folder: Path, imported: assembly_pb2.Import
) -> None:
    assert imported.name == f"{PRODUCT}/imports/plates"
    assert imported.layout == "kolektorsdd2"
    assert "seed 1" in imported.split_rule
    counts = imported.counts
    assert (counts["test"].normal, counts["test"].real_defect) == (6, 4)
    assert counts["train"].normal + counts["validation"].normal == 14
    assert counts["validation"].normal == 3
    manifest = model(platform, imported.manifest, ImportManifest)
    for record in manifest.images:
        data = (folder / record.original_path).read_bytes()
        assert record.image.sha256 == hashlib.sha256(data).hexdigest()
        assert platform.store.get(record.image) == data
    assert client.assembly.GetImport(assembly_pb2.GetImportRequest(name=imported.name)) == imported
    listed = client.assembly.ListImports(assembly_pb2.ListImportsRequest(parent=PRODUCT))
    assert imported in listed.imports
    products = client.assembly.ListProducts(assembly_pb2.ListProductsRequest(page_size=1000)).products
    assert PRODUCT in [product.name for product in products]


def test_a_name_is_taken_once(client: Client, folder: Path, imported: assembly_pb2.Import) -> None:
    with pytest.raises(FlawsmithError) as caught:
        upload(client, folder, import_id="plates")
    assert (caught.value.code, caught.value.reason) == ("ALREADY_EXISTS", "RESOURCE_EXISTS")


def test_bad_data_is_refused_whole_and_changes_nothing(platform: LocalPlatform, client: Client, tmp_path: Path) -> None:
    write_sample_dataset(
        tmp_path, seed=8, train_normal=6, train_defect=5, test_normal=3, test_defect=3, height=64, width=64
    )
    good = (tmp_path / "train/10002.png").read_bytes()
    (tmp_path / "train/10000.png").write_bytes(b"not an image")
    (tmp_path / "train/10001.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "train/10003_GT.png").write_bytes(encode_png(np.zeros((64, 65), np.uint8)))
    (tmp_path / "train/10004_GT.png").unlink()
    (tmp_path / "test/20000.png").write_bytes(good)
    before = set(platform.store.list_keys("blobs/"))
    error = refused(client, upload(client, tmp_path, "products/broken"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "DATASET_INVALID")
    assert {violation.field for violation in error.fields} == {
        "train/10000.png", "train/10001.png", "train/10003_GT.png", "train/10004.png", "test/20000.png",
    }  # fmt: skip
    assert not client.assembly.ListImports(assembly_pb2.ListImportsRequest(parent="products/broken")).imports
    assert set(platform.store.list_keys("blobs/")) == before


def test_folders_in_no_known_layout(client: Client, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/1.png").write_bytes(encode_png(np.zeros((40, 40, 3), np.uint8)))
    error = refused(client, upload(client, tmp_path, "products/unknown"))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "UNKNOWN_LAYOUT")
    assert "pictures/ (1 files)" in error.message


def test_prefixes(platform: LocalPlatform, client: Client) -> None:
    def start(prefix: str) -> operations_pb2.Operation:
        return client.assembly.ImportImages(assembly_pb2.ImportImagesRequest(parent="products/p", prefix=prefix))

    for prefix, reason in (("", "FOREIGN_URI"), ("s3://elsewhere/x", "FOREIGN_URI"),
                           (f"s3://{platform.store.bucket}/", "INVALID_FIELDS")):  # fmt: skip
        with pytest.raises(FlawsmithError) as caught:
            start(prefix)
        assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", reason)
    error = refused(client, start(f"s3://{platform.store.bucket}/uploads/nothing/"))
    assert (error.code, error.reason) == ("NOT_FOUND", "NOTHING_UPLOADED")


def test_uploads_take_relative_paths_only(client: Client) -> None:
    with pytest.raises(FlawsmithError) as caught:
        client.assembly.CreateUpload(assembly_pb2.CreateUploadRequest(paths=["train/1.png", "../1.png"]))
    assert caught.value.code == "INVALID_ARGUMENT"


def test_a_data_set_from_batches(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, batch: augmentation_pb2.AugmentedBatch
) -> None:
    dataset = client.wait(
        client.assembly.AssembleDataset(
            assembly_pb2.AssembleDatasetRequest(parent=PRODUCT, regime=FEW, batches=[batch.manifest], seed=1)
        ),
        assembly_pb2.Dataset,
        timeout_s=120,
    )
    train = dataset.counts["train"]
    assert (train.real_defect, train.in_distribution, train.out_of_distribution) == (5, 0, 6)
    assert [ref.uri for ref in dataset.inputs] == [imported.manifest.uri, batch.manifest.uri]
    assert client.assembly.GetDataset(assembly_pb2.GetDatasetRequest(name=dataset.name)) == dataset
    listed = client.assembly.ListDatasets(assembly_pb2.ListDatasetsRequest(parent=PRODUCT))
    assert dataset in listed.datasets
    answer = client.assembly.ValidateDataset(assembly_pb2.ValidateDatasetRequest(name=dataset.name))
    assert list(answer.problems) == []
    pages, token = [], ""
    while True:
        page = client.assembly.ListDatasetImages(
            assembly_pb2.ListDatasetImagesRequest(
                parent=dataset.name, page_size=4, page_token=token, split=common_pb2.SPLIT_TRAIN,
                source=common_pb2.SOURCE_OUT_OF_DISTRIBUTION,
            )
        )  # fmt: skip
        pages.append([image.image.sha256 for image in page.images])
        token = page.next_page_token
        if not token:
            break
    made = model(platform, dataset.manifest, DatasetManifest)
    assert [len(entries) for entries in pages] == [4, 2]
    assert [digest for entries in pages for digest in entries] == [
        record.image.sha256 for record in made.images if record.source == Source.OUT_OF_DISTRIBUTION
    ]


def test_a_changed_object_is_noticed(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, tmp_path: Path
) -> None:
    """On a product of its own: the objects of others stay as they are."""
    write_sample_dataset(
        tmp_path, seed=77, train_normal=6, train_defect=5, test_normal=3, test_defect=3, height=64, width=64
    )
    product = "products/tampered"
    client.wait(upload(client, tmp_path, product), assembly_pb2.Import, timeout_s=60)
    dataset = client.wait(
        client.assembly.AssembleDataset(assembly_pb2.AssembleDatasetRequest(parent=product, regime=FULL)),
        assembly_pb2.Dataset,
        timeout_s=60,
    )
    record = model(platform, dataset.manifest, DatasetManifest).images[0]
    platform.store.put(platform.store.key(record.image.uri), b"something else")
    answer = client.assembly.ValidateDataset(assembly_pb2.ValidateDatasetRequest(name=dataset.name))
    assert len(answer.problems) == 1
    assert record.image.uri in answer.problems[0]


def synthetic(platform: LocalPlatform, image: ObjectRef, parents: tuple[str, ...], name: str) -> common_pb2.ObjectRef:
    """A published batch of one image."""
    mask = np.zeros((96, 80), np.uint8)
    mask[10:20, 10:20] = 255
    record = ImageRecord(
        image=image, mask=platform.store.put_blob(encode_png(mask), ".png"), height=96, width=80,
        label=Label.DEFECT, source=Source.OUT_OF_DISTRIBUTION, split=Split.TRAIN, parents=parents,
    )  # fmt: skip
    manifest = BatchManifest(
        name=f"{PRODUCT}/augmentedBatches/{name}", product=PRODUCT, source=Source.OUT_OF_DISTRIBUTION,
        method="memseg", seed=0, images=(record,), create_time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    return message(platform.store.put_blob(manifest.model_dump_json().encode(), ".json"))


@pytest.mark.parametrize("by", ["nobody", "request", "product"])
def test_a_rejected_image_is_never_used(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, by: str
) -> None:
    """Whoever requires a review; images that wait for one are used where nobody does."""
    required = by != "nobody"
    records = model(platform, imported.manifest, ImportManifest).images
    parent = next(record for record in records if record.split == Split.TRAIN and record.label == Label.DEFECT)
    drawn = [draw_sample(np.random.default_rng(900 + seed), 96, 80, defective=True) for seed in range(3)]
    images = [
        ImageRecord(
            image=platform.store.put_blob(encode_png(image), ".png"),
            mask=platform.store.put_blob(encode_png(mask), ".png"), height=96, width=80, label=Label.DEFECT,
            source=Source.IN_DISTRIBUTION, split=Split.TRAIN, parents=(parent.image.sha256,),
        )
        for image, mask in drawn
    ]  # fmt: skip
    batch = BatchManifest(
        name=f"{PRODUCT}/batches/reviewed-by-{by}", product=PRODUCT, source=Source.IN_DISTRIBUTION,
        method="text_to_image", seed=0, images=tuple(images), create_time="2026-01-01T00:00:00Z",
    )  # fmt: skip
    manifest = message(Resources(platform.store).publish(batch.name, batch))
    rejected, accepted, pending = (record.image.sha256 for record in images)
    for digest, review in ((rejected, common_pb2.REVIEW_REJECTED), (accepted, common_pb2.REVIEW_ACCEPTED)):
        client.generation.ReviewImages(
            generation_pb2.ReviewImagesRequest(parent=batch.name, images=[digest], review=review)
        )
    require = assembly_pb2.UpdateProductRequest(name=PRODUCT, review_required=by == "product")
    assert client.assembly.UpdateProduct(require).review_required == (by == "product")
    listed = client.assembly.ListProducts(assembly_pb2.ListProductsRequest()).products
    assert assembly_pb2.Product(name=PRODUCT, review_required=by == "product") in listed
    named = [batch.name] if by == "request" else []
    try:
        dataset = client.wait(
            client.assembly.AssembleDataset(
                assembly_pb2.AssembleDatasetRequest(
                    parent=PRODUCT, regime=FULL, batches=[manifest], review_required=named
                )
            ),
            assembly_pb2.Dataset,
            timeout_s=120,
        )
    finally:
        client.assembly.UpdateProduct(assembly_pb2.UpdateProductRequest(name=PRODUCT, review_required=False))
    used = {record.image.sha256 for record in model(platform, dataset.manifest, DatasetManifest).images}
    assert used & {rejected, accepted, pending} == ({accepted} if required else {accepted, pending})
    expected = assembly_pb2.LeftOut(batch=batch.name, rejected=1, pending=1 if required else 0)
    assert list(dataset.left_out) == [expected]


@pytest.mark.parametrize("how", ["parent", "same image", "near-duplicate"])
def test_leakage_stops_an_assembly(
    platform: LocalPlatform, client: Client, imported: assembly_pb2.Import, how: str
) -> None:
    records = model(platform, imported.manifest, ImportManifest).images
    test = next(record for record in records if record.split == Split.TEST and record.label == Label.NORMAL)
    train = next(record for record in records if record.split == Split.TRAIN and record.label == Label.NORMAL)
    other = platform.store.put_blob(
        encode_png(draw_sample(np.random.default_rng(12345), 96, 80, defective=True)[0]), ".png"
    )
    brighter = np.clip(decode_image(platform.store.get(test.image)) * 1.05 + 4, 0, 255).astype(np.uint8)
    image, parents = {
        "parent": (other, (test.image.sha256,)),
        "same image": (test.image, (train.image.sha256,)),
        "near-duplicate": (platform.store.put_blob(encode_png(brighter), ".png"), (train.image.sha256,)),
    }[how]
    operation = client.assembly.AssembleDataset(
        assembly_pb2.AssembleDatasetRequest(
            parent=PRODUCT, dataset_id="leaks", regime=FULL, batches=[synthetic(platform, image, parents, "leaky")]
        )
    )
    error = refused(client, operation)
    assert (error.code, error.reason) == ("FAILED_PRECONDITION", "LEAKAGE")
    assert any(test.original_path in f"{leak.field} {leak.description}" for leak in error.fields)
    with pytest.raises(FlawsmithError):
        client.assembly.GetDataset(assembly_pb2.GetDatasetRequest(name=f"{PRODUCT}/datasets/leaks"))


def test_a_killed_worker_changes_nothing_that_shows(
    platform: LocalPlatform, client: Client, folder: Path, imported: assembly_pb2.Import
) -> None:
    operation = upload(client, folder, "products/killed-import")
    get = client.operations(operation.name).GetOperation
    deadline = time.monotonic() + 60
    while metadata_of(operation).state in (State.STATE_UNSPECIFIED, State.STATE_QUEUED):
        assert time.monotonic() < deadline
        operation = get(operations_pb2.GetOperationRequest(name=operation.name))
    platform.processes["assembly-worker"].kill()
    platform.start_process("assembly", "worker")
    again = client.wait(operation, assembly_pb2.Import, timeout_s=120)
    first, second = (model(platform, entry.manifest, ImportManifest) for entry in (imported, again))
    assert first.images == second.images


def test_a_data_set_in_one_call(client: Client, imported: assembly_pb2.Import) -> None:
    request = assembly_pb2.RequestDatasetRequest(
        parent=PRODUCT, dataset_id="one-call", regime=ZERO, n_aug=4, in_distribution_share=0.0, seed=3,
        request_id="one-call",
    )  # fmt: skip
    operation = client.assembly.RequestDataset(request)
    assert client.assembly.RequestDataset(request).name == operation.name
    dataset = client.wait(operation, assembly_pb2.Dataset, timeout_s=120)
    train = dataset.counts["train"]
    assert (train.real_defect, train.in_distribution, train.out_of_distribution) == (0, 0, 4)
    assert dataset.counts["validation"].real_defect == 0
    request.n_aug = 5
    with pytest.raises(FlawsmithError) as caught:
        client.assembly.RequestDataset(request)
    assert caught.value.reason == "REQUEST_ID_REUSED"


def test_a_request_is_tuned_with_the_preset_and_the_flips_that_it_names(
    platform: LocalPlatform, client: Client, folder: Path
) -> None:
    product = "products/turned"
    client.wait(upload(client, folder, product), assembly_pb2.Import, timeout_s=120)
    operation = client.assembly.RequestDataset(
        assembly_pb2.RequestDatasetRequest(
            parent=product, regime=FEW, n_aug=1, in_distribution_share=1.0,
            generation=assembly_pb2.GenerationOptions(
                max_steps=1, height=64, width=64, tuning_preset="mini-zero", flips="horizontal"
            ),
        )
    )  # fmt: skip
    adapters = Resources(platform.store)
    deadline = time.monotonic() + 180
    while not (found := adapters.list_ids(product, "adapters")):
        operation = client.operations(operation.name).GetOperation(
            operations_pb2.GetOperationRequest(name=operation.name)
        )
        assert not operation.done, operation
        assert time.monotonic() < deadline, metadata_of(operation)
        time.sleep(0.3)
    client.operations(operation.name).CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    made = adapters.get(f"{product}/adapters/{found[0]}", AdapterManifest)[0]
    assert (made.parameters["preset"], made.parameters["flips"]) == ("mini-zero", "horizontal")
    assert (made.alpha, made.steps) == (0.60, 1)


def test_cancelling_a_request_stops_what_it_started(client: Client, imported: assembly_pb2.Import) -> None:
    operation = client.assembly.RequestDataset(
        assembly_pb2.RequestDatasetRequest(
            parent=PRODUCT, regime=FEW, n_aug=2, in_distribution_share=1.0,
            generation=assembly_pb2.GenerationOptions(max_steps=5000, height=64, width=64),
        )
    )  # fmt: skip
    get = client.operations(operation.name).GetOperation
    deadline = time.monotonic() + 120
    while not metadata_of(operation).stage.startswith("fine-tune: "):
        assert time.monotonic() < deadline, metadata_of(operation)
        assert not operation.done, operation
        time.sleep(0.2)
        operation = get(operations_pb2.GetOperationRequest(name=operation.name))
    client.operations(operation.name).CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    deadline = time.monotonic() + 20
    while True:
        tunes = [
            metadata_of(other)
            for other in client.list_operations("generation", 20)
            if metadata_of(other).kind == "FineTuneAdapter" and metadata_of(other).target.startswith(PRODUCT)
        ]
        if [tune.state for tune in tunes] == [State.STATE_CANCELLED]:
            break
        assert time.monotonic() < deadline, tunes
        time.sleep(0.3)
    assert metadata_of(get(operations_pb2.GetOperationRequest(name=operation.name))).state == State.STATE_CANCELLED


def test_regimes_that_the_data_cannot_serve(client: Client, tmp_path: Path) -> None:
    write_sample_dataset(
        tmp_path, seed=9, train_normal=8, train_defect=0, test_normal=4, test_defect=0, height=64, width=64
    )
    product = "products/flawless"
    client.wait(upload(client, tmp_path, product), assembly_pb2.Import, timeout_s=60)
    for start in (
        lambda regime: client.assembly.RequestDataset(
            assembly_pb2.RequestDatasetRequest(parent=product, regime=regime, n_aug=2)
        ),
        lambda regime: client.assembly.AssembleDataset(
            assembly_pb2.AssembleDatasetRequest(parent=product, regime=regime)
        ),
    ):
        error = refused(client, start(FEW))
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NO_POSITIVES")
        assert "zero_shot" in error.message


def test_bad_requests(client: Client, imported: assembly_pb2.Import) -> None:
    def start(**values) -> operations_pb2.Operation:
        values = {"parent": PRODUCT, "regime": FEW, "n_aug": 2, "in_distribution_share": 0.0} | values
        return client.assembly.RequestDataset(assembly_pb2.RequestDatasetRequest(**values))

    with pytest.raises(FlawsmithError) as caught:
        start(n_aug=-1, in_distribution_share=1.5, generation=assembly_pb2.GenerationOptions(alpha=2.0))
    assert (caught.value.code, caught.value.reason) == ("INVALID_ARGUMENT", "INVALID_FIELDS")
    assert {violation.field for violation in caught.value.fields} == {
        "n_aug", "in_distribution_share", "generation.alpha",
    }  # fmt: skip
    error = refused(client, start(**{"import": f"{PRODUCT}/imports/none"}))
    assert (error.code, error.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    error = refused(client, start(parent="products/nobody"))
    assert (error.code, error.reason) == ("NOT_FOUND", "NO_IMPORT")
    adapter = assembly_pb2.GenerationOptions(adapter=f"{PRODUCT}/adapters/none", prompts=["never used"])
    error = refused(client, start(in_distribution_share=1.0, generation=adapter))
    assert (error.code, error.reason) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")
    long = assembly_pb2.GenerationOptions(prompts=["never used", "crack " * 31])
    error = refused(client, start(in_distribution_share=1.0, generation=long))
    assert (error.code, error.reason) == ("INVALID_ARGUMENT", "PROMPT_TOO_LONG")
    for parent in (PRODUCT, "products/nobody"):
        prompts = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=parent)).prompts
        drafts = [prompt.text for prompt in prompts if prompt.text == "never used"]
        assert not drafts, "a request that cannot be served writes nothing"


def test_the_adapter_of_drawn_batches_is_found(store: ObjectStore) -> None:
    resources = Resources(store)
    anything = store.put_blob(b"weights", ".safetensors")
    adapters = [
        AdapterManifest(
            name=f"{PRODUCT}/adapters/a{number}", product=PRODUCT, base_model="mini", base_model_sha256="0" * 64,
            regime=Regime.FEW_SHOT, algorithm="lierla", rank=4, weights=anything, alpha=0.95, instance_prompt="skt",
            class_prompt="background", training_images=(anything,), steps=1, epochs=1, final_loss=0.1,
            create_time="2026-01-01T00:00:00Z",
        )
        for number in range(2)
    ]  # fmt: skip
    refs = [resources.publish(adapter.name, adapter) for adapter in adapters]

    def drawn(source: Source, number: int) -> Batch:
        sidecar = store.put_blob(json.dumps({"adapter": adapters[number].name}).encode(), ".json")
        record = ImageRecord(
            image=anything, height=96, width=80, label=Label.DEFECT, source=source, split=Split.TRAIN, sidecar=sidecar
        )
        manifest = BatchManifest(
            name=f"{PRODUCT}/batches/b{number}", product=PRODUCT, source=source, method="text_to_image", seed=0,
            images=(record,), create_time="2026-01-01T00:00:00Z",
        )  # fmt: skip
        return Batch(manifest, anything)

    first, second = (drawn(Source.IN_DISTRIBUTION, number) for number in (0, 1))
    assert find_adapter(resources, [drawn(Source.OUT_OF_DISTRIBUTION, 1), first]) == refs[0]
    assert find_adapter(resources, [first, second]) is None
    assert find_adapter(resources, []) is None
