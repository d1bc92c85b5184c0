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
from flawsmith.augmentation.methods import DEFAULT_METHOD
from flawsmith.augmentation.planning import image_generator
from flawsmith.common.images import decode_image, encode_png


@dataclass(frozen=True)
class Rendered:
    """image, mask: PNG files. height, width: pixels. drawn: every drawn parameter, JSON values."""

    image: bytes
    mask: bytes
    height: int
    width: int
    drawn: dict[str, Any]


def render(data: bytes, *, method: str, parameters: Mapping[str, Any], seed: int, index: int = 0) -> Rendered:
    """Draw a defect into an image file.

    seed, index: the index-th image of a batch with this seed; a single image is the 0th of its own.
    Raises the errors of `decode_image`, `parse_parameters` and `augment`.
    """
    chosen = method_named(method)
    values = parse_parameters(chosen, parameters)
    made = augment(decode_image(data), image_generator(seed, index), method=chosen.name, parameters=values)
    height, width = made.mask.shape
    return Rendered(encode_png(made.image), encode_png(made.mask), height, width, made.drawn)


def sidecar(
    rendered: Rendered, *, method: str, parameters: Mapping[str, Any], seed: int, index: int, parent: str
) -> bytes:
    """JSON with everything that made an image. parent: sha256 of the normal that it was drawn into."""
    chosen = method_named(method)
    record = {
        "method": chosen.name,
        "parameters": parse_parameters(chosen, parameters).model_dump(mode="json"),
        "drawn": rendered.drawn,
        "seed": seed,
        "index": index,
        "parent": parent,
        "versions": {"flawsmith": version("flawsmith"), "numpy": np.__version__, "opencv": cv2.__version__},
    }
    return json.dumps(record, sort_keys=True).encode()


def check(method: str, parameters: Mapping[str, Any]) -> str:
    """Name of the method, once it and its parameters are known to be good."""
    chosen = method_named(method or DEFAULT_METHOD)
    parse_parameters(chosen, parameters)
    return chosen.name
