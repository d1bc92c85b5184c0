"""What turns measurements into figures; nothing here is timed."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from benchmarks.figures import ratios, summary
from benchmarks.plates import plate_of_any_size, plates
from benchmarks.sides import CheckFailedError, Request, Round, check, run_round


def test_summary_is_median_and_quartiles() -> None:
    assert summary([5.0, 1.0, 4.0, 2.0, 3.0]) == {"median": 3.0, "quartiles": [2.0, 4.0]}
    assert summary([1.0, 2.0], digits=2) == {"median": 1.5, "quartiles": [1.25, 1.75]}
    # One disturbed round changes nothing.
    assert summary([10.0, 10.0, 10.0, 10.0, 0.1])["median"] == 10.0


def test_ratios_are_of_neighbours() -> None:
    assert ratios([20.0, 10.0], [2.0, 1.0]) == [10.0, 10.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0, 3.0], [1.0, 2.0])


def test_a_round_says_speed_and_cores() -> None:
    one = Round(calls=30, seconds=0.5, cpu_seconds=0.25, defect_share=0.1)
    assert (one.images_per_s, one.images_per_cpu_s, one.cores) == (60.0, 120.0, 0.5)


@pytest.mark.parametrize("channels", [(), (3,)], ids=["grey", "rgb"])
def test_check_takes_a_defect_and_nothing_else(channels: tuple[int, ...]) -> None:
    before = np.full((4, 5, *channels), 7, np.uint8)
    mask = np.zeros((4, 5), bool)
    mask[1, 1:3] = True
    after = before.copy()
    with pytest.raises(CheckFailedError, match="nothing changed within"):
        check(before, after, mask)
    after[1, 2] = 8
    assert check(before, after, mask) == 2 / 20
    with pytest.raises(CheckFailedError, match="mask is empty"):
        check(before, after, np.zeros_like(mask))
    with pytest.raises(CheckFailedError, match="shapes"):
        check(before, after[:3], mask)
    after[3, 4] = 8
    with pytest.raises(CheckFailedError, match="1 pixels changed outside"):
        check(before, after, mask)


def test_check_sees_a_change_of_one_channel() -> None:
    before = np.zeros((2, 2, 3), np.float32)
    after = before.copy()
    after[0, 0, 2] = 0.5
    assert check(before, after, after[..., 2] > 0) == 0.25


@dataclass
class Painter:
    """Paints one pixel; `lazy` forgets to from the third call on."""

    lazy: bool = False
    log: list[object] = field(default_factory=list)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        return image

    def seed(self, seed: int) -> None:
        self.log.append(("seed", seed))

    def draw(self, image: np.ndarray, method: str) -> np.ndarray:
        self.log.append((method, int(image[1, 1])))
        result = image.copy()
        if not (self.lazy and len(self.log) > 3):
            result[0, 0] += 1
        return result

    def arrays(self, image: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mask = np.zeros(image.shape, bool)
        mask[0, 0] = True
        return image, made, mask


def test_a_round_draws_into_the_images_in_turn() -> None:
    images = [np.full((2, 2), value, np.uint8) for value in (1, 2)]
    painter = Painter()
    done = run_round(painter, images, Request("", method="dot", calls=3, seed=9))
    assert painter.log == [("seed", 9), ("dot", 1), ("dot", 2), ("dot", 1)]
    assert (done.calls, done.defect_share) == (3, 0.25)
    assert done.seconds > 0


def test_a_round_fails_with_the_first_bad_image() -> None:
    with pytest.raises(CheckFailedError):
        run_round(Painter(lazy=True), [np.zeros((2, 2), np.uint8)], Request("", calls=10))


def test_plates_all_differ() -> None:
    made = plates(6, 40, 32)
    assert made.shape == (6, 40, 32, 3)
    assert made.dtype == np.uint8
    assert len({plate.tobytes() for plate in made}) == 6
    assert plate_of_any_size(300, 70).shape == (1, 300, 70, 3)
