"""LoRA: placement, the merge formula, files, exact restore."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_lora_to_diffusers
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import load_file, save_file

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.generation.adapter_switch import AdapterSwitch
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.lora import (
    LoraLayerWeights,
    LoraWeights,
    adapted_modules,
    extract,
    inject,
    insert,
    lower_frozen_weights,
    read_kohya,
    set_ratio,
    write_kohya,
)
from flawsmith.generation.spec import Algorithm
from tests.unit.generation.support import state_of

SIZES = {"rank": 6, "alpha": 3.0, "conv_rank": 4, "conv_alpha": 1.0}


def trained(model: LatentDiffusionModel, algorithm: Algorithm = Algorithm.C3LIER) -> LoraWeights:
    """An adapter with non-zero up weights, as after training; the model keeps its LoRA layers."""
    torch.manual_seed(3)
    inject(model.unet, algorithm, **SIZES)
    inject(model.text_encoder, algorithm, **SIZES)
    empty = extract(model.networks)
    weights = LoraWeights(
        {
            name: LoraLayerWeights(layer.down, 0.1 * torch.randn_like(layer.up), layer.alpha)
            for name, layer in empty.layers.items()
        }
    )
    insert(weights, model.networks)
    return weights


def forward(model: LatentDiffusionModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 6, generator=generator)
    with torch.no_grad():
        embeddings = model.encode_prompts(["skt background", "x"])
        return model.predict(latents, torch.tensor([3, 800]), embeddings, model.text_conditioning(32, 24))


def test_lierla_adapts_every_linear_and_pointwise_layer_of_attention_blocks_and_nothing_else(
    tiny: LatentDiffusionModel,
) -> None:
    names = set(adapted_modules(tiny.unet, Algorithm.LIERLA))
    expected = {
        name
        for name, layer in tiny.unet.named_modules()
        if ".attentions." in name and isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert names == expected
    assert {name.rpartition(".")[2] for name in names} >= {"to_q", "to_k", "to_v", "proj_in", "proj_out", "proj"}
    text = set(adapted_modules(tiny.text_encoder, Algorithm.LIERLA))
    assert len(text) == 2 * 6  # two layers of q, k, v, out, fc1, fc2
    assert all(re.search(r"\.(self_attn|mlp)\.", name) for name in text)


def test_c3lier_adds_resnets_and_samplers(tiny: LatentDiffusionModel) -> None:
    added = set(adapted_modules(tiny.unet, Algorithm.C3LIER)) - set(adapted_modules(tiny.unet, Algorithm.LIERLA))
    expected = {
        name
        for name, layer in tiny.unet.named_modules()
        if re.search(r"\.(resnets|downsamplers|upsamplers)\.", name)
        and isinstance(layer, torch.nn.Linear | torch.nn.Conv2d)
    }
    assert added == expected
    assert {name.rpartition(".")[2] for name in added} == {"conv1", "conv2", "conv", "conv_shortcut", "time_emb_proj"}


def test_ranks_and_initial_values(tiny: LatentDiffusionModel) -> None:
    before = forward(tiny)
    inject(tiny.unet, Algorithm.C3LIER, rank=32, alpha=16, conv_rank=4, conv_alpha=1)
    for name, layer in extract(tiny.networks).layers.items():
        three = layer.down.ndim == 4 and layer.down.shape[-1] == 3
        assert (layer.down.shape[0], layer.alpha) == ((4, 1.0) if three else (32, 16.0)), name
        assert not layer.up.any()
        # kaiming-uniform with a = sqrt(5): U(-b, b), b = 1 / sqrt(fan in)
        bound = layer.down[0].numel() ** -0.5
        assert layer.down.abs().max() <= bound
        assert layer.down.abs().max() > 0.8 * bound
    assert torch.equal(forward(tiny), before)


def test_only_lora_parameters_train(tiny: LatentDiffusionModel) -> None:
    parameters = inject(tiny.unet, Algorithm.LIERLA, **SIZES)
    trainable = [name for name, parameter in tiny.unet.named_parameters() if parameter.requires_grad]
    assert len(parameters) == len(trainable) == 2 * len(extract(tiny.networks).layers)
    assert all("lora_" in name for name in trainable)


def test_frozen_weights_held_in_bfloat16_answer_as_autocast_alone_does(tiny_folder: Path) -> None:
    answers = []
    for lowered in (False, True):
        model = load_model(tiny_folder)
        trained(model)
        if lowered:
            for network in model.networks.values():
                lower_frozen_weights(network, torch.bfloat16)
            assert {weight.dtype for name, weight in model.unet.named_parameters() if "lora_" in name} == {
                torch.float32
            }
            assert model.unet.conv_in.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
        with model.precision("bfloat16"):
            answers.append(forward(model))
    assert torch.equal(*answers)


def test_delta_is_the_published_formula() -> None:
    torch.manual_seed(0)
    down, up = torch.randn(4, 5, 3, 3), torch.randn(7, 4, 1, 1)
    delta = LoraLayerWeights(down, up, alpha=1.0).delta()
    # Written out: out x in x k x k, summed over the rank, times alpha / rank.
    assert torch.allclose(delta, torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down) / 4, atol=1e-6)
    image = torch.randn(1, 5, 9, 9)
    chained = F.conv2d(F.conv2d(image, down, padding=1), up) / 4
    assert torch.allclose(F.conv2d(image, delta, padding=1), chained, atol=1e-4)
    down, up = torch.randn(4, 5), torch.randn(7, 4)
    assert torch.allclose(LoraLayerWeights(down, up, alpha=16.0).delta(), 16 / 4 * up @ down)


@pytest.mark.parametrize("algorithm", list(Algorithm))
@pytest.mark.parametrize("ratio", [1.0, 0.6])
def test_merged_model_predicts_what_pefts_layers_predict(
    tiny_folder: Path, tiny: LatentDiffusionModel, algorithm: Algorithm, ratio: float
) -> None:
    base = forward(tiny)
    weights = trained(tiny, algorithm)
    for part in (tiny.unet, tiny.text_encoder):
        set_ratio(part, ratio)
    expected = forward(tiny)
    merged = load_model(tiny_folder)
    switch = AdapterSwitch(merged.networks)
    switch.merge(switch.prepare(weights), ratio)
    assert (expected - base).abs().max() > 1e-2
    assert torch.allclose(forward(merged), expected, atol=1e-4)


def test_restore_is_exact_after_many_switches(tiny_folder: Path, tiny: LatentDiffusionModel) -> None:
    pristine = state_of(tiny)
    donor = load_model(tiny_folder)
    wide = trained(donor)
    narrow = LoraWeights({name: layer for name, layer in wide.layers.items() if "attentions" in name})
    switch = AdapterSwitch(tiny.networks)
    adapters = switch.prepare(wide), switch.prepare(narrow)
    for ratio in (0.95, 0.3, 1.0):
        for adapter in adapters:
            switch.merge(adapter, ratio)
    fresh = load_model(tiny_folder)
    once = AdapterSwitch(fresh.networks)
    once.merge(once.prepare(narrow), 1.0)
    assert all(torch.equal(value, state_of(fresh)[name]) for name, value in state_of(tiny).items())
    switch.restore()
    assert all(torch.equal(value, pristine[name]) for name, value in state_of(tiny).items())


def test_file_round_trip_is_bit_exact(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    weights = trained(tiny)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_kohya(weights, first, metadata="who made it")
    read = read_kohya(first)
    assert set(read.layers) == set(weights.layers)
    for name, layer in weights.layers.items():
        assert torch.equal(read.layers[name].down, layer.down)
        assert torch.equal(read.layers[name].up, layer.up)
        assert read.layers[name].alpha == layer.alpha
    write_kohya(read, second, metadata="who made it")
    assert first.read_bytes() == second.read_bytes()


def test_diffusers_reads_our_file(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    weights = trained(tiny)
    write_kohya(weights, tmp_path / "a.safetensors")
    converted, alphas = _convert_non_diffusers_lora_to_diffusers(load_file(tmp_path / "a.safetensors"))
    unet = convert_unet_state_dict_to_peft(
        {key.removeprefix("unet."): value for key, value in converted.items() if key.startswith("unet.")}
    )
    # Their names, back to the modules: all of ours, no other.
    theirs = {key.partition(".lora_")[0] for key in unet}
    assert theirs == set(adapted_modules(load_module_names(tiny), Algorithm.C3LIER))
    assert len(alphas) == len(weights.layers)


def load_module_names(model: LatentDiffusionModel) -> torch.nn.Module:
    """The UNet without its LoRA layers."""
    return type(model.unet).from_config(model.unet.config)


def test_layer_without_alpha_has_the_ranks(tmp_path: Path) -> None:
    tensors = {
        "lora_unet_x.lora_down.weight": torch.ones(3, 2),
        "lora_unet_x.lora_up.weight": torch.ones(2, 3),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    assert read_kohya(tmp_path / "a.safetensors").layers["lora_unet_x"].alpha == 3.0


def test_unmatched_keys_are_all_listed(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    layer = {"lora_down.weight": torch.ones(3, 2), "lora_up.weight": torch.ones(2, 3), "alpha": torch.tensor(1.0)}
    tensors = {f"lora_unet_nowhere.{part}": value.clone() for part, value in layer.items()}
    tensors |= {f"lora_te_nowhere_either.{part}": value.clone() for part, value in layer.items()}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    switch = AdapterSwitch(tiny.networks)
    before = state_of(tiny)
    with pytest.raises(InvalidArgumentError, match="lora_te_nowhere_either, lora_unet_nowhere") as caught:
        switch.prepare(read_kohya(path))
    assert caught.value.reason == "ADAPTER_KEYS_UNMATCHED"
    assert {field.field for field in caught.value.fields} == {"lora_unet_nowhere", "lora_te_nowhere_either"}
    assert all(torch.equal(value, before[name]) for name, value in state_of(tiny).items())


@pytest.mark.parametrize(
    "strange", ["lora_unet_x.dora_scale", "unet.down.lora_A.weight", "lora_te3_x.alpha", "lora_unet_x.lora_mid.weight"]
)
def test_foreign_keys_are_refused(tmp_path: Path, strange: str) -> None:
    layer = {"lora_unet_x.lora_down.weight": torch.ones(3, 2), "lora_unet_x.lora_up.weight": torch.ones(2, 3)}
    save_file({**layer, strange: torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidArgumentError, match=re.escape(strange)):
        read_kohya(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("alpha", torch.ones(2), "not one finite number"),
        ("alpha", torch.ones(0), "not one finite number"),
        ("alpha", torch.tensor(float("nan")), "not one finite number"),
        ("lora_down.weight", torch.ones(0, 2), "has no rank"),
        ("lora_down.weight", torch.tensor(1.0), "has no rank"),
    ],
)
def test_layers_without_a_rank_or_an_alpha_are_refused(
    tmp_path: Path, part: str, value: torch.Tensor, says: str
) -> None:
    layer = {"lora_down.weight": torch.ones(3, 2), "lora_up.weight": torch.ones(2, 3), "alpha": torch.tensor(1.0)}
    tensors = {f"lora_unet_x.{name}": tensor for name, tensor in {**layer, part: value}.items()}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(InvalidArgumentError, match=f"lora_unet_x.*{says}") as caught:
        read_kohya(tmp_path / "a.safetensors")
    assert caught.value.reason == "ADAPTER_UNREADABLE"


@pytest.mark.parametrize("kind", [torch.nn.Linear, torch.nn.Conv2d])
@pytest.mark.parametrize("wrong", ["vector", "kernel", "rank"])
def test_up_weights_that_do_not_go_with_the_layer_are_refused(
    tiny_folder: Path, tiny: LatentDiffusionModel, kind: type[torch.nn.Module], wrong: str
) -> None:
    weights = trained(load_model(tiny_folder))
    modules = {"lora_unet_" + name.replace(".", "_"): layer for name, layer in tiny.unet.named_modules()}
    name = next(name for name in weights.layers if type(modules.get(name)) is kind)
    layer = weights.layers[name]
    out, rank = layer.up.shape[:2]
    shape = {"vector": (out,), "kernel": (out, rank, 3, 3), "rank": (out, rank + 1, *layer.up.shape[2:])}[wrong]
    broken = LoraLayerWeights(layer.down, torch.ones(shape), layer.alpha)
    with pytest.raises(InvalidArgumentError) as caught:
        AdapterSwitch(tiny.networks).prepare(LoraWeights({**weights.layers, name: broken}))
    assert caught.value.reason == "ADAPTER_BASE_MISMATCH"
    assert [field.field for field in caught.value.fields] == [name]


def test_half_a_layer_is_refused(tmp_path: Path) -> None:
    save_file({"lora_unet_x.lora_down.weight": torch.ones(3, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(InvalidArgumentError, match="lora_unet_x"):
        read_kohya(tmp_path / "a.safetensors")


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"not weights")
    with pytest.raises(InvalidArgumentError) as caught:
        read_kohya(tmp_path / "a.safetensors")
    assert caught.value.reason == "ADAPTER_UNREADABLE"


def test_adapter_of_another_base_model_is_refused(tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    from tests.unit.generation.support import write_tiny_model

    other = load_model(write_tiny_model(tmp_path / "wide", width=48))
    with pytest.raises(InvalidArgumentError) as caught:
        AdapterSwitch(tiny.networks).prepare(trained(other))
    assert caught.value.reason == "ADAPTER_BASE_MISMATCH"
    assert caught.value.fields
