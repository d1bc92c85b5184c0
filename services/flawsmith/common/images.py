"""Decoding images that strangers send, and encoding ours."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from PIL import Image

from flawsmith.common.errors import InvalidArgumentError

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MAX_PIXELS = 64_000_000
"""Larger headers are refused before a pixel is decoded (a 50,000 x 50,000 PNG is 7.5 GB of RGB)."""
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's modes that are grey or RGB. Others have no single right conversion: CMYK and LAB need a colour profile,
32 bit integers and floats a range."""

_MAX_SCANS = 100
"""Of a progressive JPEG; libtiff's limit too. Encoders write ten. A scan may take 50 bytes and costs a pass over all
pixels: 500 of them are 150 kB and 17 seconds."""
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
"""Followed by a segment's length, but for the last (EOI). Neither stuffed bytes (FF 00), nor what libjpeg passes over
without a length: TEM (FF 01), restarts (FF D0 to D7) and, where it looks for a restart, the reserved FF 02 to BF. SOI
(FF D8) has no length either; a second one is an error."""


def decode_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode PNG, JPEG, BMP or TIFF to RGB.

    Returns uint8, height x width x 3, 0-255. Grey is repeated, 16 bit grey is scaled by 1/257, of 16 bit colours the
    high byte counts, transparency is left out. What the bytes are decides, not what a file's name says; of several
    frames or pages the first counts, and an orientation tag turns nothing.
    Raises InvalidArgumentError: IMAGE_UNREADABLE (not an image, truncated, or another format), IMAGE_TOO_LARGE (more
    than max_pixels, also in one tile of a TIFF; or more than 100 scans of a JPEG), IMAGE_MODE_UNSUPPORTED (neither
    grey nor RGB of 8 or 16 bit).
    """
    return np.ascontiguousarray(_decode(data, max_pixels, "RGB"))


def decode_grey_or_rgb(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """As `decode_image`, but a file of one channel without a palette stays height x width."""
    return np.ascontiguousarray(_decode(data, max_pixels, None))


def decode_mask(data: bytes, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a mask to uint8, height x width, 0 or 255 (any non-zero pixel is defect).

    Raises the errors of `decode_image`.
    """
    return np.where(_decode(data, max_pixels, "L") > 0, np.uint8(255), np.uint8(0))


def encode_png(image: np.ndarray) -> bytes:
    """Encode uint8 RGB (H x W x 3) or grey (H x W) as PNG, for speed.

    What costs time is the search for a filter and for repetitions. One filter for all rows (what libpng calls SUB;
    OpenCV sets it only when no level is asked for) and run lengths with Huffman codes take 2.9 ms for a photograph of
    600 x 200 x 3, zlib's level 1 with libpng's choice of filters 4.7 ms, and 8 ms when the photograph is noisy; files
    of a noisy one are as large, of a smooth one up to 1.7 times. Stored pixels (level 0) take 2.1 ms here, but their
    2 to 3 times as many bytes cost more than that on their way to the object store. Masks shrink to a hundredth
    either way, and take 0.2 ms instead of 0.7.
    """
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE])
    if not done:
        raise InvalidArgumentError("IMAGE_UNENCODABLE", f"an array of shape {image.shape} is not an image")
    return data.tobytes()


