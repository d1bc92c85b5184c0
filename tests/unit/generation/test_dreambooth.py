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

from flawsmith.common.errors import AbortedError, FailedPreconditionError, ResourceExhaustedError
from flawsmith.generation.buckets import Placement
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.dreambooth import (
    CachedImage,
    Group,
    Training,
    cache_latents,
    cosine_with_restarts,
    count_steps,
    draw_prior,
    epoch_batches,
    make_optimizer,
    min_snr_weights,
    place_images,
    scale_image,
    train,
)
from flawsmith.generation.lora import LoraWeights, extract
from flawsmith.generation.spec import FineTuneSpec, Flips

SPEC = FineTuneSpec(
    rank=2, rank_alpha=2.0, conv_rank=1, epochs=1, max_steps=2, batch_size=2, repeats=4, regularization_images=2,
    regularization_steps=2, unet_learning_rate=1e-2, text_encoder_learning_rate=1e-2, clip_skip=1,
    precision="float32",
)  # fmt: skip
PLACEMENT = Placement((32, 40), (32, 40))


def changed(**values: object) -> FineTuneSpec:
    return FineTuneSpec.model_validate({**SPEC.model_dump(), **values})


@pytest.fixture
def instances(tiny: LatentDiffusionModel) -> list[CachedImage]:
    images = np.random.default_rng(0).integers(0, 255, (3, 32, 40, 3), dtype=np.uint8)
    return cache_latents(tiny, list(images), [PLACEMENT] * 3)


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
    epochs = []
    for epoch in range(2):
        batches = epoch_batches(changed(batch_size=5, repeats=4), [Group((8, 10))] * 3, epoch)
        assert sorted(len(batch) for batch in batches) == [2, 5, 5]  # 12 images
        epochs.append(np.concatenate(batches))
    for order in epochs:
        assert np.bincount(order).tolist() == [4, 4, 4]
    assert epochs[0].tolist() != epochs[1].tolist()


def test_batches_hold_images_of_one_window_size() -> None:
    groups = [Group((8, 10)), Group((10, 8)), Group((8, 10)), Group((8, 10))]
    batches = epoch_batches(changed(batch_size=3, repeats=2), groups, 0)
    assert all(len({groups[index] for index in batch}) == 1 for batch in batches)
    assert np.bincount(np.concatenate(batches)).tolist() == [2, 2, 2, 2]
    assert sorted(len(batch) for batch in batches) == [2, 3, 3]


def test_views_count_once_in_batches_of_their_own() -> None:
    groups = [Group((8, 8)), Group((8, 8), views=True), Group((8, 8), views=True)]
    batches = epoch_batches(changed(batch_size=3, repeats=2), groups, 0)
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0, 0], [1, 2]]


def test_steps_are_those_of_the_epochs_up_to_the_limit() -> None:
    few = FineTuneSpec(epochs=49, batch_size=12, repeats=10)
    groups = [Group((8, 10))] * 5
    assert count_steps(few, groups) == 49 * 5
    assert count_steps(few.model_copy(update={"max_steps": 100}), groups) == 100
    assert count_steps(few.model_copy(update={"gradient_accumulation": 2}), groups) == 123


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_loss_is_instance_plus_weighted_prior(
    tiny: LatentDiffusionModel, instances: list[CachedImage], clip_skip: int
) -> None:
    """The first step's loss, put together by hand from predictions of the untouched model (LoRA starts at zero)."""
    fixed = dataclasses.replace(instances[0], deviations=torch.zeros_like(instances[0].deviations))
    spec = changed(batch_size=1, max_steps=1, clip_skip=clip_skip, prior_weight=0.4)
    one_prior = draw_prior(tiny, spec, [PLACEMENT])[8, 10][:1]
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
    result = train(tiny, [fixed], {(8, 10): one_prior}, spec)
    assert torch.equal(seen["latents"], torch.cat([fixed.means, one_prior]))
    assert torch.allclose(seen["embeddings"], embeddings)
    kept = tiny.scheduler.alphas_cumprod[seen["timesteps"]]
    weights = (kept / (1 - kept)).clamp(max=5) / (kept / (1 - kept))
    errors = weights * (seen["predicted"] - seen["noise"]).square().mean(dim=(1, 2, 3))
    assert result.losses == [pytest.approx((errors[0] + 0.4 * errors[1]).item(), rel=1e-5)]


