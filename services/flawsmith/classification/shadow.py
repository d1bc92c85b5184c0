"""Shadow mode: the candidate judges what the champion has judged, and both scores are kept side by side.

The champion never waits for it: an image is offered after its answer was found, kept in a bounded queue (the oldest is
dropped), and judged while no more than `below` of the champion's inferences run.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import NamedTuple

from flawsmith.classification import observing
from flawsmith.classification.intervals import share_bounds
from flawsmith.classification.registry import Deployment
from flawsmith.classification.thresholds import Verdict
from flawsmith.classification.verdicts import Judgement
from flawsmith.common import telemetry
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.manifests import Manifest, ObjectRef
from flawsmith.common.object_store import ObjectStore

MAX_QUEUED_BYTES = 64 * 2**20
CHUNK = 200
"""Scores in one stored object."""

KEPT_CHUNKS = 50
WRITE_SECONDS = 5.0
"""A score is stored at the latest after this time."""

SHOWN_DISAGREEMENTS = 100
_LOG = telemetry.log(__name__)


class ShadowScore(Manifest):
    """One image that both judged. champion, candidate: names of Triton models of versions."""

    time: datetime
    image_sha256: str
    champion: str
    champion_score: float
    champion_verdict: Verdict
    candidate: str
    candidate_score: float
    candidate_verdict: Verdict


class ShadowReport(Manifest):
    """See ShadowReport in the API."""

    champion: str
    candidate: str
    images: int
    agreeing: int
    agreement_low: float
    agreement_high: float
    mean_abs_diff: float
    disagreements: tuple[ShadowScore, ...]
    scores: tuple[ObjectRef, ...]


class ShadowImage(NamedTuple):
    """An image that the champion has judged. data: the image file."""

    data: bytes
    champion: Deployment
    judgement: Judgement
    candidate: Deployment


class ShadowLog:
    """Scores in the object store: JSON lines in chunks beside the classifier, the newest `KEPT_CHUNKS`. Methods block.

    Several processes may write for one classifier: each has chunks of its own.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._open: dict[str, tuple[str, list[str]]] = {}

    def write(self, classifier: str, scores: list[ShadowScore]) -> None:
        """Append scores. Raises what the object store raises."""
        prefix = f"{classifier}/shadow/"
        for start in range(0, len(scores), CHUNK):
            key, lines = self._open.get(classifier, ("", []))
            if not key or len(lines) >= CHUNK:
                key, lines = f"{prefix}{time.time_ns():020d}-{secrets.token_hex(4)}.jsonl", []
            lines = [*lines, *(score.model_dump_json() for score in scores[start : start + CHUNK])]
            self._store.put(key, "".join(f"{line}\n" for line in lines).encode())
            self._open[classifier] = (key, lines)
        for key in sorted(self._store.list_keys(prefix))[:-KEPT_CHUNKS]:
            self._store.delete_key(key)

    def report(self, champion: Deployment, candidate: Deployment) -> ShadowReport:
        """Compare two deployments on the kept images that both judged."""
        refs: list[ObjectRef] = []
        scores: list[ShadowScore] = []
        for key in sorted(self._store.list_keys(f"{champion.classifier}/shadow/")):
            data = self._store.get_key(key)
            digest = hashlib.sha256(data).hexdigest()
            refs.append(ObjectRef(uri=self._store.uri(key), sha256=digest, size=len(data)))
            scores += [ShadowScore.model_validate(json.loads(line)) for line in data.splitlines()]
        pair = (champion.triton_model, candidate.triton_model)
        scores = sorted((s for s in scores if (s.champion, s.candidate) == pair), key=lambda score: score.time)
        different = [score for score in scores if score.champion_verdict != score.candidate_verdict]
        agreeing = len(scores) - len(different)
        low, high = share_bounds(agreeing, len(scores), 0.025) if scores else (0.0, 1.0)
        gaps = [abs(score.champion_score - score.candidate_score) for score in scores]
        return ShadowReport(
            champion=champion.version,
            candidate=candidate.version,
            images=len(scores),
            agreeing=agreeing,
            agreement_low=low,
            agreement_high=high,
            mean_abs_diff=sum(gaps) / len(gaps) if gaps else 0.0,
            disagreements=tuple(reversed(different[-SHOWN_DISAGREEMENTS:])),
            scores=tuple(refs),
        )


class Shadow:
    """Has candidates judge images. Belongs to the event loop that first uses it.

    judge: has a deployment judge an image file. below: champion inferences that may run when one of a candidate starts.
    """

    def __init__(
        self, log: ShadowLog, judge: Callable[[Deployment, bytes], Awaitable[Judgement]], *, below: int
    ) -> None:
        self._log = log
        self._judge = judge
        self._below = below
        self._at_work = 0
        self._calm = asyncio.Event()
        self._calm.set()
        self._queue: deque[ShadowImage] = deque()
        self._queued_bytes = 0
        self._offered = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._scores: dict[str, list[ShadowScore]] = {}
        self._written = time.monotonic()

    @contextmanager
    def champion_at_work(self) -> Iterator[None]:
        """Hold during a champion's inference."""
        self._at_work += 1
        self._settle()
        try:
            yield
        finally:
            self._at_work -= 1
            self._settle()

    def offer(self, image: ShadowImage) -> None:
        """Have the candidate judge an image some time; at once and without an error."""
        self._queue.append(image)
        self._queued_bytes += len(image.data)
        while self._queued_bytes > MAX_QUEUED_BYTES and len(self._queue) > 1:
            dropped = self._queue.popleft()
            self._queued_bytes -= len(dropped.data)
            _count(dropped.candidate, "dropped")
        self._offered.set()
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())

    def _settle(self) -> None:
        if self._at_work <= self._below:
            self._calm.set()
        else:
            self._calm.clear()

    async def _work(self) -> None:
        while True:
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._offered.wait()
            except TimeoutError:
                pass
            else:
                await self._calm.wait()
                await self._judge_next()
            full = any(len(scores) >= CHUNK for scores in self._scores.values())
            if self._scores and (full or time.monotonic() - self._written > WRITE_SECONDS):
                await self._write()

    async def _judge_next(self) -> None:
        image = self._queue.popleft()
        self._queued_bytes -= len(image.data)
        if not self._queue:
            self._offered.clear()
        try:
            judged = await self._judge(image.candidate, image.data)
        except FlawsmithError as error:
            _count(image.candidate, "failed")
            _LOG.debug("the candidate does not answer", candidate=image.candidate.version, problem=error.message)
            return
        agreed = judged.verdict == image.judgement.verdict
        _count(image.candidate, "agreed" if agreed else "disagreed")
        self._scores.setdefault(image.champion.classifier, []).append(
            ShadowScore(
                time=datetime.now(UTC),
                image_sha256=hashlib.sha256(image.data).hexdigest(),
                champion=image.champion.triton_model,
                champion_score=image.judgement.score,
                champion_verdict=image.judgement.verdict,
                candidate=image.candidate.triton_model,
                candidate_score=judged.score,
                candidate_verdict=judged.verdict,
            )
        )

    async def _write(self) -> None:
        self._written, scores, self._scores = time.monotonic(), self._scores, {}
        for classifier, found in scores.items():
            try:
                await asyncio.to_thread(self._log.write, classifier, found)
            except FlawsmithError as error:
                _LOG.warning("shadow scores are lost", classifier=classifier, count=len(found), problem=error.message)


def _count(candidate: Deployment, outcome: str) -> None:
    observing.SHADOW.labels(*observing.labels_of(candidate.version, candidate.precision), outcome).inc()
