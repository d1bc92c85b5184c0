"""Trains initial weights for classifiers on drawn surfaces with drawn defects: a start without downloads.

    python -m training.backbone draw     a bank of pictures with their masks
    python -m training.backbone train    continues from its own checkpoint
    python -m training.backbone store    puts the weights into the object store and writes their reference

The reference is what `flawsmith train --initial-weights build/backbone/resnet50.json` takes. What is trained is the
recipe `mixed` on the bank: whether a picture has a defect, and where. The file holds the whole network: classifiers of
that recipe start from its heads too, others from the backbone alone. Everything is in build/backbone; the steps are
seeded by their number. The object store is the one of the settings (`FLAWSMITH_OBJECT_STORE__ENDPOINT` and so on).
"""

import argparse
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from flawsmith.classification.backbones import Backbone
from flawsmith.classification.preprocess import preprocess, preprocess_mask
from flawsmith.drawing import DEFECTS, draw_defect, draw_surface, random_defect, random_surface
from training.environment import restart_in_compute_environment

logger = logging.getLogger(__name__)
_HELD_OUT = 8
"""One picture in so many is not trained on."""
# Ranges of what a camera's pictures of parts are by the time a classifier sees them.
_SHRUNK = (1.0, 2.5)
_VISIBLE = (0.3, 1.0)
_MOST_NOISE = 0.08
_MOST_COARSE = 1.2
_GREY_SHARE = 0.5


@dataclass(frozen=True)
class Bank:
    """Drawn pictures: images uint8 N x height x width x 3, masks uint8 N x height x width, 0 or 255. Both labels take
    turns: odd pictures have a defect."""

    images: np.ndarray
    masks: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> "Bank":
        """Memory-mapped. Raises FileNotFoundError where nothing was drawn."""
        return cls(np.load(folder / "images.npy", mmap_mode="r"), np.load(folder / "masks.npy", mmap_mode="r"))

    @property
    def defective(self) -> np.ndarray:
        """bool, N."""
        return np.arange(len(self.images)) % 2 == 1

    @property
    def held_out(self) -> np.ndarray:
        """bool, N: pictures that are only judged on, as many with a defect as without."""
        return np.arange(len(self.images)) // 2 % _HELD_OUT == 0


