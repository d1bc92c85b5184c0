"""Whether what the line shows still looks like what the classifier was trained on."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

COMPONENTS = 16
IMAGES = 128
"""Of the product's normals, at most, that the statistics are taken from; eight a component."""

FEWEST_IMAGES = 8
WEIGHT = 0.05
"""Of the newest image in the running mean: about the last 40 images count."""


@dataclass(frozen=True)
class EmbeddingStatistics:
    """Principal components of the embeddings of the product's normals.

    mean: float32, D. components: float32, K x D, orthonormal. variances: float32, K, above 0. images: how many.
    """

    mean: np.ndarray
    components: np.ndarray
    variances: np.ndarray
    images: int

    @classmethod
    def of(cls, embeddings: np.ndarray) -> EmbeddingStatistics | None:
        """embeddings: float32, N x D. K is N / 8, at most 16. None for fewer than 8 images or if they are all alike."""
        count = len(embeddings)
        if count < FEWEST_IMAGES:
            return None
        mean = embeddings.mean(0)
        _, singular, components = np.linalg.svd(embeddings - mean, full_matrices=False)
        variances = singular**2 / (count - 1)
        kept = int(np.count_nonzero(variances[: min(COMPONENTS, count // FEWEST_IMAGES)] > 1e-12))
        if not kept:
            return None
        return cls(mean, components[:kept], variances[:kept], count)

    def save(self) -> bytes:
        """As .npz."""
        file = io.BytesIO()
        np.savez(file, mean=self.mean, components=self.components, variances=self.variances, images=self.images)
        return file.getvalue()

    @classmethod
    def load(cls, data: bytes) -> EmbeddingStatistics:
        """Read what `save` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(arrays["mean"], arrays["components"], arrays["variances"], int(arrays["images"]))


class DriftMonitor:
    """The multivariate EWMA chart of Lowry et al. (Technometrics 34(1), 1992) on an embedding's principal components.

    `value` is the squared Mahalanobis distance of the exponentially weighted mean of the images seen from the mean of
    the product's normals, over its expectation without drift: about 1 while nothing changes, and above 2.5 for sixteen
    components once in a thousand images (chi-squared). Both the running mean's variance and the error of the mean that
    it is compared with are counted.
    """

    def __init__(self, statistics: EmbeddingStatistics) -> None:
        self._statistics = statistics
        self._mean = np.zeros(len(statistics.variances))
        self._seen = 0

    def add(self, embedding: np.ndarray) -> float:
        """embedding: float32, D, of one more image. Returns `value`."""
        projected = self._statistics.components @ (embedding - self._statistics.mean)
        self._mean = (1.0 - WEIGHT) * self._mean + WEIGHT * projected
        self._seen += 1
        return self.value

    @property
    def value(self) -> float:
        """0 before the first image."""
        if not self._seen:
            return 0.0
        decay = 1.0 - (1.0 - WEIGHT) ** (2 * self._seen)  # the exact variance while the chart starts
        variance = WEIGHT / (2.0 - WEIGHT) * decay + (1.0 - (1.0 - WEIGHT) ** self._seen) ** 2 / self._statistics.images
        return float(np.mean(self._mean**2 / (variance * self._statistics.variances)))
