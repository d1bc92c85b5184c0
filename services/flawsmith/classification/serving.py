"""Is this part defective? Decode, preprocess, Triton, verdict."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import numpy as np

from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.registry import Deployment, Registry
from flawsmith.classification.thresholds import Threshold
from flawsmith.common.errors import (
    FieldViolation,
    InvalidArgumentError,
    UnavailableError,
)
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.triton import TritonClient

MAX_INLINE_BYTES = 4 * 2**20
CHAMPION_SECONDS = 1.0
"""How long a looked-up alias is believed: a deployment shows within this time, and no request waits for the store."""


class Answer(Manifest):
    """score: probability of a defect, 0 to 1, not calibrated. version: that answered."""

    verdict: Literal["ok", "defective"]
    score: float
    threshold: Threshold
    version: str


class Classifiers:
    """Answers with each classifier's champion. Belongs to one event loop."""

    def __init__(self, store: ObjectStore, registry: Registry, triton: TritonClient) -> None:
        self._store = store
        self._registry = registry
        self._triton = triton
        self._champions: dict[str, tuple[float, Deployment]] = {}
        self._versions: dict[str, ClassifierVersionManifest] = {}

    async def classify(
        self, classifier: str, content: bytes | None, ref: ObjectRef | None, timeout_s: float | None = None
    ) -> Answer:
        """One image: a whole file in `content`, or stored at `ref`.

        Raises InvalidArgumentError (IMAGE_MISSING, INLINE_IMAGE_TOO_LARGE, and those of `decode_image`), the errors of
        `Registry.champion` and of the object store, UnavailableError where Triton does not answer.
        """
        deployment, version = await self._champion(classifier)
        image = await asyncio.to_thread(self._read, content, ref, version.height, version.width)
        score = await self._infer(deployment.triton_model, image, timeout_s)
        return Answer(
            verdict="defective" if score >= version.threshold.value else "ok",
            score=score,
            threshold=version.threshold,
            version=version.name,
        )

    def forget(self, classifier: str) -> None:
        """Look the alias up anew: it moved."""
        self._champions.pop(classifier, None)

    async def _champion(self, classifier: str) -> tuple[Deployment, ClassifierVersionManifest]:
        known = self._champions.get(classifier)
        if known is None or time.monotonic() - known[0] > CHAMPION_SECONDS:
            known = (time.monotonic(), await asyncio.to_thread(self._registry.champion, classifier))
            self._champions[classifier] = known
        deployment = known[1]
        version = self._versions.get(deployment.version)
        if version is None:
            version = await asyncio.to_thread(self._registry.version, deployment.version)
            self._versions[deployment.version] = version
        return deployment, version

    def _read(self, content: bytes | None, ref: ObjectRef | None, height: int, width: int) -> np.ndarray:
        if content is not None and len(content) > MAX_INLINE_BYTES:
            text = f"{len(content):,} bytes; at most {MAX_INLINE_BYTES:,} fit inline: upload it and send its reference"
            raise InvalidArgumentError(
                "INLINE_IMAGE_TOO_LARGE",
                f"the inline image has {text}",
                fields=[FieldViolation("image.content", text)],
            )
        if content is None and ref is None:
            raise InvalidArgumentError(
                "IMAGE_MISSING",
                "send the image's bytes or a reference to a stored image",
                fields=[FieldViolation("image", "set content or ref")],
            )
        data = self._store.get(ref) if ref is not None else content or b""
        return preprocess(decode_image(data), height, width)

    async def _infer(self, model: str, image: np.ndarray, timeout_s: float | None) -> float:
        outputs = await self._triton.infer(model, {"image": image[None]}, ["probability"], timeout_s=timeout_s)
        probability = outputs["probability"]
        if probability is None or probability.shape != (1, 1) or not np.isfinite(probability).all():
            raise UnavailableError("TRITON_FAILED", f"Triton's model {model} answered nonsense; see its log")
        return float(probability[0, 0])
