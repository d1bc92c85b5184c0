"""Decoding what strangers send."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.images import decode_image, decode_mask, encode_png

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (13, 7, 3), dtype=np.uint8)


def encoded(array: np.ndarray, fmt: str, mode: str | None = None) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(out, fmt)
    return out.getvalue()


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = b"IDAT" + zlib.compress(bytes(64))
    chunks = (struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, pixels))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_as_they_are(fmt: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(PICTURE, fmt)), PICTURE)


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(decode_image(encode_png(PICTURE)), PICTURE)
    grey = PICTURE[:, :, 0]
    np.testing.assert_array_equal(decode_image(encode_png(grey)), np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    fmt = "TIFF" if mode == "CMYK" else "PNG"
    assert decode_image(encoded(PICTURE, fmt, mode)).shape == (13, 7, 3)


def test_sixteen_bit_grey_is_scaled() -> None:
    deep = np.array([[0, 257, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_image(encoded(deep, "PNG"))[0, :, 0], [0, 1, 255])


def test_masks_are_zero_or_255() -> None:
    mask = np.array([[0, 1, 255]], dtype=np.uint8)
    np.testing.assert_array_equal(decode_mask(encoded(mask, "PNG")), [[0, 255, 255]])


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", encoded(PICTURE, "PNG")[:-30], encoded(PICTURE, "JPEG")[:300], encoded(PICTURE, "GIF")],
    ids=["empty", "text", "truncated png", "truncated jpeg", "gif"],
)
def test_what_is_no_readable_image_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(data)
    assert caught.value.reason == "IMAGE_UNREADABLE"


def test_a_huge_header_is_refused_before_decoding() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(png_header(50_000, 50_000))
    assert caught.value.reason == "IMAGE_TOO_LARGE"


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_anywhere_is_an_error_of_ours_or_an_image(noise: bytes, at: int) -> None:
    data = encoded(PICTURE, "PNG")
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        assert decode_image(damaged, max_pixels=10_000).dtype == np.uint8
    except InvalidArgumentError as error:
        assert error.reason in ("IMAGE_UNREADABLE", "IMAGE_TOO_LARGE")
