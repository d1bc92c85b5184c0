"""Speed of per-region augmentation: `python -m benchmarks.augmentation --json FILE`. See README.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import long_call, memory, threads
from benchmarks.figures import ratios, summary
from benchmarks.peers.environment import peer_python, side_environment
from benchmarks.plates import plate_of_any_size, plates
from benchmarks.sides import Request, Round, Side, alternate
from flawsmith.augmentation.methods import DEFAULT_METHOD, METHODS

PEER_METHOD = "anomalib"
TARGETS = {(256, 256): 20.0, (600, 200): 40.0}
"""By height and width, how many times the peer's images a second ours are to reach."""
LONG_CALL_TARGET = 0.8
SIDES = (256, 512, 1024, 2048, 4096)
_console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def compare(folder: Path) -> dict[str, Any]:
    """Ours and the peer, in turn, at both sizes."""
    result = {}
    python = peer_python("anomalib")
    with _ours() as ours, Side("anomalib", python, "benchmarks.peers.anomalib", side_environment()) as peer:
        for (height, width), target in TARGETS.items():
            images = _save(folder, plates(4, height, width))
            found = alternate(
                {
                    "ours": (ours, Request(images, PEER_METHOD, seconds=0.8)),
                    "anomalib": (peer, Request(images, seconds=0.8)),
                },
                rounds=20,
            )
            speeds = {name: summary(_speeds(rounds)) for name, rounds in found.items()}
            result[_name(height, width)] = {
                **{name: speed["median"] for name, speed in speeds.items()},
                "ratio": round(speeds["ours"]["median"] / speeds["anomalib"]["median"], 2),
                "target": target,
                "ratio_of_neighbours": summary(ratios(_speeds(found["ours"]), _speeds(found["anomalib"])), 2),
                "quartiles": {name: speed["quartiles"] for name, speed in speeds.items()},
                "by_cpu_time": _by_cpu_time(found),
                "rounds": len(found["ours"]),
                "images_checked": {name: sum(one.calls for one in rounds) for name, rounds in found.items()},
                "defect_share": {name: _mean(one.defect_share for one in rounds) for name, rounds in found.items()},
                "cores": {name: _mean(one.cores for one in rounds) for name, rounds in found.items()},
            }
    table = Table(
        "height x width", "ours, images/s", "anomalib, images/s", "ratio", "ratio by CPU time", "wanted",
        title="One thread, same parameters",
    )  # fmt: skip
    for size, row in result.items():
        table.add_row(
            size, _with_quartiles(row["ours"], row["quartiles"]["ours"]),
            _with_quartiles(row["anomalib"], row["quartiles"]["anomalib"]),
            _with_quartiles(row["ratio"], row["ratio_of_neighbours"]["quartiles"]),
            f"{row['by_cpu_time']['ratio']:g}", f"{row['target']:g}",
        )  # fmt: skip
    _console.print(table)
    return result


def methods(folder: Path) -> dict[str, Any]:
    """Every method with its defaults, one thread, images a second by size and kind of image."""
    result: dict[str, Any] = {name: {} for name in sorted(METHODS)}
    with _ours() as ours:
        for height, width in TARGETS:
            colour = plates(4, height, width)
            kinds = {"rgb": colour, "grey": np.stack([cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in colour])}
            for kind, images in kinds.items():
                path = _save(folder, images)
                found = alternate({name: (ours, Request(path, name, seconds=0.25)) for name in result}, rounds=5)
                for name, rounds in found.items():
                    by_cpu_time = summary([one.images_per_cpu_s for one in rounds])["median"]
                    result[name][f"{_name(height, width)} {kind}"] = {
                        **summary(_speeds(rounds)), "by_cpu_time": by_cpu_time,
                    }  # fmt: skip
    table = Table("method", *result[DEFAULT_METHOD], title="Our methods, one thread, images/s (by CPU time)")
    for name, row in result.items():
        table.add_row(name, *(f"{speed['median']:g} ({speed['by_cpu_time']:g})" for speed in row.values()))
    _console.print(table)
    return {"methods": result}


def pixels(folder: Path) -> dict[str, Any]:
    """CPU time a pixel by size of the image, also as a multiple of that at 512 x 512; the same seeds at every size."""
    paths = {_name(side, side): _save(folder, plate_of_any_size(side, side)) for side in SIDES}
    result: dict[str, Any] = {}
    with _ours() as ours:
        for name in sorted(METHODS):
            found = alternate({size: (ours, Request(path, name, calls=6)) for size, path in paths.items()}, rounds=2)
            seconds = {size: min(one.cpu_seconds / one.calls for one in rounds) for size, rounds in found.items()}
            per_pixel = {_name(side, side): seconds[_name(side, side)] / side**2 for side in SIDES}
            result[name] = {
                "ns_per_pixel": {size: round(value * 1e9, 2) for size, value in per_pixel.items()},
                "relative_to_512x512": {
                    size: round(value / per_pixel["512x512"], 2) for size, value in per_pixel.items()
                },
            }
    table = Table("method", *paths, title="Nanoseconds of CPU time a pixel")
    for name, row in result.items():
        table.add_row(name, *map(str, row["ns_per_pixel"].values()))
    _console.print(table)
    return {"pixels": result}


