"""Does a base model draw what its prompt says? A judge names the defect kind and the surface of what it drew, and its
colour is compared with those that the surface may have.

    python -m training.judge
    python -m benchmarks.prompts --json out/prompts.json

Prompts name a surface, its colour, a defect and, for scratches and cracks, a direction: only combinations that the
mini model's training never showed (`training.mini_data.held_out`). Beside the model's figures stand the judge's own on
drawn pictures of the same combinations, as they are and after the autoencoder's round trip: no model can do better.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.round_trip import round_trip
from flawsmith.drawing import COLORS, DEFECTS, SURFACES, Defect, Surface, caption, direction_word, draw, random_defect
from flawsmith.drawing.surfaces import random_surface
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.drawer import Drawer
from flawsmith.generation.drawing_request import DrawingRequest
from flawsmith.generation.presets import drawing_values
from training.environment import restart_in_compute_environment
from training.judge import FOLDER, SIZE, Judge, load_judge
from training.mini_data import held_out

_PER_PROMPT = 4
_SHEET_COLUMNS = 12


@dataclass(frozen=True)
class Wanted:
    """What a prompt asks for. surface, defect: the parameters behind its words; defect is None for a good part."""

    prompt: str
    surface: Surface
    defect: Defect | None

    @property
    def kind(self) -> int:
        """Index into DEFECTS."""
        return DEFECTS.index(self.defect.kind if self.defect else "none")


def held_out_prompts(rng: np.random.Generator, kind: str, count: int) -> list[Wanted]:
    """Prompts for one of DEFECTS on each surface in turn, which name every part of a held-out combination.

    A surface that has no held-out combination with the kind is left out.
    """
    surfaces = [surface for surface in SURFACES if _combinations(surface, kind)]
    return [_wanted(rng, surfaces[index % len(surfaces)], kind) for index in range(count)]


def _combinations(surface: str, kind: str) -> list[tuple[str, str]]:
    """Held-out (colour, direction word) of a surface and a kind."""
    found = []
    for color in COLORS[surface]:
        for direction in _DIRECTIONS if kind in ("scratch", "crack") else (0.0,):
            defect = None if kind == "none" else _defect(np.random.default_rng(0), kind, direction)
            if held_out(Surface(surface, color, 0.0, 1.0), defect):
                found.append((color, direction_word(defect)))
    return found


# Radians of a horizontal, a diagonal and a vertical line.
_DIRECTIONS = (0.0, np.pi / 4, np.pi / 2)


def _defect(rng: np.random.Generator, kind: str, direction: float) -> Defect:
    defect = random_defect(rng, kind)
    return Defect(**{**vars(defect), "direction": direction})


def _wanted(rng: np.random.Generator, surface_kind: str, kind: str) -> Wanted:
    combinations = _combinations(surface_kind, kind)
    color, direction = combinations[int(rng.integers(len(combinations)))]
    while True:
        surface = random_surface(rng, surface_kind, color)
        defect = None if kind == "none" else random_defect(rng, kind)
        text = caption(surface, defect, rng)
        # A caption may leave words out; one that does may describe a combination of the training as well.
        if direction_word(defect) == direction and f"{color} {surface_kind}" in text and direction in text:
            return Wanted(text, surface, defect)


def draw_by_model(drawer: Drawer, wanted: Sequence[Wanted], *, steps: int, guidance: float, seed: int) -> np.ndarray:
    """_PER_PROMPT images a prompt, in order: uint8, N x SIZE x SIZE x 3."""
    images = []
    for index, one in enumerate(wanted):
        first = seed + index * _PER_PROMPT
        request = DrawingRequest(
            prompt=one.prompt,
            base_model_sha256=_BASE,
            height=SIZE,
            width=SIZE,
            steps=steps,
            guidance=guidance,
            seeds=tuple(range(first, first + _PER_PROMPT)),
        )
        images.append(drawer.draw(request))
    return np.concatenate(images)


_BASE = "the only base model here"


def confusion(wanted: np.ndarray, named: np.ndarray, classes: Sequence[str]) -> dict[str, dict[str, int]]:
    """How often each class was named where each was wanted; pairs that never occur are left out."""
    return {
        name: {
            other: int(np.sum((wanted == row) & (named == column)))
            for column, other in enumerate(classes)
            if np.any((wanted == row) & (named == column))
        }
        for row, name in enumerate(classes)
        if np.any(wanted == row)
    }


def shares(table: dict[str, dict[str, int]]) -> dict[str, float]:
    """Share named as wanted, a class."""
    return {name: round(row.get(name, 0) / sum(row.values()), 3) for name, row in table.items()}


def judged(judge: Judge, images: np.ndarray, wanted: Sequence[Wanted]) -> dict[str, Any]:
    """Kinds and surfaces as the judge names them; images: a whole number for each of `wanted`, in order."""
    repeats = len(images) // len(wanted)
    kinds, surfaces = judge.name(images)
    report = {}
    for what, named, classes, asked in (
        ("kind", kinds, DEFECTS, [one.kind for one in wanted]),
        ("surface", surfaces, SURFACES, [SURFACES.index(one.surface.kind) for one in wanted]),
    ):
        table = confusion(np.repeat(asked, repeats), named, classes)
        right = shares(table)
        report[what] = {
            "mean": round(float(np.mean(list(right.values()))), 3),
            "worst": min(right.values()),
            "shares": right,
            "confusion": table,
        }
    return report


def named_colors(images: np.ndarray, wanted: Sequence[Wanted]) -> np.ndarray:
    """Whether each picture's colour is the wanted one, bool, N: of the colours of its surface the nearest to the
    picture's median, which a defect hardly moves. images: uint8, N x H x W x 3; one for each of `wanted`."""
    medians = np.median(images.reshape(len(images), -1, 3), axis=1) / 255
    found = []
    for median, one in zip(medians, wanted, strict=True):
        palette = COLORS[one.surface.kind]
        found.append(min(palette, key=lambda name: float(np.linalg.norm(median - palette[name]))) == one.surface.color)
    return np.array(found)


