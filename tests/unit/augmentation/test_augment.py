"""What every per-region method promises, and MemSeg's published distributions."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flawsmith.augmentation.augment import augment, method_named, parse_parameters
from flawsmith.augmentation.methods import METHODS
from flawsmith.augmentation.methods.cutpaste import CutPasteParameters, Shape
from flawsmith.augmentation.methods.memseg import MemSegParameters
from flawsmith.augmentation.photometric import IMGAUG_TEN, Picture
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.foreground import Foreground, ThresholdRule, foreground_mask
from flawsmith.drawing import draw_sample


def noisy(height: int, width: int, seed: int = 0, *, kind: str = "rgb") -> np.ndarray:
    """kind: rgb, grey (three equal channels) or plane (one channel)."""
    image = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    if kind == "rgb":
        return image
    return image[:, :, 0].copy() if kind == "plane" else np.repeat(image[:, :, :1], 3, axis=2)


@pytest.fixture(scope="module")
def plate() -> np.ndarray:
    return draw_sample(np.random.default_rng(3), 160, 128, defective=False)[0]


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(METHODS)),
    height=st.integers(32, 300),
    width=st.integers(32, 300),
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(["rgb", "grey", "plane"]),
)
def test_promises_of_every_method(name: str, height: int, width: int, seed: int, kind: str) -> None:
    image = noisy(height, width, seed, kind=kind)
    image.setflags(write=False)
    before = image.copy()
    made = augment(image, np.random.default_rng(seed), method=name)
    assert made.image.shape == image.shape
    assert made.image.dtype == np.uint8
    assert made.mask.shape == (height, width)
    assert made.mask.dtype == np.uint8
    assert set(np.unique(made.mask)) <= {0, 255}
    inside = made.mask > 0
    assert inside.sum() >= 10
    assert (made.image[inside] != image[inside]).any(), "an unchanged image must not be called defective"
    np.testing.assert_array_equal(made.image[~inside], image[~inside])
    np.testing.assert_array_equal(image, before)  # the input is left alone
    again = augment(image, np.random.default_rng(seed), method=name)
    assert made.image.tobytes() == again.image.tobytes()
    assert made.mask.tobytes() == again.mask.tobytes()
    assert made.drawn == again.drawn
    assert made.area == made.drawn["area"] == inside.sum()
    json.dumps(made.drawn)  # it goes into a sidecar
    if kind == "grey":
        np.testing.assert_array_equal(made.image[:, :, 0], made.image[:, :, 2])
        plane = augment(image[:, :, 0], np.random.default_rng(seed), method=name)
        np.testing.assert_array_equal(plane.image, made.image[:, :, 0])


@settings(max_examples=25, deadline=None)
@given(
    texture_probability=st.floats(0, 1),
    opacity=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    exponent=st.integers(0, 7),
    rotation=st.floats(0, 180),
    threshold=st.floats(0, 0.6),
    grid=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    seed=st.integers(0, 2**32),
)
def test_memseg_with_any_parameters(texture_probability, opacity, exponent, rotation, threshold, grid, seed) -> None:
    parameters = MemSegParameters(
        texture_probability=texture_probability, opacity_min=opacity[0], opacity_max=opacity[1],
        max_scale_exponent=exponent, max_rotation=rotation, threshold=threshold,
        grid_rows=grid[0], grid_columns=grid[1], max_draws=1000,
    )  # fmt: skip
    image = noisy(75, 51, seed)
    made = augment(image, np.random.default_rng(seed), parameters=parameters)
    assert opacity[0] <= made.drawn["opacity"] <= opacity[1]
    outside = made.mask == 0
    np.testing.assert_array_equal(made.image[outside], image[outside])


def test_memseg_blends_by_the_published_formula() -> None:
    """out = (1 - M) I + M (f S + (1 - f) I), with a source that the test knows."""
    image, source = noisy(64, 48, 1), noisy(64, 48, 2)
    made = augment(
        image,
        np.random.default_rng(0),
        parameters=MemSegParameters(texture_probability=1.0),
        textures=lambda rng, height, width: (Picture(source), {"image": "known"}),
    )
    mask, f = made.mask[:, :, None] / 255.0, made.drawn["opacity"]
    expected = (1 - mask) * image + mask * (f * source + (1 - f) * image)
    np.testing.assert_allclose(made.image, expected, atol=0.5 + 1e-9)


def test_memseg_draws_from_the_published_distributions() -> None:
    """Uniform opacity over .15-1, a fair coin between sources, uniform scales of 2**0 to 2**5, rotation of +-90."""
    image = noisy(48, 40)
    count = 1500
    drawn = [
        augment(
            image,
            np.random.default_rng([9, index]),
            parameters=MemSegParameters(min_area=1),
            textures=lambda rng, height, width: (Picture(255 - image), {}),
        ).drawn
        for index in range(count)
    ]
    opacity = np.array([entry["opacity"] for entry in drawn])
    # Mean and variance of U(.15, 1); five standard errors.
    assert abs(opacity.mean() - 0.575) < 5 * np.sqrt(0.85**2 / 12 / count)
    assert abs(opacity.var() - 0.85**2 / 12) < 0.005
    textures = np.mean([entry["source"] == "texture" for entry in drawn])
    assert abs(textures - 0.5) < 5 * np.sqrt(0.25 / count)
    degrees = np.array([entry["degrees"] for entry in drawn])
    assert degrees.min() >= -90
    assert degrees.max() <= 90
    assert abs(degrees.mean()) < 5 * np.sqrt(180**2 / 12 / count)
    # Redraws of empty masks favour fine noise, so only the set of scales follows from the definition.
    assert {scale for entry in drawn for scale in entry["scale"]} == {1, 2, 4, 8, 16, 32}
    names = [step["name"] for entry in drawn if "structure" in entry for step in entry["structure"]["augmentations"]]
    shares = [names.count(name) / len(names) for name in IMGAUG_TEN]
    assert len(shares) == 10
    assert max(abs(share - 0.1) for share in shares) < 5 * np.sqrt(0.09 / len(names))
    for entry in drawn:
        if "structure" in entry:
            steps = [step["name"] for step in entry["structure"]["augmentations"]]
            assert len(set(steps)) == 3
            assert sorted(entry["structure"]["order"]) == list(range(64))


def test_empty_draws_are_repeated_not_passed_on() -> None:
    draws = [augment(noisy(64, 64), np.random.default_rng(seed)).drawn["draws"] for seed in range(150)]
    # The published code leaves 5 to 10 % of masks empty: some draws here must have been repeated.
    assert max(draws) > 1


def test_a_sample_that_cannot_be_made_is_an_error() -> None:
    # Nothing to shuffle into sight on a flat image whose source is the image itself.
    flat = np.full((64, 64, 3), 128, np.uint8)
    with pytest.raises(FailedPreconditionError) as caught:
        augment(flat, np.random.default_rng(0), parameters=MemSegParameters(min_area=64 * 64, max_draws=5))
    assert caught.value.reason == "NO_DEFECT_DRAWN"
    assert "5 draws" in caught.value.message
    assert caught.value.fields[0].field == "parameters.max_draws"


def test_defects_stay_on_an_object() -> None:
    image = np.full((120, 90, 3), 20, np.uint8)
    cv2.circle(image, (45, 60), 30, (180, 170, 160), -1)
    image[:] = np.clip(image + np.random.default_rng(0).normal(0, 4, image.shape), 0, 255).astype(np.uint8)
    disc = np.zeros((120, 90), np.uint8)
    cv2.circle(disc, (45, 60), 32, 1, -1)
    found = foreground_mask(image) > 0
    inner = np.zeros_like(disc)
    cv2.circle(inner, (45, 60), 28, 1, -1)
    assert found[inner > 0].mean() > 0.99
    assert not found[disc == 0].any()
    assert foreground_mask(255 - image)[60, 45], "a dark object before a bright background"
    by_triangle = foreground_mask(image, ThresholdRule.TRIANGLE) > 0
    assert by_triangle[inner > 0].mean() > 0.99
    assert by_triangle[disc == 0].mean() < 0.02
    for seed in range(10):
        made = augment(image, np.random.default_rng(seed), parameters=MemSegParameters(foreground=Foreground.OBJECT))
        assert not (made.mask[disc == 0]).any()


def test_cutpaste_patch_is_a_jittered_copy() -> None:
    image = noisy(100, 80)
    for seed in range(30):
        made = augment(
            image,
            np.random.default_rng(seed),
            method="cutpaste",
            parameters=CutPasteParameters(shape=Shape.PATCH, jitter=0.0),
        )
        top, left, rows, columns = made.drawn["source_box"]
        where_y, where_x = np.where(made.mask > 0)
        assert where_y.max() - where_y.min() + 1 == rows
        assert where_x.max() - where_x.min() + 1 == columns
        assert 0.02 * 8000 * 0.9 <= rows * columns <= 0.15 * 8000 * 1.1
        pasted = made.image[where_y.min() : where_y.min() + rows, where_x.min() : where_x.min() + columns]
        np.testing.assert_array_equal(pasted, image[top : top + rows, left : left + columns])


def test_products_are_augmented_visibly(plate: np.ndarray) -> None:
    changes = []
    for seed in range(30):
        made = augment(plate, np.random.default_rng(seed))
        inside = made.mask > 0
        changes.append(np.abs(made.image[inside].astype(int) - plate[inside]).mean())
    assert np.median(changes) > 10


@pytest.mark.parametrize("size", [(31, 64), (64, 20), (8193, 32)])
def test_unsupported_sizes(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        augment(np.zeros((*size, 3), np.uint8), np.random.default_rng(0))
    assert caught.value.reason == "IMAGE_SIZE_UNSUPPORTED"
    assert f"{size[0]} x {size[1]}" in caught.value.message


def test_unknown_method_names_the_known() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        method_named("memseq")
    assert caught.value.reason == "UNKNOWN_METHOD"
    assert "memseg" in caught.value.message
    assert method_named("").name == "memseg"


def test_bad_parameters_are_all_listed() -> None:
    method = method_named("memseg")
    with pytest.raises(InvalidArgumentError) as caught:
        parse_parameters(method, {"opacity_max": 1.5, "grid_rows": 8.5, "opacty_min": 0.2})
    assert caught.value.reason == "INVALID_PARAMETERS"
    assert {violation.field for violation in caught.value.fields} == {
        "parameters.opacity_max", "parameters.grid_rows", "parameters.opacty_min",
    }  # fmt: skip
    # Numbers of a Struct are all doubles.
    assert parse_parameters(method, {"grid_rows": 4.0}).grid_rows == 4  # type: ignore[attr-defined]


def test_draem_can_turn_the_input_first() -> None:
    image = noisy(80, 70)
    parameters = parse_parameters(method_named("draem"), {"input_rotation_probability": 1.0})
    made = augment(image, np.random.default_rng(0), method="draem", parameters=parameters)
    matrix = cv2.getRotationMatrix2D((34.5, 39.5), made.drawn["input_degrees"], 1.0)
    expected = cv2.warpAffine(image.astype(np.float32), matrix, (70, 80))
    outside = cv2.erode((made.mask == 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    difference = np.abs(made.image.astype(float) - expected)[outside]
    # OpenCV knows 1/32 of a pixel and blends the frame with black.
    assert np.quantile(difference, 0.95) < 8


def test_anomalib_draws_again_where_a_lattice_as_fine_as_the_image_leaves_no_noise() -> None:
    for seed in range(60):  # at 32 x 32 one draw in 36 has 32 x 32 lattice cells, and noise is 0 on lattice points
        made = augment(noisy(32, 32), np.random.default_rng(seed), method="anomalib")
        assert made.drawn["scale"] != [32, 32]
