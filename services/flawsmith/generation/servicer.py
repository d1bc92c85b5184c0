"""The generation service: converts requests and calls, nothing else."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2
from google.protobuf.message import Message

from flawsmith.common import rpc
from flawsmith.common.convert import to_message, to_model
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.manifests import AdapterManifest, BatchManifest
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe, described_bytes, page
from flawsmith.generation.adapters import (
    ExportAdapterRequest,
    ImportAdapterRequest,
    check_adapter_export,
    check_adapter_import,
)
from flawsmith.generation.catalog import check_licence, describe_models, find_entry, require_base_model
from flawsmith.generation.exporting import ExportRequest, check_export
from flawsmith.generation.model_requests import (
    ImportModelRequest,
    PullRequest,
    VerifyRequest,
    check_import,
    check_pull,
    forget_uploads,
)
from flawsmith.generation.prompts import Prompt, PromptDecision, PromptManifest, check_newest, revise
from flawsmith.generation.requests import (
    DECISIONS,
    CheckPromptsRequest,
    DecideRequest,
    FineTuneRequest,
    GenerateRequest,
    PreviewRequest,
    ReviewRequest,
    ReviseRequest,
    check_fine_tuning,
    check_generation,
    check_preview,
    check_texts,
    find_architecture,
    get_prompt,
)
from flawsmith.generation.reviews import REVIEWS, ReviewedImage, count_reviews, decide, reviewed_batch
from flawsmith.generation.v1 import generation_pb2, generation_pb2_grpc

PRODUCT = "products/{product}"


class GenerationServicer(generation_pb2_grpc.GenerationServiceServicer):
    """See protos/flawsmith/generation/v1/generation.proto."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._resources = platform.resources
        self._operations = operations
        self._require_approval = platform.settings.require_approved_prompts
        self._allow_non_commercial_models = platform.settings.allow_non_commercial_models

    async def ListBaseModels(self, request: Any, context: Any) -> generation_pb2.ListBaseModelsResponse:
        models = await asyncio.to_thread(describe_models, self._resources)
        found, token = page(models, page_size=request.page_size, page_token=request.page_token)
        return to_message({"base_models": found, "next_page_token": token}, generation_pb2.ListBaseModelsResponse)

    async def PullBaseModel(self, request: Any, context: Any) -> operations_pb2.Operation:
        spec = to_model(request, PullRequest)
        await asyncio.to_thread(
            check_pull, self._resources, spec, allow_non_commercial=self._allow_non_commercial_models
        )
        return await self._operations.start(
            context, "PullBaseModel", request, PullRequest, target=f"baseModels/{spec.id}"
        )

    async def ImportBaseModel(self, request: Any, context: Any) -> operations_pb2.Operation:
        spec = to_model(request, ImportModelRequest)
        self._resources.store.key(spec.prefix)
        try:
            check_import(spec, allow_non_commercial=self._allow_non_commercial_models)
        except FlawsmithError:
            await asyncio.to_thread(forget_uploads, self._resources.store, spec.prefix)
            raise
        return await self._operations.start(
            context, "ImportBaseModel", request, ImportModelRequest, target=f"baseModels/{spec.id}"
        )

    async def VerifyBaseModel(self, request: Any, context: Any) -> operations_pb2.Operation:
        spec = to_model(request, VerifyRequest)
        await asyncio.to_thread(require_base_model, self._resources, spec.id)
        return await self._operations.start(
            context, "VerifyBaseModel", request, VerifyRequest, target=f"baseModels/{spec.id}"
        )

    async def FineTuneAdapter(self, request: Any, context: Any) -> operations_pb2.Operation:
        name = _check_new(request.parent, "adapters", request.adapter_id)
        architecture = await asyncio.to_thread(find_architecture, self._resources, request.config.base_model)
        spec = to_model(request, FineTuneRequest, name=name, architecture=architecture)
        await asyncio.to_thread(check_fine_tuning, self._resources, spec)
        await self._check_licence(spec.config.base_model)
        return await self._operations.start(
            context, "FineTuneAdapter", request, FineTuneRequest,
            collection="adapters", resource_id=request.adapter_id, architecture=architecture,
        )  # fmt: skip

    async def ImportAdapter(self, request: Any, context: Any) -> operations_pb2.Operation:
        name = _check_new(request.parent, "adapters", request.adapter_id)
        spec = to_model(request, ImportAdapterRequest, name=name)
        await asyncio.to_thread(check_adapter_import, self._resources, spec)
        return await self._operations.start(
            context, "ImportAdapter", request, ImportAdapterRequest,
            collection="adapters", resource_id=request.adapter_id,
        )  # fmt: skip

    async def ExportAdapter(self, request: Any, context: Any) -> operations_pb2.Operation:
        spec = to_model(request, ExportAdapterRequest)
        await asyncio.to_thread(check_adapter_export, self._resources, spec)
        return await self._operations.start(
            context, "ExportAdapter", request, ExportAdapterRequest, target=request.name
        )

    async def GetAdapter(self, request: Any, context: Any) -> generation_pb2.Adapter:
        check_name(request.name, f"{PRODUCT}/adapters/{{adapter}}", "name")
        manifest, ref = await asyncio.to_thread(self._resources.get, request.name, AdapterManifest)
        return to_message(describe(manifest, ref), generation_pb2.Adapter)

    async def ListAdapters(self, request: Any, context: Any) -> generation_pb2.ListAdaptersResponse:
        return await self._list(request, "adapters", AdapterManifest, generation_pb2.ListAdaptersResponse)

    async def CreatePrompt(self, request: Any, context: Any) -> generation_pb2.Prompt:
        name = _check_new(request.parent, "prompts", request.prompt_id or secrets.token_hex(6))
        manifest = to_model(
            request, PromptManifest, name=name, author=rpc.principal(context), create_time=datetime.now(UTC)
        )
        await asyncio.to_thread(self._resources.publish, name, manifest)
        return await self._prompt(name)

    async def GetPrompt(self, request: Any, context: Any) -> generation_pb2.Prompt:
        _product_of_prompt(request.name)
        return await self._prompt(request.name)

    async def ListPrompts(self, request: Any, context: Any) -> generation_pb2.ListPromptsResponse:
        check_name(request.parent, PRODUCT, "parent")
        found, token = await asyncio.to_thread(
            self._resources.list_page, request.parent, "prompts", PromptManifest,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        prompts = [await asyncio.to_thread(get_prompt, self._resources, manifest.name) for manifest, _ in found]
        return to_message({"prompts": prompts, "next_page_token": token}, generation_pb2.ListPromptsResponse)

    async def CheckPrompts(self, request: Any, context: Any) -> generation_pb2.CheckPromptsResponse:
        check_name(request.parent, PRODUCT, "parent")
        await asyncio.to_thread(check_texts, self._resources, to_model(request, CheckPromptsRequest))
        return generation_pb2.CheckPromptsResponse()

    async def PreviewPrompt(self, request: Any, context: Any) -> operations_pb2.Operation:
        product = _product_of_prompt(request.name)
        spec = to_model(request, PreviewRequest)
        artist = await asyncio.to_thread(check_preview, self._resources, product, spec)
        await self._check_licence(artist.base_model)
        return await self._operations.start(context, "PreviewPrompt", request, PreviewRequest, target=spec.name)

    async def RevisePrompt(self, request: Any, context: Any) -> generation_pb2.Prompt:
        _product_of_prompt(request.name)
        asked = to_model(request, ReviseRequest)
        name = await asyncio.to_thread(self._revise, asked, rpc.principal(context))
        return await self._prompt(name)

    async def DecidePrompt(self, request: Any, context: Any) -> generation_pb2.Prompt:
        _product_of_prompt(request.name)
        asked = to_model(request, DecideRequest)
        check_newest(await asyncio.to_thread(get_prompt, self._resources, asked.name))
        decision = PromptDecision(
            state=asked.state, decided_by=rpc.principal(context), decide_time=datetime.now(UTC), reason=asked.reason
        )
        await asyncio.to_thread(self._resources.append_event, asked.name, DECISIONS, decision)
        return await self._prompt(asked.name)

    async def GenerateImages(self, request: Any, context: Any) -> operations_pb2.Operation:
        name = _check_new(request.parent, "batches", request.batch_id)
        spec = to_model(request, GenerateRequest, name=name)
        artist, _ = await asyncio.to_thread(
            check_generation, self._resources, spec, require_approval=self._require_approval
        )
        await self._check_licence(artist.base_model)
        return await self._operations.start(
            context, "GenerateImages", request, GenerateRequest, collection="batches", resource_id=request.batch_id
        )

    async def GetBatch(self, request: Any, context: Any) -> generation_pb2.Batch:
        check_name(request.name, f"{PRODUCT}/batches/{{batch}}", "name")
        manifest, ref = await asyncio.to_thread(self._resources.get, request.name, BatchManifest)
        return to_message(describe(manifest, ref), generation_pb2.Batch)

    async def ListBatches(self, request: Any, context: Any) -> generation_pb2.ListBatchesResponse:
        return await self._list(request, "batches", BatchManifest, generation_pb2.ListBatchesResponse)

    async def ListBatchImages(self, request: Any, context: Any) -> generation_pb2.ListBatchImagesResponse:
        images = await asyncio.to_thread(self._reviewed, request.parent)
        found, token = await asyncio.to_thread(
            page, images, page_size=request.page_size, page_token=request.page_token, size_of=described_bytes
        )
        return to_message({"images": found, "next_page_token": token}, generation_pb2.ListBatchImagesResponse)

    async def ReviewImages(self, request: Any, context: Any) -> generation_pb2.ReviewImagesResponse:
        images = await asyncio.to_thread(self._reviewed, request.parent)
        decision = decide(
            [image.record for image in images],
            request.images,
            to_model(request, ReviewRequest).review,
            by=rpc.principal(context),
            at=datetime.now(UTC),
            reason=request.reason,
        )
        await asyncio.to_thread(self._resources.append_event, request.parent, REVIEWS, decision)
        counts = count_reviews(await asyncio.to_thread(self._reviewed, request.parent))
        return to_message(counts, generation_pb2.ReviewImagesResponse)

    async def ExportBatch(self, request: Any, context: Any) -> operations_pb2.Operation:
        name = _check_new(request.parent, "exports", request.export_id)
        spec = to_model(request, ExportRequest, name=name)
        await asyncio.to_thread(check_export, self._resources, spec)
        return await self._operations.start(
            context, "ExportBatch", request, ExportRequest, collection="exports", resource_id=request.export_id
        )

    async def _list(self, request: Any, collection: str, model: Any, response: type[Message]) -> Any:
        check_name(request.parent, PRODUCT, "parent")
        found, token = await asyncio.to_thread(
            self._resources.list_page, request.parent, collection, model,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        entries = [describe(manifest, ref) for manifest, ref in found]
        return to_message({collection: entries, "next_page_token": token}, response)

    async def _check_licence(self, base_model: str) -> None:
        entry = await asyncio.to_thread(find_entry, self._resources, base_model)
        check_licence(entry, allow_non_commercial=self._allow_non_commercial_models)

    async def _prompt(self, name: str) -> generation_pb2.Prompt:
        prompt: Prompt = await asyncio.to_thread(get_prompt, self._resources, name)
        return to_message(prompt, generation_pb2.Prompt)

    def _revise(self, asked: ReviseRequest, author: str) -> str:
        """Name of the new version."""
        check_newest(get_prompt(self._resources, asked.name))
        prompt, _ = self._resources.get(asked.name, PromptManifest)
        manifest = revise(prompt, asked.text, asked.negative_text, by=author, at=datetime.now(UTC))
        check_name(manifest.name, f"{PRODUCT}/prompts/{{prompt}}", "name")
        self._resources.publish(manifest.name, manifest)
        return manifest.name

    def _reviewed(self, name: str) -> list[ReviewedImage]:
        check_name(name, f"{PRODUCT}/batches/{{batch}}", "parent")
        return reviewed_batch(self._resources, name)[1]


def _product_of_prompt(name: str) -> str:
    return f"products/{check_name(name, f'{PRODUCT}/prompts/{{prompt}}', 'name')['product']}"


def _check_new(parent: str, collection: str, resource_id: str) -> str:
    """Name of a resource to make; one that the service names itself has a placeholder yet."""
    check_name(parent, PRODUCT, "parent")
    name = f"{parent}/{collection}/{resource_id or 'new'}"
    check_name(name, f"{PRODUCT}/{collection}/{{id}}", "id")
    return name
