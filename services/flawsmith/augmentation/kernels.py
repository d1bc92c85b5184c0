"""The compiled loops: plain arrays in, plain arrays out, without the GIL.

They give the same bytes on every x86-64: no fast-math, no contraction to fused multiply-add, no vendor's vector
mathematics, and one instruction set whatever the CPU offers beyond it (see `kernel_cache`). Signatures are explicit, so
importing this module loads (or, once, compiles) everything and no call ever compiles. Images are uint8, either
height x width (grey) or height x width x 3 (RGB), in C order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from flawsmith.common import kernel_cache

kernel_cache.configure()

TILE = 8
"""Side in pixels of the square tiles by which a mask's loop skips what holds no defect."""

BLOCK = 256
"""Side in pixels of the blocks by which images are turned: their sources fit into a core's cache."""

DIRECTIONS = 1024
"""Directions that a gradient of the noise can take."""

_ANGLES = [2.0 * math.pi * step / DIRECTIONS for step in range(DIRECTIONS)]
# Rounded to multiples of 2**-15: mathematical libraries differ in the last bit of a sine, never in these.
SINES = np.array([round(math.sin(angle) * 32768) / 32768 for angle in _ANGLES], dtype=np.float32)
COSINES = np.array([round(math.cos(angle) * 32768) / 32768 for angle in _ANGLES], dtype=np.float32)

_GREY, _RGB = "uint8[:,::1]", "uint8[:,:,::1]"
_IMAGE = _PIXELS = _RGB  # the last axis 1 or 3
_PLACES = "int32[::1]"
_FLOATS = "float32[:,::1]"


def _compiled(*signatures: str) -> Callable[[Callable[..., Any]], Any]:
    return numba.njit(list(signatures), cache=True, nogil=True, error_model="numpy")


@_compiled("float32(float32)")
def _fade(t):  # type: ignore[no-untyped-def]
    """Perlin's quintic, 6 t^5 - 15 t^4 + 10 t^3."""
    return t * t * t * (t * (t * np.float32(6) - np.float32(15)) + np.float32(10))


@_compiled(f"Tuple(({_FLOATS}, {_FLOATS}))(int16[:,::1], float64, int64, float32[::1], float32[::1])")
def noise_columns(directions, cells, width, sines, cosines):  # type: ignore[no-untyped-def]
    """What of the noise depends on the column alone: improved Perlin noise is separable.

    directions: index of each lattice point's gradient, lattice rows x lattice columns. cells: lattice cells over the
    width (may be fractional). Returns two arrays of lattice rows x width, P and Q: at a height y above a lattice row
    the row's share of the noise is P + y * Q.
    """
    rows, points = directions.shape
    constant = np.empty((rows, width), np.float32)
    slope = np.empty((rows, width), np.float32)
    before, x, fade = np.empty(width, np.uint32), np.empty(width, np.float32), np.empty(width, np.float32)
    for column in range(width):
        position = column * cells / width
        cell = min(int(position), points - 2)
        before[column] = cell
        x[column] = np.float32(position - cell)
        fade[column] = _fade(x[column])
    sine, cosine = np.empty(points, np.float32), np.empty(points, np.float32)
    for row in range(rows):
        for point in range(points):
            sine[point], cosine[point] = sines[directions[row, point]], cosines[directions[row, point]]
        for column in range(width):
            left, right = before[column], before[column] + np.uint32(1)
            at_left, at_right = cosine[left] * x[column], cosine[right] * (x[column] - np.float32(1))
            constant[row, column] = at_left + fade[column] * (at_right - at_left)
            slope[row, column] = sine[left] + fade[column] * (sine[right] - sine[left])
    return constant, slope


