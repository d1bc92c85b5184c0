"""Time of one training step: `python -m benchmarks.training --json FILE`. See README.md."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.figures import ratios, summary
from benchmarks.training_sides import SIDES, Setting, first_line
from flawsmith.classification.fitting import has_bfloat16
from flawsmith.common.child import COMPUTE_ENVIRONMENT

TARGET = 0.55
"""Of the plain loop's time, at 600 x 200 and batch 5."""
ROOT = Path(__file__).parents[1]
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


class Side:
    """A process that trains when it is told to."""

    def __init__(self, name: str, setting: Setting) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training_sides", name], cwd=ROOT, text=True,
            env={**os.environ, **COMPUTE_ENVIRONMENT, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(first_line(setting))

    def round(self, steps: int) -> np.ndarray:
        """Seconds of each step, steps x 2: by the clock, by the processor.

        Raises RuntimeError when the process has died; its messages are on stderr.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the side ended with exit code {self._process.wait()}; its messages are above")
        return np.array(json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def measure(setting: Setting, rounds: int, steps: int) -> dict[str, Any]:
    """Both sides in turn, because a shared machine's speed drifts: what disturbs one disturbs the other."""
    sides = {name: Side(name, setting) for name in SIDES}
    clock: dict[str, list[float]] = {name: [] for name in sides}
    processor: dict[str, list[float]] = {name: [] for name in sides}
    try:
        for side in sides.values():
            side.round(1)  # does not count: memory grows, kernels are chosen
        for _ in range(rounds):
            for name, side in sides.items():
                by_clock, by_processor = np.median(side.round(steps), axis=0).tolist()
                clock[name].append(by_clock)
                processor[name].append(by_processor)
    finally:
        for side in sides.values():
            side.close()
    return {
        **_compare(clock),
        # What a machine that nobody else uses would show.
        "by_cpu_time": _compare(processor),
        "rounds": rounds,
        "steps_a_round": steps,
    }


def _compare(seconds: dict[str, list[float]]) -> dict[str, Any]:
    found = {name: summary(values, 4) for name, values in seconds.items()}
    return {
        **{name: {"seconds_a_step": figure} for name, figure in found.items()},
        "ratio": round(found["ours"]["median"] / found["plain"]["median"], 3),
        "ratio_of_neighbours": summary(ratios(seconds["ours"], seconds["plain"]), 3),
    }


@click.command()
@click.option("--json", "target", type=click.Path(dir_okay=False, path_type=Path), help="File for the figures.")
@click.option("--rounds", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--steps", type=click.IntRange(min=1), default=5, show_default=True, help="Steps of a round.")
@click.option("--threads", type=click.IntRange(min=1), help="Of each side; all cores by default.")
@click.option("--height", type=int, default=600, show_default=True)
@click.option("--width", type=int, default=200, show_default=True)
@click.option("--batch-size", type=int, default=5, show_default=True)
@click.option("--backbone", default="resnet50", show_default=True)
def main(
    target: Path | None, rounds: int, steps: int, threads: int | None, height: int, width: int, batch_size: int,
    backbone: str,
) -> None:  # fmt: skip
    """Our training step beside a plain eager fp32 loop, under the same malloc settings."""
    import torch

    threads = threads or len(os.sched_getaffinity(0))
    setting = Setting(height, width, batch_size, backbone, threads)
    result = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "bfloat16": has_bfloat16(torch.device("cpu"), width),
            "torch": torch.__version__,
        },
        "setting": {
            "height": height, "width": width, "batch_size": batch_size, "backbone": backbone, "threads": threads,
        },
        "target": TARGET,
        **measure(setting, rounds, steps),
    }  # fmt: skip
    table = Table(
        "side", "seconds a step", "quartiles",
        title=f"{backbone}, {height} x {width}, batch {batch_size}, {threads} threads",
    )  # fmt: skip
    for name in SIDES:
        figure = result[name]["seconds_a_step"]
        table.add_row(name, f"{figure['median']:.3f}", " to ".join(f"{value:.3f}" for value in figure["quartiles"]))
    _console.print(table)
    by_cpu_time = result["by_cpu_time"]["ratio"]
    _console.print(f"ratio {result['ratio']:g} ({by_cpu_time:g} by CPU time), at most {TARGET:g} is wanted")
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
