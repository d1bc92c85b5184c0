"""Inference in bfloat16 with packed weights: the same images as float32's, and weights that are what they should be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from flawsmith.generation import cpu_inference, kernels
from flawsmith.generation.adapter_switch import AdapterSwitch
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject
from flawsmith.generation.spec import Algorithm

MINI = Path(__file__).parents[3] / "models/mini"
pytestmark = pytest.mark.skipif(not cpu_inference.is_quick(), reason="this CPU is not quick at bfloat16")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def adapter(folder: Path, seed: int, algorithm: Algorithm = Algorithm.C3LIER) -> LoraWeights:
    model = load_model(folder)
    torch.manual_seed(seed)
    for network in model.networks.values():
        inject(network, algorithm, rank=4, alpha=3.0, conv_rank=2, conv_alpha=1.0)
    layers = extract(model.networks).layers
    return LoraWeights(
        {name: LoraLayerWeights(w.down, 0.3 * torch.randn_like(w.up), w.alpha) for name, w in layers.items()}
    )


def weights_of(model: LatentDiffusionModel) -> dict[str, torch.Tensor]:
    """By kohya's names, in the usual layout, as they are computed with."""
    found = {}
    for prefix, network in model.networks.items():
        for name, layer in network.named_modules():
            if isinstance(layer, cpu_inference.PackedLinear | cpu_inference.PackedConv2d):
                found[prefix + name.replace(".", "_")] = layer.packed_weight.unpacked()
            elif isinstance(layer, torch.nn.Linear | torch.nn.Conv2d):
                found[prefix + name.replace(".", "_")] = layer.weight.detach().clone()
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("folder", ["mini", "tiny_folder", "tiny_folder_4"])
def test_what_the_networks_answer_is_float32s_within_bfloat16(
    folder: str, threads: int, request: pytest.FixtureRequest
) -> None:
    path = MINI if folder == "mini" else request.getfixturevalue(folder)
    plain, packed = load_model(path), load_model(path)
    cpu_inference.optimise(packed, threads)
    torch.manual_seed(0)
    latents = torch.randn(3, plain.latent_channels, 24, 16)
    with torch.no_grad():
        texts = plain.encode_prompts(["", "a scratch", "wood"])
        assert (packed.encode_prompts(["", "a scratch", "wood"]) - texts).abs().max() < 0.05 * texts.abs().max()
        conditioning = plain.text_conditioning(24 * plain.size_multiple, 16 * plain.size_multiple)
        for timesteps in (torch.tensor(500), torch.tensor([999, 500, 1])):
            expected = plain.predict(latents, timesteps, texts, conditioning)
            found = packed.predict(latents, timesteps, texts, conditioning)
            assert found.shape == expected.shape
            assert (found - expected).abs().mean() < 0.02 * expected.abs().mean()
            # No row knows of the others.
            alone = packed.predict(latents[1:2], timesteps.reshape(-1)[-2:][:1], texts[1:2], conditioning)
            assert (found[1:2] - alone).abs().max() < 0.05 * expected.abs().mean()
    difference = np.abs(plain.decode_latents(latents).astype(int) - packed.decode_latents(latents).astype(int))
    assert difference.mean() < 1.5
    images = plain.decode_latents(latents)
    for expected, found in zip(plain.encode_images(images), packed.encode_images(images), strict=True):
        assert (found - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_packing_changes_no_weight(tiny: LatentDiffusionModel, tiny_folder: Path) -> None:
    cpu_inference.optimise(tiny, 1)
    half = {name: weight.half().bfloat16() for name, weight in weights_of(load_model(tiny_folder)).items()}
    assert same(weights_of(tiny), half)


@pytest.mark.parametrize("sides", [(64,), ()])
@pytest.mark.parametrize("side", [5, 16, 40])
def test_convolutions_are_pytorchs_whatever_the_layout_of_their_weights(
    sides: tuple[int, ...], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_inference, "_SIDES_OF_FEATURES", sides)
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(96, 64, 3, padding=1, stride=2)
    packed = cpu_inference.PackedConv2d(layer).to(torch.bfloat16)
    assert packed.packed_weight.packed.is_mkldnn == bool(sides)
    images = torch.randn(2, 96, side, side).bfloat16().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        exact = torch.nn.functional.conv2d(
            images.double(), layer.weight.half().bfloat16().double(), layer.bias.double(), 2, 1
        )
        assert (packed(images).double() - exact).abs().max() < 0.02 * exact.abs().max()
        added = torch.randn_like(exact).bfloat16().contiguous(memory_format=torch.channels_last)
        assert (packed(images, added).double() - exact - added).abs().max() < 0.03 * exact.abs().max()


@pytest.mark.parametrize("offset", [0, 1, 16])
@pytest.mark.parametrize("size", [1, 31, 32, 33, 1000])
def test_merging_is_the_formula_wherever_the_memory_begins_and_ends(size: int, offset: int) -> None:
    """Whole cache lines are written in another way than what is left over, and than memory that begins within one."""
    torch.manual_seed(size)
    base, update = torch.randn(size).half(), torch.randn(size).bfloat16()
    memory = np.zeros(size + 96, np.uint16)
    start = (-memory.ctypes.data % 64) // 2 + offset
    merged = memory[start : start + size]
    arrays = [base.view(torch.uint16).numpy(), update.view(torch.uint16).numpy(), merged]
    weights = np.array([[*(array.ctypes.data for array in arrays), size]], np.uint64)
    kernels.merge(weights, np.float32(0.7))
    expected = (base.float() + np.float32(0.7) * update.float()).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(merged, expected)
    kernels.restore(weights)
    np.testing.assert_array_equal(merged, base.bfloat16().view(torch.uint16).numpy())
    assert not memory[:start].any()
    assert not memory[start + size :].any()


@pytest.mark.parametrize(("threads", "one_layout"), [(1, True), (3, True), (2, False)])
def test_merged_weights_are_the_formula_and_restored_ones_the_base(
    tiny: LatentDiffusionModel, tiny_folder: Path, threads: int, one_layout: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not one_layout:  # of convolutions' weights for images of every size: depends on the processor
        monkeypatch.setattr(cpu_inference, "_SIDES_OF_FEATURES", ())
    base = {name: weight.half().float() for name, weight in weights_of(load_model(tiny_folder)).items()}
    cpu_inference.optimise(tiny, 1)
    pristine = weights_of(tiny)
    switch = AdapterSwitch(tiny.networks, threads=threads)
    wide, narrow = adapter(tiny_folder, 1), adapter(tiny_folder, 2, Algorithm.LIERLA)
    prepared = {id(weights): switch.prepare(weights) for weights in (wide, narrow)}
    assert set(narrow.layers) < set(wide.layers)
    for weights, ratio in ((wide, 0.9), (narrow, 0.35), (wide, 0.05), (narrow, 1.0)):
        switch.merge(prepared[id(weights)], ratio)
        exact = {
            name: base[name] + np.float32(ratio) * weights.layers[name].delta().bfloat16().float()
            if name in weights.layers
            else base[name]
            for name in base
        }
        assert same(weights_of(tiny), {name: value.bfloat16() for name, value in exact.items()})
        for name, layer in weights.layers.items():  # W0 + ratio * alpha / rank * (up @ down), kohya's formula
            whole = layer.up.double().flatten(1) @ layer.down.double().flatten(1)
            merged = base[name].double() + ratio * layer.alpha / len(layer.down) * whole.reshape(base[name].shape)
            error = (weights_of(tiny)[name].double() - merged).abs()
            assert bool((error <= 2**-8 * merged.abs() + 2**-8 * (merged - base[name]).abs() + 1e-7).all())
    switch.restore()
    assert same(weights_of(tiny), pristine)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_step_takes_keys_and_values_of_another_text_or_of_other_weights(
    tiny: LatentDiffusionModel, tiny_folder: Path, threads: int
) -> None:
    cpu_inference.optimise(tiny, threads)
    switch = AdapterSwitch(tiny.networks)
    prepared = switch.prepare(adapter(tiny_folder, 1))
    torch.manual_seed(0)
    latents = torch.randn(2, tiny.latent_channels, 16, 16)
    with torch.no_grad():
        texts = tiny.encode_prompts(["", "a scratch"])

        def predict(texts: torch.Tensor) -> torch.Tensor:
            conditioning = tiny.text_conditioning(16 * tiny.size_multiple, 16 * tiny.size_multiple)
            return tiny.predict(latents, torch.tensor(500), texts, conditioning)

        answers = [predict(texts)]
        for change in (
            lambda: switch.merge(prepared, 0.9),
            lambda: switch.merge(prepared, 0.3),
            lambda: texts.mul_(2),
            lambda: texts.copy_(texts.flip(0)),
            switch.restore,
        ):
            assert torch.equal(predict(texts), answers[-1])
            change()
            answers.append(predict(texts))
            assert not torch.equal(answers[-1], answers[-2])
            assert torch.equal(predict(texts.clone()), answers[-1])
        assert torch.equal(predict(texts.flip(0)[[1, 0]]), answers[-1])


def test_keys_and_values_of_a_text_are_computed_once(tiny: LatentDiffusionModel) -> None:
    cpu_inference.optimise(tiny, 1)
    attention = next(module for name, module in tiny.unet.named_modules() if name.endswith("attn2"))
    projections = cpu_inference.TextProjections(attention)
    with torch.no_grad():
        text = tiny.encode_prompts(["", "a scratch"])
        key, value = projections(text[:1])
        other, _ = projections(text[1:])
        assert torch.equal(key, attention.to_k(text[:1]))
        assert torch.equal(value, attention.to_v(text[:1]))
        assert projections(text[:1])[0] is key
        assert projections(text[1:])[0] is other
        assert len(projections(text)[0]) == 2  # begins where the first row does
        projections(text.clone())
        assert projections(text[:1])[0] is not key  # the texts of earlier drawings are let go


def test_prepared_adapters_take_two_bytes_a_weight(tiny: LatentDiffusionModel, tiny_folder: Path) -> None:
    cpu_inference.optimise(tiny, 1)
    weights = adapter(tiny_folder, 1)
    adapted = sum(weight.numel() for name, weight in weights_of(tiny).items() if name in weights.layers)
    assert 2 * adapted <= AdapterSwitch(tiny.networks).prepare(weights).nbytes < 3 * adapted  # layouts may pad


def test_weights_beyond_half_precision_stay_as_they_are(tiny: LatentDiffusionModel) -> None:
    layer = tiny.unet.time_embedding.linear_1
    layer.weight.data[0, 0] = 1e6
    cpu_inference.optimise(tiny, 1)
    assert tiny.unet.time_embedding.linear_1 is layer
    assert layer.weight[0, 0] == torch.tensor(1e6).bfloat16()


@pytest.mark.parametrize("shape", [(2, 8, 5, 7), (1, 32, 16, 16), (3, 12, 1, 1)])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("silu", [False, True])
def test_group_norm(shape: tuple[int, ...], shifted: bool, silu: bool) -> None:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(4, shape[1]).requires_grad_(False)
    norm.weight.copy_(torch.randn(shape[1])), norm.bias.copy_(torch.randn(shape[1]))
    images = (3 + 2 * torch.randn(shape)).bfloat16()
    shifts = torch.randn(shape[:2]).bfloat16() if shifted else None
    expected = norm(images.float() + (shifts.float()[..., None, None] if shifted else 0))
    found = cpu_inference.FusedGroupNorm(norm)(images, shifts, silu=silu)
    assert torch.allclose(found.float(), F.silu(expected) if silu else expected, rtol=2**-7, atol=2e-3)


def test_layer_norm_and_geglu() -> None:
    torch.manual_seed(0)
    tokens = (5 + torch.randn(2, 9, 48)).bfloat16()
    norm = torch.nn.LayerNorm(48).requires_grad_(False)
    norm.weight.copy_(torch.randn(48)), norm.bias.copy_(torch.randn(48))
    assert torch.allclose(
        cpu_inference.FusedLayerNorm(norm)(tokens).float(), norm(tokens.float()), rtol=2**-7, atol=2e-3
    )
    projected = torch.linspace(-12, 12, 2 * 4000).reshape(2, 4000).flip(0).repeat(1, 2).contiguous().bfloat16()
    gated = torch.empty(2, 4000, dtype=torch.bfloat16)
    kernels.geglu(projected.data_ptr(), *gated.shape, gated.data_ptr())
    values, gates = projected.float().chunk(2, dim=1)
    assert torch.allclose(gated.float(), values * F.gelu(gates), rtol=2**-7, atol=1e-5)


def test_every_thread_is_told_before_the_process_is(
    tiny: LatentDiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that began later would change what the others compute with, and so what a seed draws."""
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    cpu_inference.optimise(tiny, 4)
    assert told == [1, 1, 1, 1, 1, 4]


@pytest.mark.parametrize(
    ("count", "heads", "queries", "keys", "width"),
    [(1, 3, 40, 40, 16), (1, 1, 7, 33, 8), (2, 2, 5, 1, 4), (3, 4, 19, 32, 8)],
)
@pytest.mark.parametrize("held", [2**22, 100])
def test_attention_is_the_formula_in_blocks_of_any_size(
    count: int, heads: int, queries: int, keys: int, width: int, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_inference, "_SCORES", held)
    torch.manual_seed(0)
    query, key, value = (5 * torch.randn(count, length, heads * width).bfloat16() for length in (queries, keys, keys))
    found = cpu_inference._attended(query, key, value, heads, 0.3)
    split = (tensor.double().view(count, -1, heads, width).transpose(1, 2) for tensor in (query, key, value))
    exact = F.scaled_dot_product_attention(*split, scale=0.3).transpose(1, 2).flatten(2)
    assert found.shape == query.shape
    assert (found.double() - exact).abs().mean() < 0.02 * exact.abs().mean()


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_exponentials_take_scores_of_any_size_and_sign(scale: float) -> None:
    scores = torch.tensor([[300.0, 299.0, -300.0], [-1e30, -1e30, -2e30], [-0.0, 0.0, 1.0], [3e38, 0.0, -3e38]])
    scores = torch.cat([scores, torch.linspace(-90, 0, 3 * 400).view(400, 3)]).bfloat16()
    found, sums = scores.clone(), np.empty(len(scores), np.float32)
    kernels.exponentials(found.data_ptr(), *scores.shape, scale, sums)
    assert torch.isfinite(found).all()
    exact = torch.softmax(scale * scores.double(), -1)
    torch.testing.assert_close(found.double() / torch.from_numpy(sums)[:, None], exact, rtol=2**-7.5, atol=1e-12)
    alone = torch.full((5, 1), -7.0).bfloat16()
    kernels.exponentials(alone.data_ptr(), 5, 1, scale, sums)
    assert (alone == 1).all()
