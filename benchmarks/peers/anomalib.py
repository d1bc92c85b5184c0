"""anomalib's PerlinAnomalyGenerator as a side of the benchmark. Runs in the peer's own environment."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.sides import serve

# torchvision's compiled operators do not load beside the CPU build of torch, and without their names it does not
# import. The generator calls neither. They are undefined again when the library is collected.
_LIBRARY = torch.library.Library("torchvision", "DEF")
for _name in ("nms", "qnms"):
    _LIBRARY.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator  # noqa: E402


class Peer:
    """The published defaults, without a folder of textures, but a defect in every image."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._generator = PerlinAnomalyGenerator(probability=1.0)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """float32, 3 x height x width, 0 to 1: what the generator documents."""
        return torch.from_numpy(image).permute(2, 0, 1).contiguous().float() / 255.0

    def seed(self, seed: int) -> None:
        """Torch's global generator is the one that is drawn from."""
        torch.manual_seed(seed)

    def draw(self, image: torch.Tensor, method: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The generator has one method."""
        return self._generator(image)  # type: ignore[no-any-return]

    def arrays(
        self, image: torch.Tensor, made: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Channels last."""
        after, mask = made
        return image.permute(1, 2, 0).numpy(), after.permute(1, 2, 0).numpy(), mask[0].numpy() > 0


if __name__ == "__main__":
    serve(Peer())
