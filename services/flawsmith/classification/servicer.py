"""The classification API: converts and calls, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2

from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.registry import Registry
from flawsmith.classification.requests import DeployClassifierSpec, EvaluateClassifierSpec, TrainClassifierSpec
from flawsmith.classification.serving import Classifiers
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common import rpc
from flawsmith.common.convert import to_message, to_model
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe

CLASSIFIER = "products/{product}/classifiers/{classifier}"
ROLL_BACK_PATIENCE_S = 5.0
"""How long a roll-back waits for a Triton that lacks the version; clients try again by themselves."""
CLASSIFY_PATIENCE_S = 10.0
"""How long Triton may take for an answer of milliseconds until the caller hears that it is unavailable."""
VERSION = CLASSIFIER + "/versions/{version}"


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """flawsmith.classification.v1.ClassificationService."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._platform = platform
        self._operations = operations
        self._registry = Registry(platform.resources)
        self._desired = DesiredModels(platform.store, platform.settings.triton.repository)
        self._classifiers = Classifiers(platform.store, self._registry, platform.triton)

    async def TrainClassifier(
        self, request: classification_pb2.TrainClassifierRequest, context: Any
    ) -> operations_pb2.Operation:
        """Start a training."""
        check_name(request.parent, CLASSIFIER, "parent")
        if request.version_id:
            check_name(f"{request.parent}/versions/{request.version_id}", VERSION, "version_id")
        return await self._operations.start(
            context, "TrainClassifier", request, TrainClassifierSpec,
            collection="versions", resource_id=request.version_id,
        )  # fmt: skip

    async def EvaluateClassifier(
        self, request: classification_pb2.EvaluateClassifierRequest, context: Any
    ) -> operations_pb2.Operation:
        """Start an evaluation."""
        check_name(request.name, VERSION, "name")
        await asyncio.to_thread(self._registry.version, request.name)
        return await self._operations.start(
            context, "EvaluateClassifier", request, EvaluateClassifierSpec, target=request.name
        )

    async def DeployClassifier(
        self, request: classification_pb2.DeployClassifierRequest, context: Any
    ) -> operations_pb2.Operation:
        """Start a deployment."""
        check_name(request.name, VERSION, "name")
        await asyncio.to_thread(self._registry.version, request.name)
        return await self._operations.start(
            context, "DeployClassifier", request, DeployClassifierSpec, target=request.name
        )

    async def RollBackClassifier(
        self, request: classification_pb2.RollBackClassifierRequest, context: Any
    ) -> classification_pb2.Deployment:
        """Move the champion alias back."""
        check_name(request.name, CLASSIFIER, "name")
        target = await asyncio.to_thread(self._registry.before_champion, request.name)
        # It is kept loaded since it was champion; only a Triton that starts just now may lack it.
        await asyncio.to_thread(self._desired.keep, target.triton_model)
        await self._platform.triton.wait_until_loaded(target.triton_model, ROLL_BACK_PATIENCE_S)
        moved = await asyncio.to_thread(self._registry.roll_back, target, rpc.principal(context), datetime.now(UTC))
        await asyncio.to_thread(self._registry.keep_deployed, self._desired, request.name)
        self._classifiers.forget(request.name)
        return to_message(moved, classification_pb2.Deployment)

    async def GetClassifierVersion(
        self, request: classification_pb2.GetClassifierVersionRequest, context: Any
    ) -> classification_pb2.ClassifierVersion:
        """One version."""
        check_name(request.name, VERSION, "name")
        found = await asyncio.to_thread(self._platform.resources.get, request.name, ClassifierVersionManifest)
        return to_message(describe(*found), classification_pb2.ClassifierVersion)

    async def ListClassifierVersions(
        self, request: classification_pb2.ListClassifierVersionsRequest, context: Any
    ) -> classification_pb2.ListClassifierVersionsResponse:
        """A page of versions."""
        check_name(request.parent, CLASSIFIER, "parent")
        found, token = await asyncio.to_thread(
            self._platform.resources.list_page, request.parent, "versions", ClassifierVersionManifest,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        return classification_pb2.ListClassifierVersionsResponse(
            versions=[to_message(describe(*item), classification_pb2.ClassifierVersion) for item in found],
            next_page_token=token,
        )

    async def Classify(
        self, request: classification_pb2.ClassifyRequest, context: Any
    ) -> classification_pb2.ClassifyResponse:
        """One part."""
        check_name(request.classifier, CLASSIFIER, "classifier")
        source = request.image.WhichOneof("source")
        answer = await self._classifiers.classify(
            request.classifier,
            request.image.content if source == "content" else None,
            to_model(request.image.ref, ObjectRef) if source == "ref" else None,
            min(CLASSIFY_PATIENCE_S, context.time_remaining() or CLASSIFY_PATIENCE_S),
        )
        return to_message(answer, classification_pb2.ClassifyResponse)

    async def ClassifyStream(
        self, requests: AsyncIterator[classification_pb2.ClassifyRequest], context: Any
    ) -> AsyncIterator[classification_pb2.ClassifyResponse]:
        """Parts as they come."""
        async for request in requests:
            yield await self.Classify(request, context)
