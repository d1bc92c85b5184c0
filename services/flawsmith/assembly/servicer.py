"""The assembly service: converts requests and calls, nothing else."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Any

from google.longrunning import operations_pb2

from flawsmith.assembly.assembling import validate_dataset
from flawsmith.assembly.describing import describe_import
from flawsmith.assembly.products import REQUIREMENTS, Requirement, requires_review
from flawsmith.assembly.spec import (
    AssembleSpec,
    DownloadSpec,
    ImportSpec,
    RequestDatasetSpec,
    UpdateProductSpec,
    UploadSpec,
)
from flawsmith.assembly.v1 import assembly_pb2, assembly_pb2_grpc
from flawsmith.common import rpc
from flawsmith.common.convert import enum_name, to_message, to_model
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import DatasetManifest, ImportManifest
from flawsmith.common.operations import Operations
from flawsmith.common.process import Platform
from flawsmith.common.resources import check_name, describe, described_bytes, page

_DATASET = "products/{product}/datasets/{dataset}"
_PRODUCT = "products/{product}"


class AssemblyServicer(assembly_pb2_grpc.AssemblyServiceServicer):
    """See protos/flawsmith/assembly/v1/assembly.proto."""

    def __init__(self, platform: Platform, operations: Operations) -> None:
        self._store = platform.store
        self._resources = platform.resources
        self._operations = operations

    async def CreateUpload(self, request: Any, context: Any) -> assembly_pb2.CreateUploadResponse:
        spec = to_model(request, UploadSpec)
        folder = self._store.key(spec.prefix) if spec.prefix else f"uploads/{secrets.token_hex(8)}/"
        urls = await asyncio.to_thread(lambda: [self._store.upload_url(folder + path) for path in spec.paths])
        return assembly_pb2.CreateUploadResponse(prefix=self._store.uri(folder), urls=urls)

    async def CreateDownload(self, request: Any, context: Any) -> assembly_pb2.CreateDownloadResponse:
        spec = to_model(request, DownloadSpec)
        keys = [self._store.key(ref.uri) for ref in spec.objects]
        urls = await asyncio.to_thread(lambda: [self._store.download_url(key) for key in keys])
        return assembly_pb2.CreateDownloadResponse(urls=urls)

    async def ImportImages(self, request: Any, context: Any) -> operations_pb2.Operation:
        check_name(request.parent, _PRODUCT, "parent")
        if not self._store.key(request.prefix).strip("/"):
            raise InvalidArgumentError(
                "INVALID_FIELDS", "prefix: name a folder of the bucket", fields=[FieldViolation("prefix", "is empty")]
            )
        return await self._operations.start(
            context, "ImportImages", request, ImportSpec, collection="imports", resource_id=request.import_id
        )

    async def RequestDataset(self, request: Any, context: Any) -> operations_pb2.Operation:
        check_name(request.parent, _PRODUCT, "parent")
        return await self._operations.start(
            context, "RequestDataset", request, RequestDatasetSpec,
            collection="datasets", resource_id=request.dataset_id,
        )  # fmt: skip

    async def AssembleDataset(self, request: Any, context: Any) -> operations_pb2.Operation:
        check_name(request.parent, _PRODUCT, "parent")
        return await self._operations.start(
            context, "AssembleDataset", request, AssembleSpec, collection="datasets", resource_id=request.dataset_id
        )

    async def GetImport(self, request: Any, context: Any) -> assembly_pb2.Import:
        check_name(request.name, "products/{product}/imports/{import}", "name")
        manifest, ref = await asyncio.to_thread(self._resources.get, request.name, ImportManifest)
        return to_message(describe_import(manifest, ref), assembly_pb2.Import)

    async def ListImports(self, request: Any, context: Any) -> assembly_pb2.ListImportsResponse:
        check_name(request.parent, _PRODUCT, "parent")
        found, token = await asyncio.to_thread(
            self._resources.list_page, request.parent, "imports", ImportManifest,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        imports = [describe_import(manifest, ref) for manifest, ref in found]
        return to_message({"imports": imports, "next_page_token": token}, assembly_pb2.ListImportsResponse)

    async def ListProducts(self, request: Any, context: Any) -> assembly_pb2.ListProductsResponse:
        def names() -> list[str]:
            products = [f"products/{item}" for item in self._resources.list_ids("", "products")]
            return [name for name in products if self._resources.list_ids(name, "imports")]

        found, token = page(await asyncio.to_thread(names), page_size=request.page_size, page_token=request.page_token)
        return to_message(
            {
                "products": [
                    {"name": name, "review_required": await asyncio.to_thread(requires_review, self._resources, name)}
                    for name in found
                ],
                "next_page_token": token,
            },
            assembly_pb2.ListProductsResponse,
        )

    async def UpdateProduct(self, request: Any, context: Any) -> assembly_pb2.Product:
        check_name(request.name, _PRODUCT, "name")
        spec = to_model(request, UpdateProductSpec)
        decision = Requirement(
            review_required=spec.review_required, decided_by=rpc.principal(context), decide_time=datetime.now(UTC)
        )
        await asyncio.to_thread(self._resources.append_event, spec.name, REQUIREMENTS, decision)
        return to_message(spec, assembly_pb2.Product)

    async def GetDataset(self, request: Any, context: Any) -> assembly_pb2.Dataset:
        check_name(request.name, _DATASET, "name")
        manifest, ref = await asyncio.to_thread(self._resources.get, request.name, DatasetManifest)
        return to_message(describe(manifest, ref), assembly_pb2.Dataset)

    async def ListDatasets(self, request: Any, context: Any) -> assembly_pb2.ListDatasetsResponse:
        check_name(request.parent, _PRODUCT, "parent")
        found, token = await asyncio.to_thread(
            self._resources.list_page, request.parent, "datasets", DatasetManifest,
            page_size=request.page_size, page_token=request.page_token,
        )  # fmt: skip
        datasets = [describe(manifest, ref) for manifest, ref in found]
        return to_message({"datasets": datasets, "next_page_token": token}, assembly_pb2.ListDatasetsResponse)

    async def ListDatasetImages(self, request: Any, context: Any) -> assembly_pb2.ListDatasetImagesResponse:
        check_name(request.parent, _DATASET, "parent")
        manifest, _ = await asyncio.to_thread(self._resources.get, request.parent, DatasetManifest)
        wanted = {
            field: enum_name(request.DESCRIPTOR.fields_by_name[field].enum_type, value)
            for field in ("split", "source")
            if (value := getattr(request, field))
        }
        images = [
            record
            for record in manifest.images
            if all(getattr(record, field).value == value for field, value in wanted.items())
        ]
        found, token = await asyncio.to_thread(
            page, images, page_size=request.page_size, page_token=request.page_token, size_of=described_bytes
        )
        return to_message({"images": found, "next_page_token": token}, assembly_pb2.ListDatasetImagesResponse)

    async def ValidateDataset(self, request: Any, context: Any) -> assembly_pb2.ValidateDatasetResponse:
        check_name(request.name, _DATASET, "name")
        manifest, _ = await asyncio.to_thread(self._resources.get, request.name, DatasetManifest)
        problems, checked = await asyncio.to_thread(validate_dataset, manifest, self._store.get)
        return assembly_pb2.ValidateDatasetResponse(problems=problems, checked_objects=checked)
