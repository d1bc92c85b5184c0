"""Train a small defect segmenter on good parts alone: the augmentation service draws the defects as it goes.

    flawsmith up &                                        # the platform on this machine
    python examples/train_with_stream.py                  # our own sample product
    python examples/train_with_stream.py --images FOLDER  # your good parts, all of one size

Needs torch; `pip install 'flawsmith[torch]'` brings the rest.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from flawsmith.client import Client
from flawsmith.common.settings import Settings
from flawsmith.drawing import draw_sample
from flawsmith.torch_stream import AugmentedStream


class Segmenter(nn.Module):
    """Three scales of convolutions; logits of the size of the image."""

    def __init__(self, channels: int, width: int = 16) -> None:
        super().__init__()
        self.fine = self._block(channels, width)
        self.middle = self._block(width, 2 * width)
        self.coarse = self._block(2 * width, 4 * width)
        self.head = nn.Conv2d(7 * width, 1, 1)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
        )  # fmt: skip

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image: float, batch x channels x height x width. Returns logits, batch x height x width."""
        fine = self.fine(image)
        middle = self.middle(nn.functional.avg_pool2d(fine, 2))
        coarse = self.coarse(nn.functional.avg_pool2d(middle, 2))
        size = image.shape[-2:]
        scaled = [nn.functional.interpolate(scale, size, mode="bilinear") for scale in (middle, coarse)]
        return self.head(torch.cat([fine, *scaled], dim=1)).squeeze(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder of good parts; the sample product by default")
    parser.add_argument("--method", default="memseg")
    parser.add_argument("--texture-prefix", default="", help="textures of yours in the object store")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="DataLoader workers; the service works ahead by itself")
    parser.add_argument("--json", action="store_true", help="print the last epoch's figures as JSON")
    options = parser.parse_args()

    torch.manual_seed(0)
    if options.images is None:
        images = [draw_sample(np.random.default_rng(n), 96, 80, defective=False)[0] for n in range(64)]
    else:
        images = [path.read_bytes() for path in sorted(options.images.iterdir()) if path.is_file()]
    # FLAWSMITH_PEERS__AUGMENTATION=host:port names another platform than this machine's.
    connect = partial(Client, Settings().peers, principal="train-with-stream")
    dataset = AugmentedStream(
        images, connect, method=options.method, texture_prefix=options.texture_prefix, defect_share=0.5
    )
    loader = DataLoader(
        dataset, batch_size=options.batch_size, num_workers=options.workers,
        multiprocessing_context="spawn" if options.workers else None,
    )  # fmt: skip

    model: nn.Module | None = None
    for epoch in range(options.epochs):
        dataset.set_epoch(epoch)
        started, losses, common, either, seen = time.perf_counter(), [], 0, 0, 0
        for image, mask in loader:
            if model is None:
                model = Segmenter(image.shape[1])
                optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
            logits = model(image / 255.0)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, mask.float())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
            found, defect = logits > 0, mask > 0
            common += int((found & defect).sum())
            either += int((found | defect).sum())
            seen += len(image)
        figures = {
            "epoch": epoch, "loss": sum(losses) / len(losses), "iou": common / max(either, 1),
            "images_per_second": seen / (time.perf_counter() - started),
        }  # fmt: skip
        if not options.json:
            print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
