"""Errors survive the wire."""

from __future__ import annotations

import pytest

from flawsmith.common import errors
from flawsmith.common.statuses import error_of, internal_status, status_of


@pytest.mark.parametrize("cls", errors.ERRORS_BY_CODE.values())
def test_an_error_comes_back_as_it_was(cls: type[errors.FlawsmithError]) -> None:
    error = cls("SOME_REASON", "do this")
    error.fields = (errors.FieldViolation("a.b", "too big"), errors.FieldViolation("c", "missing"))
    error.retry_after_s = 2.5
    back = error_of(status_of(error))
    assert type(back) is cls
    assert (back.reason, back.message, back.fields, back.retry_after_s) == (
        "SOME_REASON", "do this", error.fields, 2.5,
    )  # fmt: skip


def test_internal_errors_say_nothing_of_the_inside() -> None:
    assert error_of(internal_status()).reason == "INTERNAL"