def image_size(data: bytes, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width, from the header alone: a file that is cut off passes. Raises the errors of `decode_image`."""
    with _opened(data, max_pixels) as picture:
        return picture.height, picture.width


def _decode(data: bytes, max_pixels: int, mode: str | None) -> np.ndarray:
    """mode: Pillow's `RGB` or `L`; None for L where the file is grey, else RGB."""
    with _opened(data, max_pixels) as picture:
        if mode is None:
            mode = "L" if picture.mode in ("1", "L", "LA") or picture.mode.startswith("I") else "RGB"
        if picture.mode.startswith("I"):  # 16 bit grey
            grey = (np.asarray(picture) // 257).astype(np.uint8)
            return grey if mode == "L" else np.repeat(grey[:, :, None], 3, axis=2)
        still = not getattr(picture, "is_animated", False)
        if picture.format == "PNG" and picture.mode == mode and still and _chunks_are_whole(data):
            # The usual case. OpenCV copies less under the GIL: two threads decode a fifth more than Pillow's.
            flags = cv2.IMREAD_GRAYSCALE if mode == "L" else cv2.IMREAD_COLOR_RGB
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None and pixels.shape[:2] == (picture.height, picture.width):
                return pixels
        # Also where OpenCV gives up: Pillow says why.
        return np.asarray(picture.convert(mode))


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Any]:
    """A file as a Pillow image whose header is checked; what goes wrong within becomes an error of ours."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise InvalidArgumentError(
                    "IMAGE_TOO_LARGE",
                    f"the image is {height} x {width} pixels (height x width); at most {max_pixels:,} pixels "
                    "are accepted: crop it or scale it down",
                )
            # Before version 11.3, Pillow calls 16 bit grey PNGs "I".
            if picture.mode not in _MODES and (picture.mode, picture.format) != ("I", "PNG"):
                raise InvalidArgumentError(
                    "IMAGE_MODE_UNSUPPORTED",
                    f"the image's pixels are {picture.mode}; send grey or RGB with 8 or 16 bits a channel",
                )
            if picture.format == "TIFF" and (tile := _tile_pixels(data, picture.tag_v2.offset)) > max_pixels:
                raise InvalidArgumentError(
                    "IMAGE_TOO_LARGE",
                    f"the TIFF has tiles of {tile:,} pixels; at most {max_pixels:,} are accepted: save it in strips",
                )
            if picture.format in ("JPEG", "MPO") and (scans := _scans(data)) > _MAX_SCANS:
                raise InvalidArgumentError(
                    "IMAGE_TOO_LARGE", f"the JPEG has {scans:,} scans; at most {_MAX_SCANS} are accepted: save it anew"
                )
            yield picture
    except InvalidArgumentError:
        raise
    except Image.DecompressionBombError as error:
        raise InvalidArgumentError(
            "IMAGE_TOO_LARGE", f"the image is too large; at most {max_pixels:,} pixels are accepted"
        ) from error
    except MemoryError:
        raise
    except Exception as error:  # hostile bytes make the parsers raise whatever comes: struct.error, TypeError, ...
        raise InvalidArgumentError(
            "IMAGE_UNREADABLE",
            "the file is not a readable image, or not all of it; send a whole PNG, JPEG, BMP or TIFF file",
        ) from error


def _chunks_are_whole(data: bytes) -> bool:
    """Whether a PNG's chunks end within the file. OpenCV takes the memory that a chunk claims before it reads it: two
    gigabytes for a file of a few bytes. Pillow reads on while there is something."""
    at, kind = 8, b""
    while kind != b"IEND" and at < len(data):
        kind = data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])
    return at <= len(data)


def _tile_pixels(data: bytes, directory: int) -> int:
    """Pixels of a tile of a TIFF, 0 where it has none. directory: offset of the image's directory.

    libtiff takes memory for a whole tile however small the image is, and Pillow limits only the image. Read from the
    bytes, because of entries with the same tag or of an odd type the two may take different ones. Raises struct.error
    and KeyError for entries that make no sense.
    """
    order, big = "<" if data[:2] == b"II" else ">", 43 in data[2:4]  # BigTIFF has longer entries
    number, entry = (struct.Struct(order + fields) for fields in (("Q", "HHQ8s") if big else ("H", "HHI4s")))
    (count,) = number.unpack_from(data, directory)
    sides = {322: 0, 323: 0}  # TileWidth, TileLength
    for index in range(count):
        tag, kind, _, value = entry.unpack_from(data, directory + number.size + index * entry.size)
        if tag in sides:
            (side,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], value)
            sides[tag] = max(sides[tag], side)
    return sides[322] * sides[323]


def _scans(data: bytes) -> int:
    """Passes over the pixels of a JPEG's first image."""
    scans, at = 0, 2
    while (marker := _JPEG_MARKER.search(data, at)) is not None and marker[0] != b"\xff\xd9":
        scans += marker[0] == b"\xff\xda"
        at = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans
