"""What a caller may bring to which method."""

from __future__ import annotations

from typing import Any

import pytest

from flawsmith.augmentation.rendering import check
from flawsmith.common.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("cutpaste", {}), ("anomalib", {}), ("anomalib", {"source": "noise"}), ("memseg", {"texture_probability": 0.0})],
)
def test_textures_that_would_not_be_drawn_are_refused(method: str, parameters: dict[str, Any]) -> None:
    assert check(method, parameters) == method
    with pytest.raises(InvalidArgumentError, match="leave texture_prefix out") as caught:
        check(method, parameters, textures=True)
    assert caught.value.reason == "TEXTURES_UNUSED"
    assert [field.field for field in caught.value.fields] == ["texture_prefix"]


@pytest.mark.parametrize(
    ("method", "parameters"), [("memseg", {}), ("draem", {}), ("realnet", {}), ("anomalib", {"source": "texture"})]
)
def test_textures_are_taken_by_methods_that_draw_them(method: str, parameters: dict[str, Any]) -> None:
    assert check(method, parameters, textures=True) == method


@pytest.mark.parametrize(
    ("method", "parameters"),
    [("memseg", {}), ("draem", {}), ("anomalib", {}), ("cutpaste", {}), ("realnet", {"anomaly_probability": 0.0})],
)
def test_a_generated_batch_that_would_not_be_drawn_from_is_refused(method: str, parameters: dict[str, Any]) -> None:
    assert check("realnet", {}, anomalies=True) == "realnet"
    with pytest.raises(InvalidArgumentError, match="leave generated_batch out") as caught:
        check(method, parameters, anomalies=True)
    assert caught.value.reason == "GENERATED_BATCH_UNUSED"
