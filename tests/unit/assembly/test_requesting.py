"""What a request for a data set asks of the fine-tuning that it starts, as the generation service reads it."""

from __future__ import annotations

from typing import get_args

import pytest

from flawsmith.assembly.requesting import tuning_config
from flawsmith.assembly.spec import GenerationOptions
from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.common.convert import to_message, to_model
from flawsmith.common.manifests import ObjectRef
from flawsmith.generation.requests import FineTuneRequest
from flawsmith.generation.spec import FineTuneSpec, Flips, Preset
from flawsmith.generation.v1 import generation_pb2


def tuned(**options: object) -> FineTuneSpec:
    """Through both services' messages."""
    asked = to_model(assembly_pb2.GenerationOptions(**options), GenerationOptions)
    values = {
        "parent": "products/p", "regime": "few_shot", "config": tuning_config(asked),
        "import_manifest": ObjectRef(uri="s3://b/i", sha256="0" * 64, size=1),
    }  # fmt: skip
    message = to_message(values, generation_pb2.FineTuneAdapterRequest)
    return to_model(message, FineTuneRequest, name="products/p/adapters/a").config


@pytest.mark.parametrize("preset", list(Preset))
@pytest.mark.parametrize("flips", list(Flips))
def test_preset_and_flips_reach_the_fine_tuning(preset: Preset, flips: Flips) -> None:
    config = tuned(tuning_preset=preset.value, flips=flips.value, max_steps=7)
    assert (config.preset, config.flips, config.max_steps) == (preset, flips, 7)
    assert config.epochs == {"zero": 5, "few": 49, "full": 25}[preset.rpartition("-")[2]]


def test_what_is_unset_follows_the_regime_and_turns_nothing_over() -> None:
    assert (tuned().preset, tuned().flips) == (Preset.MINI_FEW, Flips.NONE)
    assert tuned(base_model="sd15").preset is Preset.IN_AND_OUT_FEW


def test_both_services_know_the_same_names() -> None:
    fields = GenerationOptions.model_fields
    assert set(get_args(fields["tuning_preset"].annotation)) == {"", *Preset}
    assert set(get_args(fields["flips"].annotation)) == {"", *Flips}
