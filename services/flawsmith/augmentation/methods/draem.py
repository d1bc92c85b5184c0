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

import numpy as np
from pydantic import Field

from flawsmith.augmentation.methods.base import Augmented, Method, OpacityParameters, Sources, blend, placed_region
from flawsmith.augmentation.photometric import IMGAUG_TEN, rotated, three_of


class DraemParameters(OpacityParameters):
    """Defaults are the published ones, but for the turned input.

    input_rotation_probability: of turning the input by up to 90 degrees first (published: 0.3); pixels outside the
    mask are then the turned image's.
    """

    input_rotation_probability: float = Field(default=0.0, ge=0.0, le=1.0)


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: DraemParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    region = placed_region(rng, image, allowed, parameters)
    if region is None:
        return None
    mask, places, drawn = region
    height, width = mask.shape
    if rng.random() < parameters.input_rotation_probability:
        drawn["input_degrees"] = float(rng.uniform(-90.0, 90.0))
        image = rotated(drawn["input_degrees"]).of_image(image)
    texture, drawn["texture"] = sources.textures(rng, height, width)
    changes, drawn["augmentations"] = three_of(rng, 3, IMGAUG_TEN)
    drawn["source"] = "texture"
    source = texture.then(changes).at(places)
    return blend(image, source, mask, places, parameters.draw_opacity(rng), drawn)


METHOD = Method(
    name="draem",
    description="Perlin-shaped regions filled with an augmented texture, anywhere (Zavrtanik et al., DRAEM, ICCV 2021)",
    parameters=DraemParameters,
    draw=draw,
)