def draw_bank(folder: Path, count: int, height: int, width: int, seed: int) -> None:
    """Draw `count` pictures, each from a seed of its own, every second one with a defect."""
    kinds = [kind for kind in DEFECTS if kind != "none"]
    shape = (count, height, width)
    partial = folder / "partial.npy"
    images = np.lib.format.open_memmap(partial, "w+", np.uint8, (*shape, 3))
    masks = np.zeros(shape, np.uint8)
    for index in range(count):
        kind = kinds[index // 2 % len(kinds)] if index % 2 else None
        images[index], masks[index] = draw_picture(np.random.default_rng([seed, index]), height, width, kind)
        if (index + 1) % 500 == 0:
            logger.info("drew %d of %d", index + 1, count)
    images.flush()
    np.save(folder / "masks.npy", masks)
    partial.rename(folder / "images.npy")  # last: a bank with images is whole


def draw_picture(rng: np.random.Generator, height: int, width: int, kind: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a part as a classifier gets it, uint8, height x width x 3, and its mask, height x width, 0 or 255.

    Drawings are crisp and their defects plain, photographs of parts are neither: a drawing is made up to 2.5 times as
    large and shrunk, which leaves of a thin line a pixel of little contrast; what a defect changes is weighed by 0.3
    to 1; grain is added, from fine to as coarse as a blur of 1.2 pixels leaves it, with a deviation of up to 0.08 of
    the range; and half of the pictures are grey. kind: None for no defect.
    """
    scale = rng.uniform(*_SHRUNK)
    image = draw_surface(random_surface(rng), rng, round(scale * height), round(scale * width))
    mask = np.zeros(image.shape[:2], np.uint8)
    if kind is not None:
        changed, cover = draw_defect(image, random_defect(rng, kind), rng)
        image = image + np.float32(rng.uniform(*_VISIBLE)) * (changed - image)
        mask = cover.astype(np.uint8) * np.uint8(255)
    small = preprocess(np.rint(255 * image).astype(np.uint8), height, width).astype(np.float32)
    if rng.random() < _GREY_SHARE:
        small[:] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)[..., None]
    grain = cv2.GaussianBlur(
        rng.standard_normal((height, width), dtype=np.float32), (0, 0), rng.uniform(0.1, _MOST_COARSE)
    )
    small += (255 * rng.uniform(0, _MOST_NOISE) / grain.std() * grain)[..., None]
    return np.clip(np.rint(small), 0, 255).astype(np.uint8), preprocess_mask(mask, height, width)


def train(folder: Path, backbone: Backbone, steps: int, batch_size: int, learning_rate: float, seed: int) -> float:
    """Train to `steps` in all, continuing from the checkpoint, and write the network's weights, half precision.

    Returns the average precision on the held-out pictures.
    """
    import torch
    from safetensors.torch import save_file

    from flawsmith.classification.fitting import Schedule, TrainingSet, fit, predict
    from flawsmith.classification.metrics import average_precision
    from flawsmith.classification.recipes import RECIPES

    bank = Bank.load(folder)
    used = ~bank.held_out
    # A defect that was drawn too small to mark a pixel has no mask to learn from.
    marked = bank.masks.any(axis=(1, 2))
    positives = np.flatnonzero(used & bank.defective & marked).tolist()
    negatives = np.flatnonzero(used & ~bank.defective).tolist()
    data = TrainingSet(
        bank.images, tuple(positives), tuple(negatives), bank.masks, {index: index for index in positives}
    )
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    recipe = RECIPES["mixed"]
    network = recipe.network(backbone)
    checkpoint = folder / f"{backbone.value}.pt"
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else None

    def say(done: int, loss: float) -> None:
        if done % 20 == 0:
            logger.info("step %d of %d, loss %.4f", done, steps, loss)

    def write(done: int, values: dict[str, Any]) -> None:
        partial = checkpoint.with_suffix(".partial")
        torch.save(values, partial)
        partial.rename(checkpoint)

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fit(
        network, data, recipe, Schedule(steps, batch_size, learning_rate, seed), device=device, state=state,
        on_step=say, checkpoint=write,
    )  # fmt: skip
    weights = {
        name: value.half().cpu() if value.is_floating_point() else value.cpu()
        for name, value in network.state_dict().items()
    }
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / f"{backbone.value}.safetensors")
    judged = bank.held_out
    scores = predict(network, bank.images[judged], device)
    return average_precision(bank.defective[judged].astype(int), scores)


def store(folder: Path, backbone: Backbone) -> dict[str, Any]:
    """Put the weights into the object store and write their reference beside them; returns it."""
    from flawsmith.common.object_store import ObjectStore
    from flawsmith.common.settings import load_settings

    objects = ObjectStore(load_settings().object_store)
    objects.ensure_bucket()
    reference = objects.put_file(folder / f"{backbone.value}.safetensors").model_dump(mode="json")
    (folder / f"{backbone.value}.json").write_text(json.dumps(reference) + "\n")
    return reference


def main() -> None:
    """Parses the arguments and runs one stage."""
    restart_in_compute_environment("training.backbone")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["draw", "train", "store"])
    parser.add_argument("--folder", type=Path, default=Path("build/backbone"))
    parser.add_argument("--backbone", type=Backbone, choices=list(Backbone), default=Backbone.RESNET50)
    parser.add_argument("--pictures", type=int, default=8192)
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3000, help="in all, those of earlier runs included")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="more than the free cores is far slower")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.stage == "draw":
        draw_bank(arguments.folder, arguments.pictures, arguments.height, arguments.width, arguments.seed)
    elif arguments.stage == "train":
        import torch

        torch.set_num_threads(arguments.threads)
        precision = train(
            arguments.folder, arguments.backbone, arguments.steps, arguments.batch_size, arguments.learning_rate,
            arguments.seed,
        )  # fmt: skip
        logger.info("average precision on held-out pictures: %.4f", precision)
    else:
        logger.info("stored %s", store(arguments.folder, arguments.backbone)["uri"])


if __name__ == "__main__":
    main()
