"""Speed of drawing through Triton: `python -m benchmarks.generation --json FILE`. See README.md."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.figures import ratios, summary
from benchmarks.finetune import MINI, write_model
from benchmarks.generation_sides import GUIDANCE, Drawing, Setup
from benchmarks.sides import ROOT
from flawsmith.common.child import COMPUTE_ENVIRONMENT
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources
from flawsmith.common.triton import TritonClient
from flawsmith.generation.catalog import install_base_model
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.drawing_request import DrawingRequest, to_tensors
from flawsmith.generation.lora import LoraLayerWeights, LoraWeights, extract, inject, write_kohya
from flawsmith.generation.serving import TEMPLATE
from flawsmith.generation.spec import Algorithm
from flawsmith.local.platform import LocalPlatform
from flawsmith.local.servers import object_store_server, triton_server

TARGET, SWAP_TARGET_MS = 3.0, 3.0
THREADS = 2
"""Of both sides: what deploy/triton/diffusion/config.pbtxt says."""
TOLERANCE = {"mean": 2.0, "p99": 12.0}
"""Grey levels (of 255) by which an image may differ from float32's: bfloat16 has eight bits, and a UNet of random
weights, which draws coloured noise, makes twice as much of their roundings as mini."""
UNET_20M = {"block_out_channels": [112, 192, 240], "attention_head_dim": [2, 4, 5]}
PROMPTS = ("a scratch on brushed steel", "a dark stain on light wood")
ALPHA = 0.9
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Child:
    """A process of `benchmarks.generation_sides`."""

    def __init__(self, side: str, setup: Setup) -> None:
        self.side = side
        # Threads of the peer wait as PyTorch has them wait, which is busily.
        environment = {name: value for name, value in COMPUTE_ENVIRONMENT.items() if name != "OMP_WAIT_POLICY"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.generation_sides", side], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment},
        )  # fmt: skip
        self._send(asdict(setup))

    def ask(self, drawing: Drawing) -> dict[str, Any]:
        """Have it draw. Raises RuntimeError when it has died."""
        self._send(asdict(drawing))
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Its next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.side} ended with exit code {self._process.wait()}; its messages are above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _send(self, value: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(value) + "\n")
        self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()


class Server:
    """A Triton with a base model and adapters of it. adapters: their files in the object store."""

    def __init__(self, client: TritonClient, base: ObjectRef, adapters: Sequence[ObjectRef], setup: Setup) -> None:
        self._client, self._base, self._adapters, self._setup = client, base, adapters, setup

    async def draw(self, drawing: Drawing) -> tuple[float, np.ndarray]:
        """Seconds that a request took, as a caller sees it, and its image."""
        adapter = self._adapters[drawing.adapter]
        request = DrawingRequest(
            prompt=drawing.prompt, base_model_sha256=self._base.sha256, adapter_uri=adapter.uri,
            adapter_sha256=adapter.sha256, alpha=drawing.alpha, height=self._setup.side, width=self._setup.side,
            steps=self._setup.steps, guidance=GUIDANCE, seeds=(drawing.seed,),
        )  # fmt: skip
        start = time.perf_counter()
        answer = await self._client.infer(TEMPLATE, to_tensors(request), ["images"])
        return time.perf_counter() - start, answer["images"][0]


@asynccontextmanager
async def serving(setup: Setup) -> AsyncIterator[Server]:
    """An object store with the model and its adapters, and a Triton that has loaded it."""
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build", prefix="generation-") as folder:
        local = LocalPlatform(Path(folder), free_ports=True)
        settings, repository = local.settings, local.settings.triton.repository
        try:
            local.processes["object-store"] = object_store_server(
                settings.object_store, local.state_dir / "objects", local.state_dir / "logs/object-store.log"
            )
            store = ObjectStore(settings.object_store)
            base = install_base_model(Resources(store), "mini", Path(setup.model))
            adapters = [store.put_file(Path(path)) for path in setup.adapters]
            for name in ("1/model.py", "config.pbtxt"):
                source = ROOT / "deploy/triton" / TEMPLATE / Path(name).name
                store.put(f"{repository}/{TEMPLATE}/{name}", source.read_bytes())
            environment = local.environment("generation", "worker")
            local.processes["triton"] = triton_server(
                settings.object_store, grpc=settings.triton.url, metrics=local.metrics["triton"],
                repository=repository, state=local.state_dir, log=local.state_dir / "logs/triton.log",
                environment={name: value for name, value in environment.items() if "METRICS" not in name},
            )  # fmt: skip
            client = TritonClient(settings.triton)
            await client.load(TEMPLATE)
            yield Server(client, base, adapters, setup)
            await client.close()
        finally:
            local.stop()


async def compare(setup: Setup, folder: Path, *, rounds: int) -> dict[str, Any]:
    """An image of ours, then one of diffusers', again and again with other adapters and seeds; then the differences of
    images that both drew. Raises RuntimeError where those are too large."""
    ours: list[float] = []
    theirs: list[float] = []
    differences: list[np.ndarray] = []
    path = folder / "image.npy"
    with Child("diffusers", setup) as peer:
        async with serving(setup) as server:
            for number in range(rounds + 2):  # each adapter's first request does not count
                drawing = Drawing(number % 2, ALPHA, PROMPTS[number % len(PROMPTS)], number, str(path))
                mine, _ = await server.draw(drawing)
                other = peer.ask(drawing)["seconds"]
                if number >= 2:
                    ours.append(mine)
                    theirs.append(other)
            for number in range(4):
                drawing = Drawing(number % 2, ALPHA, PROMPTS[number // 2], 100 + number, str(path), as_ours=True)
                _, image = await server.draw(drawing)
                peer.ask(drawing)
                differences.append(np.abs(image.astype(int) - np.load(path).astype(int)))
    found = np.stack(differences)
    difference = {
        "mean": round(float(found.mean()), 3),
        "p99": float(np.percentile(found, 99)),
        "max": int(found.max()),
    }
    if any(difference[name] > limit for name, limit in TOLERANCE.items()):
        raise RuntimeError(f"images differ by {difference} grey levels; {TOLERANCE} are allowed")
    return {
        "ours_s": summary(ours, 3),
        "diffusers_s": summary(theirs, 3),
        "ratio": summary(ratios(theirs, ours), 2),
        "target": TARGET,
        "rounds": rounds,
        "difference": difference,
        "tolerance": TOLERANCE,
    }


def swaps(setup: Setup) -> dict[str, Any]:
    """Milliseconds of swapping, of weighting anew, and of going back to the base model."""
    with Child("swap", setup) as child:
        found = child.answer()
    return {
        f"{kind}_ms": {
            **summary(values, 2),
            "p95": round(statistics.quantiles(values, n=20)[-1], 2),
        }
        for kind, values in found.items()
    } | {"swap_target_ms": SWAP_TARGET_MS}


def write_adapters(model: Path, folder: Path) -> tuple[str, ...]:
    """Two C3Lier adapters at In&Out's ranks, as large as trained ones, text encoder included."""
    paths = []
    for seed in range(2):
        loaded = load_model(model)
        torch.manual_seed(seed)
        for network in loaded.networks.values():
            inject(network, Algorithm.C3LIER, rank=32, alpha=16.0, conv_rank=4, conv_alpha=1.0)
        layers = extract(loaded.networks).layers
        path = folder / f"adapter-{seed}.safetensors"
        write_kohya(
            LoraWeights(
                {
                    name: LoraLayerWeights(layer.down, 0.01 * torch.randn_like(layer.up), layer.alpha)
                    for name, layer in layers.items()
                }
            ),
            path,
        )
        paths.append(str(path))
    return tuple(paths)


