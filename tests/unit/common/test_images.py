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
from flawsmith.common.images import decode_grey_or_rgb, decode_image, decode_mask, encode_png, image_size

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


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"gamma": 45455}, {"transparency": (1, 2, 3)}], ids=str)
@pytest.mark.parametrize("shape", [(13, 7, 3), (1, 1, 3), (600, 200, 3), (64, 33)], ids=str)
def test_pngs_are_decoded_as_pillow_does(shape: tuple[int, ...], options: dict) -> None:
    if len(shape) == 2 and "transparency" in options:
        options = {"transparency": 7}
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", **options)
    with Image.open(io.BytesIO(out.getvalue())) as picture:
        np.testing.assert_array_equal(decode_image(out.getvalue()), np.asarray(picture.convert("RGB")))
        np.testing.assert_array_equal(decode_mask(out.getvalue()) > 0, np.asarray(picture.convert("L")) > 0)
    np.testing.assert_array_equal(decode_grey_or_rgb(out.getvalue()), pixels)


def test_an_orientation_tag_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    out = io.BytesIO()
    Image.fromarray(PICTURE).save(out, "PNG", exif=exif)
    np.testing.assert_array_equal(decode_image(out.getvalue()), PICTURE)


def test_the_first_frame_of_an_animation_counts() -> None:
    out = io.BytesIO()
    frames = [Image.fromarray(PICTURE), Image.fromarray(255 - PICTURE)]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(out.getvalue()), PICTURE)


@pytest.mark.parametrize(
    ("mode", "fmt", "shape"),
    [("L", "PNG", (13, 7)), ("1", "PNG", (13, 7)), ("LA", "PNG", (13, 7)), ("L", "JPEG", (13, 7)),
     ("P", "PNG", (13, 7, 3)), ("RGBA", "PNG", (13, 7, 3)), ("RGB", "JPEG", (13, 7, 3))],
)  # fmt: skip
def test_grey_files_can_stay_grey(mode: str, fmt: str, shape: tuple[int, ...]) -> None:
    data = encoded(PICTURE, fmt, mode)
    pixels = decode_grey_or_rgb(data)
    assert pixels.shape == shape
    assert pixels.flags.c_contiguous
    if len(shape) == 2:
        np.testing.assert_array_equal(decode_image(data), np.repeat(pixels[:, :, None], 3, axis=2))


def test_sixteen_bit_grey_can_stay_grey() -> None:
    deep = np.array([[0, 257, 65535]], dtype=np.uint16)
    np.testing.assert_array_equal(decode_grey_or_rgb(encoded(deep, "PNG")), [[0, 1, 255]])


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


def test_the_size_is_known_without_decoding() -> None:
    assert image_size(encoded(PICTURE, "JPEG")) == (13, 7)
    assert image_size(encoded(PICTURE, "PNG")[:-30]) == (13, 7)
    for data, reason in ((b"text", "IMAGE_UNREADABLE"), (png_header(50_000, 50_000), "IMAGE_TOO_LARGE")):
        with pytest.raises(InvalidArgumentError) as caught:
            image_size(data)
        assert caught.value.reason == reason


@given(st.binary(max_size=200), st.integers(0, 400))
def test_damage_anywhere_is_an_error_of_ours_or_an_image(noise: bytes, at: int) -> None:
    data = encoded(PICTURE, "PNG")
    damaged = data[:at] + noise + data[at + len(noise) :]
    try:
        assert decode_image(damaged, max_pixels=10_000).dtype == np.uint8
    except InvalidArgumentError as error:
        assert error.reason in ("IMAGE_UNREADABLE", "IMAGE_TOO_LARGE")
