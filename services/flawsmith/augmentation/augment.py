"""Draw a defect with an exact mask into one image of a good part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from pydantic import ValidationError

from flawsmith.augmentation import kernels
from flawsmith.augmentation.methods import DEFAULT_METHOD, METHODS, Augmented, Method, MethodParameters, Sources
from flawsmith.augmentation.placement import allowed_area
from flawsmith.augmentation.sources import ImageSource
from flawsmith.augmentation.textures import procedural_texture
from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError

MIN_SIDE, MAX_SIDE = 32, 8192


def method_named(name: str) -> Method:
    """A method by name, the default for "". Raises InvalidArgumentError (UNKNOWN_METHOD) that names those known."""
    method = METHODS.get(name or DEFAULT_METHOD)
    if method is None:
        known = ", ".join(sorted(METHODS))
        raise InvalidArgumentError(
            "UNKNOWN_METHOD",
            f"there is no per-region method {name!r}; use one of: {known}",
            fields=[FieldViolation("method", f"one of: {known}")],
        )
    return method


def parse_parameters(method: Method, values: Mapping[str, Any]) -> MethodParameters:
    """Check parameters by name. Raises InvalidArgumentError (INVALID_PARAMETERS) that lists every bad one."""
    # A Struct has no integers: 8 arrives as 8.0, which pydantic takes for an int field, while 8.5 it refuses.
    try:
        return method.parameters.model_validate(dict(values))
    except ValidationError as error:
        fields = [
            FieldViolation(".".join(["parameters", *map(str, entry["loc"])]), entry["msg"])
            for entry in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        listing = "; ".join(f"{violation.field}: {violation.description}" for violation in fields)
        raise InvalidArgumentError(
            "INVALID_PARAMETERS", f"correct these parameters of {method.name}: {listing}", fields=fields
        ) from error


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    *,
    method: str = DEFAULT_METHOD,
    parameters: MethodParameters | None = None,
    textures: ImageSource = procedural_texture,
    anomalies: ImageSource | None = None,
) -> Augmented:
    """Draw one defect.

    image: uint8, height x width (grey) or height x width x 3 RGB, sides of 32 to 8192 pixels. parameters: of the
    method's own model, its defaults when None. textures: procedural ones by default. anomalies: generated images, for
    methods that take some.
    Returns the image (of the input's kind), its mask (never empty, and something changed within it) and what was
    drawn. Pixels outside the mask are the input's. The same generator state gives the same bytes.
    Raises InvalidArgumentError (IMAGE_UNSUPPORTED, IMAGE_SIZE_UNSUPPORTED, UNKNOWN_METHOD) and
    FailedPreconditionError: NO_ROOM_FOR_DEFECTS, or NO_DEFECT_DRAWN when `max_draws` draws gave none that the placement
    takes, since an unchanged image must not be labelled defective.
    """
    _check_image(image)
    chosen = method_named(method)
    values = parameters or chosen.parameters()
    pixels = np.require(image, requirements=["C", "W"])
    # A grey product photographed in colour: a third of the work, and a source without colour.
    plane = np.ascontiguousarray(pixels[:, :, 0]) if pixels.ndim == 3 and kernels.is_grey(pixels) else pixels
    allowed = allowed_area(plane, values)
    sources = Sources(textures, anomalies)
    for attempt in range(1, values.max_draws + 1):
        made = chosen.draw(rng, plane, allowed, values, sources)
        if made is None or made.changed == 0:
            continue
        made.drawn.update(method=chosen.name, draws=attempt, area=made.area)
        if plane.ndim < pixels.ndim:
            return replace(made, image=cv2.cvtColor(made.image, cv2.COLOR_GRAY2RGB))
        return made
    height, width = image.shape[:2]
    raise FailedPreconditionError(
        "NO_DEFECT_DRAWN",
        f"{values.max_draws} draws of {chosen.name} gave no visible defect that the placement takes in an image of "
        f"{height} x {width} (height x width); widen min_area, max_area, min_regions or the region of interest, check "
        "the foreground setting (`texture` when the product fills the image), or raise max_draws",
        fields=[FieldViolation("parameters.max_draws", f"{values.max_draws} draws were not enough")],
    )


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise InvalidArgumentError(
            "IMAGE_UNSUPPORTED",
            f"an array of {image.dtype} and shape {image.shape} is not an image; uint8 of height x width (grey) or "
            "height x width x 3 (RGB) is needed",
            fields=[FieldViolation("image", "uint8, grey or RGB")],
        )
    height, width = image.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise InvalidArgumentError(
            "IMAGE_SIZE_UNSUPPORTED",
            f"the image is {height} x {width} (height x width); sides of {MIN_SIDE} to {MAX_SIDE} pixels are "
            "supported: scale or crop it",
            fields=[FieldViolation("image", f"sides of {MIN_SIDE} to {MAX_SIDE} pixels")],
        )
