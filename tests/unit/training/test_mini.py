"""What the mini base model learns from, and against what."""

import copy
import math
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from flawsmith.drawing import COLORS, DEFECTS, SURFACES, direction_word, random_defect, random_surface
from training.mini_autoencoder import balance_channels, build_autoencoder
from training.mini_data import draw_random, held_out
from training.mini_diffusion import build_scheduler, velocity_loss, velocity_weights
from training.mini_text import MAX_TOKENS, open_tokenizer, tokenize


def combinations() -> dict[tuple[str, str, str, str], bool]:
    """Every combination that can be drawn, and whether it is held out."""
    rng = np.random.default_rng(0)
    defects = {("none", ""): None}
    while len(defects) < 1 + 5 + 2 * 3:
        defect = random_defect(rng)
        defects[defect.kind, direction_word(defect)] = defect
    surfaces = [random_surface(rng, kind, color) for kind in SURFACES for color in COLORS[kind]]
    return {
        (surface.kind, surface.color, kind, direction): held_out(surface, defect)
        for surface, ((kind, direction), defect) in product(surfaces, defects.items())
    }


def test_held_out_combinations_are_made_of_parts_that_are_seen() -> None:
    found = combinations()
    share = np.mean(list(found.values()))
    assert 0.1 < share < 0.2
    for first, second in ((0, 2), (0, 1), (2, 3)):  # surface and kind, surface and colour, kind and direction
        parts = {(key[first], key[second]) for key in found}
        assert {(key[first], key[second]) for key, unseen in found.items() if not unseen} == parts
    unseen = [key for key, is_unseen in found.items() if is_unseen]
    assert {key[0] for key in unseen} == set(SURFACES)
    assert {key[2] for key in unseen} == set(DEFECTS)


@pytest.mark.parametrize("unseen", [False, True])
def test_drawings_keep_to_their_side(unseen: bool) -> None:
    rng = np.random.default_rng(1)
    drawings = [draw_random(rng, 16, unseen=unseen) for _ in range(60)]
    assert {held_out(drawing.surface, drawing.defect) for drawing in drawings} == {unseen}


def test_words_of_captions_are_single_tokens_and_identifiers_are_spelled(tmp_path: Path) -> None:
    tokenizer = open_tokenizer(tmp_path)
    words = "severe long diagonal dark scratch on a light brown leather background"
    ids = tokenizer(words).input_ids
    assert len(ids) == len(words.split()) + 2
    assert len(tokenizer("skt").input_ids) > 3
    assert tokenize(tokenizer, ["", words]).shape == (2, MAX_TOKENS)


def test_the_schedule_ends_in_pure_noise() -> None:
    scheduler = build_scheduler()
    clean, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    last = torch.tensor([999])
    assert torch.allclose(scheduler.add_noise(clean, noise, last), noise, atol=1e-6)
    assert torch.allclose(scheduler.get_velocity(clean, noise, last), -clean, atol=1e-6)
    scheduler.set_timesteps(20)
    assert scheduler.timesteps[0] == 999


def test_errors_count_by_what_they_do_to_the_picture() -> None:
    scheduler = build_scheduler()
    timesteps = torch.arange(1000)
    weights = velocity_weights(scheduler, timesteps)
    kept = scheduler.alphas_cumprod
    for timestep in (1, 100, 300, 500, 700, 900, 998):
        ratio = float(kept[timestep] / (1 - kept[timestep]))
        # An error of 1 in the velocity is one of this in the picture that it stands for, whatever the noise is.
        clean, noise = torch.randn(2, 1, 4, 8, 8)
        time = torch.tensor([timestep])
        noisy, velocity = scheduler.add_noise(clean, noise, time), scheduler.get_velocity(clean, noise, time)
        meant = kept[timestep].sqrt() * noisy - (1 - kept[timestep]).sqrt() * (velocity + 1)
        of_picture = float((meant - clean).square().mean())
        counts = min(ratio, 5) if ratio >= 1 else max(math.sqrt(ratio), 0.1)
        assert float(weights[timestep]) == pytest.approx(counts * of_picture, rel=1e-3)
    assert weights[999] == pytest.approx(0.1)
    assert (weights > 0).all()


def test_small_defects_weigh_about_as_much_as_large_ones() -> None:
    defect = torch.zeros(2, 1, 32, 32)
    defect[0, :, :4, :4] = 1
    defect[1, :, :12, :12] = 1
    wrong_on_defect, wrong_elsewhere = defect.expand(-1, 4, -1, -1), (1 - defect).expand(-1, 4, -1, -1)
    still = torch.zeros_like(wrong_on_defect)
    ratios = []
    for index in range(2):
        part = slice(index, index + 1)
        on_defect = velocity_loss(wrong_on_defect[part], still[part], defect[part], torch.ones(1))
        elsewhere = velocity_loss(wrong_elsewhere[part], still[part], defect[part], torch.ones(1))
        ratios.append(float(on_defect / elsewhere))
    unweighted = (4 * 4 / (32 * 32 - 4 * 4), 12 * 12 / (32 * 32 - 12 * 12))
    assert ratios[0] / ratios[1] > 3 * unweighted[0] / unweighted[1]
    for nowhere in (torch.zeros_like(defect), defect):
        assert velocity_loss(still + 2.0, still, nowhere, torch.ones(2)).tolist() == pytest.approx([4.0, 4.0])


def test_what_noise_hides_is_predicted_without_bias() -> None:
    """A defect is at one of two places, and nothing says where: the best guess is the mean, not more."""
    defects = torch.zeros(2, 1, 8, 8)
    defects[0, :, 1:3, 1:3] = defects[1, :, 5:7, 5:7] = 1
    velocity = defects.expand(2, 4, 8, 8)
    for ratio, expected in ((1e-4, 0.5), (4.0, 0.8)):
        guess = torch.zeros(1, 4, 8, 8, requires_grad=True)
        optimizer = torch.optim.LBFGS([guess], line_search_fn="strong_wolfe", max_iter=100)

        def loss(
            optimizer: torch.optim.Optimizer = optimizer, guess: torch.Tensor = guess, ratio: float = ratio
        ) -> torch.Tensor:
            optimizer.zero_grad()
            error = velocity_loss(guess.expand(2, 4, 8, 8), velocity, defects, torch.full((2,), ratio)).mean()
            error.backward()
            return error

        optimizer.step(loss)  # type: ignore[arg-type]
        where = guess.detach()[0, :, 1:3, 1:3]
        if ratio < 1:
            assert torch.allclose(where, torch.tensor(expected), atol=0.01)
        else:
            assert bool((where > expected).all())


@torch.no_grad()
def test_balanced_channels_decode_to_the_same_pictures() -> None:
    torch.manual_seed(0)
    trained = build_autoencoder()
    trained.quant_conv.weight[:4] *= torch.tensor([1.0, 3.0, 0.2, 9.0])[:, None, None, None]
    pictures = torch.rand(3, 3, 32, 32) * 2 - 1
    balanced = copy.deepcopy(trained)
    balance_channels(balanced, trained.encode(pictures).latent_dist.mean)
    before, after = trained.encode(pictures).latent_dist, balanced.encode(pictures).latent_dist
    assert torch.allclose(balanced.decode(after.mean).sample, trained.decode(before.mean).sample, atol=1e-5)
    inner = after.mean - after.mean.mean(dim=(2, 3), keepdim=True)
    assert torch.allclose(inner.std(dim=(0, 2, 3)), torch.full((4,), 1.0), atol=1e-4)
    assert torch.allclose(after.std / before.std, (after.mean / before.mean).abs(), rtol=1e-3)
