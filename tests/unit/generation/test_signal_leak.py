"""Starting from the trace of the training images' mean."""

from __future__ import annotations

import torch

from flawsmith.generation.diffusion import LatentDiffusionModel
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.signal_leak import SignalLeak, from_json, leaked_start, to_json


def test_start_has_the_mean_and_the_spread_of_a_noised_image(tiny: LatentDiffusionModel) -> None:
    """Against the scheduler's own forward process at the same timestep."""
    image = torch.tensor([2.0, -1.0, 0.5, 3.0])[:, None, None].expand(4, 32, 24)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(16, 4, 32, 24, generator=generator)
    timestep = torch.tensor([951])
    share = tiny.scheduler.alphas_cumprod[951]
    ours = leaked_start(noise, image, lambda mean, noise: tiny.add_noise(mean, noise, timestep))
    theirs = tiny.scheduler.add_noise(image.expand(16, -1, -1, -1), noise, timestep.expand(16))
    # The same but for each channel's chance offset, which is what tints images.
    assert torch.allclose(
        ours - theirs, (theirs - ours).mean(dim=(2, 3), keepdim=True).neg().expand_as(ours), atol=1e-5
    )
    assert torch.allclose(ours.mean(dim=(2, 3)), share.sqrt() * image.mean(dim=(1, 2)).expand(16, -1), atol=1e-5)


def test_a_leak_fits_every_size_and_survives_the_header() -> None:
    leak = torch.linspace(-1, 1, 4 * 6 * 5).reshape(4, 6, 5)
    assert from_json(to_json(SignalLeak(leak, 0.8))).start == 0.8
    restored = from_json(to_json(SignalLeak(leak, 0.8))).mean
    assert torch.equal(restored, leak.half().float())
    start = leaked_start(torch.zeros(2, 4, 12, 10), restored, lambda mean, noise: 0.5 * mean + 0.5**0.5 * noise)
    assert start.shape == (2, 4, 12, 10)
    assert torch.allclose(start.mean(dim=(2, 3)), 0.5 * restored.mean(dim=(1, 2)).expand(2, -1), atol=1e-3)


def test_sampling_follows_the_leak(tiny: LatentDiffusionModel) -> None:
    options = {"height": 32, "width": 32, "steps": 2, "guidance": 1.0, "seeds": [1]}
    plain = sample_latents(tiny, "a", "", **options)
    light = sample_latents(tiny, "a", "", signal_leak=SignalLeak(torch.full((4, 8, 8), 5.0), 1.0), **options)
    dark = sample_latents(tiny, "a", "", signal_leak=SignalLeak(torch.full((4, 8, 8), -5.0), 1.0), **options)
    assert light.mean() > plain.mean() > dark.mean()


def test_drawing_starts_at_that_fraction_of_the_schedule(tiny: LatentDiffusionModel) -> None:
    options = {"height": 32, "width": 32, "steps": 20, "guidance": 1.0, "seeds": [1]}
    mean = torch.zeros(4, 8, 8)
    for start, expected in ((1.0, 20), (0.8, 16), (0.0, 1)):
        done: list[int] = []
        sample_latents(tiny, "a", "", signal_leak=SignalLeak(mean, start), on_step=done.append, **options)
        assert len(done) == expected
