"""How the augmentation service is put together."""

from __future__ import annotations

from flawsmith.augmentation.servicer import AugmentationServicer
from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.common.jobs import Workflow
from flawsmith.common.process import ServiceDefinition


def _workflows() -> dict[str, Workflow]:
    from flawsmith.augmentation.workflows import WORKFLOWS

    return WORKFLOWS


DEFINITION = ServiceDefinition(
    name="augmentation",
    full_name="flawsmith.augmentation.v1.AugmentationService",
    add_servicer=augmentation_pb2_grpc.add_AugmentationServiceServicer_to_server,
    servicer=AugmentationServicer,
    workflows=_workflows,
    responses={"AugmentImages": augmentation_pb2.AugmentedBatch},
)
