"""Decoding images that strangers send, and encoding ours."""

from __future__ import annotations

import io

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from flawsmith.common.errors import InvalidArgumentError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
"""Larger headers are refused before a pixel is decoded (a 50,000 x 50,000 PNG is 7.5 GB of RGB)."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode PNG, JPEG, BMP or TIFF to RGB.

    Returns uint8, height x width x 3, 0-255; grey is repeated, 16 bit is scaled by 1/257.
    Raises InvalidArgumentError: IMAGE_UNREADABLE (not an image, truncated, or another format), IMAGE_TOO_LARGE.
    """
    return np.ascontiguousarray(_decode(data, max_pixels, "RGB"))


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask to uint8, height x width, 0 or 255 (any non-zero pixel is defect).

    Raises the errors of `decode_image`.
    """
    return np.where(_decode(data, max_pixels, "L") > 0, np.uint8(255), np.uint8(0))


def encode_png(image: np.ndarray, *, level: int = 1) -> bytes:
    """Encode uint8 RGB (H x W x 3) or grey (H x W) as PNG. level: zlib 0-9; 1 is fast and near the size of 6."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, level])
    if not done:
        raise InvalidArgumentError("IMAGE_UNENCODABLE", f"an array of shape {image.shape} is not an image")
    return data.tobytes()


def _decode(data: bytes, max_pixels: int, mode: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise InvalidArgumentError(
                    "IMAGE_TOO_LARGE",
                    f"the image is {height} x {width} pixels (height x width); at most {max_pixels:,} pixels "
                    "are accepted: crop it or scale it down",
                )
            if picture.mode.startswith("I"):  # 16 bit grey
                grey = (np.asarray(picture, dtype=np.float64) / 257.0).clip(0, 255).astype(np.uint8)
                return grey if mode == "L" else np.repeat(grey[:, :, None], 3, axis=2)
            return np.asarray(picture.convert(mode))
    except InvalidArgumentError:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidArgumentError(
            "IMAGE_TOO_LARGE", f"the image is too large; at most {max_pixels:,} pixels are accepted"
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise InvalidArgumentError(
            "IMAGE_UNREADABLE",
            "the file is not a readable image, or not all of it; send a whole PNG, JPEG, BMP or TIFF file",
        ) from error
