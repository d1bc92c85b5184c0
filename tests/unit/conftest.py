from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _same_arithmetic() -> Iterator[None]:
    """What trainings set for their whole process, each in one of its own otherwise, must not reach other tests."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)
