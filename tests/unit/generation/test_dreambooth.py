"""DreamBooth: the loss, its weights, the schedule, the order of images."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.optimization import get_cosine_with_hard_restarts_schedule_with_warmup
from diffusers.training_utils import compute_snr

from flawsmith.common.errors import AbortedError
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import (
    InstanceLatents,
    batch_indices,
    batches_per_epoch,
    cache_latents,
    cosine_with_restarts,
    count_steps,
    draw_prior,
    min_snr_weights,
    native_size,
    scale_images,
    train,
)
from flawsmith.generation.lora import LoraWeights
from flawsmith.generation.spec import FineTuneSpec

SPEC = FineTuneSpec(
    rank=2, rank_alpha=2.0, conv_rank=1, epochs=1, max_steps=2, batch_size=2, repeats=4, regularization_images=2,
    regularization_steps=2, unet_learning_rate=1e-2, text_encoder_learning_rate=1e-2, clip_skip=1,
    precision="float32",
)  # fmt: skip


def changed(**values: object) -> FineTuneSpec:
    return FineTuneSpec.model_validate({**SPEC.model_dump(), **values})


@pytest.fixture
def instances(tiny: LatentDiffusionModel) -> InstanceLatents:
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 40, 3), dtype=np.uint8)
    return cache_latents(tiny, images)


def test_min_snr_weights_are_those_of_the_paper() -> None:
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    timesteps = torch.tensor([0, 10, 400, 999])
    snr = compute_snr(scheduler, timesteps)
    expected = torch.stack([snr, torch.full_like(snr, 5.0)]).min(0).values / snr
    assert torch.allclose(min_snr_weights(snr, 5.0), expected)
    assert expected[0] < 0.01
    assert expected[3] == 1.0
    assert torch.equal(min_snr_weights(snr, 0.0), torch.ones(4))
    velocity = min_snr_weights(snr, 5.0, "v_prediction")
    assert torch.allclose(velocity, torch.stack([snr, torch.full_like(snr, 5.0)]).min(0).values / (snr + 1))


def test_a_velocity_model_learns_the_schedulers_velocity(velocity_folder: Path) -> None:
    model = load_model(velocity_folder)
    latents, noise = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8)
    timesteps = torch.tensor([0, 500, 999])
    kept = model.scheduler.alphas_cumprod[timesteps][:, None, None, None]
    assert kept[2] == 0  # the last step sees noise alone
    expected = kept.sqrt() * noise - (1 - kept).sqrt() * latents
    assert torch.allclose(model.training_target(latents, noise, timesteps), expected, atol=1e-6)
    assert torch.allclose(model.training_target(latents, noise, timesteps)[2], -latents[2])


def test_schedule_is_cosine_with_three_hard_restarts() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = get_cosine_with_hard_restarts_schedule_with_warmup(optimizer, 0, 60, num_cycles=3)
    for step in range(60):
        assert cosine_with_restarts(step, 60) == pytest.approx(reference.get_last_lr()[0])
        optimizer.step()
        reference.step()
    assert [step for step in range(60) if cosine_with_restarts(step, 60) == 1.0] == [0, 20, 40]


def test_every_epoch_holds_every_image_repeats_times_in_another_order() -> None:
    spec = changed(batch_size=5, repeats=4)
    batches = batches_per_epoch(spec, 3)
    assert batches == 3  # 12 images, 5 a batch
    epochs = [
        np.concatenate([batch_indices(spec, 3, epoch * batches + index) for index in range(batches)])
        for epoch in range(2)
    ]
    for order in epochs:
        assert np.bincount(order).tolist() == [4, 4, 4]
    assert epochs[0].tolist() != epochs[1].tolist()


def test_steps_are_those_of_the_epochs_up_to_the_limit() -> None:
    few = FineTuneSpec(epochs=49, batch_size=12, repeats=10)
    assert count_steps(few, 5) == 49 * 5
    assert count_steps(few.model_copy(update={"max_steps": 100}), 5) == 100
    assert count_steps(few.model_copy(update={"gradient_accumulation": 2}), 5) == 123


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_loss_is_instance_plus_weighted_prior(
    tiny: LatentDiffusionModel, instances: InstanceLatents, clip_skip: int
) -> None:
    """The first step's loss, put together by hand from predictions of the untouched model (LoRA starts at zero)."""
    fixed = InstanceLatents(instances.means[:1], torch.zeros_like(instances.deviations[:1]))
    spec = changed(batch_size=1, max_steps=1, clip_skip=clip_skip)
    prior = draw_prior(tiny, spec, 32, 40)
    assert prior is not None
    one_prior = prior[:1]
    embeddings = tiny.encode_prompts(["skt background", "background"], clip_skip=clip_skip)
    conditioning = tiny.text_conditioning(32, 40)
    seen: dict[str, torch.Tensor] = {}
    original, add_noise = tiny.predict, tiny.scheduler.add_noise

    def spy(latents, timesteps, given, condition):  # type: ignore[no-untyped-def]
        seen.update(timesteps=timesteps, embeddings=given, predicted=original(latents, timesteps, given, condition))
        assert torch.equal(condition, conditioning)
        return seen["predicted"]

    def noised(latents, noise, timesteps):  # type: ignore[no-untyped-def]
        seen.update(latents=latents, noise=noise)
        return add_noise(latents, noise, timesteps)

    tiny.predict = spy  # type: ignore[method-assign]
    tiny.scheduler.add_noise = noised
    results = [train(tiny, fixed, one_prior, spec)]
    assert torch.equal(seen["latents"], torch.cat([fixed.means, one_prior]))
    assert torch.equal(seen["embeddings"], embeddings)
    kept = tiny.scheduler.alphas_cumprod[seen["timesteps"]]
    weights = (kept / (1 - kept)).clamp(max=5) / (kept / (1 - kept))
    errors = weights * (seen["predicted"] - seen["noise"]).square().mean(dim=(1, 2, 3))
    assert results[0].losses == [pytest.approx((errors[0] + 1.0 * errors[1]).item(), rel=1e-5)]


