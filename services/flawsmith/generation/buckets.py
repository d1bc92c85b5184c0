"""Which size an image trains at: its own aspect ratio, in buckets of sizes that batches can share.

As kohya's scripts do it (`BucketManager.select_bucket`): an image is scaled, aspect ratio kept, until it covers its
bucket, and what sticks out is cropped, at random in every step. Buckets' sides are multiples of a step.

The step is 64 pixels for models that make images of 512 and more, as published. That is an eighth of such an image;
of a model that makes images of 128 pixels it would be half of one, and so much cropped away. Such models get an
eighth of their own side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE

PUBLISHED_STEP = 64
Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Placement:
    """scaled: the size an image is brought to. bucket: of the windows of it that training takes, no larger."""

    scaled: Size
    bucket: Size


def bucket_step(native_side: int, multiple: int) -> int:
    """Pixels between the sides of buckets: 64, at most an eighth of the side that a model makes its images at, and a
    multiple of `multiple`, which its sides must be of."""
    wanted = min(PUBLISHED_STEP, native_side // 8)
    return max(wanted // multiple, 1) * multiple


def place(height: int, width: int, *, step: int, multiple: int, resolution: int | None) -> Placement:
    """Where an image of a size belongs.

    resolution: it gets about resolution x resolution pixels, enlarged where it has fewer, in the bucket whose aspect
    ratio is nearest; None: it keeps its own size (shrunk where a side is beyond MAX_SIDE), and its bucket is the
    largest that lies within. step: of buckets' sides, at most the resolution. multiple: of all sides, a divisor of
    step. No side is beyond MAX_SIDE.
    """
    if resolution is None:
        shrink = min(1.0, MAX_SIDE / max(height, width))
        scaled = _to_multiple(height * shrink, multiple), _to_multiple(width * shrink, multiple)
        # A side below one step is its own bucket.
        return Placement(scaled, (scaled[0] // step * step or scaled[0], scaled[1] // step * step or scaled[1]))
    step = min(step, max(resolution // multiple, 1) * multiple)
    bucket = min(bucket_sizes(resolution, step), key=lambda size: abs(size[1] / size[0] - width / height))
    scale = max(bucket[0] / height, bucket[1] / width)
    return Placement((_to_multiple(height * scale, multiple), _to_multiple(width * scale, multiple)), bucket)


def bucket_sizes(resolution: int, step: int) -> list[Size]:
    """All buckets of at most resolution x resolution pixels, sides from half to twice the resolution (kohya's
    `make_bucket_resolutions`), but not beyond MAX_SIDE. resolution: step and more."""
    side, low, high = resolution // step * step, resolution // 2, min(2 * resolution, MAX_SIDE)
    sizes = {(side, side)}
    for width in range(-(-low // step) * step, high + 1, step):
        height = min(high, resolution**2 // width) // step * step
        if height >= low:
            sizes |= {(height, width), (width, height)}
    return sorted(sizes)


def product_size(placements: Sequence[Placement], *, multiple: int) -> Size:
    """The size that images of the product are drawn at: the median of what they were scaled to."""
    height, width = np.median([placement.scaled for placement in placements], axis=0)
    return _to_multiple(height, multiple), _to_multiple(width, multiple)


def _to_multiple(pixels: float, multiple: int) -> int:
    low, high = -(-MIN_SIDE // multiple) * multiple, MAX_SIDE // multiple * multiple
    return min(max(round(pixels / multiple) * multiple, low), high)
