"""The augmentation service: converts requests and calls, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.longrunning import operations_pb2

from flawsmith.augmentation.methods import METHODS, Sources
from flawsmith.augmentation.rendering import PROCEDURAL, check, render, render_preview
from flawsmith.augmentation.spec import AugmentImageSpec, AugmentImagesSpec, PreviewPlacementSpec
from flawsmith.augmentation.stored_sources import SourceCache
from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.common import telemetry
from flawsmith.common.convert import to_dict, to_message, to_model
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.manifests import BatchManifest, ObjectRef
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe, page
from flawsmith.common.rpc import principal

MAX_INLINE_BYTES = 4 * 2**20
"""Larger images are sent by reference, and larger results are made by AugmentImages."""


class AugmentationServicer(augmentation_pb2_grpc.AugmentationServiceServicer):
    """See protos/flawsmith/augmentation/v1/augmentation.proto."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._store = platform.store
        self._resources = platform.resources
        self._operations = operations
        settings = platform.settings.compute
        self._threads = FairThreads(settings.thread_count(), settings.max_pending)
        self._window = settings.stream_window
        self._sources = SourceCache(platform.store, platform.resources, max_bytes=settings.texture_cache_bytes)
        telemetry.PENDING_CALLS.labels("augmentation").set_function(lambda: self._threads.pending)

    async def ListMethods(self, request: Any, context: Any) -> augmentation_pb2.ListMethodsResponse:
        methods = [METHODS[name] for name in sorted(METHODS)]
        found, token = page(methods, page_size=request.page_size, page_token=request.page_token)
        entries = [
            {
                "name": method.name,
                "description": method.description,
                "parameters_schema": method.parameters.model_json_schema(),
            }
            for method in found
        ]
        return to_message({"methods": entries, "next_page_token": token}, augmentation_pb2.ListMethodsResponse)

    async def AugmentImage(self, request: Any, context: Any) -> augmentation_pb2.AugmentImageResponse:
        caller = principal(context)
        with self._threads.place(caller):
            return await self._augment(request, caller)

    async def AugmentStream(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[augmentation_pb2.AugmentImageResponse]:
        caller = principal(context)

        async def work(request: Any) -> augmentation_pb2.AugmentImageResponse:
            return await self._augment(request, caller)

        async for answer in self._threads.stream(caller, requests, work, window=self._window):
            yield answer

    async def PreviewPlacement(self, request: Any, context: Any) -> augmentation_pb2.PreviewPlacementResponse:
        caller = principal(context)
        with self._threads.place(caller):
            spec = to_model(request, PreviewPlacementSpec)
            data = await self._read(request.image)
            return await self._threads.run(caller, _preview, data, spec)

    async def AugmentImages(self, request: Any, context: Any) -> operations_pb2.Operation:
        check_name(request.parent, "products/{product}", "parent")
        check(
            request.method, to_dict(request).get("parameters", {}),
            textures=bool(request.texture_prefix), anomalies=request.HasField("generated_batch"),
        )  # fmt: skip
        if request.texture_prefix:
            self._store.key(request.texture_prefix)
        return await self._operations.start(
            context, "AugmentImages", request, AugmentImagesSpec,
            collection="augmentedBatches", resource_id=request.batch_id,
        )  # fmt: skip

    async def GetAugmentedBatch(self, request: Any, context: Any) -> augmentation_pb2.AugmentedBatch:
        check_name(request.name, "products/{product}/augmentedBatches/{batch}", "name")
        manifest, ref = await asyncio.to_thread(self._resources.get, request.name, BatchManifest)
        return to_message(describe(manifest, ref), augmentation_pb2.AugmentedBatch)

    async def ListAugmentedBatches(self, request: Any, context: Any) -> augmentation_pb2.ListAugmentedBatchesResponse:
        check_name(request.parent, "products/{product}", "parent")
        found, token = await asyncio.to_thread(
            self._resources.list_page, request.parent, "augmentedBatches", BatchManifest,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        entries = [describe(manifest, ref) for manifest, ref in found]
        return to_message(
            {"augmented_batches": entries, "next_page_token": token}, augmentation_pb2.ListAugmentedBatchesResponse
        )

    async def _augment(self, request: Any, caller: str) -> augmentation_pb2.AugmentImageResponse:
        spec = to_model(request, AugmentImageSpec)
        check(
            spec.method, spec.parameters,
            textures=bool(spec.texture_prefix), anomalies=spec.generated_batch is not None,
        )  # fmt: skip
        data = await self._read(request.image)
        sources = PROCEDURAL
        if spec.texture_prefix or spec.generated_batch is not None:
            sources = await asyncio.to_thread(self._open, spec)
        return await self._threads.run(caller, _augment, data, spec, sources)

    def _open(self, spec: AugmentImageSpec) -> Sources:
        return Sources(
            self._sources.textures(spec.texture_prefix) if spec.texture_prefix else PROCEDURAL.textures,
            None if spec.generated_batch is None else self._sources.anomalies(spec.generated_batch),
        )

    async def _read(self, image: Any) -> bytes:
        kind = image.WhichOneof("source")
        if kind == "ref":
            return await asyncio.to_thread(self._store.get, ObjectRef.model_validate(to_dict(image.ref)))
        if kind is None or len(image.content) > MAX_INLINE_BYTES:
            text = "set content or ref" if kind is None else f"at most {MAX_INLINE_BYTES:,} bytes; send a ref"
            raise InvalidArgumentError("INVALID_IMAGE", f"image: {text}", fields=[FieldViolation("image", text)])
        return bytes(image.content)


def _augment(data: bytes, spec: AugmentImageSpec, sources: Sources) -> augmentation_pb2.AugmentImageResponse:
    made = render(data, method=spec.method, parameters=spec.parameters, seed=spec.seed, sources=sources)
    if len(made.image) > MAX_INLINE_BYTES:
        raise _too_large(len(made.image), "use AugmentImages")
    return to_message(
        {"image": made.image, "mask": made.mask, "drawn": made.drawn}, augmentation_pb2.AugmentImageResponse
    )


def _preview(data: bytes, spec: PreviewPlacementSpec) -> augmentation_pb2.PreviewPlacementResponse:
    made = render_preview(data, method=spec.method, parameters=spec.parameters, seed=spec.seed, count=spec.count)
    answer = to_message(made, augmentation_pb2.PreviewPlacementResponse)
    if answer.ByteSize() > MAX_INLINE_BYTES:
        raise _too_large(answer.ByteSize(), "scale the image down, a preview needs no more than a screen shows")
    return answer


def _too_large(size: int, advice: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        "RESULT_TOO_LARGE",
        f"the result has {size:,} bytes, a message takes {MAX_INLINE_BYTES:,}; {advice}",
        fields=[FieldViolation("image", "too large for an answer in one message")],
    )
