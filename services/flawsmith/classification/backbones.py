"""Backbones by name; a process without torch knows them too."""

from __future__ import annotations

from enum import StrEnum


class Backbone(StrEnum):
    """Residual networks (He et al. 2016), as transformers' `ResNetModel` builds them."""

    RESNET18 = "resnet18"
    RESNET34 = "resnet34"
    RESNET50 = "resnet50"