@pytest.mark.parametrize(
    "options",
    [{"gradient_accumulation": 2, "batch_size": 1}, {"ema_decay": 0.9}, {"precision": "bfloat16"}],
    ids=["accumulation", "average", "bfloat16"],
)
def test_resumed_training_is_the_uninterrupted_one(
    tiny_folder: Path, instances: list[CachedImage], options: dict[str, object]
) -> None:
    spec = changed(max_steps=6, epochs=3, **options)
    prior = draw_prior(load_model(tiny_folder), spec, [PLACEMENT])
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
    result = train(tiny, cache_latents(tiny, list(image), place_images(tiny, list(image), spec)), {}, spec)
    assert result.steps == len(result.losses) == 40
    assert np.mean(result.losses[-8:]) < 0.9 * np.mean(result.losses[:8])
    for prefix in ("lora_unet_", "lora_te_"):
        assert any(layer.up.any() for name, layer in result.weights.layers.items() if name.startswith(prefix))


def test_a_text_encoder_learning_rate_of_zero_leaves_it_alone(
    tiny: LatentDiffusionModel, instances: list[CachedImage]
) -> None:
    result = train(tiny, instances, {}, changed(text_encoder_learning_rate=0.0))
    assert all(name.startswith("lora_unet_") for name in result.weights.layers)


def test_divergence_stops_with_the_last_good_checkpoint(
    tiny: LatentDiffusionModel, instances: list[CachedImage]
) -> None:
    good: list[dict[str, object]] = []
    broken = [*instances[:2], dataclasses.replace(instances[2], means=torch.full_like(instances[2].means, torch.nan))]
    spec = changed(max_steps=12, epochs=12, batch_size=1)
    with pytest.raises(AbortedError) as caught:
        train(tiny, broken, {}, spec, on_checkpoint=lambda step, state: good.append(state), checkpoint_every=1)
    assert caught.value.reason == "TRAINING_DIVERGED"
    for state in good:
        assert all(torch.isfinite(part).all() for layer in state["weights"].values() for part in layer[:2])  # type: ignore[attr-defined]


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(
    tiny: LatentDiffusionModel, instances: list[CachedImage]
) -> None:
    training = Training(tiny, instances, {}, SPEC)
    training.step()
    before = extract(tiny.networks)
    next(p for p in tiny.unet.parameters() if p.requires_grad).register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(AbortedError, match="gradient"):
        training.step()
    assert _same(before, extract(tiny.networks))


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_a_step_does_not_depend_on_the_parts_it_is_done_in(
    tiny_folder: Path, instances: list[CachedImage], micro_batch: int
) -> None:
    spec = changed(batch_size=3, max_steps=1, repeats=1)
    prior = draw_prior(load_model(tiny_folder), spec, [PLACEMENT])
    gradients, losses = [], []
    for size in (None, micro_batch):
        training = Training(load_model(tiny_folder), instances, prior, spec, micro_batch=size)
        losses.append(training.step())
        model = training.model
        gradients.append([p.grad for net in model.networks.values() for p in net.parameters() if p.requires_grad])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for whole, parts in zip(*gradients, strict=True):
        assert torch.allclose(whole, parts, rtol=1e-3, atol=1e-7)


def test_where_memory_runs_out_the_same_step_is_done_in_smaller_parts(
    tiny_folder: Path, instances: list[CachedImage]
) -> None:
    spec = changed(batch_size=3, max_steps=2, repeats=1)
    whole = train(load_model(tiny_folder), instances, {}, spec)
    model = load_model(tiny_folder)
    _limit_rows(model, 1)
    result = train(model, instances, {}, spec)
    assert (whole.micro_batch, result.micro_batch) == (3, 1)
    assert result.losses == pytest.approx(whole.losses, rel=1e-4)