MODELS = {"mini": lambda folder: MINI, "unet-20m": lambda folder: write_model(folder / "unet-20m", UNET_20M)}


@click.command()
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write every figure here.")
@click.option("--model", "models", multiple=True, type=click.Choice(list(MODELS)), help="Only this one; repeatable.")
@click.option("--rounds", type=click.IntRange(2), default=10, show_default=True)
@click.option("--swaps", "swap_count", type=click.IntRange(20), default=60, show_default=True)
@click.option("--size", default=256, show_default=True, help="Height and width of the images, pixels.")
@click.option("--steps", default=20, show_default=True)
def main(output: Path | None, models: Sequence[str], rounds: int, swap_count: int, size: int, steps: int) -> None:
    """Draw through Triton beside diffusers' own pipeline, with adapters that change from request to request, and time
    the changes alone. About five minutes on two cores."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    table = Table(
        "model", "ours, s", "diffusers, s", "ratio", "wanted", "difference, grey levels", "swap, ms",
        "other weight, ms",
        title=f"{size} x {size}, {steps} steps with guidance, C3Lier",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in models or MODELS:
            path = MODELS[model](folder)
            setup = Setup(str(path), write_adapters(path, folder), size, steps, THREADS, swap_count)
            row = asyncio.run(compare(setup, folder, rounds=rounds)) | swaps(setup)
            result[model] = row
            difference = row["difference"]
            table.add_row(
                model, *(_with_quartiles(row[key]) for key in ("ours_s", "diffusers_s", "ratio")), f"{TARGET:g}",
                f"mean {difference['mean']:g}, p99 {difference['p99']:g}, max {difference['max']}",
                *(f"{row[key]['median']:g} (p95 {row[key]['p95']:g})" for key in ("swap_ms", "reweight_ms")),
            )  # fmt: skip
            if output is not None:
                output.write_text(json.dumps(result | {"machine": _machine()}, indent=1) + "\n")
    _console.print(table)


def _with_quartiles(figures: dict[str, Any]) -> str:
    low, high = figures["quartiles"]
    return f"{figures['median']:g} [dim]({low:g} to {high:g})[/dim]"


def _machine() -> dict[str, Any]:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": THREADS,
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("flawsmith", "torch", "diffusers", "numba", "numpy")},
    }


if __name__ == "__main__":
    main()
