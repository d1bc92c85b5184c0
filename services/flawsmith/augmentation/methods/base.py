"""What every per-region method has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from flawsmith.augmentation.foreground import Foreground

TextureSource = Callable[[np.random.Generator, int, int], np.ndarray]
"""(rng, height, width) -> uint8 RGB texture of that size."""


class MethodParameters(BaseModel):
    """Parameters that all methods share.

    foreground: `texture` where the product fills the image, `object` where it lies before a background.
    min_area: pixels; smaller masks are drawn again. max_draws: draws before a sample is given up with an error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    foreground: Foreground = Foreground.TEXTURE
    min_area: int = Field(default=10, ge=1, le=1_000_000)
    max_draws: int = Field(default=100, ge=1, le=10_000)


@dataclass(frozen=True)
class Augmented:
    """image: uint8 H x W x 3 RGB. mask: uint8 H x W, 0 or 255; outside of it the image is the input's, exactly.

    drawn: every parameter that was drawn, JSON values.
    """

    image: np.ndarray
    mask: np.ndarray
    drawn: dict[str, Any] = field(default_factory=dict)


Draw = Callable[[np.random.Generator, np.ndarray, np.ndarray, Any, TextureSource], Augmented]
"""(rng, image uint8 H x W x 3, foreground bool H x W, parameters, textures) -> one draw; its mask may be empty."""


@dataclass(frozen=True)
class Method:
    """A per-region method: its name, its parameters' model and one draw of it."""

    name: str
    description: str
    parameters: type[MethodParameters]
    draw: Draw
