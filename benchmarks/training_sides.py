"""The two sides of `benchmarks.training`: `python -m benchmarks.training_sides ours|plain`, rounds over a pipe.

Each line on stdin is a number of steps; the answer is the seconds of each of them, by the clock and by the processor's
time on all cores. One process a side, so that neither inherits what the other did to the allocator.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

NORMALS, DEFECTS = 20, 20


@dataclass(frozen=True)
class Setting:
    """What is trained. threads: of torch."""

    height: int
    width: int
    batch_size: int
    backbone: str
    threads: int


def pictures(setting: Setting) -> np.ndarray:
    """Noise, uint8, N x height x width x 3, defects first: what the pixels show changes no step's time."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (DEFECTS + NORMALS, setting.height, setting.width, 3), dtype=np.uint8)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def ours(setting: Setting) -> Callable[[int], list[list[float]]]:
    """`fit` with the recipe `in-and-out`: sampling, flips, the step, the loss's check."""
    import torch

    from flawsmith.classification.backbones import Backbone
    from flawsmith.classification.fitting import Schedule, TrainingSet, fit
    from flawsmith.classification.recipes import RECIPES

    torch.set_num_threads(setting.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    recipe = RECIPES["in-and-out"]
    network = recipe.network(Backbone(setting.backbone))
    data = TrainingSet(pictures(setting), tuple(range(DEFECTS)), tuple(range(DEFECTS, DEFECTS + NORMALS)))

    def round_of(steps: int) -> list[list[float]]:
        ends: list[tuple[float, float]] = []
        # The first step starts up, the last measures statistics for the export: both once a training, not once a step.
        schedule = Schedule(steps + 2, setting.batch_size, recipe.learning_rate, 0)
        fit(
            network, data, recipe, schedule, device=torch.device("cpu"),
            on_step=lambda done, loss: ends.append(_now()), checkpoint_every=steps + 3,
        )  # fmt: skip
        return np.diff(ends[:-1], axis=0).tolist()

    return round_of


def plain(setting: Setting) -> Callable[[int], list[list[float]]]:
    """The loop that tutorials show: eager fp32, N x 3 x H x W, no flips, batches at hand."""
    import torch
    from torch.nn import functional
    from transformers import ResNetForImageClassification

    from flawsmith.classification.backbones import Backbone
    from flawsmith.classification.model import IMAGENET_MEAN, IMAGENET_STD, backbone_config

    torch.set_num_threads(setting.threads)
    torch.manual_seed(0)
    network = ResNetForImageClassification(backbone_config(Backbone(setting.backbone), num_labels=1)).train()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    images = torch.from_numpy(pictures(setting)).permute(0, 3, 1, 2).float() / 255.0
    images = (images - torch.tensor(IMAGENET_MEAN).view(3, 1, 1)) / torch.tensor(IMAGENET_STD).view(3, 1, 1)
    images = images.contiguous()
    labels = (torch.arange(len(images)) < DEFECTS).float()

    def step() -> None:
        chosen = torch.randint(0, len(images), (setting.batch_size,))
        loss = functional.binary_cross_entropy_with_logits(network(images[chosen]).logits.squeeze(1), labels[chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    def round_of(steps: int) -> list[list[float]]:
        step()  # as the other side's first
        ends = [_now()]
        for _ in range(steps):
            step()
            ends.append(_now())
        return np.diff(ends, axis=0).tolist()

    return round_of


SIDES = {"ours": ours, "plain": plain}


def main() -> None:
    """Answer rounds until stdin ends; the first line is the setting."""
    answers, sys.stdout = sys.stdout, sys.stderr
    round_of = SIDES[sys.argv[1]](Setting(**json.loads(sys.stdin.readline())))
    for line in sys.stdin:
        print(json.dumps(round_of(int(line))), file=answers, flush=True)


def first_line(setting: Setting) -> str:
    """What a side reads first."""
    return json.dumps(asdict(setting)) + "\n"


if __name__ == "__main__":
    main()
