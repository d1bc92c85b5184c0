"""Copies are found, different shots of one uniform product are not; checked on drawn and on real products."""

from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flawsmith.assembly.near_duplicates import fingerprint, near_duplicates, near_duplicates_within
from flawsmith.drawing import draw_sample

DATA = Path(__file__).parents[4] / "shared" / "data"


def plates(count: int, first: int, size: tuple[int, int] = (160, 128)) -> list[np.ndarray]:
    return [
        draw_sample(np.random.default_rng(first + number), *size, defective=number % 4 == 0)[0]
        for number in range(count)
    ]


def jpeg(image: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return np.asarray(Image.open(buffer).convert("RGB"))


ALTERATIONS = {
    "same": lambda image: image,
    "jpeg": jpeg,
    "brighter": lambda image: np.clip(image * 1.1 + 8, 0, 255).astype(np.uint8),
    "darker": lambda image: (image * 0.85).astype(np.uint8),
    "shifted": lambda image: np.roll(image, (2, -1), axis=(0, 1)),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
    "upside down": lambda image: np.ascontiguousarray(image[::-1]),
    "turned by 180 degrees": lambda image: np.ascontiguousarray(image[::-1, ::-1]),
    "noisy": lambda image: np.clip(
        image + np.random.default_rng(0).normal(0, 3, image.shape), 0, 255
    ).astype(np.uint8),
    "flipped jpeg": lambda image: jpeg(np.ascontiguousarray(image[::-1])),
}  # fmt: skip


@pytest.fixture(scope="module")
def train() -> list[np.ndarray]:
    return plates(60, 0)


@pytest.mark.parametrize("how", sorted(ALTERATIONS))
def test_copies_of_a_uniform_product_are_found(train: list[np.ndarray], how: str) -> None:
    prints = [fingerprint(image) for image in train]
    others = [fingerprint(image) for image in plates(6, 1000)]
    copies = [fingerprint(ALTERATIONS[how](train[number])) for number in (0, 7, 21)]
    found = near_duplicates(others + copies, prints)
    assert [(pair.first, pair.second) for pair in found] == [(6, 0), (7, 7), (8, 21)]


@pytest.mark.parametrize("size", [(64, 48), (96, 80), (160, 128)])
def test_no_false_alarm_on_the_drawn_product(size: tuple[int, int]) -> None:
    first = [fingerprint(image) for image in plates(80, 0, size)]
    second = [fingerprint(image) for image in plates(60, 5000, size)]
    assert near_duplicates(first, second) == []
    assert near_duplicates_within(first) == []


def test_a_defect_drawn_into_a_copy_does_not_hide_it(train: list[np.ndarray]) -> None:
    altered = train[3].copy()
    cv2.circle(altered, (60, 80), 15, (20, 20, 20), -1)
    found = near_duplicates([fingerprint(altered)], [fingerprint(image) for image in train])
    assert [pair.second for pair in found] == [3]


def test_printed_parts_that_agree_everywhere_are_not_copies() -> None:
    """Every part has the same strong print; only faint grain tells two shots apart."""
    print_ = np.random.default_rng(0).integers(40, 215, (40, 32), dtype=np.uint8)
    pattern = cv2.resize(print_, (128, 160), interpolation=cv2.INTER_NEAREST)

    def shot(seed: int) -> np.ndarray:
        grey = np.clip(pattern + np.random.default_rng(seed).normal(0, 8, pattern.shape), 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)

    prints = [fingerprint(shot(seed)) for seed in range(30)]
    others = [fingerprint(shot(seed)) for seed in range(100, 120)]
    assert near_duplicates(others, prints) == []
    copy = fingerprint(jpeg(shot(4)))
    assert [(pair.first, pair.second) for pair in near_duplicates([*others, copy], prints)] == [(20, 4)]


def test_flat_images_say_nothing() -> None:
    flat = fingerprint(np.full((100, 100, 3), 128, np.uint8))
    assert near_duplicates([flat], [flat, flat]) == []


def test_nothing_to_compare() -> None:
    assert near_duplicates([], [fingerprint(plates(1, 0)[0])]) == []
    assert near_duplicates_within([]) == []


@pytest.mark.skipif(not (DATA / "ksdd1").exists(), reason="needs ../shared/data/ksdd1, which is not here")
def test_real_commutators() -> None:
    def load(folder: str) -> list[np.ndarray]:
        paths = sorted(path for path in (DATA / "ksdd1" / folder).glob("*.png") if "_GT" not in path.name)
        return [cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB) for path in paths[::2]]

    train_images, test_images = load("train"), load("test")
    train_prints = [fingerprint(image) for image in train_images]
    test_prints = [fingerprint(image) for image in test_images]
    assert near_duplicates(test_prints, train_prints) == []
    for how, alter in ALTERATIONS.items():
        found = near_duplicates([*test_prints[:5], fingerprint(alter(train_images[11]))], train_prints)
        assert [(pair.first, pair.second) for pair in found] == [(5, 11)], how
