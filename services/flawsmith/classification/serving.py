"""Is this part defective? Decode, preprocess, Triton, verdict; and beside the answer metrics and the candidate."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass

import numpy as np

from flawsmith.classification import observing
from flawsmith.classification.answerable import MAX_PIXELS, MOST_ENLARGED, enlargement
from flawsmith.classification.drift import DriftMonitor, EmbeddingStatistics
from flawsmith.classification.heat_map import HeatMap, draw_heat_map
from flawsmith.classification.manifests import ClassifierVersionManifest
from flawsmith.classification.preprocess import preprocess
from flawsmith.classification.registry import Aliases, Deployment, Registry, require_champion
from flawsmith.classification.shadow import Shadow, ShadowImage, ShadowLog
from flawsmith.classification.thresholds import Threshold, Verdict
from flawsmith.classification.variants import Precision
from flawsmith.classification.verdicts import Judgement, judge
from flawsmith.common import telemetry
from flawsmith.common.errors import FieldViolation, InvalidArgumentError, UnavailableError
from flawsmith.common.fair_threads import FairThreads
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.triton import TritonClient

MAX_INLINE_BYTES = 4 * 2**20
MAX_STORED_BYTES = 128 * 2**20
_LARGE_AT_ONCE = 2
"""Stored images larger than an inline one may be that are held at once; calls with further ones wait. As many of the
largest as there are places for calls would be 16 GB."""
ALIAS_SECONDS = 1.0
"""A move of an alias shows within this time. No request waits for the object store: while a classifier is in use its
aliases are looked up in the background, and the last ones known go on answering while the store is away."""

_FORGOTTEN_AFTER_S = 60.0
_NO_ALIASES = Aliases((), None)
_LOG = telemetry.log(__name__)


class Answer(Manifest):
    """score: probability of a defect, 0 to 1, not calibrated. version, precision: that answered."""

    verdict: Verdict
    score: float
    calibrated_probability: float | None
    threshold: Threshold
    version: str
    precision: Precision
    heat_map: HeatMap | None = None


@dataclass
class _Model:
    """What is needed to answer with a Triton model, whichever deployment points to it."""

    version: ClassifierVersionManifest
    drift: DriftMonitor | None = None


@dataclass(frozen=True)
class _Served:
    """A deployment and what is needed to answer with it."""

    deployment: Deployment
    version: ClassifierVersionManifest
    drift: DriftMonitor | None


@dataclass
class _Known:
    """A classifier's aliases, and when someone last asked for them."""

    aliases: Aliases
    used: float
    refresher: asyncio.Task[None] | None = None

    def learn(self, aliases: Aliases) -> None:
        """The drift of what is champion no more is shown no longer: nobody would keep it up to date."""
        before, now = self.aliases.champion, aliases.champion
        if before is not None and (now is None or now.triton_model != before.triton_model):
            observing.DRIFT.remove(*observing.labels_of(before.version, before.precision))
        self.aliases = aliases


