"""Initial weights for classifiers from drawn pictures."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.model import ResNetClassifier, load_initial_weights
from flawsmith.classification.recipes import RECIPES
from flawsmith.common.errors import InvalidArgumentError
from training.backbone import Bank, draw_bank, draw_picture, train

COUNT = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone")
    draw_bank(path, COUNT, 48, 32, seed=3)
    return path


def test_bank_repeats_itself_and_holds_out_both_labels(folder: Path, tmp_path: Path) -> None:
    bank = Bank.load(folder)
    assert bank.images.shape == (COUNT, 48, 32, 3)
    draw_bank(tmp_path, 4, 48, 32, seed=3)
    np.testing.assert_array_equal(Bank.load(tmp_path).images, bank.images[:4])
    marked = bank.masks.any(axis=(1, 2))
    assert not marked[~bank.defective].any()
    assert marked[bank.defective].mean() > 0.9
    assert bank.defective[bank.held_out].mean() == 0.5
    assert bank.held_out.sum() == COUNT // 8


def test_pictures_differ_from_good_ones_where_the_mask_says_and_are_often_grey() -> None:
    grey = 0
    for seed in range(24):
        image, mask = draw_picture(np.random.default_rng(seed), 64, 32, "hole")
        assert image.shape == (64, 32, 3)
        assert set(np.unique(mask)) == {0, 255}
        grey += bool((image == image[..., :1]).all())
        # A hole is darker than what surrounds it, faint and grainy as it may be.
        assert image[mask > 0].mean() < image[mask == 0].mean() + 8
        nothing, empty = draw_picture(np.random.default_rng(seed), 64, 32, None)
        assert nothing.shape == image.shape
        assert not empty.any()
    assert 4 <= grey <= 20


def test_training_continues_and_its_weights_start_a_classifier(folder: Path, tmp_path: Path) -> None:
    arguments = {"batch_size": 4, "learning_rate": 0.01, "seed": 0}
    precision = train(folder, Backbone.RESNET18, steps=3, **arguments)
    assert 0.0 < precision <= 1.0
    weights = folder / "resnet18.safetensors"
    stored = load_file(weights)
    assert {value.dtype for name, value in stored.items() if "num_batches" not in name} == {torch.float16}
    model = RECIPES["mixed"].network(Backbone.RESNET18)
    load_initial_weights(model, weights)
    for name, value in model.state_dict().items():
        if "num_batches" not in name:
            torch.testing.assert_close(value, stored[name].float())
    # A finished run has nothing to do: the checkpoint is taken up where it ended.
    done = torch.load(folder / "resnet18.pt", weights_only=True)
    assert len(done["losses"]) == 3
    assert train(folder, Backbone.RESNET18, steps=3, **arguments) == pytest.approx(precision, abs=1e-6)
    with pytest.raises(InvalidArgumentError) as error:
        load_initial_weights(ResNetClassifier(Backbone.RESNET50), weights)
    assert error.value.reason == "INITIAL_WEIGHTS_MISMATCH"
    assert "same backbone" in error.value.message


def test_without_a_bank_there_is_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        train(tmp_path, Backbone.RESNET18, steps=1, batch_size=4, learning_rate=0.01, seed=0)
