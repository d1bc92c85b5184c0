"""MemSeg's anomaly simulation (Yang et al., "MemSeg: A semi-supervised method for image surface defect detection
using differences and commonalities", 2022).

    out = (1 - M) I + M (f S + (1 - f) I)

M: Perlin noise above 0.5 within the foreground. S: a texture, unaugmented, or the image itself after three of ten
augmentations and a shuffle of grid cells. f: opacity.

Where the public code is broken: noise crashes at sizes that its scales do not divide (any size works here), its
`cv2.resize` swaps height and width of textures, an empty mask is passed on with a positive label (drawn again here),
and solarize's threshold is drawn once for a whole run.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flawsmith.augmentation.methods.base import Augmented, Method, OpacityParameters, Sources, blend, placed_region
from flawsmith.augmentation.photometric import IMGAUG_TEN, Picture, channels_of, shuffle_grid, three_of


class MemSegParameters(OpacityParameters):
    """Defaults are the published ones.

    texture_probability: share of textures among the sources. grid_rows, grid_columns: cells that the structure source
    shuffles (the code's 8 x 8; the paper says 4 x 8).
    """

    texture_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    opacity_min: float = Field(default=0.15, gt=0.0, le=1.0)
    grid_rows: int = Field(default=8, ge=1, le=32)
    grid_columns: int = Field(default=8, ge=1, le=32)


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: MemSegParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    region = placed_region(rng, image, allowed, parameters)
    if region is None:
        return None
    mask, places, drawn = region
    height, width = mask.shape
    if rng.random() < parameters.texture_probability:
        texture, drawn["texture"] = sources.textures(rng, height, width)
        source = texture.at(places)
        drawn["source"] = "texture"
    else:
        changes, applied = three_of(rng, channels_of(image), IMGAUG_TEN)
        origins, order = shuffle_grid(rng, places, (height, width), parameters.grid_rows, parameters.grid_columns)
        source = Picture(image, changes).at(origins)
        drawn["structure"] = {"augmentations": applied, "order": order}
        drawn["source"] = "structure"
    return blend(image, source, mask, places, parameters.draw_opacity(rng), drawn)


METHOD = Method(
    name="memseg",
    description=(
        "Perlin-shaped regions filled with a texture or with the shuffled image itself, at a random opacity "
        "(Yang et al., MemSeg, 2022)"
    ),
    parameters=MemSegParameters,
    draw=draw,
    uses_textures=lambda parameters: parameters.texture_probability > 0,
)
