"""Errors of Triton and of the models in it, as callers read them."""

from __future__ import annotations

import pytest
from tritonclient.utils import InferenceServerException

from flawsmith.common import errors
from flawsmith.common.triton import _translate


@pytest.mark.parametrize("cls", errors.ERRORS_BY_CODE.values())
def test_a_models_error_comes_back_as_it_was(cls: type[errors.FlawsmithError]) -> None:
    text = f"Failed to process the request: {cls.code}/SOME_REASON: do this: now\n\nAt:\n  model.py(88): execute\n"
    error = _translate(InferenceServerException(text, status="StatusCode.INTERNAL"))
    assert type(error) is cls
    assert (error.reason, error.message) == ("SOME_REASON", "do this: now")


def test_any_other_error_is_tritons_own() -> None:
    error = _translate(InferenceServerException("TEAPOT/SOME_REASON: hot", status="StatusCode.INTERNAL"))
    assert (error.code, error.reason) == ("UNAVAILABLE", "TRITON_FAILED")
