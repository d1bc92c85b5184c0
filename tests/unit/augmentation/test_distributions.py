"""Each method draws from its published distributions, written down here from the papers and the public code."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import cv2
import numpy as np
import pytest
from scipy import stats

from flawsmith.augmentation.augment import augment, method_named
from flawsmith.augmentation.methods.base import Augmented
from flawsmith.augmentation.photometric import Picture

COUNT = 1200
SIZE = (96, 72)
LEAST_P = 1e-4
"""A right sampler fails one of these tests once in ten thousand runs; seeds are fixed, so in none."""


def texture(rng: np.random.Generator, height: int, width: int) -> tuple[Picture, dict[str, Any]]:
    return Picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)), {"image": "noise"}


@cache
def samples(method: str, anomalies: bool = False) -> list[Augmented]:
    # min_area 1: the published masks of any size but none.
    parameters = method_named(method).parameters.model_validate({"min_area": 1})
    image = np.random.default_rng(0).integers(60, 200, (*SIZE, 3), dtype=np.uint8)
    return [
        augment(
            image, np.random.default_rng([3, index]), method=method, parameters=parameters, textures=texture,
            anomalies=texture if anomalies else None,
        )
        for index in range(COUNT)
    ]  # fmt: skip


def uniform(values: list[float], low: float, high: float) -> bool:
    return bool(stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > LEAST_P)


def share(hits: int, of: int, expected: float) -> bool:
    return bool(stats.binomtest(hits, of, expected).pvalue > LEAST_P)


@pytest.mark.parametrize(
    ("method", "low", "high"),
    [
        ("memseg", 0.15, 1.0),
        ("draem", 0.2, 1.0),  # beta in U(0, 0.8) is the image's weight
        ("anomalib", 0.2, 1.0),  # blend_factor
        ("realnet", 0.2, 1.0),
    ],
)
def test_opacity(method: str, low: float, high: float) -> None:
    assert uniform([made.drawn["opacity"] for made in samples(method)], low, high)


def test_realnet_opacity_depends_on_the_source() -> None:
    drawn = [made.drawn for made in samples("realnet", anomalies=True)]
    by_source = {
        name: [entry["opacity"] for entry in drawn if entry["source"] == name] for name in ("texture", "anomaly")
    }
    assert share(len(by_source["anomaly"]), COUNT, 0.5)
    assert uniform(by_source["texture"], 0.2, 1.0)
    assert uniform(by_source["anomaly"], 0.5, 1.0)


def test_source_mix() -> None:
    assert share(sum(made.drawn["source"] == "texture" for made in samples("memseg")), COUNT, 0.5)
    assert {made.drawn["source"] for made in samples("draem")} == {"texture"}
    assert {made.drawn["source"] for made in samples("realnet")} == {"texture"}
    assert {made.drawn["source"] for made in samples("anomalib")} == {"noise"}
    assert {made.drawn["opacity"] for made in samples("cutpaste")} == {1.0}


@pytest.mark.parametrize("method", ["draem", "realnet", "anomalib"])
def test_three_of_ten_each_as_often(method: str) -> None:
    names = [[step["name"] for step in made.drawn["augmentations"]] for made in samples(method)]
    assert all(len(set(three)) == 3 for three in names)
    counts = np.unique(names, return_counts=True)[1]
    assert len(counts) == 10
    assert stats.chisquare(counts).pvalue > LEAST_P
    firsts = np.unique([three[0] for three in names], return_counts=True)[1]
    assert stats.chisquare(firsts).pvalue > LEAST_P


def anomalib_region(rng: np.random.Generator) -> np.ndarray:
    """anomalib's mask by its own definition: noise over the next powers of two, cut, stretched where none of it is
    above 0.5, turned by U(-90, 90), above 0.5; and again, where that leaves nothing."""
    height, width = SIZE
    padded = tuple(2 ** math.ceil(math.log2(size)) for size in SIZE)
    cells = 2 ** rng.integers(0, 6, size=2)
    angles = rng.uniform(0, 2 * math.pi, size=cells + 1)
    ys, xs = (np.arange(size) * count / pad for size, count, pad in zip(SIZE, cells, padded, strict=True))
    top, left = ys.astype(int), xs.astype(int)
    v, u = (ys - top)[:, None], (xs - left)[None, :]

    def dot(dy: int, dx: int) -> np.ndarray:
        angle = angles[np.ix_(top + dy, left + dx)]
        return np.sin(angle) * (v - dy) + np.cos(angle) * (u - dx)

    fade_v, fade_u = (6 * t**5 - 15 * t**4 + 10 * t**3 for t in (v, u))
    upper = dot(0, 0) * (1 - fade_u) + dot(0, 1) * fade_u
    lower = dot(1, 0) * (1 - fade_u) + dot(1, 1) * fade_u
    noise = math.sqrt(2) * (upper * (1 - fade_v) + lower * fade_v)
    if not (noise > 0.5).any():
        noise = (noise - noise.min()) / (noise.max() - noise.min()) * 2 - 1
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-90, 90), 1.0)
    region = cv2.warpAffine(noise, matrix, (width, height)) > 0.5
    return region if region.any() else anomalib_region(rng)


def test_anomalib_areas_and_regions_follow_its_definition() -> None:
    defined = [anomalib_region(np.random.default_rng([8, index])).astype(np.uint8) for index in range(COUNT)]
    ours = [made.mask for made in samples("anomalib")]
    areas = [(mask > 0).mean() for mask in ours], [mask.mean() for mask in defined]
    assert stats.ks_2samp(*areas).pvalue > LEAST_P
    regions = [[cv2.connectedComponents(mask, connectivity=8)[0] for mask in masks] for masks in (ours, defined)]
    assert stats.ks_2samp(*regions).pvalue > LEAST_P
    stretched = np.mean([made.drawn["stretched"] for made in samples("anomalib")])
    assert 0.01 < stretched < 0.3


def test_memseg_draem_and_realnet_share_their_regions() -> None:
    """The three papers define the same regions where no foreground is cut out."""
    areas = {method: [made.area for made in samples(method)] for method in ("memseg", "draem", "realnet")}
    for method in ("draem", "realnet"):
        assert stats.ks_2samp(areas["memseg"], areas[method]).pvalue > LEAST_P


def test_cutpaste_sizes() -> None:
    """Patch: 2 to 15 % of the image, proportion 0.3 to 3.3. Scar: 2-16 by 10-25 pixels of 256, up to 45 degrees."""
    patches = [made for made in samples("cutpaste") if made.drawn["shape"] == "patch"]
    scars = [made for made in samples("cutpaste") if made.drawn["shape"] == "scar"]
    assert share(len(patches), COUNT, 0.5)
    boxes = np.array([made.drawn["source_box"][2:] for made in patches])
    areas = boxes.prod(axis=1) / (SIZE[0] * SIZE[1])
    assert areas.min() > 0.02 * 0.85  # sides are whole pixels
    assert areas.max() < 0.15 * 1.15
    assert areas.mean() == pytest.approx(0.085, abs=0.005)
    proportions = boxes[:, 1] / boxes[:, 0]
    assert proportions.min() > 0.3 * 0.85
    assert proportions.max() < 3.3 * 1.15
    assert share(int((proportions < 1).sum()), int((proportions != 1).sum()), 0.5)
    scale = min(SIZE) / 256
    boxes = np.array([made.drawn["source_box"][2:] for made in scars])
    assert boxes[:, 1].max() <= max(2, math.ceil(16 * scale))
    assert boxes[:, 0].max() <= max(3, math.ceil(25 * scale))
    assert uniform([made.drawn["degrees"] for made in scars], -45, 45)
