"""anomalib's Perlin anomaly generator with its published defaults (Akcay et al., "Anomalib: A deep learning library for
anomaly detection", ICIP 2022; `PerlinAnomalyGenerator` of release 2.7.0).

    out = (1 - M) I + M (f S + (1 - f) I)

M: Perlin noise above 0.5, anywhere in the image; where none of the noise is, it is stretched to -1 to 1. S: the noise
itself as grey, `noise / 2 + 1/4`, or a texture, after three of ten augmentations. f in U(0.2, 1): the anomaly's weight.

anomalib lays its lattice over the next powers of two and cuts the image out of it: so does this. Where its code is
broken: it returns an empty mask after ten attempts (here that is an error), draws solarize's threshold once for a
generator's life (here for each image), and lets float images leave 0 to 1 (here bytes saturate).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation import kernels
from flawsmith.augmentation.methods.base import Augmented, Method, OpacityParameters, Sources, blend
from flawsmith.augmentation.perlin import NOISE_STEP, draw_angle, draw_noise, draw_scales, threshold_byte
from flawsmith.augmentation.photometric import ANOMALIB_TEN, Picture, by_table, three_of
from flawsmith.augmentation.placement import fit

_NO_NOISE = round(0.5 / NOISE_STEP)
"""The byte of noise 0, which is what a turned image is filled with."""

# noise / 2 + 1/4 of the noise that a byte stands for.
_AS_GREY = np.rint((np.arange(256) * NOISE_STEP - 0.5) / 2 * 255 + 255 / 4).clip(0, 255).astype(np.uint8)


class Source(StrEnum):
    """noise: the noise itself, as anomalib does without a folder. texture: as it does with one."""

    NOISE = "noise"
    TEXTURE = "texture"


class AnomalibParameters(OpacityParameters):
    """Defaults are the published ones; the opacities are anomalib's blend_factor.

    dual_mask: with p = 0.5 the union of two masks.
    """

    source: Source = Source.NOISE
    dual_mask: bool = False


def draw(
    rng: np.random.Generator,
    image: np.ndarray,
    allowed: np.ndarray | None,
    parameters: AnomalibParameters,
    sources: Sources,
) -> Augmented | None:
    """One draw."""
    height, width = image.shape[:2]
    noise, mask, drawn = _region(rng, height, width, parameters)
    if parameters.dual_mask:
        _, second, drawn["second_mask"] = _region(rng, height, width, parameters)
        drawn["union"] = bool(rng.random() < 0.5)
        if drawn["union"]:
            mask = cv2.bitwise_or(mask, second)
    if allowed is not None:
        mask = cv2.bitwise_and(mask, allowed)
    fitted = fit(rng, mask, cv2.countNonZero(mask), parameters)
    if fitted is None:
        return None
    mask, area, regions = fitted
    drawn.update(regions, source=parameters.source.value)
    if parameters.source == Source.TEXTURE:
        source, drawn["texture"] = sources.textures(rng, height, width)
        channels = 3
    else:
        source = Picture(noise, (by_table(_AS_GREY),))
        channels = 1
    changes, drawn["augmentations"] = three_of(rng, channels, ANOMALIB_TEN)
    places = kernels.masked_places(mask, area)
    return blend(image, source.then(changes).at(places), mask, places, parameters.draw_opacity(rng), drawn)


def _region(
    rng: np.random.Generator, height: int, width: int, parameters: AnomalibParameters
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """The turned noise as bytes (see perlin.NOISE_STEP), its mask (0 or 255) and what was drawn."""
    down, across = draw_scales(rng, parameters.max_scale_exponent)
    # Of a lattice over the next powers of two, the part over the image.
    noise = draw_noise(rng, height, width, down * _covered(height), across * _covered(width))
    degrees, cosine, sine = draw_angle(rng, parameters.max_rotation)
    drawn: dict[str, Any] = {"scale": [down, across], "degrees": degrees, "stretched": False}
    byte, offset = threshold_byte(parameters.threshold)
    field, tiles = noise.as_bytes(1.0 / NOISE_STEP, offset)
    if tiles.max() < byte:
        low, high = noise.extent()
        if high > low:  # there is no noise where every pixel lies on a lattice point: the mask stays empty
            stretch = 2.0 / (high - low)
            field, _ = noise.as_bytes(stretch / NOISE_STEP, offset - (1.0 + low * stretch) / NOISE_STEP)
            drawn["stretched"] = True
    turned = kernels.affine(field, cosine, -sine, sine, cosine, _NO_NOISE)
    return turned, cv2.threshold(turned, byte - 1, 255, cv2.THRESH_BINARY)[1], drawn


def _covered(size: int) -> float:
    """Share of the next power of two."""
    return size / 2 ** math.ceil(math.log2(size))


METHOD = Method(
    name="anomalib",
    description=(
        "Perlin-shaped regions filled with the augmented noise itself or a texture: anomalib's generator "
        "(Akcay et al., Anomalib, ICIP 2022)"
    ),
    parameters=AnomalibParameters,
    draw=draw,
    uses_textures=lambda parameters: parameters.source is Source.TEXTURE,
)
