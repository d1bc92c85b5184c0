"""The durable work of the augmentation service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flawsmith.augmentation.methods import Sources
from flawsmith.augmentation.planning import Draft, plan
from flawsmith.augmentation.rendering import check, render, sidecar
from flawsmith.augmentation.spec import AugmentImagesSpec
from flawsmith.augmentation.stored_sources import generated_images, open_images, texture_images
from flawsmith.augmentation.textures import procedural_texture
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import Resources, describe

CHUNK = 64
"""Images a step, which also share a sidecar file: a killed worker repeats two chunks at most."""
_THREADS_A_CPU, _MAX_THREADS = 8, 64
"""Each thread reads, draws and writes one image after the other: while most wait for the store, some compute."""
_MAX_PIXELS = 2 * 8192**2
"""Of all images in work at once: at most some 2 GB of memory."""


async def augment_images(job: Job, spec: AugmentImagesSpec) -> dict[str, Any]:
    """Draw a defect into `count` train normals; see planning.plan."""
    resources, store = job.platform.resources, job.platform.store

    async def resolve() -> list[list[dict[str, Any]]]:
        """References to the textures and anomalies, so that a step that is repeated draws from the same ones."""
        textures = await asyncio.to_thread(texture_images, store, spec.texture_prefix) if spec.texture_prefix else []
        anomalies: Sequence[ObjectRef] = []
        if spec.generated_batch is not None:
            anomalies = await asyncio.to_thread(generated_images, resources, spec.generated_batch, spec.parent)
        return [[ref.model_dump(mode="json") for ref in refs] for refs in (textures, anomalies)]

    textures, anomalies = [
        [ObjectRef.model_validate(ref) for ref in refs] for refs in await job.step("sources", resolve)
    ]
    cache_bytes = job.settings.compute.texture_cache_bytes // 2
    sources = Sources(
        open_images(store, textures, max_bytes=cache_bytes) if textures else procedural_texture,
        open_images(store, anomalies, max_bytes=cache_bytes) if anomalies else None,
    )
    work: _Chunks | None = None

    async def chunk(start: int) -> list[dict[str, Any]]:
        nonlocal work
        if work is None:
            drafts = await asyncio.to_thread(_plan, resources, spec)
            work = _Chunks(store, spec, sources, drafts, cpus=job.settings.compute.thread_count())
        return await work.make(start)

    records: list[dict[str, Any]] = []
    try:
        for start in range(0, spec.count, CHUNK):
            await job.progress("augment", len(records), spec.count)
            records += await job.step("chunk", chunk, start)
    finally:
        if work is not None:
            work.stop()
    await job.progress("augment", spec.count, spec.count)
    manifest = BatchManifest(
        name=spec.name,
        product=spec.parent,
        source=Source.OUT_OF_DISTRIBUTION,
        method=check(spec.method, spec.parameters),
        seed=spec.seed,
        images=tuple(ImageRecord.model_validate(record) for record in records),
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        ref: ObjectRef = await asyncio.to_thread(resources.publish, spec.name, manifest)
        return describe(manifest, ref)

    return await job.step("publish", publish)


def _plan(resources: Resources, spec: AugmentImagesSpec) -> list[Draft]:
    """The plan follows from the request alone, so that no step needs to record it."""
    imported = resources.load(spec.import_manifest, ImportManifest)
    if imported.product != spec.parent:
        raise InvalidArgumentError(
            "IMPORT_OF_OTHER_PRODUCT",
            f"the import belongs to {imported.product}, the batch to {spec.parent}; name an import of its own",
            fields=[FieldViolation("import_manifest", imported.name)],
        )
    return plan(imported.images, spec.count, spec.seed)


class _Chunks:
    """Makes the images of a batch, a chunk ahead of what was asked for: threads never wait for a step's end.

    What is lost with a killed worker is made again: the same bytes under the same names.
    """

    def __init__(
        self, store: ObjectStore, spec: AugmentImagesSpec, sources: Sources, drafts: list[Draft], *, cpus: int
    ) -> None:
        self._store = store
        self._spec = spec
        self._sources = sources
        self._drafts = drafts
        largest = max(draft.parent.height * draft.parent.width for draft in drafts)
        threads = max(1, min(_THREADS_A_CPU * cpus, _MAX_THREADS, _MAX_PIXELS // largest))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="augment")
        # Many wait for the store, but hardly more compute than there are CPUs: beyond that they take cache from each
        # other. One more, since one of them often waits for the interpreter.
        self._computing = threading.Semaphore(cpus + 1)
        self._begun: dict[int, list[Future[_Made]]] = {}

    async def make(self, start: int) -> list[dict[str, Any]]:
        """Records of the images from `start` on, all written to the store."""
        for begin in (start, start + CHUNK):
            if begin not in self._begun:
                drafts = self._drafts[begin : begin + CHUNK]
                self._begun[begin] = [self._pool.submit(self._one, draft) for draft in drafts]
        # Taken out first: a chunk that failed, because the store was down, is begun anew when the step tries again.
        made = await asyncio.gather(*map(asyncio.wrap_future, self._begun.pop(start)))
        lines = await asyncio.to_thread(self._store.put_blob, b"".join(line + b"\n" for _, line in made), ".jsonl")
        return [record.model_copy(update={"sidecar": lines}).model_dump(mode="json") for record, _ in made]

    def stop(self) -> None:
        """Begin no more images; those in work end by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _one(self, draft: Draft) -> _Made:
        parent, spec = draft.parent.image, self._spec
        data = self._store.get(parent)
        with self._computing:
            made = render(
                data, method=spec.method, parameters=spec.parameters, seed=spec.seed, index=draft.index,
                sources=self._sources,
            )  # fmt: skip
        image = self._store.put_blob(made.image, ".png")
        record = ImageRecord(
            image=image,
            mask=self._store.put_blob(made.mask, ".png"),
            height=made.height,
            width=made.width,
            label=Label.DEFECT,
            source=Source.OUT_OF_DISTRIBUTION,
            split=Split.TRAIN,
            group=draft.parent.group,
            parents=(parent.sha256,),
        )
        line = sidecar(
            made, image=image.sha256, method=spec.method, parameters=spec.parameters, seed=spec.seed,
            index=draft.index, parent=parent.sha256,
        )  # fmt: skip
        return record, line


_Made = tuple[ImageRecord, bytes]
"""A record without its sidecar, and the sidecar's line."""

WORKFLOWS = {"AugmentImages": Workflow(run=augment_images, spec=AugmentImagesSpec)}
