"""Files of a version for other runtimes: what is stored of them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from flawsmith.classification.variants import VariantGate
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.resources import Resources

ExportFormat = Literal["onnx", "onnx_int8", "openvino", "tensorrt"]


class ExportedFile(Manifest):
    """name: in a folder of the user's."""

    name: str
    file: ObjectRef


class ClassifierExportManifest(Manifest):
    """See ClassifierExport in the API; immutable. gate: None where the arithmetic is fp32, which parity gates."""

    name: str
    format: ExportFormat
    files: tuple[ExportedFile, ...]
    max_abs_diff_vs_pytorch: float
    gate: VariantGate | None = None
    create_time: datetime
    versions: dict[str, str]


def export_name(version: str, export_format: ExportFormat) -> str:
    """`{version}/exports/onnx-int8`."""
    return f"{version}/exports/{export_format.replace('_', '-')}"


def int8_graph(resources: Resources, version: str) -> ObjectRef:
    """The int8 graph of a version. Raises FailedPreconditionError VARIANT_MISSING."""
    name = export_name(version, "onnx_int8")
    if not resources.exists(name):
        raise FailedPreconditionError(
            "VARIANT_MISSING", f"{version} has no int8 variant; first `flawsmith export {version} --format onnx-int8`"
        )
    (graph,) = resources.get(name, ClassifierExportManifest)[0].files
    return graph.file
