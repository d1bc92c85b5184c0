"""Classification through its public API: real S3 server, real Triton, a real worker that is really killed."""

from __future__ import annotations

import io
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2
from google.protobuf import duration_pb2
from pyarrow import parquet

from flawsmith.classification.inference import OnnxClassifier
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.registry import Alias, Deployment, Registry, list_classifiers
from flawsmith.classification.v1 import classification_pb2 as pb
from flawsmith.client import Client, metadata_of
from flawsmith.common.convert import to_message
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import FailedPreconditionError, FlawsmithError, InvalidArgumentError, NotFoundError
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import (
    DatasetManifest,
    ImageRecord,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
    SplitCounts,
)
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.v1 import common_pb2
from flawsmith.drawing.sample_product import draw_sample
from flawsmith.local.platform import LocalPlatform

HEIGHT, WIDTH = 64, 48
PRODUCT = "products/plates-to-classify"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
SIZES = {
    (Split.TRAIN, Label.NORMAL): 12,
    (Split.TRAIN, Label.DEFECT): 6,
    (Split.VALIDATION, Label.NORMAL): 8,
    (Split.TEST, Label.NORMAL): 6,
    (Split.TEST, Label.DEFECT): 4,
}


@pytest.fixture(scope="module")
def dataset(platform: LocalPlatform) -> tuple[common_pb2.ObjectRef, dict[str, bytes]]:
    """A published data set of drawn plates: its manifest, and the test images by sha256."""
    generator, records, test = np.random.default_rng(5), [], {}
    for (split, label), count in SIZES.items():
        for _ in range(count):
            image, drawn = draw_sample(generator, HEIGHT, WIDTH, defective=label is Label.DEFECT)
            data = encode_png(image)
            ref = platform.store.put_blob(data, ".png")
            mask = platform.store.put_blob(encode_png(drawn), ".png") if label is Label.DEFECT else None
            records.append(
                ImageRecord(
                    image=ref, mask=mask, height=HEIGHT, width=WIDTH, label=label, source=Source.REAL, split=split,
                    defect_type="scratch" if label is Label.DEFECT else "",
                )
            )  # fmt: skip
            if split is Split.TEST:
                test[ref.sha256] = data
    name = f"{PRODUCT}/datasets/drawn"
    manifest = DatasetManifest(
        name=name, product=PRODUCT, regime=Regime.FULL_SHOT, images=tuple(records), counts={Split.TRAIN: SplitCounts()},
        inputs=(), seed=5, create_time=NOW,
    )  # fmt: skip
    return reference(Resources(platform.store).publish(name, manifest)), test


@pytest.fixture(scope="module")
def train(
    platform: LocalPlatform, dataset: tuple[common_pb2.ObjectRef, dict[str, bytes]]
) -> Callable[..., operations_pb2.Operation]:
    def start(client: Client, classifier: str = "main", **fields: Any) -> operations_pb2.Operation:
        # The smallest backbone: its checkpoints are half as large, and what is tested here is not its answers.
        small = {"backbone": "resnet18", "steps": 12, "batch_size": 4, "seed": 3}
        request = {"dataset_manifest": dataset[0]} | small | fields
        return client.classification.TrainClassifier(
            pb.TrainClassifierRequest(parent=f"{PRODUCT}/classifiers/{classifier}", **request)
        )

    return start


@pytest.fixture(scope="module")
def version(platform: LocalPlatform, train: Callable[..., operations_pb2.Operation]) -> pb.ClassifierVersion:
    with Client(platform.settings.peers, principal="tester") as client:
        operation = train(client, version_id="one", request_id="train-one")
        again = train(client, version_id="one", request_id="train-one")
        assert again.name == operation.name  # the same request twice is one operation
        return client.wait(operation, pb.ClassifierVersion, timeout_s=240)