def judged_colors(images: np.ndarray, wanted: Sequence[Wanted]) -> dict[str, Any]:
    """Shares of the pictures whose colour is the wanted one: of all, and by surface."""
    right, surfaces = named_colors(images, wanted), np.array([one.surface.kind for one in wanted])
    by_surface = {name: round(float(right[surfaces == name].mean()), 3) for name in SURFACES if name in surfaces}
    return {"mean": round(float(right.mean()), 3), "worst": min(by_surface.values()), "shares": by_surface}


def print_report(report: dict[str, Any]) -> None:
    """The figures, and what was taken for what."""
    print(f"{'':24}{'kind':>8}{'worst':>8}{'surface':>10}{'worst':>8}{'colour':>10}{'worst':>8}   images")
    for name in ("drawn", "round_trip", "model"):
        row = report[name]
        kind, surface, color = row["kind"], row["surface"], row["color"]
        print(
            f"{name:24}{kind['mean']:8.3f}{kind['worst']:8.3f}{surface['mean']:10.3f}{surface['worst']:8.3f}"
            f"{color['mean']:10.3f}{color['worst']:8.3f}{row['images']:9d}"
        )
    for what in ("kind", "surface"):
        print(f"\n{what} wanted: named by the judge")
        for name, row in report["model"][what]["confusion"].items():
            listing = ", ".join(f"{other} {count}" for other, count in sorted(row.items(), key=lambda item: -item[1]))
            print(f"  {name:14}{report['model'][what]['shares'][name]:6.2f}   {listing}")
    print("\ncolour as wanted, by surface")
    for name, share in report["model"]["color"]["shares"].items():
        print(f"  {name:14}{share:6.2f}   drawn pictures {report['drawn']['color']['shares'][name]:.2f}")


def write_sheet(path: Path, images: np.ndarray, kinds: np.ndarray) -> None:
    """A contact sheet: a row of images a kind, in the order of DEFECTS."""
    rows = []
    for kind in range(len(DEFECTS)):
        chosen = images[kinds == kind][::_PER_PROMPT][:_SHEET_COLUMNS]
        rows.append(np.concatenate(list(chosen), axis=1))
    width = min(row.shape[1] for row in rows)
    sheet = np.concatenate([row[:, :width] for row in rows])
    if not cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR)):
        raise OSError(f"cannot write {path}")


def main() -> None:
    """Parses the arguments and measures."""
    restart_in_compute_environment("benchmarks.prompts")
    usual = drawing_values("mini", adapted=False)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="where to write; a contact sheet goes beside it")
    parser.add_argument("--model", type=Path, default=Path("models/mini"))
    parser.add_argument("--judge", type=Path, default=FOLDER, help="folder of `python -m training.judge`")
    parser.add_argument("--images", type=int, default=100, help="a kind, at least")
    parser.add_argument("--steps", type=int, default=usual["steps"])
    parser.add_argument("--guidance", type=float, default=usual["guidance"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    judge = load_judge(arguments.judge)
    model = load_model(arguments.model)
    rng = np.random.default_rng(arguments.seed)
    wanted = [one for kind in DEFECTS for one in held_out_prompts(rng, kind, -(-arguments.images // _PER_PROMPT))]
    repeated = [one for one in wanted for _ in range(_PER_PROMPT)]
    drawn = np.stack(
        [draw(rng, SIZE, SIZE, surface=one.surface, defect=one.defect or "none").image for one in repeated]
    )
    started = time.monotonic()
    drawer = Drawer(model, _BASE, fetch_adapter=_no_adapter)
    made = draw_by_model(drawer, wanted, steps=arguments.steps, guidance=arguments.guidance, seed=arguments.seed)
    seconds = time.monotonic() - started
    report: dict[str, Any] = {
        "model_folder": str(arguments.model),
        "steps": arguments.steps,
        "guidance": arguments.guidance,
        "prompts": len(wanted),
        "seconds": round(seconds, 1),
        "judge": json.loads((arguments.judge / "judge.json").read_text()),
    }
    for name, images in (("drawn", drawn), ("round_trip", round_trip(model, drawn)), ("model", made)):
        colors = judged_colors(images, repeated)
        report[name] = {"images": len(images), **judged(judge, images, repeated), "color": colors}
    print_report(report)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    write_sheet(arguments.json.with_suffix(".png"), made, np.array([one.kind for one in repeated]))


def _no_adapter(uri: str, sha256: str) -> Path:
    raise ValueError(f"{uri} ({sha256}): only the base model is drawn with here")


if __name__ == "__main__":
    main()
