"""The loss of a fine-tuning as a picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

HEIGHT, WIDTH = 360, 640
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 16, 40
_BLACK, _GREY, _LIGHT, _BLUE = (0, 0, 0), (200, 200, 200), (170, 190, 225), (30, 70, 160)


def draw_loss_curve(losses: Sequence[float]) -> np.ndarray:
    """Loss by optimiser step, uint8, 360 x 640 x 3 RGB: each step's pale, and dark the mean of the steps around it.

    Single steps say little: their loss depends on the noise level that was drawn.
    """
    values = np.asarray(losses, dtype=np.float64)
    canvas = np.full((HEIGHT, WIDTH, 3), 255, dtype=np.uint8)
    top = max(float(values.max()), 1e-9)
    for tick in _ticks(0.0, top):
        row = _row(tick, top)
        cv2.line(canvas, (_LEFT, row), (WIDTH - _RIGHT, row), _GREY, 1)
        _write(canvas, f"{tick:g}", (8, row + 4))
    for tick in _ticks(1, len(values)):
        if tick == int(tick) >= 1:
            _write(canvas, f"{int(tick)}", (_column(int(tick) - 1, len(values)) - 8, HEIGHT - 22))
    _write(canvas, "optimiser step", (WIDTH // 2 - 40, HEIGHT - 6))
    _plot(canvas, values, top, _LIGHT, 1)
    _plot(canvas, smooth(values), top, _BLUE, 2)
    cv2.rectangle(canvas, (_LEFT, _TOP), (WIDTH - _RIGHT, HEIGHT - _BOTTOM), _BLACK, 1)
    return canvas


def smooth(values: np.ndarray) -> np.ndarray:
    """Mean of the steps around each: a tenth of all of them, fewer at the ends."""
    half = max(len(values) // 20, 1)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    steps = np.arange(len(values))
    first, last = np.maximum(steps - half, 0), np.minimum(steps + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers from low to high."""
    span = max(high - low, 1e-12)
    unit = 10.0 ** math.floor(math.log10(span / 5))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor * 5 >= span)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _row(value: float, top: float) -> int:
    return round(HEIGHT - _BOTTOM - value / top * (HEIGHT - _TOP - _BOTTOM))


def _column(step: int, steps: int) -> int:
    return round(_LEFT + step / max(steps - 1, 1) * (WIDTH - _LEFT - _RIGHT))


def _plot(canvas: np.ndarray, values: np.ndarray, top: float, colour: tuple[int, int, int], thickness: int) -> None:
    points = [(_column(step, len(values)), _row(float(value), top)) for step, value in enumerate(values)]
    cv2.polylines(canvas, [np.array(points, dtype=np.int32)], False, colour, thickness, cv2.LINE_AA)


def _write(canvas: np.ndarray, text: str, place: tuple[int, int]) -> None:
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.4, _BLACK, 1, cv2.LINE_AA)