def test_where_not_one_image_fits_it_is_said(tiny: LatentDiffusionModel, instances: list[CachedImage]) -> None:
    _limit_rows(tiny, 0)
    with pytest.raises(ResourceExhaustedError, match="lower resolution") as caught:
        train(tiny, instances, {}, SPEC)
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_where_memory_runs_out_the_prior_is_drawn_in_smaller_parts(
    tiny_folder: Path, tiny: LatentDiffusionModel
) -> None:
    spec = changed(regularization_images=5)
    whole = draw_prior(load_model(tiny_folder), spec, [PLACEMENT])
    told: list[tuple[int, int]] = []
    _limit_rows(tiny, 2)  # one image, and once more without the prompt
    halved = draw_prior(tiny, spec, [PLACEMENT], lambda done, total: told.append((done, total)))
    assert told == [(number, 5) for number in range(1, 6)]
    for size, latents in whole.items():
        assert torch.allclose(halved[size], latents, atol=1e-3)  # of values up to 9
    _limit_rows(tiny, 1)
    with pytest.raises(ResourceExhaustedError) as caught:
        draw_prior(tiny, spec, [PLACEMENT])
    assert caught.value.reason == "OUT_OF_MEMORY"


def test_the_prior_is_drawn_in_no_larger_parts_than_training_takes(tiny: LatentDiffusionModel) -> None:
    """The kernel ends a process that takes too much, which the next one must not do again."""
    _limit_rows(tiny, 4)
    told: list[int] = []
    draw_prior(
        tiny, changed(regularization_images=3), [PLACEMENT], lambda done, total: told.append(done), micro_batch=2
    )
    assert told == [2, 3]


def _limit_rows(model: LatentDiffusionModel, rows: int) -> None:
    """Let the UNet ask the allocator for more than there is, once it gets more images than that."""

    def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > rows:
            torch.empty(2**60)

    model.unet.register_forward_pre_hook(allocate)


def test_averaged_weights_are_those_of_the_moving_average(tiny_folder: Path, instances: list[CachedImage]) -> None:
    """`average = decay * average + (1 - decay) * weights`, decay = min(ema_decay, (1 + k) / (10 + k))."""
    training = Training(load_model(tiny_folder), instances, {}, changed(max_steps=5, epochs=4, ema_decay=0.15))
    expected = extract(training.model.networks).layers
    for number in range(5):
        training.step()
        decay = 0.0 if number == 0 else min(0.15, (1 + number) / (10 + number))
        now = extract(training.model.networks).layers
        expected = {
            name: dataclasses.replace(
                now[name], down=torch.lerp(now[name].down, layer.down, decay),
                up=torch.lerp(now[name].up, layer.up, decay),
            )
            for name, layer in expected.items()
        }  # fmt: skip
    for name, layer in training.result().weights.layers.items():
        assert torch.allclose(layer.up, expected[name].up, atol=1e-6)
        assert torch.allclose(layer.down, expected[name].down, atol=1e-6)
    # Asking for it changes nothing.
    assert _same(LoraWeights(now), extract(training.model.networks))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precisions_train_as_float32_does(
    tiny_folder: Path, instances: list[CachedImage], precision: str
) -> None:
    spec = changed(max_steps=6, epochs=3, unet_learning_rate=1e-3, text_encoder_learning_rate=1e-3)
    exact = train(load_model(tiny_folder), instances, {}, spec)
    model = load_model(tiny_folder)
    result = train(model, instances, {}, spec.model_copy(update={"precision": precision}))
    assert result.losses == pytest.approx(exact.losses, rel=0.03)
    assert all(layer.up.dtype == torch.float32 for layer in result.weights.layers.values())
    moved = torch.cat([layer.up.flatten() for layer in exact.weights.layers.values()])
    also = torch.cat([layer.up.flatten() for layer in result.weights.layers.values()])
    assert torch.nn.functional.cosine_similarity(moved, also, dim=0) > 0.9


