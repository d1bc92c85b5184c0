"""Decoding what strangers send."""

from __future__ import annotations

import ast
import io
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
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


WHOLE = [encoded(PICTURE, fmt) for fmt in ("PNG", "JPEG", "BMP", "TIFF")]
ROOT = Path(__file__).parents[3]


def png_header(width: int, height: int) -> bytes:
    return png(width, height, zlib.compress(bytes(64)))


def png(width: int, height: int, pixels: bytes, *more: bytes) -> bytes:
    """pixels: compressed. more: further chunks, before the pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [header, *more, b"IDAT" + pixels, b"IEND"]
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_as_they_are(fmt: str) -> None:
    np.testing.assert_array_equal(decode_image(encoded(PICTURE, fmt)), PICTURE)


def test_png_round_trip() -> None:
    np.testing.assert_array_equal(decode_image(encode_png(PICTURE)), PICTURE)
    grey = PICTURE[:, :, 0]
    np.testing.assert_array_equal(decode_image(encode_png(grey)), np.repeat(grey[:, :, None], 3, axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "P", "L"])
def test_other_modes_become_rgb(mode: str) -> None:
    assert decode_image(encoded(PICTURE, "PNG", mode)).shape == (13, 7, 3)


@pytest.mark.parametrize(("mode", "fmt"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("LAB", "TIFF"), ("YCbCr", "TIFF")])
def test_colours_that_need_a_profile_are_refused(mode: str, fmt: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(encoded(PICTURE, fmt, mode))
    assert caught.value.reason == "IMAGE_MODE_UNSUPPORTED"
    assert mode in caught.value.message


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_depths_without_a_known_range_are_refused(dtype: type) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(encoded(np.ones((3, 4), dtype), "TIFF"))
    assert caught.value.reason == "IMAGE_MODE_UNSUPPORTED"


def test_transparency_is_left_out() -> None:
    with_alpha = np.dstack([PICTURE, RNG.integers(0, 256, PICTURE.shape[:2], dtype=np.uint8)])
    for fmt in ("PNG", "TIFF"):
        np.testing.assert_array_equal(decode_image(encoded(with_alpha, fmt)), PICTURE)


@pytest.mark.parametrize("extension", [".png", ".tiff"])
def test_sixteen_bits_become_eight(extension: str) -> None:
    colours = RNG.integers(0, 65536, (13, 7, 3), dtype=np.uint16)
    stored = cv2.imencode(extension, colours[:, :, ::-1])[1].tobytes()
    np.testing.assert_array_equal(decode_image(stored), colours >> 8)
    grey = cv2.imencode(extension, colours[:, :, 0])[1].tobytes()
    np.testing.assert_array_equal(decode_image(grey)[:, :, 1], colours[:, :, 0] // 257)


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
    for data in WHOLE:
        start = at % len(data)
        judge_decoding(data[:start] + noise + data[start + len(noise) :])


@given(st.sampled_from(range(4)), st.data())
def test_single_changed_bytes_are_an_error_of_ours_or_an_image(which: int, drawn: st.DataObject) -> None:
    data = bytearray(WHOLE[which])
    # Headers and directories: where one byte says how large or how many.
    for at in drawn.draw(st.lists(st.integers(0, min(len(data) - 1, 200)), min_size=1, max_size=4)):
        data[at] = drawn.draw(st.sampled_from([0, 1, 2, 3, 127, 128, 254, 255]))
    for at in drawn.draw(st.lists(st.integers(1, min(len(data), 200)), max_size=4)):
        data[-at] = drawn.draw(st.integers(0, 255))  # a TIFF's directory is at its end
    judge_decoding(bytes(data))


@given(
    st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM", b"II*\x00\x08\x00\x00\x00", b"MM\x00*"]), st.binary()
)
def test_anything_after_a_signature_is_an_error_of_ours_or_an_image(signature: bytes, rest: bytes) -> None:
    judge_decoding(signature + rest)


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_tiles_of_a_tiff_are_limited_like_images(order: str, big: bool) -> None:
    np.testing.assert_array_equal(decode_image(tiled_tiff(order, big, [16, 16])), np.full((1, 1, 3), 7))
    # Readers do not agree on which of several entries counts.
    for sides in ([64, 64], [64, 64, 16, 16], [16, 16, 64, 64]):
        with pytest.raises(InvalidArgumentError) as caught:
            decode_image(tiled_tiff(order, big, sides), max_pixels=64 * 64 - 1)
        assert caught.value.reason == "IMAGE_TOO_LARGE"
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(tiled_tiff(order, big, [16, 16], kind=17))  # a type that no writer uses, and libtiff reads
    assert caught.value.reason == "IMAGE_UNREADABLE"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_scans_of_a_jpeg_are_limited(mode: str) -> None:
    out = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(out, "JPEG", progressive=True, exif=b"Exif\0\0" + b"\xff\xda\0\2" * 200)
    data = out.getvalue()
    with Image.open(io.BytesIO(data)) as picture:
        np.testing.assert_array_equal(decode_image(data), np.asarray(picture.convert("RGB")))
    last = data[data.rindex(b"\xff\xda") : -2]
    started = time.process_time()
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(data[:-2] + last * 10_000 + data[-2:])
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert "scans" in caught.value.message
    assert time.process_time() - started < 1
    np.testing.assert_array_equal(decode_image(data[:-2] + last * 50 + data[-2:]).shape, PICTURE.shape)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\xff\x01", b""),
        (b"\xff\xd7", b""),
        (b"", b"\xff\x01\xff\xd0"),
        (b"", b"\xff\x02\xff\xd0"),
        (b"", b"\xff\xbf\xff\xd0"),
    ],
)
def test_markers_without_a_length_hide_no_scans(before: bytes, after: bytes) -> None:
    """TEM and restarts; reserved ones where a restart is due. Read as a length, what follows reaches 65 kB further."""
    out = io.BytesIO()
    Image.fromarray(np.resize(PICTURE, (64, 64, 3))).save(out, "JPEG", progressive=True, restart_marker_blocks=1)
    data = out.getvalue()
    start = data.rindex(b"\xff\xda")
    scan = before + data[start : start + 2 + int.from_bytes(data[start + 2 : start + 4])] + after
    few = data[:-2] + scan * 20 + data[-2:]
    with Image.open(io.BytesIO(few)) as picture:  # libjpeg goes through them
        np.testing.assert_array_equal(decode_image(few), np.asarray(picture))
    with pytest.raises(InvalidArgumentError) as caught:
        decode_image(data[:-2] + scan * 200 + data[-2:])
    assert caught.value.reason == "IMAGE_TOO_LARGE"
    assert "scans" in caught.value.message


def tiled_tiff(order: str, big: bool, sides: list[int], kind: int = 4) -> bytes:
    """One grey pixel of 7 in a compressed tile. sides: width and height of tiles, in turn; kind: their type."""
    compress = zlib.compressobj(1)
    tile = b"".join(compress.compress(b"\7" * max(sides)) for _ in range(max(sides))) + compress.flush()
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322 + index % 2, kind, side) for index, side in enumerate(sides)]
    tags.sort(key=lambda entry: entry[0])
    header, number, entry, end = (16, "Q", "HHQ", "Q") if big else (8, "H", "HHI", "I")
    size = struct.calcsize(order + number) + (len(tags) + 2) * (20 if big else 12) + struct.calcsize(order + end)
    data = {"<": b"II", ">": b"MM"}[order] + (
        struct.pack(order + "HHHQ", 43, 8, 0, header) if big else struct.pack(order + "HI", 42, header)
    )
    data += struct.pack(order + number, len(tags) + 2)
    for tag, of, value in [*tags, (324, 4, header + size), (325, 4, len(tile))]:
        packed = struct.pack(order + ("H" if of == 3 else "I"), value)
        data += struct.pack(order + entry, tag, of, 1) + packed.ljust(8 if big else 4, b"\0")
    return data + struct.pack(order + end, 0) + tile


def test_hostile_files_take_bounded_memory() -> None:
    """In a process of its own, whose peak is then nothing else's."""
    code = """
import resource, sys
from tests.unit.common.test_images import BOMBS, decode_image, InvalidArgumentError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
reasons = []
for name, data in BOMBS().items():
    assert len(data) < 4 * 2**20, name
    try:
        decode_image(data)
        reasons.append((name, "decoded"))
    except InvalidArgumentError as error:
        reasons.append((name, error.reason))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 600, (name, grown)
print(dict(reasons))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout) == {
        "30k x 30k": "IMAGE_TOO_LARGE",
        "bitmap of 4 gigapixels": "IMAGE_TOO_LARGE",
        "largest that is accepted": "decoded",
        "more pixels than the header says": "decoded",
        "compressed text": "IMAGE_UNREADABLE",
        "pixels of 2 GiB": "decoded",  # those that are there are all that the image has
        "text of 2 GiB": "IMAGE_UNREADABLE",
        "endless directory": "IMAGE_UNREADABLE",
        "tile of 729 megapixels": "IMAGE_TOO_LARGE",
    }


def BOMBS() -> dict[str, bytes]:
    """Small files that would like to become large."""
    zeros = zlib.compress(bytes(300 * 2**20), 9)
    largest = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(largest, "PNG", compress_level=9)
    return {
        "30k x 30k": png_header(30_000, 30_000),
        "bitmap of 4 gigapixels": struct.pack(
            "<2sIHHIIiiHHIIiiII", b"BM", 54, 0, 0, 54, 40, 65_535, 65_535, 1, 24, *[0] * 6
        ),
        "largest that is accepted": largest.getvalue(),
        "more pixels than the header says": png(8, 8, zeros),
        "compressed text": png(8, 8, zlib.compress(bytes(8 * 25)), b"zTXt" + b"k\0\0" + zeros),
        "pixels of 2 GiB": claiming(b"IDAT"),
        "text of 2 GiB": claiming(b"tEXt"),
        # A TIFF whose only directory says that it has 65,535 entries.
        "endless directory": b"II*\0\x08\0\0\0\xff\xff" + bytes(2000),
        "tile of 729 megapixels": tiled_tiff("<", False, [27_000, 27_000]),
    }


def claiming(kind: bytes) -> bytes:
    """A whole PNG but for the length of its chunk of that kind."""
    data = png(8, 8, zlib.compress(bytes(8 * 25)), b"tEXt" + b"k\0v")
    at = data.index(kind) - 4
    return data[:at] + struct.pack(">I", 2**31 - 1) + data[at + 4 :]


def judge_decoding(data: bytes) -> None:
    try:
        decoded = decode_image(data, max_pixels=10_000)
    except InvalidArgumentError as error:
        assert error.reason in ("IMAGE_UNREADABLE", "IMAGE_TOO_LARGE", "IMAGE_MODE_UNSUPPORTED")
    else:
        assert decoded.dtype == np.uint8
        assert decoded.shape[2] == 3
        assert decoded.size <= 30_000