def test_resumed_training_is_the_uninterrupted_one(tiny_folder, instances: InstanceLatents) -> None:  # type: ignore[no-untyped-def]
    from flawsmith.generation.diffusion import load_model

    spec = changed(max_steps=6, epochs=3, gradient_accumulation=2, batch_size=1)
    prior = draw_prior(load_model(tiny_folder), spec, 32, 40)
    states = []
    whole = train(
        load_model(tiny_folder), instances, prior, spec,
        on_checkpoint=lambda step, state: states.append((step, _copied(state))), checkpoint_every=3,
    )  # fmt: skip
    assert [step for step, _ in states] == [3]
    resumed = train(load_model(tiny_folder), instances, prior, spec, state=states[0][1])
    assert resumed.losses == whole.losses
    assert _same(resumed.weights, whole.weights)
    assert not _same(train(load_model(tiny_folder), instances, prior, changed(seed=5)).weights, whole.weights)


def test_training_lowers_the_loss_and_moves_both_models(tiny: LatentDiffusionModel) -> None:
    image = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    image[:, :, 16:] = 255
    spec = changed(max_steps=40, epochs=40, regularization_images=0, batch_size=4, rank=8, rank_alpha=8.0)
    result = train(tiny, cache_latents(tiny, image), None, spec)
    assert result.steps == len(result.losses) == 40
    assert np.mean(result.losses[-8:]) < 0.9 * np.mean(result.losses[:8])
    for prefix in ("lora_unet_", "lora_te_"):
        assert any(layer.up.any() for name, layer in result.weights.layers.items() if name.startswith(prefix))


def test_a_text_encoder_learning_rate_of_zero_leaves_it_alone(
    tiny: LatentDiffusionModel, instances: InstanceLatents
) -> None:
    result = train(tiny, instances, None, changed(text_encoder_learning_rate=0.0))
    assert all(name.startswith("lora_unet_") for name in result.weights.layers)


def test_divergence_stops_with_the_last_good_checkpoint(tiny: LatentDiffusionModel, instances: InstanceLatents) -> None:
    good: list[dict[str, object]] = []
    broken = dataclasses.replace(instances, means=instances.means.clone())
    broken.means[2] = float("nan")
    spec = changed(max_steps=12, epochs=12, batch_size=1)
    with pytest.raises(AbortedError) as caught:
        train(tiny, broken, None, spec, on_checkpoint=lambda step, state: good.append(state), checkpoint_every=1)
    assert caught.value.reason == "TRAINING_DIVERGED"
    for state in good:
        assert all(torch.isfinite(part).all() for layer in state["weights"].values() for part in layer[:2])  # type: ignore[attr-defined]


def test_images_keep_their_native_size_to_the_nearest_that_the_model_can_make(tiny: LatentDiffusionModel) -> None:
    images = [np.zeros((600, 203, 3), np.uint8), np.zeros((598, 203, 3), np.uint8), np.zeros((601, 205, 3), np.uint8)]
    assert native_size(tiny, images) == (600, 204)
    scaled = scale_images(images, 600, 204)
    assert scaled.shape == (3, 600, 204, 3)


def _copied(state: dict[str, object]) -> dict[str, object]:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _same(first: LoraWeights, second: LoraWeights) -> bool:
    return all(
        torch.equal(layer.down, second.layers[name].down) and torch.equal(layer.up, second.layers[name].up)
        for name, layer in first.layers.items()
    )
