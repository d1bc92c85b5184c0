"""A tiny random model of Stable Diffusion's layout (real classes, no trained weights), and parts of `mini`."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionInpaintPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from flawsmith.common.manifests import ObjectRef
from flawsmith.common.resources import Resources
from flawsmith.generation.catalog import BaseModelFile, install_files, load_catalog
from flawsmith.generation.diffusion import LatentDiffusionModel

MINI = Path(__file__).parents[3] / "models/mini"


def write_tiny_model(folder: Path, *, in_channels: int = 9, width: int = 32) -> Path:
    """Write a model of a few hundred thousand weights: 4x autoencoder, two UNet levels, two text layers."""
    torch.manual_seed(7)
    tokenizer = spelling_tokenizer(folder)
    pipeline = StableDiffusionInpaintPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 16),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            scaling_factor=0.7,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=40,
                bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            sample_size=16,
            in_channels=in_channels,
            out_channels=4,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            block_out_channels=(width, 2 * width),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=8,
        ),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def spelling_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that spells every word: 40 tokens, no merges. Its files are written into the folder and removed
    again."""
    alphabet = list(bytes_to_unicode().values())
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "<|startoftext|>", "<|endoftext|>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = CLIPTokenizer(str(vocabulary), str(merges), model_max_length=40, pad_token="<|endoftext|>")
    vocabulary.unlink()
    merges.unlink()
    return tokenizer


def install_text_files(resources: Resources, model: str, **files: bytes) -> ObjectRef:
    """Install of a model of the catalog only what tells how long its prompts may be; returns its manifest's reference.
    files: `merges` and `config`; mini's where they are not given."""
    contents = {
        path: files.get(Path(path).stem, (MINI / path).read_bytes())
        for path in ("tokenizer/merges.txt", "text_encoder/config.json")
    }
    stored = [
        BaseModelFile(path=path, object=resources.store.put_blob(data, Path(path).suffix))
        for path, data in contents.items()
    ]
    return install_files(resources, load_catalog()[model], stored, source="a test")


def state_of(model: LatentDiffusionModel) -> dict[str, torch.Tensor]:
    """Copies of all weights of the UNet and the text encoder."""
    return {
        f"{part}.{name}": value.clone()
        for part in ("unet", "text_encoder")
        for name, value in getattr(model, part).state_dict().items()
    }
