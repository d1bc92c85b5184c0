"""Both sides of the fine-tuning benchmark do the same work; nothing here is timed."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.finetune_sides import Setup, ours, plain
from benchmarks.plates import plates
from flawsmith.generation.diffusion import load_model
from tests.unit.generation.support import write_tiny_model


def test_both_sides_train_the_same_weights_at_the_same_loss(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    setup = Setup(
        str(write_tiny_model(tmp_path)), "", batch_size=4, threads=1, plain_precision="float32"
    )  # fmt: skip
    found = {}
    for side in (ours, plain):
        model = load_model(tmp_path)
        losses = list(itertools.islice(side(setup, model, plates(4, 32, 32)), 40))
        trained = {
            name: parameter.shape
            for network in model.networks.values()
            for name, parameter in network.named_parameters()
            if parameter.requires_grad
        }
        found[side.__name__] = (np.mean(losses), trained)
    assert found["ours"][1] == found["plain"][1]
    assert found["ours"][0] == pytest.approx(found["plain"][0], rel=0.05)