@_compiled(f"Tuple(({_GREY}, {_GREY}))({_FLOATS}, {_FLOATS}, float64, int64, float32, float32)")
def noise_bytes(constant, slope, cells, height, gain, offset):  # type: ignore[no-untyped-def]
    """The noise as bytes, and the largest byte of every tile.

    constant, slope: of `noise_columns`. cells: lattice cells over the height. Bytes are `floor(gain * noise + offset)`
    within 0 and 255, where the noise has the usual factor of sqrt(2) and so lies within -1 and 1.
    """
    width = constant.shape[1]
    field = np.empty((height, width), np.uint8)
    tiles = np.zeros(((height + TILE - 1) // TILE, (width + TILE - 1) // TILE), np.uint8)
    highest = np.zeros(width, np.uint8)
    last = constant.shape[0] - 2
    root = np.float32(math.sqrt(2.0)) * gain
    for row in range(height):
        position = row * cells / height
        cell = min(int(position), last)
        y = np.float32(position - cell)
        fade = _fade(y)
        upper, lower = root * (np.float32(1) - fade), root * fade
        upper_slope, lower_slope = upper * y, lower * (y - np.float32(1))
        p0, q0, p1, q1 = constant[cell], slope[cell], constant[cell + 1], slope[cell + 1]
        out = field[row]
        for column in range(width):
            value = (
                upper * p0[column] + upper_slope * q0[column] + lower * p1[column] + lower_slope * q1[column] + offset
            )
            out[column] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
        if row % TILE == 0:
            highest[:] = 0
        for column in range(width):
            highest[column] = max(highest[column], out[column])
        if row % TILE == TILE - 1 or row == height - 1:
            for tile in range(tiles.shape[1]):
                most = np.uint8(0)
                for column in range(tile * TILE, min(tile * TILE + TILE, width)):
                    most = max(most, highest[column])
                tiles[row // TILE, tile] = most
    return field, tiles


@_compiled(f"UniTuple(float32, 2)({_FLOATS}, {_FLOATS}, float64, int64)")
def noise_range(constant, slope, cells, height):  # type: ignore[no-untyped-def]
    """Smallest and largest value of the noise; arguments as `noise_bytes`."""
    last = constant.shape[0] - 2
    root = np.float32(math.sqrt(2.0))
    least, most = np.float32(np.inf), np.float32(-np.inf)
    for row in range(height):
        position = row * cells / height
        cell = min(int(position), last)
        y = np.float32(position - cell)
        fade = _fade(y)
        upper, lower = root * (np.float32(1) - fade), root * fade
        upper_slope, lower_slope = upper * y, lower * (y - np.float32(1))
        p0, q0, p1, q1 = constant[cell], slope[cell], constant[cell + 1], slope[cell + 1]
        for column in range(constant.shape[1]):
            value = upper * p0[column] + upper_slope * q0[column] + lower * p1[column] + lower_slope * q1[column]
            least, most = min(least, value), max(most, value)
    return least, most


@_compiled("int64(float64)")
def _fixed(value):  # type: ignore[no-untyped-def]
    """Nearest multiple of 1/65536, as how many of them."""
    return math.floor(value * 65536 + 0.5)


@_compiled("UniTuple(int64, 4)(int64, int64, float64, float64, float64, float64)")
def _source_of_origin(height, width, xx, xy, yx, yy):  # type: ignore[no-untyped-def]
    """16.16 fixed point: source of the first pixel of an affine map about the centre. x, y; and its steps a column."""
    middle_x, middle_y = (width - 1) * 0.5, (height - 1) * 0.5
    x = middle_x - xx * middle_x - xy * middle_y
    y = middle_y - yx * middle_x - yy * middle_y
    return (
        _fixed(x), _fixed(y),
        _fixed(xx), _fixed(yx),
    )  # fmt: skip


@_compiled("int64(uint8, uint8, uint8, uint8, int64, int64)")
def _bilinear(a, b, c, d, x, y):  # type: ignore[no-untyped-def]
    """Mean of four pixels (a b above c d) weighted by x, y in 1/256."""
    a, b, c, d = np.int64(a), np.int64(b), np.int64(c), np.int64(d)
    upper, lower = (a << 8) + (b - a) * x, (c << 8) + (d - c) * x
    return ((upper << 8) + (lower - upper) * y + 32768) >> 16


@_compiled(f"void({_GREY}, int64, int64, int64, int64, uint32[::1])")
def _gather_neighbours(image, top, bottom, left, right, words):  # type: ignore[no-untyped-def]
    """Each pixel of rows top to bottom - 1 and columns left to right - 1 with those to its right, below it and
    diagonally below in one word: one load instead of four. words: row by row."""
    columns = right - left
    for row in range(top, bottom):
        here, below = image[row, left : right + 1], image[row + 1, left : right + 1]
        out = words[(row - top) * columns : (row - top + 1) * columns]
        for column in range(columns):
            out[column] = (
                np.uint32(here[column])
                | (np.uint32(here[column + 1]) << np.uint32(8))
                | (np.uint32(below[column]) << np.uint32(16))
                | (np.uint32(below[column + 1]) << np.uint32(24))
            )


@_compiled("UniTuple(int64, 2)(int64, int64, int64, int64)")
def _inside(start, step, size, count):  # type: ignore[no-untyped-def]
    """First of the `count` places start, start + step, ... that lies within 0 and size - 1, and the end of those."""
    if step > 0:
        first, end = -(start // step), (size - 1 - start) // step + 1
    elif step < 0:
        first, end = (start - size) // -step + 1, start // -step + 1
    else:
        first, end = 0, (count if 0 <= start < size else 0)
    first = min(max(first, 0), count)
    return first, max(min(end, count), first)


@_compiled("void(uint8[::1], uint32[::1], int32, int32, int32, int32, int32, uint32[::1], uint32[::1])")
def _interpolate(out, words, stride, x, y, x_step, y_step, places, taken):  # type: ignore[no-untyped-def]
    """A part of a row of an affine map. words: of `_gather_neighbours`, stride to a row. x, y: source of the first
    pixel in 16.16 fixed point, from the first word. places, taken: scratch."""
    sixteen, eight, byte = np.int32(16), np.int32(8), np.int32(255)
    # Three loops, since compilers vectorise the first and the last, but none that loads from computed places.
    for column in range(out.size):
        x_here, y_here = np.int32(x + np.int32(column) * x_step), np.int32(y + np.int32(column) * y_step)
        places[column] = np.uint32(np.int32(np.int32(y_here >> sixteen) * stride + np.int32(x_here >> sixteen)))
    for column in range(out.size):
        taken[column] = words[places[column]]
    for column in range(out.size):
        x_here, y_here = np.int32(x + np.int32(column) * x_step), np.int32(y + np.int32(column) * y_step)
        right, down = np.uint32((x_here >> eight) & byte), np.uint32((y_here >> eight) & byte)
        # Upper and lower row at once, 16 bits each.
        lefts = np.uint32(taken[column] & np.uint32(0xFF00FF))
        rights = np.uint32(np.uint32(taken[column] >> np.uint32(8)) & np.uint32(0xFF00FF))
        rows = np.uint32(np.uint32(lefts * np.uint32(np.uint32(256) - right)) + np.uint32(rights * right))
        upper = np.uint32(np.uint32(rows & np.uint32(0xFFFF)) * np.uint32(np.uint32(256) - down))
        lower = np.uint32(np.uint32(rows >> np.uint32(16)) * down)
        out[column] = np.uint8(np.uint32(upper + lower + np.uint32(32768)) >> np.uint32(16))


@_compiled(f"{_GREY}({_GREY}, float64, float64, float64, float64, uint8)")
def affine(image, xx, xy, yx, yy, fill):  # type: ignore[no-untyped-def]
    """An affine map about the centre, bilinear in 1/256 of a pixel; what comes from outside is `fill`.

    The pixel at (x, y) from the centre is taken from (xx x + xy y, yx x + yy y). Both sides at least 2 pixels.
    Goes block by block, so that a block's sources stay in the cache; those of a whole turned row of a large image lie
    each in a page of its own.
    """
    height, width = image.shape
    mapped = np.empty((height, width), np.uint8)
    x_first, y_first, x_step, y_step = _source_of_origin(height, width, xx, xy, yx, yy)
    x_row, y_row = _fixed(xy), _fixed(yy)
    most_rows, most_columns = min(BLOCK, height), min(BLOCK, width)
    words = np.empty(
        min(((abs(x_step) * most_columns + abs(x_row) * most_rows) >> 16) + 3, width - 1)
        * min(((abs(y_step) * most_columns + abs(y_row) * most_rows) >> 16) + 3, height - 1),
        np.uint32,
    )
    places, taken = np.empty(most_columns, np.uint32), np.empty(most_columns, np.uint32)
    for block_y in range(0, height, BLOCK):
        rows = min(BLOCK, height - block_y)
        for block_x in range(0, width, BLOCK):
            columns = min(BLOCK, width - block_x)
            x_block = x_first + block_y * x_row + block_x * x_step
            y_block = y_first + block_y * y_row + block_x * y_step
            # The block's corners bound its sources.
            x_a, x_b, y_a, y_b = (columns - 1) * x_step, (rows - 1) * x_row, (columns - 1) * y_step, (rows - 1) * y_row
            left = max((x_block + min(x_a, 0) + min(x_b, 0)) >> 16, 0)
            right = max(min(((x_block + max(x_a, 0) + max(x_b, 0)) >> 16) + 1, width - 1), left)
            top = max((y_block + min(y_a, 0) + min(y_b, 0)) >> 16, 0)
            bottom = min(((y_block + max(y_a, 0) + max(y_b, 0)) >> 16) + 1, height - 1)
            _gather_neighbours(image, top, bottom, left, right, words)
            for row in range(rows):
                x, y = x_block + row * x_row, y_block + row * y_row
                first, end = _inside(x, x_step, (width - 1) << 16, columns)
                first_y, end_y = _inside(y, y_step, (height - 1) << 16, columns)
                first = max(first, first_y)
                end = max(min(end, end_y), first)
                out = mapped[block_y + row, block_x : block_x + columns]
                out[:first] = fill
                out[end:] = fill
                _interpolate(
                    out[first:end], words, right - left,
                    x + first * x_step - (left << 16), y + first * y_step - (top << 16), x_step, y_step, places, taken,
                )  # fmt: skip
    return mapped


@_compiled(f"{_PIXELS}({_IMAGE}, {_PLACES}, float64, float64, float64, float64, uint8)")
def affine_at(image, places, xx, xy, yx, yy, fill):  # type: ignore[no-untyped-def]
    """The pixels at some places of `affine` of each channel: 1 x places x channels."""
    height, width, channels = image.shape
    flat = image.ravel()
    pixels = np.empty((1, places.size, channels), np.uint8)
    x_first, y_first, x_step, y_step = _source_of_origin(height, width, xx, xy, yx, yy)
    x_row, y_row = _fixed(xy), _fixed(yy)
    for at in range(places.size):
        row, column = places[at] // width, places[at] % width
        x, y = x_first + row * x_row + column * x_step, y_first + row * y_row + column * y_step
        left, top = x >> 16, y >> 16
        inside = left >= 0 and top >= 0 and left < width - 1 and top < height - 1
        for channel in range(channels):
            upper = (top * width + left) * channels + channel
            lower = upper + width * channels
            pixels[0, at, channel] = (
                _bilinear(
                    flat[upper], flat[upper + channels], flat[lower], flat[lower + channels],
                    (x >> 8) & 255, (y >> 8) & 255,
                )
                if inside
                else fill
            )  # fmt: skip
    return pixels


@_compiled(f"Tuple(({_GREY}, int64))({_GREY}, {_GREY}, float64, float64, uint8, {_GREY})")
def turned_region(field, tiles, cosine, sine, threshold, allowed):  # type: ignore[no-untyped-def]
    """Where a field that is turned about its centre reaches a threshold, within what is allowed.

    field, tiles: of `noise_bytes`. cosine, sine: of the angle. threshold: byte. allowed: 0 where no defect may be, or
    an empty array. Returns the mask (0 or 255) and its pixels. What is turned in from outside reaches no threshold.
    Exactly `affine(field, ...) >= threshold`, without looking at tiles whose largest byte lies below it.
    """
    height, width = field.shape
    mask = np.zeros((height, width), np.uint8)
    x_first, y_first, x_step, y_step = _source_of_origin(height, width, cosine, -sine, sine, cosine)
    x_row, y_row = _fixed(-sine), _fixed(cosine)
    flat = field.ravel()
    limited = allowed.size > 0
    area = 0
    for tile_y in range(0, height, TILE):
        rows = min(TILE, height - tile_y)
        for tile_x in range(0, width, TILE):
            columns = min(TILE, width - tile_x)
            x = x_first + tile_y * x_row + tile_x * x_step
            y = y_first + tile_y * y_row + tile_x * y_step
            # The tile's corners bound its sources; one more pixel is what bilinear interpolation reads.
            x_a, x_b, y_a, y_b = columns * x_step, rows * x_row, columns * y_step, rows * y_row
            left = (x + min(x_a, 0) + min(x_b, 0)) >> 16
            right = ((x + max(x_a, 0) + max(x_b, 0)) >> 16) + 1
            top = (y + min(y_a, 0) + min(y_b, 0)) >> 16
            bottom = ((y + max(y_a, 0) + max(y_b, 0)) >> 16) + 1
            if right < 0 or bottom < 0 or left >= width or top >= height:
                continue
            reached = False
            for row in range(max(top, 0) // TILE, min(bottom, height - 1) // TILE + 1):
                for column in range(max(left, 0) // TILE, min(right, width - 1) // TILE + 1):
                    if tiles[row, column] >= threshold:
                        reached = True
            if not reached:
                continue
            for row in range(rows):
                x_at, y_at = x + row * x_row, y + row * y_row
                for column in range(columns):
                    left, top = x_at >> 16, y_at >> 16
                    if left >= 0 and top >= 0 and left < width - 1 and top < height - 1:
                        at = top * width + left
                        value = _bilinear(
                            flat[at], flat[at + 1], flat[at + width], flat[at + width + 1],
                            (x_at >> 8) & 255, (y_at >> 8) & 255,
                        )  # fmt: skip
                        if value >= threshold and (not limited or allowed[tile_y + row, tile_x + column] != 0):
                            mask[tile_y + row, tile_x + column] = 255
                            area += 1
                    x_at += x_step
                    y_at += y_step
    return mask, area


@_compiled(f"{_PLACES}({_GREY}, int64)")
def masked_places(mask, area):  # type: ignore[no-untyped-def]
    """Where a mask is not 0: `row * width + column` of each of its `area` pixels, ascending."""
    flat = mask.ravel()
    places = np.empty(area + 1, np.int32)
    found = start = 0
    while found < area:
        stretch = flat[start : start + 32]
        anything = np.uint8(0)
        for at in range(stretch.size):
            anything |= stretch[at]
        if anything != 0:
            for at in range(stretch.size):  # without a branch: what is no place is written over by the next one
                places[found] = start + at
                found += stretch[at] != 0
        start += 32
    return places[:area]


@_compiled(f"{_PIXELS}({_IMAGE}, {_PLACES})")
def take(image, places):  # type: ignore[no-untyped-def]
    """The pixels at some places of an image: 1 x places x channels."""
    channels = image.shape[2]
    flat = image.ravel()
    pixels = np.empty((1, places.size, channels), np.uint8)
    for at in range(places.size):
        for channel in range(channels):
            pixels[0, at, channel] = flat[places[at] * channels + channel]
    return pixels


@_compiled(f"{_PLACES}({_PLACES}, int64, int64, int64[:,::1])")
def shuffled_places(places, height, width, order):  # type: ignore[no-untyped-def]
    """Where the pixels at some places, ascending, come from when the cells of a grid are shuffled.

    order: for each of rows x columns cells, the cell that comes there, as `row * columns + column`. Sides that the
    grid does not divide are mirrored up to the next multiple; by less than their own length.
    """
    rows, columns = order.shape
    cell_height, cell_width = (height + rows - 1) // rows, (width + columns - 1) // columns
    across = np.arange(width) // cell_width
    origins = np.empty(places.size, np.int32)
    row = down = 0
    for at in range(places.size):
        while places[at] >= (row + 1) * width:
            row += 1
            down = row // cell_height
        column = places[at] - row * width
        origin = order[down, across[column]]
        from_row = row + (origin // columns - down) * cell_height
        from_column = column + (origin % columns - across[column]) * cell_width
        from_row = min(from_row, 2 * height - 1 - from_row)
        from_column = min(from_column, 2 * width - 1 - from_column)
        origins[at] = from_row * width + from_column
    return origins


@_compiled(f"Tuple(({_IMAGE}, int64))({_IMAGE}, {_PIXELS}, {_PLACES}, float64)")
def blend(image, pixels, places, opacity):  # type: ignore[no-untyped-def]
    """An image with `f S + (1 - f) I` at some places, f the opacity, S the pixels to come there (1 x places x
    channels); also how many of these differ from the image's."""
    channels = image.shape[2]
    blended = image.copy()
    flat = blended.ravel()
    changed = 0
    for at in range(places.size):
        differs = False
        for channel in range(channels):
            place = places[at] * channels + channel
            old = flat[place]
            new = np.uint8(math.floor(opacity * pixels[0, at, channel] + (1.0 - opacity) * old + 0.5))
            flat[place] = new
            differs = differs or new != old
        changed += differs
    return blended, changed


@_compiled(f"boolean({_RGB})")
def is_grey(image):  # type: ignore[no-untyped-def]
    """Whether the three channels are equal everywhere."""
    for row in range(image.shape[0]):
        different = 0
        for column in range(image.shape[1]):
            red, green, blue = image[row, column, 0], image[row, column, 1], image[row, column, 2]
            different |= (red ^ green) | (green ^ blue)
        if different != 0:
            return False
    return True


@_compiled(f"int64[:,::1]({_RGB})")
def histograms_rgb(image):  # type: ignore[no-untyped-def]
    """How often each byte occurs: 3 channels x 256."""
    counts = np.zeros((3, 256), np.int64)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            for channel in range(3):
                counts[channel, image[row, column, channel]] += 1
    return counts


@_compiled(f"int64[:,::1]({_GREY})")
def histograms_grey(image):  # type: ignore[no-untyped-def]
    """How often each byte occurs: 1 x 256. Four tables in turn, since equal neighbours would wait for each other."""
    parts = np.zeros((4, 256), np.int64)
    flat = image.ravel()
    whole = flat.size // 4 * 4
    for at in range(0, whole, 4):
        for part in range(4):
            parts[part, flat[at + part]] += 1
    for at in range(whole, flat.size):
        parts[0, flat[at]] += 1
    counts = np.zeros((1, 256), np.int64)
    for part in range(4):
        for level in range(256):
            counts[0, level] += parts[part, level]
    return counts


@_compiled("uint8[:,::1](float64[::1])")
def gamma_tables(gammas):  # type: ignore[no-untyped-def]
    """`255 (v / 255)^gamma` for each byte v: gammas x 256."""
    tables = np.empty((gammas.size, 256), np.uint8)
    for row in range(gammas.size):
        for level in range(256):
            tables[row, level] = np.uint8(math.floor(255.0 * math.pow(level / 255.0, gammas[row]) + 0.5))
    return tables


@_compiled(f"{_GREY}({_GREY}, int64, float64)")
def sharpen(pixels, channels, factor):  # type: ignore[no-untyped-def]
    """Pillow's sharpness: `smooth + factor (image - smooth)`, smooth by the kernel 1 1 1 / 1 5 1 / 1 1 1 over 13.

    pixels: height x (width channels). The outermost pixels stay, as Pillow's do. factor: 0 smooths, 1 changes nothing,
    2 sharpens.
    """
    height, width = pixels.shape
    inner = width - 2 * channels
    sharp = pixels.copy()
    weight = np.float32(factor)
    sums = np.empty(width, np.float32)
    left, middle, right = sums[:inner], sums[channels : channels + inner], sums[2 * channels :]
    for row in range(1, height - 1):
        above, here, below = pixels[row - 1], pixels[row], pixels[row + 1]
        for column in range(width):
            sums[column] = np.float32(above[column]) + np.float32(here[column]) + np.float32(below[column])
        centre, out = here[channels : channels + inner], sharp[row, channels : channels + inner]
        for column in range(inner):
            level = np.float32(centre[column])
            around = left[column] + middle[column] + right[column] + np.float32(4) * level
            # Rounded: sums are whole numbers, so half of one keeps them clear of the edges that 1/13 is not exact at.
            smooth = np.float32(np.int32((around + np.float32(6.5)) * np.float32(1 / 13)))
            value = smooth + weight * (level - smooth) + np.float32(0.5)
            out[column] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))
    return sharp


@_compiled(f"{_RGB}({_RGB}, int64[::1])")
def set_value(image, values):  # type: ignore[no-untyped-def]
    """HSV's value replaced, hue and saturation kept: each channel is scaled by `values[v] / v`, v the largest.

    values: what becomes of each of the 256 values.
    """
    scaled = np.empty_like(image)
    ratios, offsets = np.empty(256, np.float32), np.full(256, np.float32(0.5))
    for level in range(256):
        ratios[level] = np.float32(values[level]) / np.float32(max(level, 1))
    offsets[0] += np.float32(values[0])  # black has no hue: it becomes grey
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            red, green, blue = image[row, column, 0], image[row, column, 1], image[row, column, 2]
            most = max(red, max(green, blue))
            ratio, offset = ratios[most], offsets[most]
            scaled[row, column, 0] = np.uint8(red * ratio + offset)
            scaled[row, column, 1] = np.uint8(green * ratio + offset)
            scaled[row, column, 2] = np.uint8(blue * ratio + offset)
    return scaled


@_compiled("float32(float32, float32, float32)")
def _hexcone(hue, most, chroma):  # type: ignore[no-untyped-def]
    """Smith's hexcone: a channel is full within 60 degrees of its own hue, and gone beyond 120.

    hue: distance from the channel's own, in sixths of a turn within -4 and 6. Returns its level and one half.
    """
    distance = abs(hue)
    distance = min(distance, np.float32(6) - distance)
    share = min(max(np.float32(2) - distance, np.float32(0)), np.float32(1))
    return most - chroma + chroma * share + np.float32(0.5)


@_compiled(f"UniTuple({_GREY}, 3)({_GREY}, {_GREY}, {_GREY}, float64, float64, float64)")
def shift_hue(red, green, blue, turn, saturation_factor, saturation_offset):  # type: ignore[no-untyped-def]
    """HSV's hue turned and its saturation changed, value kept.

    turn: sixths of a full turn. The saturation s (0 to 1) becomes `s * factor + offset`, within 0 and 1; grey stays.
    """
    height, width = red.shape
    new_red, new_green, new_blue = np.empty_like(red), np.empty_like(red), np.empty_like(red)
    turn_by, factor, offset = np.float32(turn), np.float32(saturation_factor), np.float32(saturation_offset)
    zero, one, two = np.float32(0), np.float32(1), np.float32(2)
    for row in range(height):
        reds, greens, blues = red[row], green[row], blue[row]
        out_red, out_green, out_blue = new_red[row], new_green[row], new_blue[row]
        for column in range(width):
            r, g, b = np.float32(reds[column]), np.float32(greens[column]), np.float32(blues[column])
            most, least = max(r, max(g, b)), min(r, min(g, b))
            spread = most - least
            # Selections, not branches: hues of neighbours are too mixed to be predicted.
            within = r - g if most == b else (b - r if most == g else g - b)
            sector = np.float32(4) if most == b else (two if most == g else zero)
            hue = within / max(spread, one) + sector + turn_by
            hue -= np.float32(6) * np.float32(math.floor(hue * np.float32(1 / 6)))
            chroma = most * min(max(spread / max(most, one) * factor + offset, zero), one)
            chroma = chroma if spread > zero else zero
            out_red[column] = np.uint8(_hexcone(hue, most, chroma))
            out_green[column] = np.uint8(_hexcone(hue - two, most, chroma))
            out_blue[column] = np.uint8(_hexcone(hue - np.float32(4), most, chroma))
    return new_red, new_green, new_blue


@_compiled(f"UniTuple({_GREY}, 3)({_GREY}, {_GREY}, {_GREY}, float64)")
def saturate(red, green, blue, factor):  # type: ignore[no-untyped-def]
    """`grey + factor (image - grey)` with grey by ITU-R BT.601."""
    height, width = red.shape
    new_red, new_green, new_blue = np.empty_like(red), np.empty_like(red), np.empty_like(red)
    weight, half, zero, white = np.float32(factor), np.float32(0.5), np.float32(0), np.float32(255)
    for row in range(height):
        reds, greens, blues = red[row], green[row], blue[row]
        out_red, out_green, out_blue = new_red[row], new_green[row], new_blue[row]
        for column in range(width):
            r, g, b = np.float32(reds[column]), np.float32(greens[column]), np.float32(blues[column])
            grey = np.float32(0.299) * r + np.float32(0.587) * g + np.float32(0.114) * b
            out_red[column] = np.uint8(min(max(grey + weight * (r - grey) + half, zero), white))
            out_green[column] = np.uint8(min(max(grey + weight * (g - grey) + half, zero), white))
            out_blue[column] = np.uint8(min(max(grey + weight * (b - grey) + half, zero), white))
    return new_red, new_green, new_blue


@_compiled(f"{_GREY}(UniTuple({_GREY}, 2), UniTuple(int64, 2))", f"{_GREY}(UniTuple({_GREY}, 3), UniTuple(int64, 3))")
def mix(fields, weights):  # type: ignore[no-untyped-def]
    """Weighted mean of fields, rounded down. weights: whole numbers; no more than 20 together."""
    mixed = np.empty_like(fields[0])
    total = 0
    for weight in weights:
        total += weight
    share = np.float32(1 / total)
    sums = np.empty(mixed.shape[1], np.float32)
    for row in range(mixed.shape[0]):
        # Sums are whole numbers, so half of one keeps them clear of the edges that `share` is not exact at.
        sums[:] = np.float32(0.5)
        for index in range(len(fields)):
            field, weight = fields[index][row], np.float32(weights[index])
            for column in range(sums.size):
                sums[column] += weight * np.float32(field[column])
        out = mixed[row]
        for column in range(sums.size):
            out[column] = np.uint8(sums[column] * share)
    return mixed


@_compiled(f"{_GREY}({_GREY}, int32, int32, int32)")
def bands(field, across, down, bend):  # type: ignore[no-untyped-def]
    """Parallel bands, from 0 up to 255 and down again over each. across, down: how far one pixel leads into the next
    band, in 1/65536; bend: how far one level of the field does."""
    banded = np.empty_like(field)
    for row in range(field.shape[0]):
        start, here, out = np.int32(row) * down, field[row], banded[row]
        for column in range(field.shape[1]):
            place = np.int32(start + np.int32(column) * across + np.int32(here[column]) * bend)
            twice = ((place >> np.int32(8)) & np.int32(255)) * np.int32(2)
            out[column] = np.uint8(np.int32(255) - abs(twice - np.int32(255)))
    return banded


@_compiled(f"{_GREY}(int64[:,::1])")
def palette(stops):  # type: ignore[no-untyped-def]
    """256 colours along a path, 256 x 3. stops: of the path, two or more x 3, evenly spaced; 0 to 255."""
    colours = np.empty((256, 3), np.uint8)
    step = 255.0 / (stops.shape[0] - 1)
    for level in range(256):
        stop = min(int(level / step), stops.shape[0] - 2)
        for channel in range(3):
            here, there = stops[stop, channel], stops[stop + 1, channel]
            colours[level, channel] = np.uint8(np.rint((there - here) / step * (level - stop * step) + here))
    return colours


@_compiled(f"{_RGB}({_GREY}, {_GREY})")
def paint(field, palette):  # type: ignore[no-untyped-def]
    """Colours by byte. palette: 256 x 3."""
    painted = np.empty((field.shape[0], field.shape[1], 3), np.uint8)
    for row in range(field.shape[0]):
        for column in range(field.shape[1]):
            level = field[row, column]
            painted[row, column, 0] = palette[level, 0]
            painted[row, column, 1] = palette[level, 1]
            painted[row, column, 2] = palette[level, 2]
    return painted
