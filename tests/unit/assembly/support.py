"""Small data sets in memory: path -> bytes."""

from __future__ import annotations

import functools

import numpy as np

from flawsmith.common.images import encode_png
from flawsmith.drawing import draw_sample

Files = dict[str, bytes]
SIZE = (96, 80)


@functools.cache
def sample(seed: int, *, defective: bool = False) -> tuple[np.ndarray, np.ndarray]:
    return draw_sample(np.random.default_rng(seed), *SIZE, defective=defective)


def ksdd2(train: tuple[int, int] = (10, 7), test: tuple[int, int] = (4, 3)) -> Files:
    """KolektorSDD2 layout with (normals, defects) in each part."""
    files: Files = {}
    for part, first, (normals, defects) in (("train", 10000, train), ("test", 20000, test)):
        for offset in range(normals + defects):
            image, mask = sample(first + offset, defective=offset >= normals)
            files[f"{part}/{first + offset}.png"] = encode_png(image)
            files[f"{part}/{first + offset}_GT.png"] = encode_png(mask)
    return files


def mvtec(kinds: tuple[int, ...] = (4, 3, 1), good: tuple[int, int] = (8, 4)) -> Files:
    """MVTec AD layout with `kinds[k]` defects of kind k."""
    files: Files = {}
    for part, count, first in (("train", good[0], 0), ("test", good[1], 1000)):
        for number in range(count):
            files[f"{part}/good/{number:03}.png"] = encode_png(sample(first + number)[0])
    for kind, count in enumerate(kinds):
        for number in range(count):
            image, mask = sample(2000 + 100 * kind + number, defective=True)
            files[f"test/kind{kind}/{number:03}.png"] = encode_png(image)
            files[f"ground_truth/kind{kind}/{number:03}_mask.png"] = encode_png(mask)
    return files


def dsaii(normals: int = 10, anomalies: int = 10, folder: str = "anomaly") -> Files:
    """DSAII layout: the k-th anomaly is the k-th normal with a defect painted into it."""
    files: Files = {"img_url.json": b"[]"}
    for number in range(normals):
        files[f"normal/{number:03}.png"] = encode_png(sample(3000 + number)[0])
    for number in range(anomalies):
        image, mask = sample(3000 + number, defective=True)
        files[f"{folder}/{number:03}.png"] = encode_png(image)
        files[f"mask/{number:03}.png"] = encode_png(mask)
    return files