def test_adamw_is_the_one_of_the_device() -> None:
    weights = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    ours = make_optimizer("auto", [{"params": [weights], "lr": 0.1}], torch.device("cpu"))
    twin = torch.nn.Parameter(weights.detach().clone())
    reference = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.01, foreach=False, fused=False)
    for _ in range(3):
        weights.grad, twin.grad = 3 * weights.detach(), 3 * twin.detach()
        ours.step()
        reference.step()
    assert torch.allclose(weights, twin)
    assert ours.param_groups[0]["fused"]
    with pytest.raises(FailedPreconditionError, match="bitsandbytes") as caught:
        make_optimizer("adamw8bit", [{"params": [weights]}], torch.device("cpu"))
    assert caught.value.reason == "OPTIMIZER_UNAVAILABLE"


def test_text_that_is_not_trained_is_encoded_once(tiny: LatentDiffusionModel, instances: list[CachedImage]) -> None:
    calls = []
    tiny.text_encoder.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[attr-defined]
    train(tiny, instances, {}, changed(text_encoder_learning_rate=0.0, max_steps=4, epochs=2))
    assert len(calls) == 1


def test_windows_are_cut_from_latents_of_the_whole_image_and_its_flips(tiny: LatentDiffusionModel) -> None:
    image = np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)
    (cached,) = cache_latents(tiny, [image], [Placement((40, 44), (32, 40))], Flips.BOTH)
    assert (cached.means.shape, cached.window) == ((4, 4, 10, 11), (8, 10))
    turned = np.stack([image, image[::-1], image[:, ::-1], image[::-1, ::-1]])
    assert torch.allclose(cached.means, tiny.encode_images(turned)[0], atol=1e-5)
    exact = dataclasses.replace(cached, deviations=torch.zeros_like(cached.deviations))
    seen = []
    tiny.unet.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0][:, :4].detach()))
    noiseless = tiny.add_noise
    tiny.add_noise = lambda latents, noise, timesteps: latents  # type: ignore[method-assign]
    train(tiny, [exact], {}, changed(max_steps=40, repeats=80, epochs=1, batch_size=2))
    assert noiseless is not tiny.add_noise
    places = set()
    for window in torch.cat(seen):
        found = [
            (flip, top, left)
            for flip in range(4) for top in range(3) for left in range(2)
            if torch.equal(window, exact.means[flip, :, top : top + 8, left : left + 10])
        ]  # fmt: skip
        places.update(found)
        assert len(found) == 1
    assert len(places) == 4 * 3 * 2


def test_regularisation_images_are_shared_out_to_the_buckets(tiny: LatentDiffusionModel) -> None:
    placements = [Placement((32, 40), (32, 40))] * 3 + [Placement((40, 32), (40, 32))]
    prior = draw_prior(tiny, changed(regularization_images=8), placements)
    assert {size: latents.shape for size, latents in prior.items()} == {(8, 10): (6, 4, 8, 10), (10, 8): (2, 4, 10, 8)}
    assert draw_prior(tiny, changed(regularization_images=0), placements) == {}


def test_images_are_scaled_to_what_is_asked() -> None:
    image = np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)
    assert scale_image(image, 15, 40).shape == (15, 40, 3)
    assert scale_image(image, 30, 20) is image


def test_a_size_of_the_specification_holds_for_every_image(tiny: LatentDiffusionModel) -> None:
    images = [np.zeros((33, 42, 3), np.uint8), np.zeros((80, 60, 3), np.uint8)]
    assert place_images(tiny, images, changed(height=32, width=40, resolution=64)) == [PLACEMENT] * 2
    # Its own size otherwise: multiples of 8, an eighth of the 64 pixels that the tiny model makes.
    assert place_images(tiny, images, SPEC) == [Placement((32, 40), (32, 40)), Placement((80, 60), (80, 56))]


def _copied(state: dict[str, object]) -> dict[str, object]:
    import io

    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def _same(first: LoraWeights, second: LoraWeights) -> bool:
    return set(first.layers) == set(second.layers) and all(
        torch.equal(layer.down, second.layers[name].down) and torch.equal(layer.up, second.layers[name].up)
        for name, layer in first.layers.items()
    )