@pytest.fixture(scope="module")
def deployment(platform: LocalPlatform, version: pb.ClassifierVersion) -> pb.Deployment:
    with Client(platform.settings.peers, principal="tester") as client:
        classifier = version.name.rpartition("/versions/")[0]
        with pytest.raises(FailedPreconditionError) as error:
            client.classification.Classify(classify_request(classifier, content=b"x"))
        assert error.value.reason == "NO_CHAMPION"
        operation = client.classification.DeployClassifier(pb.DeployClassifierRequest(name=version.name))
        return client.wait(operation, pb.Deployment, timeout_s=120)


def test_version_names_everything_it_stored(platform: LocalPlatform, version: pb.ClassifierVersion) -> None:
    assert version.name == f"{PRODUCT}/classifiers/main/versions/one"
    assert (version.height, version.width, version.steps, version.recipe) == (HEIGHT, WIDTH, 12, "in-and-out")
    assert version.onnx_max_abs_diff <= 1e-4
    manifest = ClassifierVersionManifest.model_validate_json(platform.store.get(model(version.manifest)))
    for ref in (manifest.onnx, manifest.weights, manifest.golden, manifest.test.predictions):
        assert len(platform.store.get(ref)) == ref.size
    assert (version.test.normals, version.test.defects) == (6, 4)
    assert 0.0 < version.test.ap <= 1.0
    assert version.test.curve
    assert "8 validation normals" in version.threshold.rule
    wait_for(lambda: not any(platform.store.list_keys("checkpoints/")), 30)


def test_versions_are_listed(client: Client, version: pb.ClassifierVersion) -> None:
    assert client.classification.GetClassifierVersion(pb.GetClassifierVersionRequest(name=version.name)) == version
    listed = client.classification.ListClassifierVersions(
        pb.ListClassifierVersionsRequest(parent=f"{PRODUCT}/classifiers/main")
    )
    brief = pb.ClassifierVersion.FromString(version.SerializeToString())
    brief.test.ClearField("curve")
    brief.validation.ClearField("curve")
    assert brief in listed.versions


def test_evaluation_of_the_test_split_repeats_the_trainers(
    client: Client, version: pb.ClassifierVersion, dataset: tuple[common_pb2.ObjectRef, dict[str, bytes]]
) -> None:
    request = pb.EvaluateClassifierRequest(name=version.name, dataset_manifest=dataset[0])
    operation = client.classification.EvaluateClassifier(request)
    found = client.wait(operation, pb.Evaluation, timeout_s=60)
    for_ever = operations_pb2.WaitOperationRequest(name=operation.name, timeout=duration_pb2.Duration(seconds=2**62))
    assert client.operations(operation.name).WaitOperation(for_ever).done
    assert found.ap == pytest.approx(version.test.ap)
    assert found.at_threshold == version.test.at_threshold
    assert [group.name for group in found.defect_types] == ["scratch"]
    assert client.classification.GetEvaluation(pb.GetEvaluationRequest(name=found.name)) == found
    listed = client.classification.ListEvaluations(pb.ListEvaluationsRequest(parent=version.name))
    assert found.name in [brief.name for brief in listed.evaluations]
    assert not any(brief.curve for brief in listed.evaluations)
    report, table = client.download([found.report, found.predictions])
    assert report.startswith(b"<!doctype html>")
    rows = parquet.read_table(io.BytesIO(table)).to_pylist()
    assert {row["sha256"] for row in rows} == set(dataset[1])
    with pytest.raises(NotFoundError) as missing:
        client.classification.GetEvaluation(pb.GetEvaluationRequest(name=f"{version.name}/evaluations/none"))
    assert missing.value.reason == "RESOURCE_NOT_FOUND"
    wrong = pb.EvaluateClassifierRequest(name=version.name, dataset_manifest=version.onnx)
    with pytest.raises(InvalidArgumentError) as error:
        client.wait(client.classification.EvaluateClassifier(wrong), pb.Evaluation, timeout_s=60)
    assert error.value.reason == "NOT_A_MANIFEST"


