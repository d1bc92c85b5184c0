"""Adapter files of other tools: diffusers draws the same with ours, and ours come back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flawsmith.common.child import Reporter
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.generation.adapter_formats import algorithm_of, rank_of, read_adapter, write_adapter
from flawsmith.generation.adapter_switch import AdapterSwitch
from flawsmith.generation.convert_adapter import run
from flawsmith.generation.diffusion import LatentDiffusionModel, load_model
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject, write_kohya
from flawsmith.generation.sampling import sample_latents
from flawsmith.generation.spec import AdapterFormat, Algorithm, ConvertRun
from tests.unit.generation.support import write_tiny_model

SIZES = {"rank": 6, "alpha": 3.0, "conv_rank": 4, "conv_alpha": 1.0}


def adapter_of(folder: Path, algorithm: Algorithm = Algorithm.C3LIER, *, varied: bool = True) -> LoraWeights:
    """An adapter of UNet and text encoder with random weights. varied: some layers have another rank and alpha."""
    model = load_model(folder)
    torch.manual_seed(3)
    for network in model.networks.values():
        inject(network, algorithm, **SIZES)  # type: ignore[arg-type]
    layers = {}
    for index, (name, layer) in enumerate(extract(model.networks).layers.items()):
        up = 0.05 * torch.randn_like(layer.up)
        if varied and index % 7 == 0:
            layers[name] = LoraLayerWeights(layer.down[:3].clone(), up[:, :3].clone(), 2.5)
        else:
            layers[name] = LoraLayerWeights(layer.down, up, layer.alpha)
    return LoraWeights(layers)


def drawn_by_us(model: LatentDiffusionModel) -> torch.Tensor:
    return sample_latents(model, "skt background", "", height=32, width=40, steps=4, guidance=3.0, seeds=[5])


@pytest.fixture
def tiny_4(tiny_folder_4: Path) -> LatentDiffusionModel:
    return load_model(tiny_folder_4)


@pytest.mark.parametrize("form", list(AdapterFormat))
@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_diffusers_draws_the_same_image_with_a_file_of_ours(
    tiny_folder_4: Path, tiny_4: LatentDiffusionModel, tmp_path: Path, form: AdapterFormat, algorithm: Algorithm
) -> None:
    # diffusers loses the alpha of a single attention layer in kohya's files; in its own it does not.
    weights = adapter_of(tiny_folder_4, algorithm, varied=form is AdapterFormat.DIFFUSERS)
    write_adapter(weights, tmp_path / "adapter.safetensors", tiny_4, form, metadata='{"a": 1}')
    base = drawn_by_us(tiny_4)
    switch = AdapterSwitch(tiny_4.networks)
    switch.merge(switch.prepare(weights), 1.0)
    ours = drawn_by_us(tiny_4)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder_4, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config({**pipeline.scheduler.config, "clip_sample": False})
    pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    noise = torch.randn((4, 8, 10), generator=torch.Generator().manual_seed(5))[None]
    theirs = pipeline(
        "skt background", negative_prompt="", height=32, width=40, num_inference_steps=4, guidance_scale=3.0,
        latents=noise, output_type="latent",
    ).images  # fmt: skip
    assert (ours - base).abs().max() > 0.1
    assert torch.allclose(ours, theirs, atol=2e-3)
    # And the pictures.
    decoded = tiny_4.decode_latents(torch.cat([ours, theirs])).astype(int)
    assert np.abs(decoded[0] - decoded[1]).max() <= 1


@pytest.mark.parametrize("form", list(AdapterFormat))
def test_round_trips_are_bit_exact(
    tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path, form: AdapterFormat
) -> None:
    weights = adapter_of(tiny_folder)
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write_adapter(weights, first, tiny, form, metadata='{"made": "here"}')
    read, metadata, found = read_adapter(first, tiny)
    assert (metadata, found) == ('{"made": "here"}', form)
    assert set(read.layers) == set(weights.layers)
    for name, layer in weights.layers.items():
        assert torch.equal(read.layers[name].down, layer.down)
        assert torch.equal(read.layers[name].up, layer.up)
        assert read.layers[name].alpha == layer.alpha
    write_adapter(read, second, tiny, form, metadata=metadata)
    assert first.read_bytes() == second.read_bytes()


def test_what_diffusers_itself_saved_is_read(tiny_folder_4: Path, tiny_4: LatentDiffusionModel, tmp_path: Path) -> None:
    """As its training example does: peft's layers on attention, saved with and without peft's configuration."""
    unet = UNet2DConditionModel.from_pretrained(tiny_folder_4 / "unet")
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(0)
    unet.add_adapter(config)
    state = get_peft_model_state_dict(unet)
    for saved, alpha in (({"unet_lora_adapter_metadata": config.to_dict()}, 8.0), ({}, 4.0)):
        StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=state, **saved)
        weights, metadata, found = read_adapter(tmp_path / "pytorch_lora_weights.safetensors", tiny_4)
        assert (found, metadata, rank_of(weights)) == (AdapterFormat.DIFFUSERS, "", 4)
        assert algorithm_of(weights, tiny_4) is Algorithm.LIERLA
        assert {layer.alpha for layer in weights.layers.values()} == {alpha}
        assert len(weights.layers) == len(state) / 2
        name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
        key = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
        assert torch.equal(weights.layers[name].down, state[key])


def test_keys_that_match_nothing_are_all_listed(tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_adapter(adapter_of(tiny_folder), path, tiny, AdapterFormat.DIFFUSERS)
    strange = {
        "unet.nowhere.lora_A.weight": torch.ones(2, 2),
        "text_encoder_2.text_model.lora_B.weight": torch.ones(2, 2),
        "unet.conv_in.dora_scale": torch.ones(1),
    }
    tensors = load_file(path)
    lonely = next(key for key in tensors if key.endswith("lora_A.weight"))
    del tensors[lonely.replace("lora_A", "lora_B")]
    save_file({**tensors, **strange}, path)
    with pytest.raises(InvalidArgumentError) as caught:
        read_adapter(path, tiny)
    assert caught.value.reason == "ADAPTER_KEYS_UNMATCHED"
    assert {field.field for field in caught.value.fields} == {*strange, lonely.removesuffix(".lora_A.weight")}


def test_conversion_there_and_back_is_the_same_file(tiny_folder: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "abcd"]
    header = json.dumps({"base_model_sha256": "1" * 64, "signal_leak": None})
    write_kohya(adapter_of(tiny_folder), paths[0], metadata=header)
    for source, target, form in zip(
        paths[:3], paths[1:], (AdapterFormat.DIFFUSERS, AdapterFormat.KOHYA, AdapterFormat.KOHYA), strict=True
    ):
        job = ConvertRun(
            base_model=tiny_folder, base_model_sha256="1" * 64, source=source, target=target, format=form
        )  # fmt: skip
        result = run(job, Reporter((tmp_path / "events").open("a")))
    assert result == {"format": "kohya", "algorithm": "c3lier", "rank": 6, "side": 64}
    assert paths[0].read_bytes() != paths[1].read_bytes()
    assert paths[0].read_bytes() == paths[2].read_bytes() == paths[3].read_bytes()
    with safe_open(paths[1], framework="pt") as file:
        assert any(key.startswith("text_encoder.text_model.") for key in file.keys())  # noqa: SIM118


def test_an_adapter_of_another_base_model_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    job = ConvertRun(
        base_model=tiny_folder, base_model_sha256="1" * 64, source=source, target=tmp_path / "b.safetensors",
        format=AdapterFormat.KOHYA,
    )  # fmt: skip
    reporter = Reporter((tmp_path / "events").open("a"))
    write_kohya(adapter_of(tiny_folder), source, metadata=json.dumps({"base_model_sha256": "2" * 64}))
    with pytest.raises(FailedPreconditionError, match=r"2222.*not on 1111") as caught:
        run(job, reporter)
    assert caught.value.reason == "ADAPTER_BASE_MISMATCH"
    # A stranger's file says nothing, but its layers do.
    write_kohya(adapter_of(write_tiny_model(tmp_path / "wide", width=48)), source)
    with pytest.raises(InvalidArgumentError) as mismatch:
        run(job, reporter)
    assert mismatch.value.reason == "ADAPTER_BASE_MISMATCH"
    source.write_bytes(b"no weights")
    with pytest.raises(InvalidArgumentError) as unreadable:
        run(job, reporter)
    assert unreadable.value.reason == "ADAPTER_UNREADABLE"
    assert not job.target.exists()
