"""Random fields that every surface and defect is built from.

All functions take a NumPy generator and return float32 arrays, height x width.
"""

from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]


def as_float(array: npt.ArrayLike) -> FloatArray:
    """The same numbers as a float32 array (OpenCV returns loosely typed ones)."""
    return np.asarray(array, dtype=np.float32)


def white(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """Independent normal noise, mean 0, standard deviation 1."""
    return rng.standard_normal((height, width), dtype=np.float32)


def standardise(field: FloatArray) -> FloatArray:
    """Mean 0 and standard deviation 1 (a constant field becomes 0)."""
    return as_float((field - field.mean()) / (field.std() + 1e-6))


def smooth(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> FloatArray:
    """Noise without detail below a cell of cell_y x cell_x pixels, mean 0, standard deviation about 1."""
    rows = max(2, round(height / cell_y) + 3)
    columns = max(2, round(width / cell_x) + 3)
    coarse = white(rng, rows, columns)
    fine_height = max(height, round(rows * cell_y))
    fine_width = max(width, round(columns * cell_x))
    fine = as_float(cv2.resize(coarse, (fine_width, fine_height), interpolation=cv2.INTER_CUBIC))
    top = (fine_height - height) // 2
    left = (fine_width - width) // 2
    return as_float(fine[top : top + height, left : left + width] * 1.3)


def cloud(
    rng: np.random.Generator, height: int, width: int, cell: float, octaves: int = 4, roughness: float = 0.5
) -> FloatArray:
    """Fractal noise: octaves from `cell` pixels down, each half the size and `roughness` times the height.

    Mean about 0, standard deviation about 1.
    """
    total = np.zeros((height, width), dtype=np.float32)
    power, amplitude = 0.0, 1.0
    for _ in range(octaves):
        total += np.float32(amplitude) * smooth(rng, height, width, max(cell, 1.0), max(cell, 1.0))
        power += amplitude * amplitude
        amplitude *= roughness
        cell /= 2
        if cell < 1:
            break
    return as_float(total / np.sqrt(power))


def rotate(field: FloatArray, angle: float, height: int, width: int) -> FloatArray:
    """Turns a field by `angle` radians about its middle and cuts height x width out of it."""
    rows, columns = field.shape
    matrix = cv2.getRotationMatrix2D((columns / 2, rows / 2), float(np.degrees(angle)), 1.0)
    matrix[0, 2] += (width - columns) / 2
    matrix[1, 2] += (height - rows) / 2
    turned = cv2.warpAffine(field, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return as_float(turned)


def streaks(
    rng: np.random.Generator, height: int, width: int, length: float, thickness: float, angle: float
) -> FloatArray:
    """Lines of noise, `length` x `thickness` pixels, at `angle` radians from the horizontal; mean 0, std about 1."""
    side = int(np.ceil(np.hypot(height, width))) + 2
    field = smooth(rng, side, side, thickness, length)
    return standardise(rotate(field, angle, height, width))


def emboss(relief: FloatArray, light: float) -> FloatArray:
    """Shading of a height field lit from the direction `light` (radians): positive where it faces the light."""
    across = as_float(cv2.Sobel(relief, cv2.CV_32F, 1, 0, ksize=3, scale=0.25, borderType=cv2.BORDER_REFLECT))
    down = as_float(cv2.Sobel(relief, cv2.CV_32F, 0, 1, ksize=3, scale=0.25, borderType=cv2.BORDER_REFLECT))
    return as_float(-(np.cos(light) * across + np.sin(light) * down))


def cells(rng: np.random.Generator, height: int, width: int, size: float) -> FloatArray:
    """Pebbles of about `size` pixels: 1 in the middle of each, 0 in the valleys between them."""
    rows, columns = int(height / size) + 3, int(width / size) + 3
    points_y = (np.arange(rows)[:, None] - 1 + rng.uniform(-0.1, 1.1, (rows, columns))) * size
    points_x = (np.arange(columns)[None, :] - 1 + rng.uniform(-0.1, 1.1, (rows, columns))) * size
    border = int(size) + 1
    seeds = np.full((height + 2 * border, width + 2 * border), 255, dtype=np.uint8)
    inside_y = np.clip(points_y + border, 0, seeds.shape[0] - 1).astype(np.int64)
    inside_x = np.clip(points_x + border, 0, seeds.shape[1] - 1).astype(np.int64)
    seeds[inside_y, inside_x] = 0
    distance = as_float(cv2.distanceTransform(seeds, cv2.DIST_L2, 5))
    inner = distance[border : border + height, border : border + width]
    return as_float(1 - np.clip(inner / (0.75 * size), 0, 1) ** 2)


def coordinates(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    """Pixel coordinates (y, x), each height x width."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y, x
