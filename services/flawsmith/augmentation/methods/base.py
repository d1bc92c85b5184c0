"""What every per-region method has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import cv2
import numpy as np
from pydantic import Field, model_validator

from flawsmith.augmentation import kernels
from flawsmith.augmentation.perlin import PerlinParameters, draw_region
from flawsmith.augmentation.placement import Placement, fit
from flawsmith.augmentation.sources import ImageSource


class MethodParameters(Placement):
    """Parameters that all methods share."""


class PerlinMethodParameters(MethodParameters, PerlinParameters):
    """Those of methods whose regions are thresholded Perlin noise."""


class OpacityParameters(PerlinMethodParameters):
    """Those of methods with one range of opacities. opacity_min, opacity_max: the opacity is uniform between them."""

    opacity_min: float = Field(default=0.2, gt=0.0, le=1.0)
    opacity_max: float = Field(default=1.0, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _opacities_ordered(self) -> Self:
        if self.opacity_min > self.opacity_max:
            raise ValueError("opacity_min must not exceed opacity_max")
        return self

    def draw_opacity(self, rng: np.random.Generator) -> float:
        """One of them."""
        return float(rng.uniform(self.opacity_min, self.opacity_max))


@dataclass(frozen=True)
class Sources:
    """Where foreign pixels come from. textures: pictures of anything. anomalies: images with defects that a diffusion
    model drew; None where there are none."""

    textures: ImageSource
    anomalies: ImageSource | None = None


@dataclass(frozen=True)
class Augmented:
    """image: uint8, height x width or height x width x 3 RGB. mask: uint8 height x width, 0 or 255; outside of it the
    image is the input's, exactly. area: pixels of the mask. changed: those among them that differ from the input's.

    drawn: every parameter that was drawn, JSON values.
    """

    image: np.ndarray
    mask: np.ndarray
    area: int
    changed: int
    drawn: dict[str, Any] = field(default_factory=dict)


Draw = Callable[[np.random.Generator, np.ndarray, np.ndarray | None, Any, Sources], Augmented | None]
"""(rng, image uint8 H x W or H x W x 3, allowed uint8 H x W or None, parameters, sources) -> one draw.

None: this draw has no mask that the placement takes; draw again.
"""


@dataclass(frozen=True)
class Method:
    """A per-region method: its name, its paper, its parameters' model and one draw of it.

    uses_textures, uses_anomalies: whether it ever draws from those of `Sources`, given its parameters.
    """

    name: str
    description: str
    parameters: type[MethodParameters]
    draw: Draw
    uses_textures: Callable[[Any], bool] = lambda parameters: True
    uses_anomalies: Callable[[Any], bool] = lambda parameters: False


def placed_region(
    rng: np.random.Generator, image: np.ndarray, allowed: np.ndarray | None, parameters: PerlinMethodParameters
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]] | None:
    """A Perlin region that the placement takes: mask, the places of its pixels, what was drawn. None: draw again."""
    height, width = image.shape[:2]
    region, area, drawn = draw_region(rng, height, width, parameters, allowed)
    fitted = fit(rng, region, area, parameters)
    if fitted is None:
        return None
    mask, area, regions = fitted
    return mask, kernels.masked_places(mask, area), {**drawn, **regions}


def blend(
    image: np.ndarray,
    source: np.ndarray,
    mask: np.ndarray,
    places: np.ndarray,
    opacity: float,
    drawn: dict[str, Any],
) -> Augmented:
    """`(1 - M) I + M (f S + (1 - f) I)` with the opacity f, the weight of the defect, whatever the method.

    places: of the mask's pixels, as of `kernels.masked_places`. source: the pixels to come there, 1 x places grey or
    1 x places x 3 RGB; it takes the image's kind, since a coloured patch on a grey product would give the synthetic
    image away by its colour alone.
    """
    if image.ndim == 2 and source.ndim == 3:
        source = cv2.cvtColor(source, cv2.COLOR_RGB2GRAY)
    elif image.ndim == 3 and source.ndim == 2:
        source = cv2.cvtColor(source, cv2.COLOR_GRAY2RGB)
    height, width = mask.shape
    blended, changed = kernels.blend(
        image.reshape(height, width, -1), source.reshape(1, len(places), -1), places, opacity
    )
    return Augmented(blended.reshape(image.shape), mask, len(places), changed, {**drawn, "opacity": opacity})
