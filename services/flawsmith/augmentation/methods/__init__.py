"""Per-region methods by name: one file each and one line here."""

from __future__ import annotations

from flawsmith.augmentation.methods import anomalib, cutpaste, draem, memseg, realnet
from flawsmith.augmentation.methods.base import Augmented, Method, MethodParameters, Sources

METHODS: dict[str, Method] = {
    method.name: method for method in (anomalib.METHOD, cutpaste.METHOD, draem.METHOD, memseg.METHOD, realnet.METHOD)
}
DEFAULT_METHOD = memseg.METHOD.name

__all__ = ["DEFAULT_METHOD", "METHODS", "Augmented", "Method", "MethodParameters", "Sources"]
