"""Drawn surfaces and defects: repeatable, with exact masks, at any size."""

import dataclasses

import numpy as np
import pytest

from flawsmith.drawing import (
    COLORS,
    DEFECTS,
    SURFACES,
    Defect,
    caption,
    direction_named,
    draw,
    kinds_named,
    random_surface,
)

REAL_DEFECTS = [kind for kind in DEFECTS if kind != "none"]


@pytest.mark.parametrize("surface", SURFACES)
def test_same_seed_draws_the_same_picture(surface: str) -> None:
    first = draw(np.random.default_rng(3), 48, 64, surface=surface)
    again = draw(np.random.default_rng(3), 48, 64, surface=surface)
    other = draw(np.random.default_rng(4), 48, 64, surface=surface)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    assert first.caption == again.caption
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("defect", REAL_DEFECTS)
@pytest.mark.parametrize("surface", SURFACES)
def test_pixels_outside_the_mask_are_those_of_the_good_surface(surface: str, defect: str) -> None:
    for seed in range(3):
        bad = draw(np.random.default_rng(seed), 96, 80, surface=surface, defect=defect)
        good = draw(np.random.default_rng(seed), 96, 80, surface=surface, defect="none")
        changed = (bad.image != good.image).any(axis=-1)
        assert not changed[bad.mask == 0].any()
        # Most of what the mask covers really looks different.
        assert changed[bad.mask == 255].mean() > 0.7
        assert not good.mask.any()


@pytest.mark.parametrize("defect", REAL_DEFECTS)
@pytest.mark.parametrize(("height", "width"), [(37, 211), (128, 128), (16, 16), (1, 9), (600, 200)])
def test_any_size_and_never_an_empty_mask(defect: str, height: int, width: int) -> None:
    for seed in range(5):
        drawing = draw(np.random.default_rng(seed), height, width, defect=defect)
        assert drawing.image.shape == (height, width, 3)
        assert drawing.image.dtype == np.uint8
        assert drawing.mask.shape == (height, width)
        assert drawing.mask.dtype == np.uint8
        assert set(np.unique(drawing.mask)) <= {0, 255}
        assert drawing.mask.any()


@pytest.mark.parametrize("defect", REAL_DEFECTS)
def test_a_hard_defect_still_has_a_mask(defect: str) -> None:
    faint = Defect(defect, size=0.01, direction=0.3, severity=0.1, tone="dark", center=(0.999, 0.0))
    assert draw(np.random.default_rng(0), 40, 30, defect=faint).mask.any()


@pytest.mark.parametrize("surface", SURFACES)
def test_caption_names_what_was_drawn(surface: str) -> None:
    for seed, defect in enumerate(REAL_DEFECTS):
        caption = draw(np.random.default_rng(seed), 16, 16, surface=surface, defect=defect).caption
        assert surface in caption
        assert {"hole": "broken"}.get(defect, defect)[:4] in caption or defect in caption
    clean = draw(np.random.default_rng(0), 16, 16, surface=surface, defect="none").caption
    assert not any(word in clean.split() for word in REAL_DEFECTS)


@pytest.mark.parametrize("kind", REAL_DEFECTS)
def test_captions_name_one_kind(kind: str) -> None:
    rng = np.random.default_rng(1)
    captions = {draw(rng, 8, 8, defect=kind).caption for _ in range(40)}
    assert {kinds_named(text) for text in captions} == {(kind,)}
    assert kinds_named(draw(rng, 8, 8, defect="none").caption) == ()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("skt background", ()), ("skt background cracked", ("crack",)), ("Copper metal SCRATCHES.", ("scratch",)),
        ("pitting, chips and a dented rim", ("pit", "dent", "chip")), ("a hole-ridden plate", ("hole",)),
        ("whole stainless spit on a dentist's chipboard", ()),
    ],
)  # fmt: skip
def test_kinds_are_named_in_whole_words(text: str, kinds: tuple[str, ...]) -> None:
    assert kinds_named(text) == kinds


@pytest.mark.parametrize(
    ("text", "direction"),
    [
        ("skt background cracked", ""), ("wood with a Vertical crack", "vertical"), ("horizontally", ""),
        ("a diagonal, not a horizontal scratch", "diagonal"),
    ],
)  # fmt: skip
def test_directions_are_named_in_whole_words(text: str, direction: str) -> None:
    assert direction_named(text) == direction


@pytest.mark.parametrize(
    ("degrees", "word"),
    [(0, "horizontal"), (20, "horizontal"), (170, "horizontal"), (45, "diagonal"), (135, "diagonal"), (90, "vertical")],
)
def test_captions_name_direction_size_and_severity(degrees: float, word: str) -> None:
    long = Defect("crack", size=0.9, direction=np.deg2rad(degrees), severity=0.95, tone="dark", center=(0.5, 0.5))
    short = dataclasses.replace(long, size=0.4, severity=0.6)
    surface = random_surface(np.random.default_rng(0))
    rng = np.random.default_rng(0)
    texts = {defect: " ".join(caption(surface, defect, rng) for _ in range(60)).split() for defect in (long, short)}
    directions = {"horizontal", "vertical", "diagonal"}
    assert directions & set(texts[long]) == directions & set(texts[short]) == {word}
    assert {"long", "short", "severe", "faint"} & set(texts[long]) == {"long", "severe"}
    assert {"long", "short", "severe", "faint"} & set(texts[short]) == {"short", "faint"}


def test_parameters_can_be_given_whole() -> None:
    surface = dataclasses.replace(random_surface(np.random.default_rng(0), "wood"), color="red")
    drawing = draw(np.random.default_rng(1), 32, 32, surface=surface, defect="none")
    assert drawing.surface == surface
    assert drawing.defect is None


def test_colors_differ() -> None:
    red = draw(np.random.default_rng(0), 32, 32, surface=random_surface(np.random.default_rng(0), "plastic", "red"))
    blue = draw(np.random.default_rng(0), 32, 32, surface=random_surface(np.random.default_rng(0), "plastic", "blue"))
    assert red.image[..., 0].mean() > red.image[..., 2].mean()
    assert blue.image[..., 2].mean() > blue.image[..., 0].mean()
    assert "red" in COLORS["plastic"]


def test_unknown_names_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="unknown surface"):
        draw(rng, 16, 16, surface="cheese")
    with pytest.raises(ValueError, match="unknown defect"):
        draw(rng, 16, 16, defect="bug")
    with pytest.raises(ValueError, match="no color"):
        random_surface(rng, "wood", "blue")
