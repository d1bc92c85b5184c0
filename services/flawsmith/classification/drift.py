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

FALSE_ALARMS = 0.001
"""Share of the images at which the chart is above its limit though nothing has changed."""


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
    the product's normals, over `limit_of` its statistics: whatever their number of components and images, it is above 1
    for about one image in a thousand at most while nothing changes. Both the running mean's variance and the error of
    the mean that it is compared with are counted.
    """

    def __init__(self, statistics: EmbeddingStatistics) -> None:
        self._statistics = statistics
        self._limit = limit_of(len(statistics.variances), statistics.images)
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
        return float(np.sum(self._mean**2 / (variance * self._statistics.variances))) / self._limit


def limit_of(components: int, images: int) -> float:
    """The distance that a normally distributed vector of K components exceeds with chance `FALSE_ALARMS` where mean and
    covariance were estimated from N images, K < N: K (N - 1) / (N - K) times the quantile of F with K and N - K degrees
    of freedom (Hotelling's T squared; Tracy, Young and Mason 1992). The fewer images, the further from chi-squared's.

    Components that were chosen for their large variance vary less in other images, so the chance is rather smaller.
    """
    # T squared is (N - 1) tan(a) ** 2 of an angle a with this density.
    angles = np.linspace(0.0, np.pi / 2, 10_001)
    chance = np.cumsum(np.sin(angles) ** (components - 1) * np.cos(angles) ** (images - components - 1))
    angle = angles[np.searchsorted(chance, (1.0 - FALSE_ALARMS) * chance[-1])]
    return float((images - 1) * np.tan(angle) ** 2)
