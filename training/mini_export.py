"""Writes the trained parts as a diffusers pipeline, and a sheet of what it draws."""

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionInpaintPipeline
from PIL import Image

from flawsmith.drawing import DEFECTS, draw
from training.mini_diffusion import Denoiser, build_scheduler
from training.mini_text import TEXT_ENCODER, open_tokenizer

logger = logging.getLogger(__name__)


def export(folder: Path, output: Path, share: float = 1.0) -> None:
    """Writes `output` in diffusers' layout, fp16 safetensors, from the averaged weights in `folder`.

    share: of these in what is written, 0 to 1; the rest is of the model that `output` holds, from which they were
    trained further. In between lies what both know (Wortsman et al. 2022, "Robust Fine-Tuning of Zero-Shot Models").
    """
    tokenizer = open_tokenizer(folder / "tokenizer")
    model = Denoiser(tokenizer)
    state = torch.load(folder / "diffusion.pt", map_location="cpu")
    model.load_state_dict(state["average"])
    if share < 1:
        former = StableDiffusionInpaintPipeline.from_pretrained(output, torch_dtype=torch.float32)
        with torch.no_grad():
            for part, other in ((model.text_encoder, former.text_encoder), (model.unet, former.unet)):
                torch._foreach_lerp_(list(part.parameters()), list(other.parameters()), 1 - share)
    pipeline = StableDiffusionInpaintPipeline(
        vae=AutoencoderKL.from_pretrained(folder / "vae").half(),
        text_encoder=model.text_encoder.half(),
        tokenizer=tokenizer,
        unet=model.unet.half(),
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(output, safe_serialization=True)
    logger.info("wrote %s after %d steps", output, state["step"])


def unpack(exported: Path, folder: Path) -> None:
    """The reverse of `export`: the autoencoder, and folder/diffusion.pt at step 0 with the exported averages.

    Raises FileExistsError where there is a diffusion.pt: a training would be lost.
    """
    checkpoint = folder / "diffusion.pt"
    if checkpoint.exists():
        raise FileExistsError(f"{checkpoint} would be overwritten: give another --folder, or move it away")
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(exported, torch_dtype=torch.float32)
    pipeline.vae.save_pretrained(folder / "vae")
    shutil.copytree(exported / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    model = Denoiser(open_tokenizer(folder / "tokenizer"))
    model.text_encoder.load_state_dict(pipeline.text_encoder.state_dict())
    model.unet.load_state_dict(pipeline.unet.state_dict())
    torch.save(model.text_encoder.state_dict(), folder / TEXT_ENCODER)
    weights = model.state_dict()
    torch.save({"model": weights, "average": weights, "optimizer": None, "step": 0}, checkpoint)


def draw_sheet(model: Path, path: Path, seed: int) -> None:
    """A PNG of text-to-image samples (surfaces down, defects across) over a row of inpainted good pictures."""
    pipeline = StableDiffusionInpaintPipeline.from_pretrained(model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    blank, everywhere = Image.new("RGB", (128, 128), (128, 128, 128)), Image.new("L", (128, 128), 255)
    kinds = ["scratch", "crack", "dark hole", "pits", "brown stain", "dent", "chip", ""]
    rows = []
    for surface in ("grey brushed metal", "brown wood", "blue fabric"):
        prompts = [f"{surface} surface with a {kind}" if kind else f"clean {surface} surface" for kind in kinds]
        result = pipeline(
            prompts,
            image=[blank] * len(prompts),
            mask_image=[everywhere] * len(prompts),
            height=128,
            width=128,
            num_inference_steps=12,
            guidance_scale=5.0,
            strength=1.0,
            generator=[torch.Generator().manual_seed(seed + i) for i in range(len(prompts))],
        )
        rows.append(np.concatenate([np.asarray(image) for image in result.images], 1))
    rng = np.random.default_rng(seed)
    good = [draw(rng, 128, 128, defect="none") for _ in kinds]
    shapes = [draw(rng, 128, 128, defect=kind if kind != "none" else "scratch").mask for kind in DEFECTS]
    grown = [cv2.dilate(shape, np.ones((5, 5), np.uint8)) for shape in shapes]
    result = pipeline(
        [f"{drawing.surface.kind} surface with a {kind}" for drawing, kind in zip(good, kinds, strict=True)],
        image=[Image.fromarray(drawing.image) for drawing in good],
        mask_image=[Image.fromarray(np.asarray(shape)) for shape in grown],
        height=128,
        width=128,
        num_inference_steps=12,
        guidance_scale=5.0,
        strength=1.0,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(len(kinds))],
    )
    rows.append(np.concatenate([drawing.image for drawing in good], 1))
    rows.append(np.concatenate([np.asarray(image) for image in result.images], 1))
    cv2.imwrite(str(path), cv2.cvtColor(np.concatenate(rows, 0), cv2.COLOR_RGB2BGR))
