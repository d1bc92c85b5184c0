"""The whole job on the real platform, with the worker of every step killed in the middle of it."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from google.longrunning import operations_pb2
from google.protobuf.message import Message

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.classification.v1 import classification_pb2
from flawsmith.client import Client, metadata_of
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import write_sample_dataset
from flawsmith.generation.v1 import generation_pb2
from flawsmith.local.platform import LocalPlatform

PRODUCT = "products/killed"
FEW = common_pb2.REGIME_FEW_SHOT
State = common_pb2.OperationMetadata.State
TINY = generation_pb2.FineTuneConfig(
    base_model="mini", max_steps=6, batch_size=1, regularization_images=2, height=64, width=64, rank=4
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample")
    write_sample_dataset(
        path, seed=3, train_normal=20, train_defect=8, test_normal=8, test_defect=6, height=64, width=64
    )
    return path


Finish = Callable[[operations_pb2.Operation, type[Message]], Any]


@pytest.fixture(scope="module")
def finish(platform: LocalPlatform) -> Finish:
    """Waits for an operation whose worker it kills as soon as it runs, and starts again."""
    with Client(platform.settings.peers, principal="tester") as client:

        def wait(operation: operations_pb2.Operation, response: type[Message]) -> Any:
            service = operation.name.removeprefix("operations/").partition("-")[0]
            get = client.operations(operation.name).GetOperation
            deadline = time.monotonic() + 60
            while metadata_of(operation).state in (State.STATE_UNSPECIFIED, State.STATE_QUEUED):
                assert time.monotonic() < deadline
                operation = get(operations_pb2.GetOperationRequest(name=operation.name))
            platform.processes[f"{service}-worker"].kill()
            operation = get(operations_pb2.GetOperationRequest(name=operation.name))
            assert not operation.done, "it ended before it could be killed"
            platform.start_process(service, "worker")
            return client.wait(operation, response, timeout_s=240)

        yield wait


@pytest.fixture(scope="module")
def job(platform: LocalPlatform, folder: Path, finish: Finish) -> dict[str, Any]:
    """Every step once, each killed once; later tests look at what came out."""
    made: dict[str, Any] = {}
    with Client(platform.settings.peers, principal="tester") as client:
        prefix = client.upload_folder(folder)
        made["import"] = imported = finish(
            client.assembly.ImportImages(
                assembly_pb2.ImportImagesRequest(parent=PRODUCT, import_id="i1", prefix=prefix, seed=1)
            ),
            assembly_pb2.Import,
        )
        made["adapter"] = adapter = finish(
            client.generation.FineTuneAdapter(
                generation_pb2.FineTuneAdapterRequest(
                    parent=PRODUCT, import_manifest=imported.manifest, regime=FEW, config=TINY, seed=1
                )
            ),
            generation_pb2.Adapter,
        )
        prompt = client.generation.CreatePrompt(
            generation_pb2.CreatePromptRequest(parent=PRODUCT, text="skt background")
        )
        client.generation.DecidePrompt(
            generation_pb2.DecidePromptRequest(name=prompt.name, state=generation_pb2.Prompt.STATE_APPROVED)
        )
        made["batch"] = batch = finish(
            client.generation.GenerateImages(
                generation_pb2.GenerateImagesRequest(
                    parent=PRODUCT, adapter=adapter.name, count=6, steps=3, seed=5,
                    text_to_image=generation_pb2.TextToImage(prompts=[prompt.name]),
                )
            ),
            generation_pb2.Batch,
        )  # fmt: skip
        made["augmented"] = augmented = finish(
            client.augmentation.AugmentImages(
                augmentation_pb2.AugmentImagesRequest(
                    parent=PRODUCT, import_manifest=imported.manifest, method="memseg", count=60, seed=5
                )
            ),
            augmentation_pb2.AugmentedBatch,
        )
        made["dataset"] = dataset = finish(
            client.assembly.AssembleDataset(
                assembly_pb2.AssembleDatasetRequest(
                    **{"import": imported.name}, parent=PRODUCT, regime=FEW, seed=1,
                    batches=[batch.manifest, augmented.manifest],
                )
            ),
            assembly_pb2.Dataset,
        )  # fmt: skip
        made["version"] = version = finish(
            client.classification.TrainClassifier(
                classification_pb2.TrainClassifierRequest(
                    parent=f"{PRODUCT}/classifiers/c", dataset_manifest=dataset.manifest, steps=8, height=64, width=64
                )
            ),
            classification_pb2.ClassifierVersion,
        )
        made["deployment"] = finish(
            client.classification.DeployClassifier(classification_pb2.DeployClassifierRequest(name=version.name)),
            classification_pb2.Deployment,
        )
    return made


def read(platform: LocalPlatform, ref: common_pb2.ObjectRef) -> bytes:
    data = platform.store.get_key(platform.store.key(ref.uri))
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (ref.sha256, ref.size)
    return data


def test_nothing_is_lost_and_nothing_is_there_twice(
    platform: LocalPlatform, client: Client, job: dict[str, Any]
) -> None:
    imported = job["import"]
    train, validation, test = (imported.counts[split] for split in ("train", "validation", "test"))
    assert train.normal + validation.normal == 20
    assert train.real_defect + validation.real_defect == 8
    assert (test.normal, test.real_defect) == (8, 6)
    assert job["adapter"].steps == 6
    assert job["batch"].image_count == 6
    assert job["augmented"].image_count == 60
    counts = job["dataset"].counts
    assert counts["train"].normal == train.normal
    assert (counts["train"].real_defect, counts["train"].in_distribution) == (5, 6)
    assert counts["train"].out_of_distribution == 60
    assert (counts["test"].in_distribution, counts["test"].out_of_distribution) == (0, 0)
    assert job["dataset"].adapter.uri == job["adapter"].manifest.uri
    assert job["version"].steps == 8
    listed = client.generation.ListAdapters(generation_pb2.ListAdaptersRequest(parent=PRODUCT))
    assert [adapter.name for adapter in listed.adapters] == [job["adapter"].name]


def test_manifests_name_their_objects(platform: LocalPlatform, client: Client, job: dict[str, Any]) -> None:
    manifest = json.loads(read(platform, job["dataset"].manifest))
    assert len(manifest["images"]) > 0
    for record in manifest["images"]:
        for ref in (record["image"], record["mask"], record["sidecar"]):
            if ref is not None:
                read(platform, common_pb2.ObjectRef(**ref))
        assert record["split"] != "test" or record["source"] == "real"
    answer = client.assembly.ValidateDataset(assembly_pb2.ValidateDatasetRequest(name=job["dataset"].name))
    assert list(answer.problems) == []
    assert answer.checked_objects > 70


def test_seeds_are_drawn_once_each(platform: LocalPlatform, job: dict[str, Any]) -> None:
    manifest = json.loads(read(platform, job["batch"].manifest))
    sidecars = [json.loads(read(platform, common_pb2.ObjectRef(**r["sidecar"]))) for r in manifest["images"]]
    assert [sidecar["seed"] for sidecar in sidecars] == [5, 6, 7, 8, 9, 10]
    assert {sidecar["prompt"]["decided_by"] for sidecar in sidecars} == {"tester"}


def test_the_deployed_classifier_answers_as_onnxruntime_does(
    platform: LocalPlatform, client: Client, folder: Path, job: dict[str, Any]
) -> None:
    assert job["deployment"].max_abs_diff_vs_onnxruntime <= 1e-4
    for number in range(3):
        image = common_pb2.ImageSource(content=(folder / f"test/{20000 + number}.png").read_bytes())
        answer = client.classification.Classify(
            classification_pb2.ClassifyRequest(classifier=f"{PRODUCT}/classifiers/c", image=image)
        )
        assert 0 <= answer.score <= 1
        assert answer.version == job["version"].name
        called = answer.score >= answer.threshold.value
        assert answer.verdict == (classification_pb2.VERDICT_DEFECTIVE if called else classification_pb2.VERDICT_OK)


def test_one_request_makes_a_data_set_and_waits_for_people(
    platform: LocalPlatform, client: Client, job: dict[str, Any]
) -> None:
    request = assembly_pb2.RequestDatasetRequest(
        **{"import": job["import"].name}, parent=PRODUCT, regime=FEW, n_aug=5, review_required=True, seed=9,
        request_id="line-7-0001",
        generation=assembly_pb2.GenerationOptions(
            adapter=job["adapter"].name, prompts=["skt background scratched"], steps=2
        ),
    )  # fmt: skip
    operation = client.assembly.RequestDataset(request)
    assert client.assembly.RequestDataset(request).name == operation.name
    _until_waiting(client, operation)
    prompts = client.generation.ListPrompts(generation_pb2.ListPromptsRequest(parent=PRODUCT)).prompts
    draft = next(prompt for prompt in prompts if prompt.state == generation_pb2.Prompt.STATE_DRAFT)
    assert draft.text == "skt background scratched"
    platform.processes["assembly-worker"].kill()
    client.generation.DecidePrompt(
        generation_pb2.DecidePromptRequest(name=draft.name, state=generation_pb2.Prompt.STATE_APPROVED)
    )
    platform.start_process("assembly", "worker")
    batch = _new_batch(client, job["batch"].name)
    _until_waiting(client, operation)
    images = client.generation.ListBatchImages(generation_pb2.ListBatchImagesRequest(parent=batch)).images
    assert len(images) == 3
    client.generation.ReviewImages(
        generation_pb2.ReviewImagesRequest(
            parent=batch, images=[images[0].record.image.sha256], review=common_pb2.REVIEW_REJECTED, reason="blurred"
        )
    )
    rest = [item.record.image.sha256 for item in images[1:]]
    client.generation.ReviewImages(
        generation_pb2.ReviewImagesRequest(parent=batch, images=rest, review=common_pb2.REVIEW_ACCEPTED)
    )
    dataset = client.wait(operation, assembly_pb2.Dataset, timeout_s=120)
    assert dataset.counts["train"].in_distribution == 2
    assert dataset.counts["train"].out_of_distribution == 2


def test_cancel_stops_a_fine_tune_and_frees_its_process(
    platform: LocalPlatform, client: Client, job: dict[str, Any]
) -> None:
    config = generation_pb2.FineTuneConfig()
    config.CopyFrom(TINY)
    config.max_steps = 5000
    config.epochs = 5000
    operation = client.generation.FineTuneAdapter(
        generation_pb2.FineTuneAdapterRequest(
            parent=PRODUCT, adapter_id="never", import_manifest=job["import"].manifest, regime=FEW, config=config
        )
    )
    get = client.operations(operation.name).GetOperation
    deadline = time.monotonic() + 90
    while metadata_of(operation).step < 2 or not _children(platform, "generation-worker"):
        assert time.monotonic() < deadline, metadata_of(operation)
        time.sleep(0.2)
        operation = get(operations_pb2.GetOperationRequest(name=operation.name))
    started = time.monotonic()
    client.operations(operation.name).CancelOperation(operations_pb2.CancelOperationRequest(name=operation.name))
    while _children(platform, "generation-worker"):
        assert time.monotonic() - started < 10
        time.sleep(0.1)
    with pytest.raises(FlawsmithError):
        client.wait(operation, generation_pb2.Adapter, timeout_s=10)
    assert metadata_of(get(operations_pb2.GetOperationRequest(name=operation.name))).state == State.STATE_CANCELLED
    with pytest.raises(FlawsmithError):
        client.generation.GetAdapter(generation_pb2.GetAdapterRequest(name=f"{PRODUCT}/adapters/never"))


def test_a_worker_that_never_returns_is_replaced(platform: LocalPlatform, client: Client, job: dict[str, Any]) -> None:
    second = platform.start_process("augmentation", "worker", executor="augmentation-worker-1")
    time.sleep(6)  # it registers itself
    operations = [
        client.augmentation.AugmentImages(
            augmentation_pb2.AugmentImagesRequest(
                parent=PRODUCT, import_manifest=job["import"].manifest, count=120, seed=seed
            )
        )
        for seed in (11, 12)
    ]
    get = client.operations(operations[0].name).GetOperation
    deadline = time.monotonic() + 30
    while not all(
        metadata_of(get(operations_pb2.GetOperationRequest(name=operation.name))).state
        in (State.STATE_RUNNING, State.STATE_SUCCEEDED)
        for operation in operations
    ):
        assert time.monotonic() < deadline
    second.kill()
    started = time.monotonic()
    for operation in operations:
        batch = client.wait(operation, augmentation_pb2.AugmentedBatch, timeout_s=60)
        assert batch.image_count == 120
    assert time.monotonic() - started < 60


def test_every_process_measures_itself(platform: LocalPlatform, client: Client, job: dict[str, Any]) -> None:
    api = urllib.request.urlopen(f"http://{platform.metrics['classification-api']}/metrics").read().decode()
    assert 'flawsmith_requests_total{code="OK",method="Classify",service="classification"}' in api
    assert "flawsmith_request_seconds_bucket" in api
    assert "flawsmith_queue_depth" in api
    assert "flawsmith_jobs" in api
    worker = urllib.request.urlopen(f"http://{platform.metrics['classification-worker']}/metrics").read().decode()
    assert "flawsmith_job_seconds_count" in worker


def test_logs_are_structured_and_name_the_operation(platform: LocalPlatform, job: dict[str, Any]) -> None:
    lines = (platform.state_dir / "logs/augmentation-worker.log").read_text().splitlines()
    events = [json.loads(line) for line in lines if line.startswith("{")]
    started = [event for event in events if event["event"] == "job started"]
    assert started
    assert all(event["operation"].startswith("augmentation-") for event in started)
    # A trace id of the call that asked for it: 32 hex digits, another for every call.
    assert all(len(event["trace_id"]) == 32 for event in started)
    assert len({event["trace_id"] for event in started}) == len({event["operation"] for event in started})


def _until_waiting(client: Client, operation: operations_pb2.Operation) -> None:
    get = client.operations(operation.name).GetOperation
    deadline = time.monotonic() + 90
    while True:
        current = get(operations_pb2.GetOperationRequest(name=operation.name))
        assert not current.done, current
        if metadata_of(current).state == State.STATE_WAITING_FOR_APPROVAL:
            return
        assert time.monotonic() < deadline, metadata_of(current)
        time.sleep(0.2)


def _new_batch(client: Client, known: str) -> str:
    deadline = time.monotonic() + 90
    while True:
        batches = client.generation.ListBatches(generation_pb2.ListBatchesRequest(parent=PRODUCT)).batches
        if new := [batch.name for batch in batches if batch.name != known]:
            return new[0]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _children(platform: LocalPlatform, name: str) -> set[str]:
    pid = platform.processes[name].pid
    tasks = Path(f"/proc/{pid}/task")
    return {child for task in tasks.iterdir() for child in (task / "children").read_text().split()}
