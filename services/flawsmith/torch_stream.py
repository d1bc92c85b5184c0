"""Defects for a training loop, drawn by the augmentation service while the loop runs. Needs torch.

images = [path.read_bytes() for path in sorted(Path("normals").glob("*.png"))]
dataset = AugmentedStream(images, partial(Client, PeerSettings()), method="draem", defect_share=0.5)
for epoch in range(10):
    dataset.set_epoch(epoch)
    for image, mask in DataLoader(dataset, batch_size=8):
        ...
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.process
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from flawsmith.augmentation.v1 import augmentation_pb2
from flawsmith.client import Client
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.images import decode_grey_or_rgb, decode_mask, encode_png
from flawsmith.common.v1 import common_pb2


@dataclass(frozen=True)
class _Draw:
    """One item of an epoch: which image, and the seed of its defect; None where it stays as it is."""

    index: int
    seed: int | None


class AugmentedStream(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """Every image once an epoch, in random order, with a fresh defect in it.

    Yields (image, mask): uint8, channels x height x width (1 or 3 channels, RGB) with 0 to 255, and uint8,
    height x width with 0 or 1; all 0 where the image stayed normal.

    images: of good parts, as files (PNG, JPEG, BMP, TIFF) or as uint8 arrays, height x width or height x width x 3 RGB.
    connect: opens a client; every pass over the images calls it once, in its own process.
    method, parameters, texture_prefix, generated_batch: as of AugmentImage. defect_share: of the images, at random;
    the rest come as they are. seed: with the epoch it decides everything. patience_s: how long a service that is away
    or busy is waited for.

    The service works on several images ahead of the loop, which is why no DataLoader workers are needed: the loop
    spends its time on decoding alone. Where that is too much, `num_workers` works too, each worker with a connection
    of its own and a share of the images, but workers must not be forked: gRPC's threads do not survive a fork. Pass
    `multiprocessing_context="spawn"` to the DataLoader.

    Iterating raises the errors of AugmentImage, and RuntimeError in forked workers.
    """

    def __init__(
        self,
        images: Sequence[bytes | np.ndarray],
        connect: Callable[[], Client],
        *,
        method: str = "",
        parameters: Mapping[str, Any] | None = None,
        texture_prefix: str = "",
        generated_batch: common_pb2.ObjectRef | None = None,
        defect_share: float = 1.0,
        seed: int = 0,
        patience_s: float = 60.0,
    ) -> None:
        super().__init__()
        self._files = [image if isinstance(image, bytes) else encode_png(image) for image in images]
        self._connect = connect
        self._request = augmentation_pb2.AugmentImageRequest(
            method=method, texture_prefix=texture_prefix, generated_batch=generated_batch
        )
        self._request.parameters.update(dict(parameters or {}))
        self._defect_share = defect_share
        self._seed = seed
        self._epoch = 0
        self._patience_s = patience_s

    def set_epoch(self, epoch: int) -> None:
        """Draw other defects in another order from now on; call it before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = get_worker_info()
        if worker is not None and isinstance(
            multiprocessing.process.current_process(), multiprocessing.context.ForkProcess
        ):
            raise RuntimeError(
                'gRPC does not work in forked workers; pass multiprocessing_context="spawn" to the DataLoader, or '
                "num_workers=0: the service works ahead of the loop by itself",
            )
        draws = self._plan()
        if worker is not None:
            draws = draws[worker.id :: worker.num_workers]
        answers = self._answers([draw for draw in draws if draw.seed is not None])
        for draw in draws:
            if draw.seed is None:
                image = decode_grey_or_rgb(self._files[draw.index])
                yield _tensor(image), torch.zeros(image.shape[:2], dtype=torch.uint8)
            else:
                answer = next(answers)
                image, mask = decode_grey_or_rgb(answer.image), decode_mask(answer.mask)
                yield _tensor(image), torch.from_numpy((mask > 0).astype(np.uint8))

    def _plan(self) -> list[_Draw]:
        """The epoch's items, the same in every worker."""
        rng = np.random.default_rng([self._seed, self._epoch])
        order = rng.permutation(len(self._files)).tolist()
        defective = rng.random(len(order)) < self._defect_share
        seeds = rng.integers(0, 2**63 - 1, len(order)).tolist()
        return [
            _Draw(index, seed if chosen else None) for index, chosen, seed in zip(order, defective, seeds, strict=True)
        ]

    def _answers(self, draws: list[_Draw]) -> Iterator[augmentation_pb2.AugmentImageResponse]:
        """Answers in order; a stream that breaks off is opened again from the first that was not answered."""
        done, failing_since = 0, None
        with self._connect() as client:
            while done < len(draws):
                try:
                    for answer in client.augmentation.AugmentStream(map(self._request_of, draws[done:])):
                        done, failing_since = done + 1, None
                        yield answer
                except FlawsmithError as error:
                    failing_since = failing_since or time.monotonic()
                    if error.retry_after_s is None or time.monotonic() - failing_since > self._patience_s:
                        raise
                    time.sleep(min(error.retry_after_s, 1.0))

    def _request_of(self, draw: _Draw) -> augmentation_pb2.AugmentImageRequest:
        request = augmentation_pb2.AugmentImageRequest()
        request.CopyFrom(self._request)
        request.image.content = self._files[draw.index]
        request.seed = draw.seed or 0
        return request


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image[None] if image.ndim == 2 else np.ascontiguousarray(image.transpose(2, 0, 1)))
