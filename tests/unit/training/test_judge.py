"""The judge of what a base model draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import save_file

from flawsmith.drawing import DEFECTS, SURFACES
from training.judge import SIZE, WEIGHTS, Judge, draw_pictures, load_judge, train_judge


def test_it_learns_to_name_what_is_drawn() -> None:
    _, report = train_judge(steps=60, pictures=512, seed=0, held_out=256)
    # A guess names one kind in eight and one surface in nine.
    assert report["held_out_kind"] > 0.2
    assert report["held_out_surface"] > 0.2


def test_labels_are_those_of_the_drawings() -> None:
    pictures = draw_pictures(np.random.default_rng(0), 64)
    assert pictures.images.shape == (64, SIZE, SIZE, 3)
    assert set(pictures.kinds) == set(range(len(DEFECTS)))
    assert set(pictures.surfaces) == set(range(len(SURFACES)))


def test_weights_are_kept(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m training\.judge"):
        load_judge(tmp_path)
    judge = Judge().eval()
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, tmp_path / WEIGHTS)
    images = draw_pictures(np.random.default_rng(1), 5).images
    for ours, theirs in zip(load_judge(tmp_path).name(images), judge.name(images), strict=True):
        assert (ours == theirs).all()
