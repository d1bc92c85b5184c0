"""Fixtures of the assembly tests."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flawsmith.assembly.importing import ImportPlan, plan_import

from .support import Files


@pytest.fixture
def plan() -> Callable[..., ImportPlan]:
    def make(files: Files, seed: int = 0, **options: float) -> ImportPlan:
        return plan_import(list(files), files.__getitem__, seed=seed, **options)

    return make
