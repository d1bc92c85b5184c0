"""Messages to values and back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import BaseModel, ConfigDict, Field

from flawsmith.assembly.v1 import assembly_pb2
from flawsmith.common.convert import to_dict, to_message, to_model
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.manifests import ObjectRef, Regime
from flawsmith.common.v1 import common_pb2


class Request(BaseModel):
    model_config = ConfigDict(extra="forbid")

    parent: str
    regime: Regime
    n_aug: int = Field(ge=0, le=100)
    in_distribution_share: float = Field(default=0.5, ge=0, le=1)
    seed: int = 7


def test_enums_become_words_and_unset_fields_take_the_models_defaults() -> None:
    message = assembly_pb2.RequestDatasetRequest(parent="products/x", regime=common_pb2.REGIME_FEW_SHOT, n_aug=3)
    request = to_model(message, Request)
    assert request == Request(parent="products/x", regime=Regime.FEW_SHOT, n_aug=3, in_distribution_share=0.5, seed=7)


def test_an_optional_zero_is_not_a_default() -> None:
    message = assembly_pb2.RequestDatasetRequest(
        parent="products/x", regime=common_pb2.REGIME_FEW_SHOT, n_aug=3, in_distribution_share=0.0
    )
    assert to_model(message, Request).in_distribution_share == 0.0


def test_every_bad_field_is_listed() -> None:
    message = assembly_pb2.RequestDatasetRequest(n_aug=101, in_distribution_share=2.0)
    with pytest.raises(InvalidArgumentError) as caught:
        to_model(message, Request)
    assert caught.value.reason == "INVALID_FIELDS"
    assert {violation.field for violation in caught.value.fields} == {
        "parent", "regime", "n_aug", "in_distribution_share",
    }  # fmt: skip


def test_values_come_back_as_the_same_message() -> None:
    created = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    ref = ObjectRef(uri="s3://b/k", sha256="0" * 64, size=5)
    values = {
        "name": "products/x/datasets/y",
        "manifest": ref,
        "regime": Regime.ZERO_SHOT,
        "counts": {"train": {"normal": 4}, "test": {"real_defect": 2}},
        "inputs": [ref, ref.model_dump()],
        "create_time": created.isoformat(),
        "something_else": 1,
    }
    message = to_message(values, assembly_pb2.Dataset)
    assert message.regime == common_pb2.REGIME_ZERO_SHOT
    assert message.counts["test"].real_defect == 2
    assert [item.size for item in message.inputs] == [5, 5]
    assert message.create_time.ToDatetime(tzinfo=UTC) == created
    assert to_message(to_dict(message), assembly_pb2.Dataset) == message