class Classifiers:
    """Answers with each classifier's champion. Belongs to one event loop.

    shadow_below: champion inferences that may run when one of a candidate starts.
    """

    def __init__(
        self, store: ObjectStore, registry: Registry, triton: TritonClient, threads: FairThreads, *, shadow_below: int
    ) -> None:
        self._store = store
        self._registry = registry
        self._triton = triton
        self._threads = threads
        self._known: dict[str, _Known] = {}
        self._models: dict[str, _Model] = {}
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._shadow = Shadow(ShadowLog(store), self._judge_as_candidate, below=shadow_below)

    async def classify(
        self,
        caller: str,
        classifier: str,
        source: bytes | ObjectRef | None,
        *,
        heat_map: bool = False,
        timeout_s: float | None = None,
    ) -> Answer:
        """One image: a whole file, or a reference to a stored one. caller: whose turn of the threads it takes.

        Raises InvalidArgumentError (IMAGE_MISSING, INLINE_IMAGE_TOO_LARGE, STORED_IMAGE_TOO_LARGE, IMAGE_TOO_SMALL,
        IMAGE_SIZE_UNEXPECTED, and those of `decode_image`), the errors of `require_champion` and of the object store,
        UnavailableError where Triton does not answer.
        """
        large = isinstance(source, ObjectRef) and source.size > MAX_INLINE_BYTES
        async with self._large if large else contextlib.nullcontext():
            return await self._classify(caller, classifier, source, heat_map, timeout_s)

    async def _classify(
        self, caller: str, classifier: str, source: bytes | ObjectRef | None, heat_map: bool, timeout_s: float | None
    ) -> Answer:
        data = await self._fetch(source)
        aliases = await self._aliases(classifier)
        served = await self._serve(require_champion(aliases, classifier))
        image = await self._threads.run(caller, _read, data, served)
        with self._shadow.champion_at_work():
            found = await self._infer(served, image, heat_map, timeout_s)
        judgement = self._observe(served, found)
        if aliases.candidate is not None:
            self._shadow.offer(ShadowImage(data, served.deployment, judgement, aliases.candidate))
        drawn = None
        if heat_map:
            version = served.version
            method = "segmentation" if version.recipe == "mixed" else "grad-cam"
            drawn = await self._threads.run(
                caller, draw_heat_map, found["heat_map"][0], version.height, version.width, method
            )
        return Answer(
            **judgement._asdict(),
            threshold=served.version.threshold,
            version=served.version.name,
            precision=served.deployment.precision,
            heat_map=drawn,
        )

    async def check(self, classifier: str) -> None:
        """Raise what `classify` would raise whatever the image: the errors of `require_champion`."""
        await self._serve(require_champion(await self._aliases(classifier), classifier))

    def forget(self, classifier: str) -> None:
        """Look the aliases up anew: they moved."""
        known = self._known.pop(classifier, None)
        if known is not None:
            known.learn(_NO_ALIASES)
            if known.refresher is not None:
                known.refresher.cancel()

    async def _fetch(self, source: bytes | ObjectRef | None) -> bytes:
        match source:
            case bytes():
                _check_size(len(source), MAX_INLINE_BYTES, "INLINE_IMAGE_TOO_LARGE", "inline: send a reference")
                return source
            case ObjectRef():
                _check_size(source.size, MAX_STORED_BYTES, "STORED_IMAGE_TOO_LARGE", "in an image to judge")
                return await asyncio.to_thread(self._store.get, source)
            case None:
                raise InvalidArgumentError(
                    "IMAGE_MISSING",
                    "send the image's bytes or a reference to a stored image",
                    fields=[FieldViolation("image", "set content or ref")],
                )

    async def _aliases(self, classifier: str) -> Aliases:
        known = self._known.get(classifier)
        # Whoever has just deployed the first version is answered at once: that there is none is not believed for long.
        if known is None or known.aliases.champion is None:
            aliases = await asyncio.to_thread(self._registry.aliases, classifier)
            known = self._known.setdefault(classifier, _Known(aliases, 0.0))
            known.learn(aliases)
        known.used = time.monotonic()
        if known.refresher is None:
            known.refresher = asyncio.create_task(self._refresh(classifier, known))
        return known.aliases

    async def _refresh(self, classifier: str, known: _Known) -> None:
        try:
            while time.monotonic() - known.used < _FORGOTTEN_AFTER_S:
                await asyncio.sleep(ALIAS_SECONDS / 2)
                try:
                    known.learn(await asyncio.to_thread(self._registry.aliases, classifier))
                except UnavailableError as error:
                    _LOG.warning("aliases cannot be looked up", classifier=classifier, problem=error.message)
        finally:
            if self._known.get(classifier) is known:
                del self._known[classifier]
                known.learn(_NO_ALIASES)

    async def _serve(self, deployment: Deployment) -> _Served:
        # By model: while an alias moves, calls come with its deployment as candidate and as champion in turn.
        model = self._models.get(deployment.triton_model)
        if model is None:
            version = await asyncio.to_thread(self._registry.version, deployment.version)
            model = self._models.setdefault(deployment.triton_model, _Model(version))
        if model.drift is None and deployment.embeddings is not None:
            data = await asyncio.to_thread(self._store.get, deployment.embeddings)
            model.drift = model.drift or DriftMonitor(EmbeddingStatistics.load(data))
        return _Served(deployment, model.version, model.drift)

    async def _infer(
        self, served: _Served, image: np.ndarray, heat_map: bool, timeout_s: float | None
    ) -> dict[str, np.ndarray]:
        wanted = ["probability", "logit", *(["embedding"] if served.drift else []), *(["heat_map"] if heat_map else [])]
        model = served.deployment.triton_model
        found = await self._triton.infer(model, {"image": image[None]}, wanted, timeout_s=timeout_s)
        for name in ("probability", "logit"):
            if found[name] is None or found[name].shape != (1, 1) or not np.isfinite(found[name]).all():
                raise UnavailableError("TRITON_FAILED", f"Triton's model {model} answered nonsense; see its log")
        return found

    def _observe(self, served: _Served, found: dict[str, np.ndarray]) -> Judgement:
        judgement = judge(served.version, float(found["probability"][0, 0]), float(found["logit"][0, 0]))
        labels = observing.labels_of(served.version.name, served.deployment.precision)
        observing.SCORES.labels(*labels).observe(judgement.score)
        observing.VERDICTS.labels(*labels, judgement.verdict).inc()
        if served.drift is not None:
            drift = served.drift.add(found["embedding"][0])
            # The alias may have moved while Triton computed.
            known = self._known.get(served.deployment.classifier)
            champion = known.aliases.champion if known is not None else None
            if champion is not None and champion.triton_model == served.deployment.triton_model:
                observing.DRIFT.labels(*labels).set(drift)
        return judgement

    async def _judge_as_candidate(self, deployment: Deployment, data: bytes) -> Judgement:
        served = await self._serve(deployment)
        image = await self._threads.run("shadow", _read, data, served)
        found = await self._infer(served, image, False, None)
        return judge(served.version, float(found["probability"][0, 0]), float(found["logit"][0, 0]))


def _check_size(size: int, most: int, reason: str, advice: str) -> None:
    if size > most:
        text = f"{size:,} bytes; at most {most:,} fit {advice}"
        raise InvalidArgumentError(reason, f"the image has {text}", fields=[FieldViolation("image", text)])


def _read(data: bytes, served: _Served) -> np.ndarray:
    """uint8, height x width x 3, as the version takes it."""
    image, version, sizes = decode_image(data, max_pixels=MAX_PIXELS), served.version, served.deployment.sizes
    height, width = image.shape[:2]
    if served.deployment.size_policy == "refuse" and sizes is not None and not sizes.includes(height, width):
        raise InvalidArgumentError(
            "IMAGE_SIZE_UNEXPECTED",
            f"the image is {height} x {width} pixels (height x width); the product's are {sizes.height_min} to "
            f"{sizes.height_max} x {sizes.width_min} to {sizes.width_max}, and this deployment refuses others",
            fields=[FieldViolation("image", "not of the product's size")],
        )
    if enlargement((height, width), (version.height, version.width)) > MOST_ENLARGED:
        raise InvalidArgumentError(
            "IMAGE_TOO_SMALL",
            f"the image is {height} x {width} pixels (height x width); the classifier looks at {version.height} x "
            f"{version.width} and enlarges images at most {MOST_ENLARGED} times: send a larger one",
            fields=[FieldViolation("image", "too small")],
        )
    return preprocess(image, version.height, version.width)
