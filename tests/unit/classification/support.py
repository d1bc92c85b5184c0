"""Shared by the tests here: tiny pictures with a defect that a network can see: a bright square on grey noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flawsmith.classification.spec import TrainingImage, TrainingParameters, TrainingSpec

SIDE = 32


def picture(defect: bool, generator: np.random.Generator) -> np.ndarray:
    image = generator.integers(90, 130, (SIDE, SIDE, 3)).astype(np.uint8)
    if defect:
        row, column = generator.integers(2, SIDE - 12, 2)
        image[row : row + 10, column : column + 10] = 230
    return image


class Recorder:
    """Progress and checkpoints as the worker would see them; the contents of the first and the last checkpoint."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, float | None]] = []
        self.checkpoints: list[tuple[bytes, int]] = []

    def progress(self, stage: str, step: int, total: int, loss: float | None = None) -> None:
        self.events.append((stage, step, total, loss))

    def checkpoint(self, path: Path, step: int) -> None:
        del self.checkpoints[1:]
        self.checkpoints.append((path.read_bytes(), step))


def parameters(**changes: object) -> TrainingParameters:
    return TrainingParameters.model_validate(
        {"height": SIDE, "width": SIDE, "steps": 4, "batch_size": 4, "seed": 1, "backbone": "resnet18"} | changes
    )


def spec(images: tuple[TrainingImage, ...], folder: Path, **changes: object) -> TrainingSpec:
    fields = {"parameters": parameters(), "images": images, "work_folder": folder, "threads": 1} | changes
    return TrainingSpec.model_validate(fields)
