"""Conventions of the API that buf does not check."""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import MethodDescriptor

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.classification.v1 import classification_pb2
from flawsmith.generation.v1 import generation_pb2

METHODS = [
    method
    for module in (assembly_pb2, augmentation_pb2, classification_pb2, generation_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_conventions(method: MethodDescriptor) -> None:
    fields = method.input_type.fields_by_name
    if method.output_type.full_name == "google.longrunning.Operation":
        assert "request_id" in fields, "starting an operation is idempotent by request_id"
    if method.name.startswith("List"):
        assert {"page_size", "page_token"} <= set(fields)
        assert "next_page_token" in method.output_type.fields_by_name
    if method.name.startswith("Get"):
        assert list(fields) == ["name"]
