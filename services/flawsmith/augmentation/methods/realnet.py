"""RealNet's anomaly synthesis (Zhang et al., "RealNet: A feature selection network with realistic synthetic anomaly for
anomaly detection", CVPR 2024).

    out = (1 - M) I + M (f S + (1 - f) I)

M: Perlin noise above 0.5 within the product. S: a texture after three of ten augmentations, f in U(0.2, 1), or an
image that a diffusion model drew, f in U(0.5, 1). RealNet's own diffusion model disturbs its noise by sqrt(1 + s); here
the images come from a batch that was generated before, and whoever generated it decided how.

Where the public code is broken: a mask that misses the product stays positive; here the draw is repeated. Its grey
thresholds are constants for each product of one data set; here `foreground` = object finds them by Otsu's or the
triangle rule with closing and opening.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from flawsmith.augmentation.methods.base import Augmented, Method, PerlinMethodParameters, Sources, blend, placed_region
from flawsmith.augmentation.photometric import IMGAUG_TEN, three_of


class RealNetParameters(PerlinMethodParameters):
    """Defaults are the published ones.

    anomaly_probability: share of generated images among the sources, where there are any; textures otherwise.
    texture_opacity_min and _max, anomaly_opacity_min and _max: the opacity is uniform between them.
    """

    anomaly_probability: float = Field(default=0.5, ge=0.0, le=1.0)
    texture_opacity_min: float = Field(default=0.2, gt=0.0, le=1.0)
    texture_opacity_max: float = Field(default=1.0, gt=0.0, le=1.0)
    anomaly_opacity_min: float = Field(default=0.5, gt=0.0, le=1.0)
    anomaly_opacity_max: float = Field(default=1.0, gt=0.0, le=1.0)

    @model_validator(mode="after")
    def _opacities_ordered(self) -> Self:
        for source in ("texture", "anomaly"):
            if getattr(self, f"{source}_opacity_min") > getattr(self, f"{source}_opacity_max"):
                raise ValueError(f"{source}_opacity_min must not exceed {source}_opacity_max")
        return self


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: RealNetParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    region = placed_region(rng, image, allowed, parameters)
    if region is None:
        return None
    mask, places, drawn = region
    height, width = mask.shape
    if sources.anomalies is not None and rng.random() < parameters.anomaly_probability:
        anomaly, drawn["anomaly"] = sources.anomalies(rng, height, width)
        source = anomaly.at(places)
        drawn["source"] = "anomaly"
        opacity = float(rng.uniform(parameters.anomaly_opacity_min, parameters.anomaly_opacity_max))
    else:
        texture, drawn["texture"] = sources.textures(rng, height, width)
        changes, drawn["augmentations"] = three_of(rng, 3, IMGAUG_TEN)
        source = texture.then(changes).at(places)
        drawn["source"] = "texture"
        opacity = float(rng.uniform(parameters.texture_opacity_min, parameters.texture_opacity_max))
    return blend(image, source, mask, places, opacity, drawn)


METHOD = Method(
    name="realnet",
    description=(
        "Perlin-shaped regions on the product, filled with an augmented texture or from a generated batch "
        "(Zhang et al., RealNet, CVPR 2024)"
    ),
    parameters=RealNetParameters,
    draw=draw,
    uses_anomalies=lambda parameters: parameters.anomaly_probability > 0,
)