def test_classify_answers_what_onnx_runtime_does(
    platform: LocalPlatform,
    client: Client,
    version: pb.ClassifierVersion,
    deployment: pb.Deployment,
    dataset: tuple[common_pb2.ObjectRef, dict[str, bytes]],
) -> None:
    assert deployment.version == version.name
    assert deployment.deployed_by == "tester"
    assert deployment.max_abs_diff_vs_onnxruntime <= 1e-4
    assert deployment.classifier in list_classifiers(Resources(platform.store))  # other modules have theirs
    manifest = ClassifierVersionManifest.model_validate_json(platform.store.get(model(version.manifest)))
    rows = parquet.read_table(io.BytesIO(platform.store.get(manifest.test.predictions))).to_pylist()
    stored = {row["sha256"]: row["score"] for row in rows}
    requests = [classify_request(deployment.classifier, content=data) for data in dataset[1].values()]
    answers = [client.classification.Classify(request) for request in requests]
    assert [answer.score for answer in answers] == pytest.approx([stored[sha] for sha in dataset[1]], abs=1e-4)
    for answer in answers:
        assert answer.version == version.name
        assert answer.threshold == version.threshold
        called = answer.score >= version.threshold.value
        assert answer.verdict == (pb.VERDICT_DEFECTIVE if called else pb.VERDICT_OK)
    streamed = list(client.classification.ClassifyStream(iter(requests)))
    assert [answer.score for answer in streamed] == pytest.approx([answer.score for answer in answers], abs=1e-6)
    ref = next(record for record in manifest_images(platform, version) if record.split is Split.TEST).image
    by_reference = client.classification.Classify(classify_request(deployment.classifier, ref=reference(ref)))
    assert by_reference.score == pytest.approx(stored[ref.sha256], abs=1e-4)


def test_masks_two_thresholds_and_calibration_reach_the_answer(
    platform: LocalPlatform,
    client: Client,
    train: Callable[..., operations_pb2.Operation],
    dataset: tuple[common_pb2.ObjectRef, dict[str, bytes]],
) -> None:
    rule = pb.ThresholdRule(two_thresholds=pb.TwoThresholdsRule(recall=0.5, false_alarm_rate=0.2))
    started = train(client, "mixed", recipe="mixed", steps=2, threshold_rule=rule)
    version = client.wait(started, pb.ClassifierVersion, timeout_s=240)
    assert (version.recipe, version.backbone) == ("mixed", "resnet18")
    assert (version.calibration.normals, version.calibration.defects) == (8, 6)  # the defects out of fold
    assert version.threshold.ok_below <= version.threshold.value
    assert version.test.at_ok_below.threshold == version.threshold.ok_below
    assert version.test.unknown == version.test.unknown_normals + version.test.unknown_defects
    assert b"masks of 6" in next(client.download([version.report]))
    deploy = client.classification.DeployClassifier(pb.DeployClassifierRequest(name=version.name))
    deployed = client.wait(deploy, pb.Deployment, timeout_s=120)
    rows = parquet.read_table(io.BytesIO(next(client.download([version.test.predictions])))).to_pylist()
    stored = {row["sha256"]: row for row in rows}
    verdicts = {"ok": pb.VERDICT_OK, "unknown": pb.VERDICT_UNKNOWN, "defective": pb.VERDICT_DEFECTIVE}
    for digest, data in list(dataset[1].items())[:4]:
        answer = client.classification.Classify(classify_request(deployed.classifier, content=data))
        assert answer.calibrated_probability == pytest.approx(stored[digest]["calibrated"], abs=1e-3)
        assert answer.verdict == verdicts[stored[digest]["verdict"]]
        assert answer.threshold == version.threshold


def test_initial_weights_that_are_none_are_refused(
    platform: LocalPlatform, client: Client, train: Callable[..., operations_pb2.Operation]
) -> None:
    ref = platform.store.put_blob(b"no tensors", ".safetensors")
    operation = train(client, "initial", initial_weights=reference(ref))
    with pytest.raises(InvalidArgumentError) as error:
        client.wait(operation, pb.ClassifierVersion, timeout_s=120)
    assert error.value.reason == "INITIAL_WEIGHTS_UNREADABLE"


