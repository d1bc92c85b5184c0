"""Speed and memory of fine-tuning: `python -m benchmarks.finetune --json FILE`. See README.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from rich.console import Console
from rich.table import Table
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from benchmarks.figures import ratios, summary
from benchmarks.finetune_sides import Setup
from benchmarks.plates import plates
from flawsmith.common.child import COMPUTE_ENVIRONMENT
from flawsmith.generation.diffusion import load_part

MINI = Path(__file__).parents[1] / "models/mini"
TARGET = 1.5
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Trainer:
    """A child process that trains: see `benchmarks.finetune_sides`."""

    def __init__(self, side: str, setup: Setup) -> None:
        self.side = side
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.finetune_sides", side], cwd=MINI.parents[1], text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, **COMPUTE_ENVIRONMENT, "OMP_NUM_THREADS": str(setup.threads)},
        )  # fmt: skip
        self._send(json.dumps(asdict(setup)))

    def round(self, steps: int) -> dict[str, Any]:
        """Have it train so many steps. Raises RuntimeError when it has died."""
        self._send(str(steps))
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} ended with exit code {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


def compare(setup: Setup, *, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides in turn, `steps` training steps a round, after one round each that does not count."""
    found: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    with Trainer("plain", setup) as plain, Trainer("ours", setup) as ours:
        for number in range(rounds + 1):
            for side in (plain, ours):
                answer = side.round(steps)
                if number:
                    found[side.side].append(answer)
    last = {side: answers[-1] for side, answers in found.items()}
    if len({answer["trained"] for answer in last.values()}) != 1:
        raise RuntimeError("the two sides train different numbers of weights")
    times = {side: [one["seconds"] / one["steps"] for one in answers] for side, answers in found.items()}
    cpu = {side: [one["cpu_seconds"] / one["steps"] for one in answers] for side, answers in found.items()}
    result: dict[str, Any] = {
        "seconds_per_step": {side: summary(values, 4) for side, values in times.items()},
        "ratio": summary(ratios(times["plain"], times["ours"]), 2),
        "ratio_by_cpu_time": summary(ratios(cpu["plain"], cpu["ours"]), 2),
        "target": TARGET,
        "rounds": rounds,
        "steps_per_round": steps,
        "batch_size": setup.batch_size,
        "threads": setup.threads,
        "trained_weights": last["ours"]["trained"],
        "mean_loss": {side: summary([one["loss"] for one in answers], 3) for side, answers in found.items()},
        "ready_seconds": {side: round(answer["ready_seconds"], 2) for side, answer in last.items()},
        "peak_mib": {side: round(answer["peak_bytes"] / 2**20) for side, answer in last.items()},
    }
    if last["ours"]["peak_device_bytes"] is not None:
        result["peak_device_mib"] = {side: round(one["peak_device_bytes"] / 2**20) for side, one in last.items()}
    return result


def write_model(folder: Path, unet: dict[str, Any]) -> Path:
    """mini with an untrained UNet of other widths."""
    torch.manual_seed(0)
    config = {**UNet2DConditionModel.load_config(MINI / "unet"), **unet}
    StableDiffusionPipeline(
        vae=load_part(AutoencoderKL, MINI / "vae", torch.float32),
        text_encoder=load_part(CLIPTextModel, MINI / "text_encoder", torch.float32),
        tokenizer=CLIPTokenizer.from_pretrained(MINI / "tokenizer"),
        unet=UNet2DConditionModel.from_config(config),
        scheduler=DDIMScheduler.from_pretrained(MINI / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def write_sd15(folder: Path) -> Path:
    """Stable Diffusion 1.5's architecture, untrained; mini's tokenizer, which reads fewer words, serves as well."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(MINI / "tokenizer")
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        ),
        text_encoder=CLIPTextModel(
            CLIPTextConfig(
                hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
                projection_dim=768, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            )
        ),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768),
        scheduler=DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
            set_alpha_to_one=False, steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_images(folder: Path, side: int) -> str:
    """Twelve pictures of the sample product."""
    path = folder / f"{side}.npy"
    np.save(path, plates(12, side, side))
    return str(path)


@click.command()
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write every figure here.")
@click.option(
    "--model",
    "models",
    multiple=True,
    type=click.Choice(["mini", "unet-20m", "sd15"]),
    help="Only this one; repeatable. All by default, sd15 where there is a GPU.",
)
@click.option("--threads", default=len(os.sched_getaffinity(0)), show_default=True, help="Of the CPU, each side.")
@click.option("--rounds", type=click.IntRange(2), default=12, show_default=True)
@click.option("--size", default=256, show_default=True, help="Height and width of the images, pixels.")
@click.option("--batch-size", default=2, show_default=True, help="Instance images; as many regularisation images.")
def main(output: Path | None, models: tuple[str, ...], threads: int, rounds: int, size: int, batch_size: int) -> None:
    """Measure fine-tuning beside a plain loop of diffusers and peft: of mini, of a UNet of 20 M weights, and, on a GPU,
    of Stable Diffusion 1.5's architecture at batch 12. About ten minutes on two cores."""
    cuda = torch.cuda.is_available()
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wide = {"block_out_channels": [112, 192, 240], "attention_head_dim": [2, 4, 5]}
        precision = "bfloat16" if cuda else "float32"
        for title in models or ("mini", "unet-20m", *(["sd15"] if cuda else [])):
            if title == "sd15":
                model, images, batch, steps = write_sd15(folder / title), save_images(folder, 512), 12, 4
            else:
                model = MINI if title == "mini" else write_model(folder / title, wide)
                images, batch, steps = save_images(folder, size), batch_size, 2
            setup = Setup(str(model), images, batch, threads, precision)
            result[title] = {**compare(setup, rounds=rounds, steps=steps), "unet_weights": _count_weights(model)}
    for row in result.values():
        row["plain_precision"] = precision
    _print(result)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps({**result, "machine": _machine()}, indent=1) + "\n")


def _print(result: dict[str, Any]) -> None:
    table = Table(
        "model", "UNet", "plain, s a step", "ours, s a step", "ratio", "by CPU time", "wanted",
        "peak MiB, plain / ours",
        title="Fine-tuning beside a plain loop of diffusers and peft",
    )  # fmt: skip
    for name, row in result.items():
        peaks = row.get("peak_device_mib", row["peak_mib"])
        table.add_row(
            name, f"{row['unet_weights'] / 1e6:.1f} M",
            *(_with_quartiles(**row["seconds_per_step"][side]) for side in ("plain", "ours")),
            _with_quartiles(**row["ratio"]), f"{row['ratio_by_cpu_time']['median']:g}", f"{row['target']:g}",
            f"{peaks['plain']} / {peaks['ours']}",
        )  # fmt: skip
    _console.print(table)


def _with_quartiles(median: float, quartiles: Sequence[float]) -> str:
    return f"{median:g} [dim]({quartiles[0]:g} to {quartiles[1]:g})[/dim]"


def _count_weights(model: Path) -> int:
    return int(load_part(UNet2DConditionModel, model / "unet", torch.float32).num_parameters())


def _machine() -> dict[str, Any]:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "cpu": model.partition(":")[2].strip(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("flawsmith", "torch", "diffusers", "peft", "transformers")},
    }


if __name__ == "__main__":
    main()
