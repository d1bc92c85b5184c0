"""DRAEM's anomaly simulation (Zavrtanik et al., "DRAEM - A discriminatively trained reconstruction embedding for
surface anomaly detection", ICCV 2021).

    out = (1 - M) I + M ((1 - beta) A + beta I)

M: Perlin noise above 0.5, anywhere in the image. A: a texture after three of ten augmentations. The paper's beta in
U(0, 0.8) is the weight of the image; here as everywhere the opacity `1 - beta` is recorded, the weight of the defect.

Where the public code is broken: noise crashes at sizes that its scales do not divide, and a sample whose mask is empty
silently becomes a normal one; here the draw is repeated. The code also makes half of the samples normal on purpose; who
asks for a defect here gets one. It turns the input image with p = 0.3 before anything is drawn; that is off by default,
since a product's orientation is seldom free, and pixels outside the mask are then the turned image's.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from flawsmith.augmentation.methods.base import Augmented, Method, PerlinMethodParameters, Sources, blend
from flawsmith.augmentation.perlin import draw_region
from flawsmith.augmentation.photometric import IMGAUG_TEN, rotated, three_of
from flawsmith.augmentation.placement import fit


class DraemParameters(PerlinMethodParameters):
    """Defaults are the published ones, but for the turned input.

    opacity_min, opacity_max: the opacity is uniform between them. input_rotation_probability: of turning the input by
    up to 90 degrees first (published: 0.3); pixels outside the mask are then the turned image's.
    """

    opacity_min: float = Field(default=0.2, gt=0.0, le=1.0)
    opacity_max: float = Field(default=1.0, gt=0.0, le=1.0)
    input_rotation_probability: float = Field(default=0.0, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _opacities_ordered(self) -> Self:
        if self.opacity_min > self.opacity_max:
            raise ValueError("opacity_min must not exceed opacity_max")
        return self


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: DraemParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    height, width = image.shape[:2]
    region, area, drawn = draw_region(rng, height, width, parameters, allowed)
    fitted = fit(rng, region, area, parameters)
    if fitted is None:
        return None
    mask, area, regions = fitted
    if rng.random() < parameters.input_rotation_probability:
        drawn["input_degrees"] = float(rng.uniform(-90.0, 90.0))
        image = rotated(image, drawn["input_degrees"])
    texture, drawn["texture"] = sources.textures(rng, height, width)
    source, drawn["augmentations"] = three_of(rng, texture, IMGAUG_TEN)
    drawn.update(regions, source="texture")
    opacity = float(rng.uniform(parameters.opacity_min, parameters.opacity_max))
    return blend(image, source, mask, area, opacity, drawn)


METHOD = Method(
    name="draem",
    description="Perlin-shaped regions filled with an augmented texture, anywhere (Zavrtanik et al., DRAEM, ICCV 2021)",
    parameters=DraemParameters,
    draw=draw,
)