def test_classify_crops_and_resizes_as_training_did(
    platform: LocalPlatform, client: Client, version: pb.ClassifierVersion, deployment: pb.Deployment
) -> None:
    image, _ = draw_sample(np.random.default_rng(1), 150, 90, defective=True)
    answer = client.classification.Classify(classify_request(deployment.classifier, content=encode_png(image)))
    session = OnnxClassifier(platform.store.get(model(version.onnx)))
    expected = session.probabilities(preprocess(image, HEIGHT, WIDTH)[None])
    assert answer.score == pytest.approx(float(expected[0]), abs=1e-4)


def test_bad_input_has_exact_reasons(client: Client, deployment: pb.Deployment) -> None:
    good = encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    cases: list[tuple[pb.ClassifyRequest, type[FlawsmithError], str]] = [
        (
            classify_request(deployment.classifier, content=good[: len(good) // 2]),
            InvalidArgumentError,
            "IMAGE_UNREADABLE",
        ),
        (classify_request(deployment.classifier, content=b""), InvalidArgumentError, "IMAGE_UNREADABLE"),
        (classify_request(deployment.classifier, content=huge_png()), InvalidArgumentError, "IMAGE_TOO_LARGE"),
        (
            classify_request(deployment.classifier, content=bytes(5 * 2**20)),
            InvalidArgumentError,
            "INLINE_IMAGE_TOO_LARGE",
        ),
        (pb.ClassifyRequest(classifier=deployment.classifier), InvalidArgumentError, "IMAGE_MISSING"),
        (classify_request("plates", content=good), InvalidArgumentError, "INVALID_NAME"),
        (classify_request(f"{PRODUCT}/classifiers/none", content=good), NotFoundError, "CLASSIFIER_NOT_FOUND"),
        (
            classify_request(
                deployment.classifier,
                ref=common_pb2.ObjectRef(uri="s3://elsewhere/x.png", sha256="0" * 64, size=1),
            ),
            InvalidArgumentError,
            "FOREIGN_URI",
        ),
    ]
    for request, kind, reason in cases:
        with pytest.raises(kind) as error:
            client.classification.Classify(request)
        assert error.value.reason == reason


def test_bad_training_requests_are_refused(
    client: Client, train: Callable[..., operations_pb2.Operation], version: pb.ClassifierVersion
) -> None:
    with pytest.raises(InvalidArgumentError) as error:
        train(client, recipe="none-such", height=4, epochs=2)
    assert {violation.field for violation in error.value.fields} == {"recipe", "height", "steps"}
    operation = train(client, threshold_rule=pb.ThresholdRule(recall=0.95))
    with pytest.raises(FailedPreconditionError) as refused:
        client.wait(operation, pb.ClassifierVersion, timeout_s=60)
    assert refused.value.reason == "TOO_FEW_POSITIVES"
    with pytest.raises(NotFoundError):
        client.classification.DeployClassifier(pb.DeployClassifierRequest(name=version.name + "-none"))


def test_a_killed_worker_finishes_the_same_training(
    platform: LocalPlatform,
    client: Client,
    train: Callable[..., operations_pb2.Operation],
    version: pb.ClassifierVersion,
) -> None:
    operation = train(client, "killed")
    checkpoints = f"checkpoints/{operation.name.removeprefix('operations/')}/"
    wait_for(lambda: any(platform.store.list_keys(checkpoints)), 120)
    platform.processes["classification-worker"].kill()
    platform.start_process("classification", "worker")
    survived = client.wait(operation, pb.ClassifierVersion, timeout_s=240)
    undisturbed, continued = (
        ClassifierVersionManifest.model_validate_json(platform.store.get(model(found.manifest)))
        for found in (version, survived)
    )
    assert continued.weights.sha256 == undisturbed.weights.sha256  # as if never killed
    wait_for(lambda: not any(platform.store.list_keys(checkpoints)), 30)


def test_a_worker_killed_while_deploying_moves_the_alias_once(
    platform: LocalPlatform, client: Client, train: Callable[..., operations_pb2.Operation], deployment: pb.Deployment
) -> None:
    second = client.wait(train(client, version_id=f"two-{uuid.uuid4().hex[:6]}"), pb.ClassifierVersion, timeout_s=240)
    operation = client.classification.DeployClassifier(pb.DeployClassifierRequest(name=second.name))
    stub = client.operations(operation.name)
    wait_for(lambda: metadata_of(stub.GetOperation(operations_pb2.GetOperationRequest(name=operation.name))).stage, 60)
    platform.processes["classification-worker"].kill()
    platform.start_process("classification", "worker")
    deployed = client.wait(operation, pb.Deployment, timeout_s=120)
    assert deployed.version == second.name
    image = encode_png(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    time.sleep(1.1)  # an alias is believed for one second
    assert client.classification.Classify(classify_request(deployment.classifier, content=image)).version == second.name

    request = pb.RollBackClassifierRequest(name=deployment.classifier)
    back = client.classification.RollBackClassifier(request)
    assert (back.version, back.deployed_by) == (deployment.version, "tester")
    answer = client.classification.Classify(classify_request(deployment.classifier, content=image))
    assert answer.version == deployment.version
    with pytest.raises(FailedPreconditionError) as error:  # the alias had moved once, not twice
        client.classification.RollBackClassifier(request)
    assert error.value.reason == "NO_EARLIER_VERSION"
    assert Registry(Resources(platform.store)).champion(deployment.classifier).action == "roll_back"


def deployment_of(classifier: str, version: str, operation: str, alias: Alias = "champion") -> Deployment:
    return Deployment(
        action="deploy", alias=alias, classifier=classifier, version=f"{classifier}/versions/{version}",
        triton_model=version, max_abs_diff_vs_onnxruntime=0.0, deployed_by="tester", deploy_time=NOW,
        operation=operation,
    )  # fmt: skip


def test_roll_backs_go_one_further_back_each_time(store: ObjectStore) -> None:
    registry, classifier = Registry(Resources(store)), "products/stack/classifiers/main"
    for operation, version_id in enumerate("aabc"):  # the same version again is no step
        registry.deploy(deployment_of(classifier, version_id, f"operation-{operation}"))
    registry.deploy(deployment_of(classifier, "b", "operation-3"))  # a repeated step
    champions = []
    for _ in range(2):
        registry.roll_back(registry.before_champion(classifier), "tester", NOW)
        champions.append(registry.champion(classifier).version[-1])
    assert champions == ["b", "a"]
    with pytest.raises(FailedPreconditionError) as error:
        registry.before_champion(classifier)
    assert error.value.reason == "NO_EARLIER_VERSION"
    registry.deploy(deployment_of(classifier, "c", "operation-9"))
    assert registry.before_champion(classifier).version.endswith("/a")


def test_a_champion_deployed_again_answers_as_asked_last(store: ObjectStore) -> None:
    registry, classifier = Registry(Resources(store)), "products/again/classifiers/main"
    registry.deploy(deployment_of(classifier, "a", "1"))
    registry.deploy(deployment_of(classifier, "b", "2"))
    strict = deployment_of(classifier, "b", "3").model_copy(update={"size_policy": "refuse"})
    registry.deploy(strict)
    assert registry.champion(classifier) == strict
    registry.deploy(deployment_of(classifier, "c", "4"))
    assert registry.before_champion(classifier) == strict
    registry.roll_back(registry.before_champion(classifier), "tester", NOW)
    assert registry.champion(classifier).size_policy == "refuse"
    assert registry.before_champion(classifier).version[-1] == "a"


def test_a_candidate_that_becomes_champion_another_way_is_candidate_no_more(store: ObjectStore) -> None:
    registry, classifier = Registry(Resources(store)), "products/direct/classifiers/main"
    registry.deploy(deployment_of(classifier, "a", "1"))
    registry.deploy(deployment_of(classifier, "b", "2", "candidate"))
    registry.deploy(deployment_of(classifier, "c", "3"))
    assert registry.candidate(classifier).version[-1] == "b"
    registry.deploy(deployment_of(classifier, "b", "4"))
    assert registry.aliases(classifier).candidate is None
    registry.deploy(deployment_of(classifier, "c", "5", "candidate"))
    registry.roll_back(registry.before_champion(classifier), "tester", NOW)
    assert (registry.champion(classifier).version[-1], registry.aliases(classifier).candidate) == ("c", None)


def test_the_champion_is_not_its_own_candidate(store: ObjectStore) -> None:
    resources, classifier = Resources(store), "products/itself/classifiers/main"
    registry = Registry(resources)
    registry.deploy(deployment_of(classifier, "a", "1"))
    registry.deploy(deployment_of(classifier, "b", "2", "candidate"))
    with pytest.raises(FailedPreconditionError, match="another version or precision") as error:
        registry.deploy(deployment_of(classifier, "a", "3", "candidate"))
    assert error.value.reason == "ALREADY_CHAMPION"
    assert registry.candidate(classifier).version[-1] == "b"
    registry.promote(registry.candidate(classifier), "boss", NOW)
    again = registry.deploy(deployment_of(classifier, "b", "2", "candidate"))  # a repeated step
    assert again.operation == "2"
    registry.deploy(deployment_of(classifier, "a", "4", "candidate"))  # it answers no longer
    assert registry.candidate(classifier).version[-1] == "a"
    # As another process may write it that has not seen the promotion yet.
    resources.append_event(classifier, "deployments", deployment_of(classifier, "b", "5", "candidate"))
    assert registry.aliases(classifier).candidate is None


def test_a_candidate_is_promoted_or_withdrawn(store: ObjectStore) -> None:
    registry, classifier = Registry(Resources(store)), "products/shadow/classifiers/main"
    registry.deploy(deployment_of(classifier, "a", "1"))
    with pytest.raises(FailedPreconditionError) as error:
        registry.candidate(classifier)
    assert error.value.reason == "NO_CANDIDATE"
    registry.deploy(deployment_of(classifier, "b", "2", "candidate"))
    assert registry.champion(classifier).version[-1] == "a"
    registry.deploy(deployment_of(classifier, "c", "3", "candidate"))  # takes its place
    desired = DesiredModels(store, "shadow-test")
    registry.keep_deployed(desired, classifier)
    assert desired.wanted() == {"a", "c"}
    with pytest.raises(FailedPreconditionError) as changed:
        registry.to_promote(classifier, f"{classifier}/versions/b")
    assert changed.value.reason == "CANDIDATE_CHANGED"
    for _ in range(2):  # a call that is sent again does no harm
        registry.promote(registry.to_promote(classifier, f"{classifier}/versions/c"), "boss", NOW)
    assert len(registry.aliases(classifier).champions) == 2
    champion = registry.champion(classifier)
    assert (champion.version[-1], champion.alias, champion.deployed_by) == ("c", "champion", "boss")
    assert registry.aliases(classifier).candidate is None
    registry.deploy(deployment_of(classifier, "d", "4", "candidate"))
    registry.withdraw(registry.candidate(classifier), "boss", NOW)
    aliases = registry.aliases(classifier)
    assert aliases.candidate is None
    assert [deployment.version[-1] for deployment in aliases.champions] == ["a", "c"]
    registry.roll_back(registry.before_champion(classifier), "tester", NOW)
    assert registry.champion(classifier).version[-1] == "a"


def classify_request(
    classifier: str, content: bytes | None = None, ref: common_pb2.ObjectRef | None = None
) -> pb.ClassifyRequest:
    return pb.ClassifyRequest(classifier=classifier, image=common_pb2.ImageSource(content=content, ref=ref))


def reference(ref: ObjectRef) -> common_pb2.ObjectRef:
    return to_message(ref, common_pb2.ObjectRef)


def model(ref: common_pb2.ObjectRef) -> ObjectRef:
    return ObjectRef(uri=ref.uri, sha256=ref.sha256, size=ref.size)


def manifest_images(platform: LocalPlatform, version: pb.ClassifierVersion) -> tuple[ImageRecord, ...]:
    data = platform.store.get(model(version.dataset_manifest))
    return DatasetManifest.model_validate_json(data).images


def huge_png() -> bytes:
    """A valid header of 50,000 x 50,000 pixels, and no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def wait_for(condition: Callable[[], object], timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.05)
