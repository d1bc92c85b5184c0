"""Figures that stand for many: medians and how far the measurements lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def summary(values: Sequence[float], digits: int = 1) -> dict[str, Any]:
    """Median and quartiles of at least two values, rounded."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive")
    return {
        "median": round(statistics.median(values), digits),
        "quartiles": [round(quartiles[0], digits), round(quartiles[2], digits)],
    }


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Pair by pair: both of a pair were measured one right after the other. Raises ValueError on unequal lengths."""
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]
