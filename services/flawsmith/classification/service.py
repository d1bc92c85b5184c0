"""How the classification service is put together."""

from __future__ import annotations

from flawsmith.classification.servicer import ClassificationServicer
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common.jobs import Workflow
from flawsmith.common.process import ServiceDefinition


def _workflows() -> dict[str, Workflow]:
    from flawsmith.classification.workflows import WORKFLOWS

    return WORKFLOWS


DEFINITION = ServiceDefinition(
    name="classification",
    full_name="flawsmith.classification.v1.ClassificationService",
    add_servicer=classification_pb2_grpc.add_ClassificationServiceServicer_to_server,
    servicer=lambda platform, operations: ClassificationServicer(platform, operations),
    workflows=_workflows,
    responses={
        "TrainClassifier": classification_pb2.ClassifierVersion,
        "EvaluateClassifier": classification_pb2.Evaluation,
        "DeployClassifier": classification_pb2.Deployment,
    },
    needs_triton=True,
)
