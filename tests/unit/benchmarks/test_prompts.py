"""Prompts of combinations that the training never showed, and how answers are counted."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.prompts import confusion, held_out_prompts, judged_colors, named_colors, shares
from flawsmith.drawing import COLORS, DEFECTS, SURFACES, direction_word, draw
from training.mini_data import held_out


@pytest.mark.parametrize("kind", DEFECTS)
def test_prompts_name_every_part_of_a_held_out_combination(kind: str) -> None:
    wanted = held_out_prompts(np.random.default_rng(0), kind, 40)
    assert len(wanted) == 40
    for one in wanted:
        assert held_out(one.surface, one.defect)
        assert DEFECTS[one.kind] == kind
        assert f"{one.surface.color} {one.surface.kind}" in one.prompt
        assert direction_word(one.defect) in one.prompt
    assert len({one.surface.kind for one in wanted}) >= 6


def test_every_surface_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    asked = {one.surface.kind for kind in DEFECTS for one in held_out_prompts(rng, kind, 25)}
    assert asked == set(SURFACES)


def test_confusion_counts_what_was_named_for_what_was_wanted() -> None:
    table = confusion(np.array([0, 0, 0, 2]), np.array([0, 0, 1, 2]), ["a", "b", "c"])
    assert table == {"a": {"a": 2, "b": 1}, "c": {"c": 1}}
    assert shares(table) == {"a": 0.667, "c": 1.0}
    assert shares({"a": {"b": 3}}) == {"a": 0.0}


def test_colours_of_drawn_pictures_are_named() -> None:
    rng = np.random.default_rng(5)
    wanted = held_out_prompts(rng, "none", 36)
    drawn = np.stack([draw(rng, 64, 64, surface=one.surface, defect="none").image for one in wanted])
    assert named_colors(drawn, wanted).mean() > 0.9
    report = judged_colors(np.zeros_like(drawn), wanted)
    darkest = [min(COLORS[one.surface.kind].values(), key=np.linalg.norm) for one in wanted]
    asked = [COLORS[one.surface.kind][one.surface.color] for one in wanted]
    assert report["mean"] == pytest.approx(np.mean([a == b for a, b in zip(asked, darkest, strict=True)]), abs=1e-3)
    assert set(report["shares"]) == {one.surface.kind for one in wanted}
