"""One training that several processes share, on the CPU."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.fitting import has_bfloat16
from flawsmith.classification.model import ResNetClassifier
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.processes import count_processes
from flawsmith.classification.recipes import RECIPES
from flawsmith.classification.recipes.base import random_flips
from flawsmith.classification.sampling import BalancedSampler
from flawsmith.classification.spec import TrainingImage
from flawsmith.common.child import run_child
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import Label, Split

from .support import parameters, spec

STEPS = 2
BATCH = 9
HEIGHT, WIDTH = 96, 48
"""Large enough that batch normalisation has a dozen values or more for each channel of the last feature map: over two
or three it turns rounding errors into other weights."""


def reference(pictures: tuple[TrainingImage, ...]) -> dict[str, torch.Tensor]:
    """What two processes must come to, written out in one: gradients of both halves of each batch, summed."""
    recipe = RECIPES["in-and-out"]
    torch.manual_seed(1)
    model = ResNetClassifier(Backbone.RESNET18).to(memory_format=torch.channels_last).train()
    optimiser = recipe.optimiser(model.parameters(), recipe.learning_rate)
    train = [index for index, image in enumerate(pictures) if image.split is Split.TRAIN]
    pixels = np.stack([preprocess(decode_image(image.path.read_bytes()), HEIGHT, WIDTH) for image in pictures])
    defective = {index for index in train if pictures[index].label is Label.DEFECT}
    sampler = BalancedSampler(sorted(defective), [index for index in train if index not in defective], 1)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * recipe.learning_rate_factor(step, STEPS)
        chosen = sampler.draw(BATCH)
        images = torch.from_numpy(random_flips(pixels[chosen], np.random.default_rng([1, step])))
        labels = torch.tensor([float(index in defective) for index in chosen.tolist()])
        optimiser.zero_grad()
        for half in (slice(0, 5), slice(5, 9)):
            with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16(torch.device("cpu"), WIDTH)):
                logits = model.logits(images[half]).squeeze(1)
                loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels[half], reduction="sum")
            (loss / BATCH).backward()
        optimiser.step()
    return dict(model.named_parameters())


async def test_two_processes_take_the_steps_of_the_whole_batch(
    pictures: tuple[TrainingImage, ...], tmp_path: Path
) -> None:
    stages: list[str] = []

    async def on_event(event: dict[str, object]) -> None:
        stages.append(str(event.get("stage", "checkpoint")))

    wanted = parameters(height=HEIGHT, width=WIDTH, steps=STEPS, batch_size=BATCH)
    job = spec(pictures, tmp_path, parameters=wanted, processes=2)
    result = await run_child(
        "flawsmith.classification.training",
        job,
        on_event=on_event,
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )
    assert result["processes"] == 2
    assert stages.count("train") <= STEPS  # one process speaks, not two
    found = load_file(result["weights"])
    torch.manual_seed(1)
    start = ResNetClassifier(Backbone.RESNET18)
    for name, value in reference(pictures).items():
        moved = (value.detach() - start.get_parameter(name)).norm()
        assert (found[name] - value.detach()).norm() <= 0.01 * moved + 1e-5, name


@pytest.mark.parametrize(("wanted", "batch_size", "expected"), [(1, 5, 1), (4, 5, 2), (4, 32, 4), (8, 2, 1)])
def test_each_process_has_two_images_or_more(
    wanted: int, batch_size: int, expected: int, pictures: tuple[TrainingImage, ...], tmp_path: Path
) -> None:
    assert count_processes(spec(pictures, tmp_path, processes=wanted), batch_size) == expected
