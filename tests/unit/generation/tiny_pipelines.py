"""The pipeline of every base model of the catalog: its real classes, tiny random configurations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    PNDMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from tests.unit.generation.support import spelling_tokenizer

SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1,
    "timestep_spacing": "leading",
}  # fmt: skip
# What Qwen's template makes of one user message with thinking off.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if not enable_thinking %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)


def stable_diffusion(folder: Path, *, in_channels: int) -> DiffusionPipeline:
    """Stable Diffusion 1.5's pipelines as they are published: 4 channels draw from text, 9 inpaint."""
    kind = StableDiffusionPipeline if in_channels == 4 else StableDiffusionInpaintPipeline
    tokenizer = spelling_tokenizer(folder)
    return kind(
        vae=_autoencoder(0.18215),
        text_encoder=CLIPTextModel(_clip(len(tokenizer))),
        tokenizer=tokenizer,
        unet=_unet(in_channels),
        scheduler=PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder: Path) -> DiffusionPipeline:
    """Two text encoders; the UNet is told the pooled embedding (8 wide) and six numbers of size and crop (4 each)."""
    tokenizer = spelling_tokenizer(folder)
    return StableDiffusionXLInpaintPipeline(
        vae=_autoencoder(0.13025),
        text_encoder=CLIPTextModel(_clip(len(tokenizer))),
        text_encoder_2=CLIPTextModelWithProjection(_clip(len(tokenizer), hidden_act="gelu", projection_dim=8)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            9,
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=6 * 4 + 8,
            use_linear_projection=True,
        ),
        scheduler=EulerDiscreteScheduler(**SCHEDULE),
        add_watermarker=False,
    )


def flux2_klein(folder: Path) -> DiffusionPipeline:
    """A language model of 28 layers, of which three are read; one double and one single transformer block."""
    tokenizer = _qwen_tokenizer(folder)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4,
    )  # fmt: skip
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    return Flux2KleinPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=vae,
        text_encoder=Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=28,
                num_attention_heads=2, num_key_value_heads=1, head_dim=4, max_position_embeddings=512,
            )
        ),
        tokenizer=tokenizer,
        transformer=Flux2Transformer2DModel(
            in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=3 * 8, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=False,
        ),
        is_distilled=True,
    )  # fmt: skip


PIPELINES: Mapping[str, Callable[[Path], DiffusionPipeline]] = {
    "mini": lambda folder: stable_diffusion(folder, in_channels=9),
    "sd15": lambda folder: stable_diffusion(folder, in_channels=4),
    "sd15-inpaint": lambda folder: stable_diffusion(folder, in_channels=9),
    "sdxl-inpaint": stable_diffusion_xl,
    "flux2-klein-4b": flux2_klein,
}


def write_tiny_pipeline(model_id: str, folder: Path, *, variant: str | None = None) -> Path:
    """Write the pipeline of a catalog entry as it lies on the hub. variant: `fp16` stores half precision under that
    name."""
    torch.manual_seed(11)
    folder.mkdir(parents=True, exist_ok=True)
    pipeline = PIPELINES[model_id](folder)
    if variant == "fp16":
        pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True, variant=variant)
    return folder


def _autoencoder(scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16), layers_per_block=1, latent_channels=4, norm_num_groups=4,
        scaling_factor=scaling_factor,
    )  # fmt: skip


def _clip(vocabulary: int, **changes: object) -> CLIPTextConfig:
    values = {
        "vocab_size": vocabulary, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
        "num_attention_heads": 2, "max_position_embeddings": 40,
        # The second of last tokens: where the pooled embedding is read.
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1,
    }  # fmt: skip
    return CLIPTextConfig(**{**values, **changes})


def _unet(in_channels: int, **changes: object) -> UNet2DConditionModel:
    values = {
        "sample_size": 16, "in_channels": in_channels, "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"), "block_out_channels": (16, 32), "layers_per_block": 1,
        "cross_attention_dim": 16, "attention_head_dim": 2, "norm_num_groups": 8,
    }  # fmt: skip
    return UNet2DConditionModel(**{**values, **changes})


def _qwen_tokenizer(folder: Path) -> Qwen2TokenizerFast:
    """Bytes as tokens, and the special ones."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    tokens = [*bytes_to_unicode().values(), *special]
    vocabulary.write_text(json.dumps({token: number for number, token in enumerate(tokens)}), encoding="utf-8")
    merges.write_text("#version: 0.2\n", encoding="utf-8")
    tokenizer = Qwen2TokenizerFast(
        str(vocabulary), str(merges), pad_token="<|endoftext|>", additional_special_tokens=special
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    vocabulary.unlink()
    merges.unlink()
    return tokenizer
