"""How the classification service is put together."""

from __future__ import annotations

from typing import Any

import cv2

from flawsmith.classification.servicer import ClassificationServicer
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common.jobs import Workflow
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform, ServiceDefinition


def _servicer(platform: Platform, operations: Operations) -> ClassificationServicer:
    # Images are decoded and resized one a thread; OpenCV's own threads would only get into each other's way.
    cv2.setNumThreads(1)
    return ClassificationServicer(platform, operations)


def _workflows() -> dict[str, Workflow]:
    from flawsmith.classification.workflows import WORKFLOWS

    return WORKFLOWS


def _without_curves(result: dict[str, Any]) -> dict[str, Any]:
    """A result without precision-recall curves, its evaluations' included, for the reason that lists of versions are;
    see `Evaluation.without_curve`."""
    return {
        name: _without_curves(value) if isinstance(value, dict) else value
        for name, value in result.items()
        if name != "curve"
    }


DEFINITION = ServiceDefinition(
    name="classification",
    full_name="flawsmith.classification.v1.ClassificationService",
    add_servicer=classification_pb2_grpc.add_ClassificationServiceServicer_to_server,
    servicer=_servicer,
    workflows=_workflows,
    responses={
        "TrainClassifier": classification_pb2.ClassifierVersion,
        "EvaluateClassifier": classification_pb2.Evaluation,
        "DeployClassifier": classification_pb2.Deployment,
        "ExportClassifier": classification_pb2.ClassifierExport,
    },
    brief=_without_curves,
    needs_triton=True,
)
