"""Adapters of other tools: diffusers and peft draw the same with ours, and ours come back bit by bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
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


def pipeline_of(folder: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config({**pipeline.scheduler.config, "clip_sample": False})
    return pipeline


def drawn_by_diffusers(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    noise = torch.randn((4, 8, 10), generator=torch.Generator().manual_seed(5))[None]
    return pipeline(
        "skt background", negative_prompt="", height=32, width=40, num_inference_steps=4, guidance_scale=3.0,
        latents=noise, output_type="latent",
    ).images  # fmt: skip


def files_of(path: Path) -> dict[str, bytes]:
    """Of a folder or a file, by their paths inside it."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.fixture
def tiny_4(tiny_folder_4: Path) -> LatentDiffusionModel:
    return load_model(tiny_folder_4)


@pytest.mark.parametrize("form", [AdapterFormat.KOHYA, AdapterFormat.DIFFUSERS])
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
    pipeline = pipeline_of(tiny_folder_4)
    pipeline.load_lora_weights(tmp_path, weight_name="adapter.safetensors")
    theirs = drawn_by_diffusers(pipeline)
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
    first, second = tmp_path / "a", tmp_path / "b"
    write_adapter(weights, first, tiny, form, metadata='{"made": "here"}')
    read, metadata, found = read_adapter(first, tiny)
    assert (metadata, found) == ('{"made": "here"}', form)
    assert set(read.layers) == set(weights.layers)
    for name, layer in weights.layers.items():
        assert torch.equal(read.layers[name].down, layer.down)
        assert torch.equal(read.layers[name].up, layer.up)
        assert read.layers[name].alpha == layer.alpha
    write_adapter(read, second, tiny, form, metadata=metadata)
    assert files_of(first) == files_of(second)


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_peft_draws_the_same_image_with_a_folder_of_ours(
    tiny_folder_4: Path, tiny_4: LatentDiffusionModel, tmp_path: Path, algorithm: Algorithm
) -> None:
    weights = adapter_of(tiny_folder_4, algorithm)
    write_adapter(weights, tmp_path / "adapter", tiny_4, AdapterFormat.PEFT, metadata='{"a": 1}')
    assert set(files_of(tmp_path / "adapter")) == {
        f"{part}/{name}"
        for part in ("unet", "text_encoder")
        for name in ("adapter_config.json", "adapter_model.safetensors")
    }
    base = drawn_by_us(tiny_4)
    switch = AdapterSwitch(tiny_4.networks)
    switch.merge(switch.prepare(weights), 1.0)
    ours = drawn_by_us(tiny_4)
    pipeline = pipeline_of(tiny_folder_4)
    # peft puts its layers into the pipeline's own networks.
    loaded = [
        PeftModel.from_pretrained(network, tmp_path / "adapter" / part)
        for part, network in (("unet", pipeline.unet), ("text_encoder", pipeline.text_encoder))
    ]
    assert sum(len(get_peft_model_state_dict(network)) for network in loaded) == 2 * len(weights.layers)
    theirs = drawn_by_diffusers(pipeline)
    assert (ours - base).abs().max() > 0.1
    assert torch.allclose(ours, theirs, atol=2e-3)
    # And the weights that it merges.
    for prefix, network in zip(("lora_unet_", "lora_te_"), loaded, strict=True):
        merged = network.merge_and_unload().state_dict()
        for name, weight in tiny_4.networks[prefix].state_dict().items():
            assert torch.allclose(weight, merged[name], atol=1e-5), name


@pytest.mark.parametrize("in_folders", [True, False])
def test_what_peft_itself_saved_is_read(
    tiny_folder_4: Path, tiny_4: LatentDiffusionModel, tmp_path: Path, in_folders: bool
) -> None:
    """With a rank and an alpha of some layers' own, and scaled as rsLoRA is."""
    pipeline = pipeline_of(tiny_folder_4)
    config = LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, init_lora_weights=False, target_modules=["to_q", "conv1"],
        rank_pattern={"conv1": 2}, alpha_pattern={"mid_block.*to_q": 3},
    )  # fmt: skip
    torch.manual_seed(0)
    networks = {"unet": get_peft_model(pipeline.unet, config)}
    if in_folders:
        encoder_config = LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=["q_proj", "fc1"])
        networks["text_encoder"] = get_peft_model(pipeline.text_encoder, encoder_config)
    for part, network in networks.items():
        network.save_pretrained(tmp_path / part if in_folders else tmp_path)
    weights, metadata, found = read_adapter(tmp_path, tiny_4)
    assert (found, metadata) == (AdapterFormat.PEFT, "")
    assert any(name.startswith("lora_te_") for name in weights.layers) is in_folders
    switch = AdapterSwitch(tiny_4.networks)
    switch.merge(switch.prepare(weights), 1.0)
    base = {"unet": "lora_unet_", "text_encoder": "lora_te_"}
    for part, network in networks.items():
        before = load_model(tiny_folder_4).networks[base[part]].state_dict()
        merged = network.merge_and_unload().state_dict()
        ours = tiny_4.networks[base[part]].state_dict()
        assert set(ours) == set(merged)
        changed = [name for name, weight in merged.items() if not torch.equal(weight, before[name])]
        assert len(changed) == sum(name.startswith(base[part]) for name in weights.layers)
        for name, weight in ours.items():
            assert torch.allclose(weight, merged[name], atol=1e-5), name