def two_threads(folder: Path) -> dict[str, Any]:
    """What a second thread gains, beside what a second process gains."""
    result = threads.measure(PEER_METHOD, rounds=6, seconds=1.0)
    table = Table("two", "one, images/s", "two, images/s", "gain", "gain of best rounds", title=f"At {result['size']}")
    for name in ("threads", "processes"):
        row = result[name]
        table.add_row(name, str(row["one"]), str(row["two"]), _with_quartiles(**row["gain"]), str(row["gain_of_best"]))
    _console.print(table)
    return {"threads": result}


def memory_of_a_call(folder: Path) -> dict[str, Any]:
    """Peak of a call by size, and what 2,000 calls leave behind."""
    result = memory.measure(sorted(METHODS), sides=(512, 1024, 2048), calls=2000)
    rows = result["methods"]
    table = Table(
        "method", *rows[DEFAULT_METHOD]["peak_bytes_per_pixel"], "growth, KiB", title="Peak of a call, bytes a pixel"
    )
    for name, row in rows.items():
        table.add_row(name, *map(str, row["peak_bytes_per_pixel"].values()), f"{row['growth_bytes'] / 1024:.0f}")
    _console.print(table)
    return {"memory": result}


def end_to_end(folder: Path) -> dict[str, Any]:
    """The long call beside a bare loop over the same object store with the same codec."""
    result = long_call.measure(images=1000, rounds=5, method=DEFAULT_METHOD, limit_s=150) | {"target": LONG_CALL_TARGET}
    table = Table(
        "method", "long call, images/s", f"bare loop, {result['bare_threads']} threads", "ratio", "ratio by CPU time",
        "wanted",
        title=f"{result['images']:,} stored images of {result['size']}, end to end",
    )  # fmt: skip
    table.add_row(
        result["method"],
        *(_with_quartiles(**result[key]) for key in ("long_call", "bare", "ratio", "ratio_by_cpu_time")),
        str(LONG_CALL_TARGET),
    )  # fmt: skip
    _console.print(table)
    return {"long_call": result}


SECTIONS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "peer": compare,
    "methods": methods,
    "pixels": pixels,
    "threads": two_threads,
    "memory": memory_of_a_call,
    "long-call": end_to_end,
}


def _known(context: click.Context, option: click.Parameter, value: str) -> list[str]:
    names = value.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise click.BadParameter(f"{', '.join(unknown)}: choose from {', '.join(SECTIONS)}")
    return names


@click.command()
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Write every figure here.")
@click.option(
    "--sections", default=",".join(SECTIONS), show_default=True, callback=_known, help="Which ones, comma-separated."
)
def main(output: Path | None, sections: list[str]) -> None:
    """Measure per-region augmentation: beside anomalib's generator, by method, size, threads and memory, and from
    stored image to stored image. Less than ten minutes on two cores, and one more when the peer is first installed."""
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in sections:
            start = time.perf_counter()
            result |= SECTIONS[name](Path(folder))
            result.setdefault("seconds", {})[name] = round(time.perf_counter() - start, 1)
            if output is not None:
                output.write_text(json.dumps(result | {"machine": _machine()}, indent=1) + "\n")


def _ours() -> Side:
    return Side("ours", Path(sys.executable), "benchmarks.ours", side_environment())


def _save(folder: Path, images: np.ndarray) -> str:
    path = folder / ("-".join(map(str, images.shape)) + ".npy")
    np.save(path, images)
    return str(path)


def _name(height: int, width: int) -> str:
    return f"{height}x{width}"


def _speeds(rounds: list[Round]) -> list[float]:
    return [one.images_per_s for one in rounds]


def _by_cpu_time(found: Mapping[str, list[Round]]) -> dict[str, float]:
    """As the figures by the clock."""
    speeds = {name: statistics.median(one.images_per_cpu_s for one in rounds) for name, rounds in found.items()}
    return {
        **{name: round(speed, 1) for name, speed in speeds.items()},
        "ratio": round(speeds["ours"] / speeds["anomalib"], 2),
    }


def _mean(values: Iterable[float]) -> float:
    return round(statistics.fmean(values), 3)


def _with_quartiles(median: float, quartiles: list[float]) -> str:
    return f"{median:g} [dim]({quartiles[0]:g} to {quartiles[1]:g})[/dim]"


def _machine() -> dict[str, Any]:
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    return {
        "cpu": model.partition(":")[2].strip(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("flawsmith", "numpy", "numba", "opencv-python-headless")},
    }


if __name__ == "__main__":
    main()
