"""What `benchmarks.generation` starts as processes of their own.

`python -m benchmarks.generation_sides diffusers`: diffusers' own pipeline, float32, that draws on demand; a `Setup` on
the first line of stdin, then a `Drawing` a line. Each is answered by a line of JSON with what the call took.
`python -m benchmarks.generation_sides swap`: a `Setup`, answered by what swapping adapters took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, StableDiffusionInpaintPipeline

from flawsmith.generation import cpu_inference
from flawsmith.generation.adapter_switch import AdapterSwitch
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.lora import read_kohya

GUIDANCE = 7.5


@dataclass(frozen=True)
class Setup:
    """model: folder. adapters: kohya files. side: pixels. steps: of DDIM. threads: of the CPU. swaps: how many."""

    model: str
    adapters: tuple[str, ...]
    side: int
    steps: int
    threads: int
    swaps: int = 0


@dataclass(frozen=True)
class Drawing:
    """adapter: its index. alpha: merge weight. path: where the image goes, uint8 .npy. as_ours: with the masked image's
    latents given, as ours has them; else as anybody calls the pipeline, which draws them at random."""

    adapter: int
    alpha: float
    prompt: str
    seed: int
    path: str
    as_ours: bool = False


def draw_with_diffusers(setup: Setup) -> Iterator[dict[str, float]]:
    """Plain eager diffusers; adapters are fused into its weights, which is faster than layers beside them."""
    folder = Path(setup.model)
    schedule = {**DDIMScheduler.load_config(folder / "scheduler"), "clip_sample": False}
    pipe = StableDiffusionInpaintPipeline.from_pretrained(
        folder, scheduler=DDIMScheduler.from_config(schedule), torch_dtype=torch.float32, local_files_only=True
    )
    pipe.set_progress_bar_config(disable=True)
    switch = AdapterSwitch({"lora_unet_": pipe.unet, "lora_te_": pipe.text_encoder})
    adapters = [switch.prepare(read_kohya(Path(path))) for path in setup.adapters]
    reference = load_model(folder)
    masked = reference.text_conditioning(setup.side, setup.side)[:, 1:]
    latent_side = setup.side // reference.size_multiple
    size = (setup.side, setup.side)
    grey, everywhere = torch.full((1, 3, *size), 0.5), torch.ones(1, 1, *size)
    for line in sys.stdin:
        drawing = Drawing(**json.loads(line))
        switch.merge(adapters[drawing.adapter], drawing.alpha)
        noise = torch.randn(
            (1, reference.latent_channels, latent_side, latent_side),
            generator=torch.Generator().manual_seed(drawing.seed),
        )
        given = {"masked_image_latents": masked} if drawing.as_ours else {}
        start = time.perf_counter()
        image = pipe(
            drawing.prompt, negative_prompt="", image=grey, mask_image=everywhere,
            height=setup.side, width=setup.side, num_inference_steps=setup.steps, guidance_scale=GUIDANCE,
            latents=noise, output_type="np", **given,
        ).images[0]  # fmt: skip
        seconds = time.perf_counter() - start
        np.save(drawing.path, (image * 255).round().astype(np.uint8))
        yield {"seconds": seconds}


def swap(setup: Setup) -> Iterator[dict[str, list[float]]]:
    """Adapters in turn, then other weights of one, then the base model, each after a step of drawing has had the
    caches."""
    model = load_model(Path(setup.model))
    cpu_inference.optimise(model, setup.threads)
    switch = AdapterSwitch(model.networks, threads=setup.threads)
    adapters = [switch.prepare(read_kohya(Path(path))) for path in setup.adapters]
    latents = torch.randn(2, model.latent_channels, *(2 * (setup.side // model.size_multiple,)))
    texts = model.encode_prompts(["", "scratched steel"])
    conditioning = model.text_conditioning(setup.side, setup.side)
    milliseconds: dict[str, list[float]] = {"swap": [], "reweight": [], "restore": []}
    with torch.no_grad():
        for number in range(setup.swaps):
            for kind, run in (
                ("swap", lambda: switch.merge(adapters[number % 2], 0.9)),  # noqa: B023 (run at once)
                ("reweight", lambda: switch.merge(adapters[number % 2], 0.3 + 0.5 * number / setup.swaps)),  # noqa: B023
                ("restore", switch.restore),
            ):
                model.predict(latents, torch.tensor(500), texts, conditioning)
                start = time.perf_counter()
                run()
                milliseconds[kind].append(1000 * (time.perf_counter() - start))
    yield milliseconds


SIDES = {"diffusers": draw_with_diffusers, "swap": swap}


def main() -> None:
    """Answer on stdout; what libraries print goes to stderr."""
    answers, sys.stdout = sys.stdout, sys.stderr
    values: dict[str, Any] = json.loads(sys.stdin.readline())
    setup = Setup(**{**values, "adapters": tuple(values["adapters"])})
    torch.set_num_threads(setup.threads)
    for answer in SIDES[sys.argv[1]](setup):
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
