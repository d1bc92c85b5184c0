"""Values of each regime: the published ones (In&Out, Capogrosso et al. 2024), and those of base models of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flawsmith.common.manifests import Regime
from flawsmith.generation.spec import FineTuneSpec

_PUBLISHED: dict[Regime, dict[str, Any]] = {
    Regime.ZERO_SHOT: {"epochs": 5, "alpha": 0.60},
    Regime.FEW_SHOT: {"epochs": 49, "alpha": 0.95},
    Regime.FULL_SHOT: {"epochs": 25, "alpha": 0.80},
}
# The paper's learning rate suits 860 M parameters and hours on a GPU. The mini model, with a hundredth of them, was
# tried on the sample product: these steps and rates show its defects after a minute or two on two CPU cores.
_MINI: dict[str, Any] = {
    "unet_learning_rate": 5e-3,
    "text_encoder_learning_rate": 5e-4,
    "max_steps": 120,
    "batch_size": 4,
    "regularization_images": 8,
    "regularization_steps": 12,
    "prior_weight": 0.3,
    "noise_offset": 0.1,
    "leak_start": 0.8,
    "clip_skip": 1,
}
_BY_BASE_MODEL: Mapping[str, Mapping[str, Any]] = {"mini": _MINI}

PUBLISHED_DRAWING = {"steps": 50, "guidance": 7.5}
_DRAWING_BY_BASE_MODEL: Mapping[str, dict[str, Any]] = {"mini": {"steps": 20, "guidance": 1.0}}


def drawing_values(base_model: str) -> dict[str, Any]:
    """`steps` and `guidance` that images of a base model are drawn with when a request names none."""
    return {**PUBLISHED_DRAWING, **_DRAWING_BY_BASE_MODEL.get(base_model, {})}


def preset_values(regime: Regime, base_model: str | None = None) -> dict[str, Any]:
    """Values of `FineTuneSpec` for a regime (the paper's), with those of the base model's own preset over them.

    base_model: catalog id; the default of `FineTuneSpec` when empty.
    """
    name = base_model or FineTuneSpec.model_fields["base_model"].default
    return {"base_model": name, **_PUBLISHED[regime], **_BY_BASE_MODEL.get(name, {})}
