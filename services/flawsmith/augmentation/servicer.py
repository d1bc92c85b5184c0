"""The augmentation service: converts requests and calls, nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.longrunning import operations_pb2

from flawsmith.augmentation.methods import METHODS
from flawsmith.augmentation.rendering import check, render
from flawsmith.augmentation.spec import AugmentImageSpec, AugmentImagesSpec
from flawsmith.augmentation.v1 import augmentation_pb2, augmentation_pb2_grpc
from flawsmith.common.convert import to_dict, to_message, to_model
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import BatchManifest, ObjectRef
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe, page

MAX_INLINE_BYTES = 4 * 2**20
"""Larger images are sent by reference, and larger results are made by AugmentImages."""


class AugmentationServicer(augmentation_pb2_grpc.AugmentationServiceServicer):
    """See protos/flawsmith/augmentation/v1/augmentation.proto."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._store = platform.store
        self._resources = platform.resources
        self._operations = operations

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
        return await self._augment(request)

    async def AugmentStream(
        self, requests: AsyncIterator[Any], context: Any
    ) -> AsyncIterator[augmentation_pb2.AugmentImageResponse]:
        async for request in requests:
            yield await self._augment(request)

    async def AugmentImages(self, request: Any, context: Any) -> operations_pb2.Operation:
        check_name(request.parent, "products/{product}", "parent")
        check(request.method, to_dict(request).get("parameters", {}))
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

    async def _augment(self, request: Any) -> augmentation_pb2.AugmentImageResponse:
        spec = to_model(request, AugmentImageSpec)
        data = await self._read(request.image)
        made = await asyncio.to_thread(render, data, method=spec.method, parameters=spec.parameters, seed=spec.seed)
        if len(made.image) > MAX_INLINE_BYTES:
            raise InvalidArgumentError(
                "RESULT_TOO_LARGE",
                f"the result has {len(made.image):,} bytes, a message takes {MAX_INLINE_BYTES:,}; use AugmentImages",
                fields=[FieldViolation("image", f"{made.height} x {made.width} pixels (height x width)")],
            )
        return to_message(
            {"image": made.image, "mask": made.mask, "drawn": made.drawn}, augmentation_pb2.AugmentImageResponse
        )

    async def _read(self, image: Any) -> bytes:
        kind = image.WhichOneof("source")
        if kind == "ref":
            return await asyncio.to_thread(self._store.get, ObjectRef.model_validate(to_dict(image.ref)))
        if kind is None or len(image.content) > MAX_INLINE_BYTES:
            text = "set content or ref" if kind is None else f"at most {MAX_INLINE_BYTES:,} bytes; send a ref"
            raise InvalidArgumentError("INVALID_IMAGE", f"image: {text}", fields=[FieldViolation("image", text)])
        return bytes(image.content)
