"""How the assembly service is put together."""

from __future__ import annotations

from flawsmith.assembly.servicer import AssemblyServicer
from flawsmith.assembly.v1 import assembly_pb2, assembly_pb2_grpc
from flawsmith.common.jobs import Workflow
from flawsmith.common.process import ServiceDefinition


def _workflows() -> dict[str, Workflow]:
    from flawsmith.assembly.workflows import WORKFLOWS

    return WORKFLOWS


DEFINITION = ServiceDefinition(
    name="assembly",
    full_name="flawsmith.assembly.v1.AssemblyService",
    add_servicer=assembly_pb2_grpc.add_AssemblyServiceServicer_to_server,
    servicer=AssemblyServicer,
    workflows=_workflows,
    responses={
        "ImportImages": assembly_pb2.Import,
        "AssembleDataset": assembly_pb2.Dataset,
        "RequestDataset": assembly_pb2.Dataset,
    },
    waiting=frozenset({"RequestDataset"}),
)
