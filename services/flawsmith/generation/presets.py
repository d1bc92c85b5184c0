"""Named values of a fine-tuning: what In&Out publishes (Capogrosso et al. 2024), and what suits our own base model.

A request may name a preset. Without a name it gets the regime's: `mini-*` for the base model mini, `in-and-out-*` for
every other. What the base model's architecture wants otherwise than Stable Diffusion 1.5, which the paper tunes, goes
over the preset's values, and what the request itself says over both, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flawsmith.common.manifests import Regime
from flawsmith.generation.catalog import BUILT_IN, load_catalog
from flawsmith.generation.spec import CLASS_PROMPT, INSTANCE_PROMPT, FineTuneSpec, Preset

_IN_AND_OUT: dict[str, Any] = {
    "algorithm": "c3lier",
    "rank": 32,
    "rank_alpha": 16.0,
    "conv_rank": 4,
    "conv_alpha": 1.0,
    "unet_learning_rate": 1e-5,
    "text_encoder_learning_rate": 1e-5,
    "batch_size": 12,
    "gradient_accumulation": 1,
    "repeats": 10,
    "regularization_images": 200,
    "regularization_steps": 50,
    "prior_weight": 1.0,
    "min_snr_gamma": 5.0,
    "clip_skip": 2,
    "instance_prompt": INSTANCE_PROMPT,
    "class_prompt": CLASS_PROMPT,
    # 600 x 200 pixels train at 832 x 256, as the released configuration has it.
    "resolution": 512,
    "precision": "float16",
}
_IN_AND_OUT_SEED = 1234
# The paper's learning rate suits 860 M parameters and hours on a GPU. The mini model, with a hundredth of them, was
# tried on the sample product: these steps and rates show its defects after a minute or two on two CPU cores. Views of
# defects get about as many batches as whole images, more where there are five images to learn from.
_MINI: dict[str, Any] = {
    "unet_learning_rate": 5e-3,
    "text_encoder_learning_rate": 5e-4,
    "max_steps": 180,
    "batch_size": 4,
    "regularization_images": 8,
    "regularization_steps": 12,
    "prior_weight": 0.3,
    "noise_offset": 0.1,
    "leak_start": 0.8,
    "clip_skip": 1,
    "resolution": None,
    "precision": "auto",
}
_MINI_VIEWS = {"zero": 10, "few": 20, "full": 10}
_REGIMES: dict[str, dict[str, Any]] = {
    "zero": {"epochs": 5, "alpha": 0.60},
    "few": {"epochs": 49, "alpha": 0.95},
    "full": {"epochs": 25, "alpha": 0.80},
}
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    **{
        Preset(f"in-and-out-{name}"): {**_IN_AND_OUT, **values, "seed": _IN_AND_OUT_SEED}
        for name, values in _REGIMES.items()
    },
    **{
        Preset(f"mini-{name}"): {**_IN_AND_OUT, **values, **_MINI, "defect_views": _MINI_VIEWS[name]}
        for name, values in _REGIMES.items()
    },
}

_PUBLISHED = "stable-diffusion"
"""The architecture of the paper's base model."""
_DRAWING: Mapping[str, dict[str, Any]] = {
    _PUBLISHED: {"steps": 50, "guidance": 7.5},
    "stable-diffusion-xl": {"steps": 30, "guidance": 8.0},
    # Distilled: four steps, and guidance is in the weights already.
    "flux2-klein": {"steps": 4, "guidance": 1.0},
}
_DRAWING_OF_MINI: dict[str, Any] = {"steps": 20, "guidance": 6.0}
# An adapter of mini knows its product better than the base model knows words: by strategy.
_GUIDANCE_OF_ADAPTED_MINI = {"text_to_image": 1.0, "inpaint": 2.0}
# Trained at 1024 x 1024; their numbers outgrow float16. Regularisation images are drawn as any other.
_TUNING: Mapping[str, dict[str, Any]] = {
    architecture: {"resolution": 1024, "precision": "auto", "regularization_steps": _DRAWING[architecture]["steps"]}
    for architecture in ("stable-diffusion-xl", "flux2-klein")
}


def drawing_values(
    base_model: str, architecture: str = "", *, adapted: bool, strategy: str = "text_to_image"
) -> dict[str, Any]:
    """`steps` and `guidance` that images of a base model are drawn with when a request names none.

    base_model: its id. architecture: a key of `layouts.PARTS`; when empty the catalog's of that id. adapted: whether an
    adapter draws. strategy: as requests name it.
    """
    values = dict(_DRAWING_OF_MINI if base_model == BUILT_IN else _DRAWING[architecture or _architecture(base_model)])
    if adapted and base_model == BUILT_IN:
        values["guidance"] = _GUIDANCE_OF_ADAPTED_MINI.get(strategy, values["guidance"])
    return values


def default_preset(regime: Regime, base_model: str) -> Preset:
    """The preset of a request that names none."""
    family = "mini" if base_model == BUILT_IN else "in-and-out"
    return Preset(f"{family}-{regime.value.removesuffix('_shot')}")


def preset_values(
    regime: Regime, base_model: str | None = None, preset: str | None = None, architecture: str = ""
) -> dict[str, Any]:
    """Values of `FineTuneSpec`, the preset's name among them.

    base_model: its id; the default of `FineTuneSpec` when empty. preset: `default_preset` when empty; of a name that is
    none nothing follows, and `FineTuneSpec` refuses it. architecture: a key of `layouts.PARTS`; when empty the
    catalog's of that id.
    """
    model = base_model or FineTuneSpec.model_fields["base_model"].default
    name = preset or default_preset(regime, model).value
    values = PRESETS[Preset(name)] if name in list(Preset) else {}
    return {
        "base_model": model, "preset": name, **values, **_TUNING.get(architecture or _architecture(model), {}),
    }  # fmt: skip


def _architecture(base_model: str) -> str:
    """A catalog id's architecture; that of a model with another id is in the object store, which nothing here reads."""
    entry = load_catalog().get(base_model)
    return _PUBLISHED if entry is None else entry.architecture
