"""SqueezeNet 1.1's ImageNet features (Iandola et al., 2016), without torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

# Fire modules of torchvision's `squeezenet1_1().features`; a pooling before each group.
_FIRES = ((3, 4), (6, 7), (9, 10, 11, 12))
# BGR, 0-255.
_MEAN = (103.939, 116.779, 123.68)


class SqueezeNet:
    """The network with its weights, on the CPU."""

    def __init__(self, weights: Path) -> None:
        """weights: safetensors with torchvision's names (`features.3.squeeze.weight`)."""
        self._weights = load_file(weights)

    @torch.no_grad()
    def pooled(self, images: np.ndarray) -> np.ndarray:
        """The last layer's mean over the image: float64, N x 512; images: uint8, N x H x W x 3, RGB."""
        return torch.cat([self._features(part).mean(dim=(2, 3)) for part in _tensors(images)]).double().numpy()

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        x = F.relu(F.conv2d(pixels, *self._layer("features.0"), stride=2))
        for fires in _FIRES:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            for number in fires:
                x = self._fire(x, number)
        return x

    def _fire(self, x: torch.Tensor, number: int) -> torch.Tensor:
        name = f"features.{number}"
        squeezed = F.relu(F.conv2d(x, *self._layer(f"{name}.squeeze")))
        narrow = F.conv2d(squeezed, *self._layer(f"{name}.expand1x1"))
        wide = F.conv2d(squeezed, *self._layer(f"{name}.expand3x3"), padding=1)
        return F.relu(torch.cat([narrow, wide], dim=1))

    def _layer(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        return self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]


def _tensors(images: np.ndarray) -> list[torch.Tensor]:
    pixels = torch.from_numpy(np.ascontiguousarray(images[..., ::-1])).permute(0, 3, 1, 2).float()
    return list((pixels - torch.tensor(_MEAN)[:, None, None]).split(16))
