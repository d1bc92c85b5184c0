"""flawsmith's `augment` as a side of the benchmark."""

from __future__ import annotations

import cv2
import numpy as np

from benchmarks.sides import serve
from flawsmith.augmentation.augment import augment
from flawsmith.augmentation.methods import Augmented


class Ours:
    """Every method with its default parameters, on one thread."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        self.seed(0)

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """As it is: uint8."""
        return image

    def seed(self, seed: int) -> None:
        """One generator for the round, as in a training loop."""
        self._rng = np.random.default_rng(seed)

    def draw(self, image: np.ndarray, method: str) -> Augmented:
        """One defect."""
        return augment(image, self._rng, method=method)

    def arrays(self, image: np.ndarray, made: Augmented) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As they are."""
        return image, made.image, made.mask > 0


if __name__ == "__main__":
    serve(Ours())
