"""How the generation service is put together."""

from __future__ import annotations

from flawsmith.common.jobs import Workflow
from flawsmith.common.process import ServiceDefinition
from flawsmith.generation.servicer import GenerationServicer
from flawsmith.generation.v1 import generation_pb2, generation_pb2_grpc


def _workflows() -> dict[str, Workflow]:
    from flawsmith.generation.workflows import WORKFLOWS

    return WORKFLOWS


DEFINITION = ServiceDefinition(
    name="generation",
    full_name="flawsmith.generation.v1.GenerationService",
    add_servicer=generation_pb2_grpc.add_GenerationServiceServicer_to_server,
    servicer=GenerationServicer,
    workflows=_workflows,
    responses={
        "FineTuneAdapter": generation_pb2.Adapter,
        "ImportAdapter": generation_pb2.Adapter,
        "ExportAdapter": generation_pb2.AdapterFile,
        "PreviewPrompt": generation_pb2.Prompt,
        "GenerateImages": generation_pb2.Batch,
        "ExportBatch": generation_pb2.BatchExport,
        "PullBaseModel": generation_pb2.BaseModel,
        "ImportBaseModel": generation_pb2.BaseModel,
        "VerifyBaseModel": generation_pb2.BaseModelVerification,
    },
    waiting=frozenset({"PullBaseModel", "ImportBaseModel", "VerifyBaseModel"}),
    needs_triton=True,
)
