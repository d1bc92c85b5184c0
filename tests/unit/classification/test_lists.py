"""What lists leave out, so that a page fits a message; what is got by name has it all."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from google.longrunning import operations_pb2

from flawsmith.classification import metrics
from flawsmith.classification.evaluation import evaluate
from flawsmith.classification.manifests import ClassifierVersionManifest, Evaluation, PrecisionRecallPoint
from flawsmith.classification.predictions import Image, Predictions
from flawsmith.classification.service import DEFINITION
from flawsmith.classification.thresholds import Threshold
from flawsmith.classification.v1 import classification_pb2 as pb
from flawsmith.common.jobs import JobState
from flawsmith.common.manifests import Label, ObjectRef, Source, Split
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import Resources, describe
from flawsmith.common.settings import RpcSettings, Settings
from tests.unit.memory_store import MemoryStore

CLASSIFIER = "products/p/classifiers/c"
PAGE = 50
"""Of the default size."""
SCORES = 5000
"""Distinct ones, of each split."""
LIMIT = RpcSettings().max_message_bytes
NOW = datetime(2026, 1, 1, tzinfo=UTC)
REF = ObjectRef(uri="s3://bucket/x", sha256="0" * 64, size=1)


def evaluation(split: Split) -> Evaluation:
    """Of a few images, with the curve of many."""
    images = tuple(Image("0" * 64, "", split, label, Source.REAL, "") for label in (Label.NORMAL, Label.DEFECT) * 2)
    scores = np.array([0.1, 0.9, 0.4, 0.3], np.float32)
    threshold = Threshold(id="0" * 12, value=0.5, rule="by hand")
    found = evaluate(split, Predictions(images, np.log(scores / (1 - scores)), scores), threshold, None, None)
    generator = np.random.default_rng(0)
    curve = metrics.precision_recall_curve(generator.integers(0, 2, SCORES), generator.permutation(SCORES) / SCORES)
    points = zip(curve.precision, curve.recall, curve.thresholds, strict=True)
    return found.model_copy(
        update={"curve": tuple(PrecisionRecallPoint(precision=p, recall=r, threshold=t) for p, r, t in points)}
    )


@pytest.fixture(scope="module")
def version() -> ClassifierVersionManifest:
    return ClassifierVersionManifest.model_validate(
        dict.fromkeys(("steps", "epochs", "batch_size", "processes", "final_loss", "seed"), 1)
        | dict.fromkeys(("dataset_manifest", "onnx", "weights", "golden", "report"), REF)
        | {"name": f"{CLASSIFIER}/versions/v00", "product": "p", "recipe": "diag", "backbone": "resnet18"}
        | {"threshold": {"id": "0" * 12, "value": 0.5, "rule": "by hand"}, "height": 32, "width": 32}
        | {"onnx_max_abs_diff": 0.0, "parameters": {}, "versions": {}, "create_time": NOW}
        | {"validation": evaluation(Split.VALIDATION), "test": evaluation(Split.TEST)}
    )


class Finished:
    """Operations that have all ended in the same version, in the place of the job database."""

    def __init__(self, result: dict[str, Any]) -> None:
        self._state = JobState(
            "classification-1",
            "TrainClassifier",
            "",
            "me",
            "succeeded",
            create_time=NOW,
            update_time=NOW,
            result=result,
        )

    async def list(self, *, limit: int, offset: int) -> list[JobState]:
        return [self._state] * limit

    async def get(self, operation: str) -> JobState:
        return self._state


async def test_a_page_of_versions_fits_a_message(version: ClassifierVersionManifest) -> None:
    resources = Resources(MemoryStore())
    for number in range(PAGE + 1):
        name = f"{CLASSIFIER}/versions/v{number:02}"
        resources.publish(name, version.model_copy(update={"name": name}))
    platform = Platform("classification", Settings())
    platform.resources = resources
    servicer = DEFINITION.servicer(platform, None)

    page = await servicer.ListClassifierVersions(pb.ListClassifierVersionsRequest(parent=CLASSIFIER), None)
    assert len(page.versions) == PAGE
    assert page.next_page_token
    assert page.ByteSize() < LIMIT
    whole = await servicer.GetClassifierVersion(pb.GetClassifierVersionRequest(name=version.name), None)
    assert len(whole.test.curve) == len(whole.validation.curve) == SCORES
    assert whole.ByteSize() * PAGE > LIMIT
    for found in (whole.test, whole.validation):
        found.ClearField("curve")
    assert page.versions[0] == whole


async def test_a_page_of_evaluations_fits_a_message(version: ClassifierVersionManifest) -> None:
    resources = Resources(MemoryStore())
    assert version.test is not None
    for number in range(PAGE + 1):
        name = f"{version.name}/evaluations/e{number:02}"
        resources.publish(name, version.test.model_copy(update={"name": name}))
    platform = Platform("classification", Settings())
    platform.resources = resources
    servicer = DEFINITION.servicer(platform, None)

    page = await servicer.ListEvaluations(pb.ListEvaluationsRequest(parent=version.name), None)
    assert len(page.evaluations) == PAGE
    assert page.next_page_token
    assert page.ByteSize() < LIMIT
    request = pb.GetEvaluationRequest(name=f"{version.name}/evaluations/e00")
    whole = await servicer.GetEvaluation(request, None)
    assert len(whole.curve) == SCORES
    assert whole.ByteSize() * PAGE > LIMIT
    whole.ClearField("curve")
    assert page.evaluations[0] == whole


async def test_a_page_of_operations_fits_a_message(version: ClassifierVersionManifest) -> None:
    jobs: Any = Finished(describe(version, REF))
    operations = Operations(jobs, Resources(MemoryStore()), DEFINITION.responses, DEFINITION.waiting, DEFINITION.brief)
    page = await operations.ListOperations(operations_pb2.ListOperationsRequest(), None)
    assert len(page.operations) == PAGE
    assert page.ByteSize() < LIMIT
    whole = await operations.GetOperation(operations_pb2.GetOperationRequest(name="operations/classification-1"), None)
    assert whole.ByteSize() * PAGE > LIMIT
    got, listed = pb.ClassifierVersion(), pb.ClassifierVersion()
    assert whole.response.Unpack(got)
    assert page.operations[0].response.Unpack(listed)
    assert len(got.test.curve) == len(got.validation.curve) == SCORES
    for found in (got.test, got.validation):
        found.ClearField("curve")
    assert listed == got
