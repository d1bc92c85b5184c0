"""Per-region methods by name: one file each and one line here."""

from __future__ import annotations

from flawsmith.augmentation.methods import cutpaste, memseg
from flawsmith.augmentation.methods.base import Augmented, Method, MethodParameters, TextureSource

METHODS: dict[str, Method] = {method.name: method for method in (cutpaste.METHOD, memseg.METHOD)}
DEFAULT_METHOD = memseg.METHOD.name

__all__ = ["DEFAULT_METHOD", "METHODS", "Augmented", "Method", "MethodParameters", "TextureSource"]
