from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from tests.unit.generation.support import write_tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_folder_4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny4"), in_channels=4)


@pytest.fixture(scope="session")
def velocity_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Velocity prediction on a schedule that ends in pure noise."""
    folder = write_tiny_model(tmp_path_factory.mktemp("velocity"))
    path = folder / "scheduler/scheduler_config.json"
    changes = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.fixture
def tiny(tiny_folder: Path) -> LatentDiffusionModel:
    return load_model(tiny_folder)