def test_keys_of_a_folder_that_match_nothing_are_all_listed(
    tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path
) -> None:
    write_adapter(adapter_of(tiny_folder), tmp_path, tiny, AdapterFormat.PEFT)
    strange = {
        "unet": [
            "base_model.model.nowhere.lora_A.weight", "base_model.model.conv_in.lora_magnitude_vector",
            "base_model.model.conv_in.alpha", "conv_in.lora_A.weight", "conv_in.lora_B.weight",
        ],
        "text_encoder_2": ["base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"],
    }  # fmt: skip
    path = tmp_path / "unet" / "adapter_model.safetensors"
    tensors = load_file(path)
    lonely = next(key for key in tensors if key.endswith("lora_A.weight"))
    del tensors[lonely.replace("lora_A", "lora_B")]
    save_file(tensors | {key: torch.ones(2, 2) for key in strange["unet"]}, path)
    second = tmp_path / "text_encoder_2"
    second.mkdir()
    (second / "adapter_config.json").write_bytes((tmp_path / "unet" / "adapter_config.json").read_bytes())
    save_file({key: torch.ones(2, 2) for key in strange["text_encoder_2"]}, second / "adapter_model.safetensors")
    with pytest.raises(InvalidArgumentError) as caught:
        read_adapter(tmp_path, tiny)
    assert caught.value.reason == "ADAPTER_KEYS_UNMATCHED"
    assert {field.field for field in caught.value.fields} == {
        *(f"{part}/{key}" for part, keys in strange.items() for key in keys),
        "unet." + lonely.removeprefix("base_model.model.").removesuffix(".lora_A.weight"),
    }


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("unet/adapter_config.json", None, "unet/adapter_config.json is missing"),
        ("unet/adapter_model.safetensors", None, "unet/adapter_model.safetensors is missing"),
        ("unet/adapter_config.json", b"{", "no JSON"),
        ("unet/adapter_config.json", b'{"peft_type": "LOHA"}', "peft_type: Input should be 'LORA'"),
        ("unet/adapter_config.json", b'{"lora_alpha": "much"}', "lora_alpha"),
        ("unet/adapter_config.json", b'{"alpha_pattern": {"(": 1}}', "no regular expression"),
        ("unet/adapter_config.json", b'{"init_lora_weights": "pissa_niter_4"}', "plain LoRA"),
        ("unet/adapter_model.safetensors", b"no weights", "not a readable safetensors file"),
        ("adapter_config.json", b"{}", "adapter_model.safetensors is missing"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(
    tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    write_adapter(adapter_of(tiny_folder), tmp_path, tiny, AdapterFormat.PEFT)
    (tmp_path / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        read_adapter(tmp_path, tiny)
    assert caught.value.reason == "ADAPTER_UNREADABLE"


@pytest.mark.parametrize("form", [AdapterFormat.DIFFUSERS, AdapterFormat.PEFT])
def test_a_layer_without_a_rank_is_refused(
    tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path, form: AdapterFormat
) -> None:
    layers = dict(adapter_of(tiny_folder).layers)
    name = sorted(layers)[-1]
    layers[name] = LoraLayerWeights(layers[name].down[:0], layers[name].up[:, :0], 1.0)
    write_adapter(LoraWeights(layers), tmp_path / "a", tiny, form)
    with pytest.raises(InvalidArgumentError, match="no rank") as caught:
        read_adapter(tmp_path / "a", tiny)
    assert caught.value.reason == "ADAPTER_UNREADABLE"


@pytest.mark.parametrize("form", list(AdapterFormat))
def test_an_adapter_without_layers_is_refused(
    tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path, form: AdapterFormat
) -> None:
    path = tmp_path / "a"
    write_adapter(adapter_of(tiny_folder), path, tiny, form)
    for file in [path] if path.is_file() else path.rglob("*.safetensors"):
        with safe_open(file, framework="pt") as whole:
            save_file({}, file, metadata=whole.metadata())
    with pytest.raises(InvalidArgumentError, match="no layers; save it again") as caught:
        read_adapter(path, tiny)
    assert caught.value.reason == "ADAPTER_UNREADABLE"


def test_a_folder_of_one_adapter_only(tiny_folder: Path, tiny: LatentDiffusionModel, tmp_path: Path) -> None:
    """Nothing is guessed where parts contradict each other."""
    weights = adapter_of(tiny_folder)
    for name in "ab":
        write_adapter(weights, tmp_path / name, tiny, AdapterFormat.PEFT, metadata=json.dumps({"made": name}))
    for part in ("unet", "text_encoder"):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / ("a" if part == "unet" else "b") / part).rename(tmp_path / "mixed" / part)
    for file in (tmp_path / "b" / "unet").iterdir():
        (tmp_path / "b" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "empty").mkdir()
    for name, says in (("mixed", "different adapters"), ("b", "unet twice"), ("empty", "neither")):
        with pytest.raises(InvalidArgumentError, match=says) as caught:
            read_adapter(tmp_path / name, tiny)
        assert caught.value.reason == "ADAPTER_UNREADABLE"


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
    paths = [tmp_path / name for name in "abcdef"]
    header = json.dumps({"base_model_sha256": "1" * 64, "signal_leak": None})
    write_kohya(adapter_of(tiny_folder), paths[0], metadata=header)
    for source, target, form in zip(
        paths[:5],
        paths[1:],
        (AdapterFormat.DIFFUSERS, AdapterFormat.PEFT, AdapterFormat.PEFT, AdapterFormat.KOHYA, AdapterFormat.KOHYA),
        strict=True,
    ):
        job = ConvertRun(
            base_model=tiny_folder, base_model_sha256="1" * 64, source=source, target=target, format=form
        )  # fmt: skip
        result = run(job, Reporter((tmp_path / "events").open("a")))
    assert result == {"format": "kohya", "algorithm": "c3lier", "rank": 6, "side": 64}
    assert paths[0].read_bytes() != paths[1].read_bytes()
    assert files_of(paths[2]) == files_of(paths[3])
    assert paths[0].read_bytes() == paths[4].read_bytes() == paths[5].read_bytes()
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
