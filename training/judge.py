"""Trains the judge: a small classifier that names the defect kind and the surface of a picture.

    python -m training.judge

It learns from pictures that `flawsmith.drawing` draws, and then says whether what a model generates shows what its
prompt asked for (`python -m benchmarks.prompts`). Ten minutes on one core; build/judge keeps checkpoints and the
result.
"""

import argparse
import copy
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

from flawsmith.drawing import DEFECTS, SURFACES, draw
from training.environment import restart_in_compute_environment
from training.mini_autoencoder import learning_rate, update_average
from training.mini_data import ByteArray

logger = logging.getLogger(__name__)

SIZE = 128
FOLDER = Path("build/judge")
_BATCH = 64
_PEAK_RATE = 3e-3
HELD_OUT = 1600
WEIGHTS = "judge.safetensors"
# Streams of random numbers of one seed.
_TRAINED, _HELD_OUT, _ORDER = 1, 2, 3


class Judge(nn.Module):
    """A convolutional network of 0.9 M parameters with two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 2)
        self.blocks = nn.Sequential(
            _convolution(32, 64, 2),
            _Residual(64),
            _convolution(64, 96, 2),
            _Residual(96),
            _convolution(96, 160, 2),
            _Residual(160),
        )
        self.kind = nn.Linear(320, len(DEFECTS))
        self.surface = nn.Linear(320, len(SURFACES))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits over DEFECTS and over SURFACES; pixels: N x 3 x H x W in [-1, 1]."""
        features = self.blocks(self.stem(pixels))
        # The mean tells the surface, the maximum a small defect.
        pooled = torch.cat([features.mean(dim=(2, 3)), features.amax(dim=(2, 3))], dim=1)
        return self.kind(pooled), self.surface(pooled)

    @torch.no_grad()
    def name(self, images: ByteArray) -> tuple[np.ndarray, np.ndarray]:
        """Indices into DEFECTS and SURFACES, each of shape N; images: uint8, N x H x W x 3, RGB."""
        kinds, surfaces = [], []
        for first in range(0, len(images), _BATCH):
            with torch.autocast("cpu", torch.bfloat16):
                kind, surface = self(_to_tensor(images[first : first + _BATCH]))
            kinds.append(kind.argmax(1).numpy())
            surfaces.append(surface.argmax(1).numpy())
        return np.concatenate(kinds), np.concatenate(surfaces)


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(_convolution(channels, channels, 1), _convolution(channels, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.as_tensor(self.inner(x))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    kernel = 5 if inputs == 3 else 3
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def load_judge(folder: Path = FOLDER) -> Judge:
    """The trained judge. Raises FileNotFoundError where there is none."""
    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; train it with `python -m training.judge`")
    judge = Judge()
    judge.load_state_dict(load_file(path))
    judge.eval().to(memory_format=torch.channels_last)
    return judge


@dataclass(frozen=True)
class Pictures:
    """images: uint8, N x SIZE x SIZE x 3. kinds, surfaces: indices into DEFECTS and SURFACES, N."""

    images: ByteArray
    kinds: np.ndarray
    surfaces: np.ndarray


def draw_pictures(rng: np.random.Generator, count: int) -> Pictures:
    """Every kind as often as every other, on any surface."""
    kinds = rng.integers(0, len(DEFECTS), count)
    drawings = [draw(rng, SIZE, SIZE, defect=DEFECTS[kind]) for kind in kinds]
    surfaces = np.array([SURFACES.index(drawing.surface.kind) for drawing in drawings])
    return Pictures(np.stack([drawing.image for drawing in drawings]), kinds, surfaces)


def _batch(rng: np.random.Generator, bank: Pictures) -> Pictures:
    """Pictures at random, turned and flipped, as a lens and a sensor of another sharpness might give them."""
    chosen = rng.integers(0, len(bank.images), _BATCH)
    images = np.stack([_varied(rng, image) for image in bank.images[chosen]])
    return Pictures(images, bank.kinds[chosen], bank.surfaces[chosen])


def _varied(rng: np.random.Generator, image: ByteArray) -> ByteArray:
    """A little blur, noise and contrast: a decoder's softness is no sign of a defect."""
    turned = np.rot90(image, int(rng.integers(4)))
    pixels = np.ascontiguousarray(turned[:, ::-1] if rng.random() < 0.5 else turned).astype(np.float32)
    if rng.random() < 0.6:
        pixels = cv2.GaussianBlur(pixels, (5, 5), rng.uniform(0.3, 0.9), borderType=cv2.BORDER_REFLECT)
    pixels = (pixels - 128) * rng.uniform(0.88, 1.12) + 128 + rng.uniform(-10, 10)
    pixels += rng.uniform(0, 4) * rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None]
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _to_tensor(images: ByteArray) -> torch.Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def accuracy(judge: Judge, pictures: Pictures) -> tuple[float, float]:
    """Shares named correctly: kinds, surfaces."""
    kinds, surfaces = judge.name(pictures.images)
    return float(np.mean(kinds == pictures.kinds)), float(np.mean(surfaces == pictures.surfaces))


def train_judge(
    steps: int, pictures: int, seed: int, *, held_out: int = HELD_OUT, checkpoint: Path | None = None
) -> tuple[Judge, dict[str, float]]:
    """Trains on `pictures` drawn pictures for `steps`; `held_out` others say how well.

    checkpoint: a file to go on from when it exists, written every hundred steps; it belongs to these arguments.
    Returns the judge (averaged weights), and its accuracies on pictures that it was never shown.
    """
    started = time.monotonic()
    bank = draw_pictures(np.random.default_rng([seed, _TRAINED]), pictures)
    logger.info("drew %d pictures in %.0f s", pictures, time.monotonic() - started)
    torch.manual_seed(seed)
    judge = Judge().to(memory_format=torch.channels_last)
    average = copy.deepcopy(judge)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=_PEAK_RATE, weight_decay=0.05)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint)
        judge.load_state_dict(state["judge"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["steps"]
    for step in range(first, steps):
        batch = _batch(np.random.default_rng([seed, _ORDER, step]), bank)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, _PEAK_RATE)
        with torch.autocast("cpu", torch.bfloat16):
            kinds, surfaces = judge(_to_tensor(batch.images))
        loss = F.cross_entropy(kinds.float(), torch.from_numpy(batch.kinds), label_smoothing=0.05)
        loss = loss + F.cross_entropy(surfaces.float(), torch.from_numpy(batch.surfaces), label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_average(average, judge, min(0.99, step / (step + 10)))
        if (step + 1) % 100 == 0:
            logger.info("step %d loss %.3f after %.0f s", step + 1, loss.item(), time.monotonic() - started)
            if checkpoint is not None:
                parts = {"judge": judge, "average": average, "optimizer": optimizer}
                _save({**{name: part.state_dict() for name, part in parts.items()}, "steps": step + 1}, checkpoint)
    # Running statistics are buffers, which are not averaged.
    average.load_state_dict({**judge.state_dict(), **dict(average.named_parameters())})
    average.eval()
    kinds_right, surfaces_right = accuracy(average, draw_pictures(np.random.default_rng([seed, _HELD_OUT]), held_out))
    return average, {
        "held_out_pictures": held_out,
        "held_out_kind": kinds_right,
        "held_out_surface": surfaces_right,
        "trained_pictures": pictures,
        "steps": steps,
    }


def _save(state: dict[str, Any], path: Path) -> None:
    """Whole or not at all."""
    torch.save(state, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def main() -> None:
    """Parses the arguments and trains."""
    restart_in_compute_environment("training.judge")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the weights go")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--pictures", type=int, default=8192, help="to draw and learn from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.folder / f"{arguments.seed}-{arguments.pictures}-{arguments.steps}.pt"
    judge, report = train_judge(arguments.steps, arguments.pictures, arguments.seed, checkpoint=checkpoint)
    save_file({name: value.contiguous() for name, value in judge.state_dict().items()}, arguments.folder / WEIGHTS)
    print(json.dumps(report, indent=1))
    (arguments.folder / "judge.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
