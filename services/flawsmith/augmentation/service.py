"""How the augmentation service is put together."""

from __future__ import annotations

import cv2

from flawsmith.augmentation.servicer import AugmentationServicer
from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.augmentation.warm_up import warm_up
from flawsmith.common.jobs import Workflow
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform, ServiceDefinition


def _prepare() -> None:
    """What a process does before it says that it is ready: no request waits for a compiler."""
    warm_up()
    # Images are drawn one a thread; OpenCV's own threads would only get into each other's way.
    cv2.setNumThreads(1)


def _servicer(platform: Platform, operations: Operations) -> AugmentationServicer:
    _prepare()
    return AugmentationServicer(platform, operations)


def _workflows() -> dict[str, Workflow]:
    from flawsmith.augmentation.workflows import WORKFLOWS

    _prepare()
    return WORKFLOWS


DEFINITION = ServiceDefinition(
    name="augmentation",
    full_name="flawsmith.augmentation.v1.AugmentationService",
    add_servicer=augmentation_pb2_grpc.add_AugmentationServiceServicer_to_server,
    servicer=_servicer,
    workflows=_workflows,
    responses={"AugmentImages": augmentation_pb2.AugmentedBatch},
)
