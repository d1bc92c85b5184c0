"""From bytes to bytes: what the service does with one image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np

from flawsmith.augmentation.augment import augment, method_named, parse_parameters
from flawsmith.augmentation.methods import Sources
from flawsmith.augmentation.planning import image_generator
from flawsmith.augmentation.preview import preview_placement
from flawsmith.augmentation.textures import procedural_texture
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.images import decode_grey_or_rgb, encode_png

PROCEDURAL = Sources(procedural_texture)
"""Sources of those who bring none of their own."""

_VERSIONS = {"flawsmith": version("flawsmith"), "numpy": np.__version__, "opencv": cv2.__version__}


@dataclass(frozen=True)
class Rendered:
    """image, mask: PNG files, the image grey where its parent was. height, width: pixels.

    drawn: every drawn parameter, JSON values.
    """

    image: bytes
    mask: bytes
    height: int
    width: int
    drawn: dict[str, Any]


def render(
    data: bytes,
    *,
    method: str,
    parameters: Mapping[str, Any],
    seed: int,
    index: int = 0,
    sources: Sources = PROCEDURAL,
) -> Rendered:
    """Draw a defect into an image file.

    seed, index: the index-th image of a batch with this seed; a single image is the 0th of its own.
    Raises the errors of `decode_grey_or_rgb`, `parse_parameters` and `augment`.
    """
    chosen = method_named(method)
    values = parse_parameters(chosen, parameters)
    made = augment(
        decode_grey_or_rgb(data), image_generator(seed, index), method=chosen.name, parameters=values,
        textures=sources.textures, anomalies=sources.anomalies,
    )  # fmt: skip
    height, width = made.mask.shape
    return Rendered(encode_png(made.image), encode_png(made.mask), height, width, made.drawn)


def render_preview(
    data: bytes, *, method: str, parameters: Mapping[str, Any], seed: int, count: int
) -> dict[str, bytes | list[bytes]]:
    """A preview of an image file as PNG files: `allowed`, `overlay`, `masks`; see `preview_placement`."""
    chosen = method_named(method)
    made = preview_placement(
        decode_grey_or_rgb(data), method=chosen.name, parameters=parse_parameters(chosen, parameters), seed=seed,
        count=count,
    )  # fmt: skip
    return {
        "allowed": encode_png(made.allowed),
        "overlay": encode_png(made.overlay),
        "masks": [encode_png(mask) for mask in made.masks],
    }


def sidecar(
    rendered: Rendered, *, image: str, method: str, parameters: Mapping[str, Any], seed: int, index: int, parent: str
) -> bytes:
    """One line of JSON with everything that made an image.

    image: its sha256. parent: sha256 of the normal that it was drawn into.
    """
    chosen = method_named(method)
    record = {
        "image": image,
        "method": chosen.name,
        "parameters": parse_parameters(chosen, parameters).model_dump(mode="json"),
        "drawn": rendered.drawn,
        "seed": seed,
        "index": index,
        "parent": parent,
        "versions": _VERSIONS,
    }
    return json.dumps(record, sort_keys=True).encode()


def check(method: str, parameters: Mapping[str, Any], *, textures: bool = False, anomalies: bool = False) -> str:
    """Name of the method, once it and its parameters are known to be good. textures, anomalies: whether the caller
    brings any.

    Raises the errors of `method_named` and `parse_parameters`, and InvalidArgumentError (TEXTURES_UNUSED,
    GENERATED_BATCH_UNUSED): the images would be taken for what they are not.
    """
    chosen = method_named(method)
    values = parse_parameters(chosen, parameters)
    if textures and not chosen.uses_textures(values):
        raise InvalidArgumentError(
            "TEXTURES_UNUSED",
            f"{chosen.name} with these parameters draws no texture; leave texture_prefix out, or change them",
            fields=[FieldViolation("texture_prefix", f"not used by {chosen.name}")],
        )
    if anomalies and not chosen.uses_anomalies(values):
        raise InvalidArgumentError(
            "GENERATED_BATCH_UNUSED",
            f"{chosen.name} with these parameters draws nothing from a generated batch; leave generated_batch out, or "
            "use the method realnet",
            fields=[FieldViolation("generated_batch", f"not used by {chosen.name}")],
        )
    return chosen.name
