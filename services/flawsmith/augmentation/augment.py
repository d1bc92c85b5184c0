"""Draw a defect with an exact mask into one image of a good part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import ValidationError

from flawsmith.augmentation.foreground import foreground_mask
from flawsmith.augmentation.methods import DEFAULT_METHOD, METHODS, Augmented, Method, MethodParameters, TextureSource
from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.drawing import texture

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
    textures: TextureSource = texture,
) -> Augmented:
    """Draw one defect.

    image: uint8, height x width x 3 RGB, sides of 32 to 8192 pixels. parameters: of the method's own model, its
    defaults when None. textures: makes texture sources; procedural ones by default.
    Returns the image, its mask (never empty, and something changed within it) and what was drawn. Pixels outside
    the mask are the input's. The same generator state gives the same bytes.
    Raises InvalidArgumentError (IMAGE_SIZE_UNSUPPORTED, UNKNOWN_METHOD) and FailedPreconditionError (NO_DEFECT_DRAWN)
    when `max_draws` draws left the image as it was: an unchanged image must not be labelled defective.
    """
    height, width = image.shape[:2]
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise InvalidArgumentError(
            "IMAGE_SIZE_UNSUPPORTED",
            f"the image is {height} x {width} (height x width); sides of {MIN_SIDE} to {MAX_SIDE} pixels are "
            "supported: scale or crop it",
            fields=[FieldViolation("image", f"sides of {MIN_SIDE} to {MAX_SIDE} pixels")],
        )
    chosen = method_named(method)
    values = parameters or chosen.parameters()
    foreground = foreground_mask(image, values.foreground)
    for attempt in range(1, values.max_draws + 1):
        made = chosen.draw(rng, image, foreground, values, textures)
        region = made.mask > 0
        if int(region.sum()) >= values.min_area and bool((made.image[region] != image[region]).any()):
            made.drawn.update({"method": chosen.name, "draws": attempt, "area": int(region.sum())})
            return made
    raise FailedPreconditionError(
        "NO_DEFECT_DRAWN",
        f"{values.max_draws} draws of {chosen.name} left no visible defect of {values.min_area} pixels; check the "
        "foreground setting (use `texture` when the product fills the image), or lower min_area",
        fields=[FieldViolation("parameters.foreground", f"covers {int(foreground.sum())} of {height * width} pixels")],
    )
