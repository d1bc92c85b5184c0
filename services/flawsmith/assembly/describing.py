"""Manifests as the JSON values of their API messages."""

from __future__ import annotations

from typing import Any

from flawsmith.assembly.assembling import count
from flawsmith.common.manifests import ImportManifest, ObjectRef
from flawsmith.common.resources import describe


def describe_import(manifest: ImportManifest, ref: ObjectRef) -> dict[str, Any]:
    """An import, with its images counted."""
    counts = {split.value: values.model_dump() for split, values in count(manifest.images).items()}
    return describe(manifest, ref, counts=counts)
