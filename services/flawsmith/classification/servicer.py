"""The classification API: converts and calls, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2

from flawsmith.classification.manifests import ClassifierVersionManifest, Evaluation
from flawsmith.classification.registry import Deployment, Registry
from flawsmith.classification.requests import (
    DeployClassifierSpec,
    EvaluateClassifierSpec,
    ExportClassifierSpec,
    TrainClassifierSpec,
)
from flawsmith.classification.serving import MAX_INLINE_BYTES, Classifiers
from flawsmith.classification.shadow import ShadowLog
from flawsmith.classification.v1 import classification_pb2, classification_pb2_grpc
from flawsmith.common import rpc, telemetry
from flawsmith.common.convert import to_message, to_model
from flawsmith.common.desired_models import DesiredModels
from flawsmith.common.errors import (
    DeadlineExceededError,
    FieldViolation,
    FlawsmithError,
    InvalidArgumentError,
)
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe
from flawsmith.common.statuses import status_of
from flawsmith.common.v1 import common_pb2

CLASSIFIER = "products/{product}/classifiers/{classifier}"
ALIAS_PATIENCE_S = 5.0
"""How long a promotion or a roll-back waits for a Triton that lacks the version; clients try again by themselves."""
CLASSIFY_PATIENCE_S = 10.0
"""How long Triton may take for an answer of milliseconds until the caller hears that it is unavailable."""
MAX_BATCH = 64
"""Images in one call; more go through the stream, which holds its sender up."""
VERSION = CLASSIFIER + "/versions/{version}"
EVALUATION = VERSION + "/evaluations/{evaluation}"


class ClassificationServicer(classification_pb2_grpc.ClassificationServiceServicer):
    """flawsmith.classification.v1.ClassificationService."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._platform = platform
        self._operations = operations
        self._registry = Registry(platform.resources)
        self._desired = DesiredModels(platform.store, platform.settings.triton.repository)
        compute = platform.settings.compute
        self._threads = FairThreads(compute.thread_count(), compute.max_pending)
        self._window = compute.stream_window
        self._shadow_log = ShadowLog(platform.store)
        self._classifiers = Classifiers(
            platform.store, self._registry, platform.triton, self._threads,
            shadow_below=platform.settings.classify.shadow_below,
        )  # fmt: skip
        telemetry.PENDING_CALLS.labels("classification").set_function(lambda: self._threads.pending)

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

    async def PromoteClassifier(
        self, request: classification_pb2.PromoteClassifierRequest, context: Any
    ) -> classification_pb2.Deployment:
        """Move the champion alias to the candidate."""
        check_name(request.name, CLASSIFIER, "name")
        candidate = await asyncio.to_thread(self._registry.to_promote, request.name, request.version)
        await self._wait_until_loaded(candidate)
        moved = await asyncio.to_thread(
            self._registry.promote, candidate, rpc.principal(context), datetime.now(UTC)
        )  # fmt: skip
        return await self._moved(moved)

    async def WithdrawCandidate(
        self, request: classification_pb2.WithdrawCandidateRequest, context: Any
    ) -> classification_pb2.Classifier:
        """Take the candidate alias away."""
        check_name(request.name, CLASSIFIER, "name")
        candidate = await asyncio.to_thread(self._registry.candidate, request.name)
        await asyncio.to_thread(self._registry.withdraw, candidate, rpc.principal(context), datetime.now(UTC))
        await self._moved(candidate)
        return await self._classifier(request.name)

    async def RollBackClassifier(
        self, request: classification_pb2.RollBackClassifierRequest, context: Any
    ) -> classification_pb2.Deployment:
        """Move the champion alias back."""
        check_name(request.name, CLASSIFIER, "name")
        target = await asyncio.to_thread(self._registry.before_champion, request.name)
        await self._wait_until_loaded(target)
        moved = await asyncio.to_thread(self._registry.roll_back, target, rpc.principal(context), datetime.now(UTC))
        return await self._moved(moved)

    async def GetClassifier(
        self, request: classification_pb2.GetClassifierRequest, context: Any
    ) -> classification_pb2.Classifier:
        """The aliases."""
        check_name(request.name, CLASSIFIER, "name")
        return await self._classifier(request.name)

    async def GetShadowReport(
        self, request: classification_pb2.GetShadowReportRequest, context: Any
    ) -> classification_pb2.ShadowReport:
        """Candidate against champion."""
        check_name(request.name, CLASSIFIER, "name")
        candidate = await asyncio.to_thread(self._registry.candidate, request.name)
        champion = await asyncio.to_thread(self._registry.champion, request.name)
        report = await asyncio.to_thread(self._shadow_log.report, champion, candidate)
        return to_message(report, classification_pb2.ShadowReport)

    async def ExportClassifier(
        self, request: classification_pb2.ExportClassifierRequest, context: Any
    ) -> operations_pb2.Operation:
        """Start an export."""
        check_name(request.name, VERSION, "name")
        await asyncio.to_thread(self._registry.version, request.name)
        return await self._operations.start(
            context, "ExportClassifier", request, ExportClassifierSpec, target=request.name
        )

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
            page_size=request.page_size, page_token=request.page_token, brief=ClassifierVersionManifest.without_curves,
        )  # fmt: skip
        return classification_pb2.ListClassifierVersionsResponse(
            versions=[to_message(describe(*item), classification_pb2.ClassifierVersion) for item in found],
            next_page_token=token,
        )

    async def GetEvaluation(
        self, request: classification_pb2.GetEvaluationRequest, context: Any
    ) -> classification_pb2.Evaluation:
        """One evaluation."""
        check_name(request.name, EVALUATION, "name")
        found, _ = await asyncio.to_thread(self._platform.resources.get, request.name, Evaluation)
        return to_message(found, classification_pb2.Evaluation)

    async def ListEvaluations(
        self, request: classification_pb2.ListEvaluationsRequest, context: Any
    ) -> classification_pb2.ListEvaluationsResponse:
        """A page of evaluations."""
        check_name(request.parent, VERSION, "parent")
        found, token = await asyncio.to_thread(
            self._platform.resources.list_page, request.parent, "evaluations", Evaluation,
            page_size=request.page_size, page_token=request.page_token, brief=Evaluation.without_curve,
        )  # fmt: skip
        return classification_pb2.ListEvaluationsResponse(
            evaluations=[to_message(item, classification_pb2.Evaluation) for item, _ in found], next_page_token=token
        )

    async def Classify(
        self, request: classification_pb2.ClassifyRequest, context: Any
    ) -> classification_pb2.ClassifyResponse:
        """One part."""
        check_name(request.classifier, CLASSIFIER, "classifier")
        caller = rpc.principal(context)
        with self._threads.place(caller):
            patience = min(CLASSIFY_PATIENCE_S, context.time_remaining() or CLASSIFY_PATIENCE_S)
            return await self._classify(caller, request.classifier, request.image, request.heat_map, patience)

    async def BatchClassify(
        self, request: classification_pb2.BatchClassifyRequest, context: Any
    ) -> classification_pb2.BatchClassifyResponse:
        """Several parts."""
        check_name(request.classifier, CLASSIFIER, "classifier")
        if not 1 <= len(request.images) <= MAX_BATCH:
            text = f"{len(request.images)} images; send 1 to {MAX_BATCH}"
            raise InvalidArgumentError("BATCH_SIZE", text, fields=[FieldViolation("images", text)])
        inline = sum(len(image.content) for image in request.images)
        if inline > MAX_INLINE_BYTES:
            text = f"{inline:,} bytes inline; send at most {MAX_INLINE_BYTES:,} a call, or references to stored images"
            raise InvalidArgumentError("BATCH_TOO_LARGE", text, fields=[FieldViolation("images", text)])
        # What is wrong with the classifier is wrong with the call, not with each image.
        await self._classifiers.check(request.classifier)
        caller = rpc.principal(context)

        async def images() -> AsyncIterator[common_pb2.ImageSource]:
            for image in request.images:
                yield image

        async def work(image: common_pb2.ImageSource) -> classification_pb2.ClassifyResponse:
            try:
                return await self._classify(caller, request.classifier, image, request.heat_map, CLASSIFY_PATIENCE_S)
            except FlawsmithError as error:
                return classification_pb2.ClassifyResponse(error=status_of(error))

        answers = self._threads.stream(caller, images(), work, window=self._window)
        return classification_pb2.BatchClassifyResponse(responses=[answer async for answer in answers])

    async def ClassifyStream(
        self, requests: AsyncIterator[classification_pb2.ClassifyRequest], context: Any
    ) -> AsyncIterator[classification_pb2.ClassifyResponse]:
        """Parts as they come."""
        caller = rpc.principal(context)

        # A frame's patience begins here: it may have to wait for a place in the window.
        async def arriving() -> AsyncIterator[tuple[float, classification_pb2.ClassifyRequest]]:
            async for request in requests:
                yield asyncio.get_running_loop().time(), request

        async def work(frame: tuple[float, classification_pb2.ClassifyRequest]) -> classification_pb2.ClassifyResponse:
            arrival, request = frame
            patience = CLASSIFY_PATIENCE_S
            if request.HasField("frame_timeout"):
                patience = request.frame_timeout.seconds + request.frame_timeout.nanos / 1e9
            try:
                check_name(request.classifier, CLASSIFIER, "classifier")
                async with asyncio.timeout_at(arrival + patience):
                    answer = await self._classify(
                        caller, request.classifier, request.image, request.heat_map, CLASSIFY_PATIENCE_S
                    )
            except TimeoutError:
                late = DeadlineExceededError("FRAME_LATE", f"no answer within {patience:g} s of the frame's arrival")
                answer = classification_pb2.ClassifyResponse(error=status_of(late))
            except FlawsmithError as error:
                answer = classification_pb2.ClassifyResponse(error=status_of(error))
            answer.frame_id = request.frame_id
            return answer

        async for answer in self._threads.stream(caller, arriving(), work, window=self._window):
            yield answer

    async def _classify(
        self, caller: str, classifier: str, image: common_pb2.ImageSource, heat_map: bool, patience_s: float
    ) -> classification_pb2.ClassifyResponse:
        source: bytes | ObjectRef | None = None
        match image.WhichOneof("source"):
            case "content":
                source = image.content
            case "ref":
                source = to_model(image.ref, ObjectRef)
        answer = await self._classifiers.classify(
            caller, classifier, source, heat_map=heat_map, timeout_s=patience_s
        )  # fmt: skip
        return to_message(answer, classification_pb2.ClassifyResponse)

    async def _wait_until_loaded(self, deployment: Deployment) -> None:
        """It is kept loaded since it got an alias; only a Triton that starts just now may lack it."""
        await asyncio.to_thread(self._desired.keep, deployment.triton_model)
        await self._platform.triton.wait_until_loaded(deployment.triton_model, ALIAS_PATIENCE_S)

    async def _moved(self, deployment: Deployment) -> classification_pb2.Deployment:
        await asyncio.to_thread(self._registry.keep_deployed, self._desired, deployment.classifier)
        self._classifiers.forget(deployment.classifier)
        return to_message(deployment, classification_pb2.Deployment)

    async def _classifier(self, name: str) -> classification_pb2.Classifier:
        aliases = await asyncio.to_thread(self._registry.aliases, name)
        values = {alias: getattr(aliases, alias) for alias in ("champion", "candidate", "previous")}
        return to_message({"name": name, **values}, classification_pb2.Classifier)
