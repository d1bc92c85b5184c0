"""The durable work of the augmentation service."""

from __future__ import annotations

import asyncio
from typing import Any

from flawsmith.augmentation.planning import Draft, plan
from flawsmith.augmentation.rendering import check, render, sidecar
from flawsmith.augmentation.spec import AugmentImagesSpec
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, ObjectRef, Source, Split
from flawsmith.common.object_store import ObjectStore
from flawsmith.common.resources import describe

CHUNK = 16
"""Images a step: what a killed worker repeats at most."""
_AT_ONCE = 4


async def augment_images(job: Job, spec: AugmentImagesSpec) -> dict[str, Any]:
    """Draw a defect into `count` train normals; see planning.plan."""
    resources = job.platform.resources
    drafts: list[Draft] = []

    async def load() -> None:
        """The plan, in memory: it follows from the request alone, so no step needs to record it."""
        if not drafts:
            imported = await asyncio.to_thread(resources.load, spec.import_manifest, ImportManifest)
            if imported.product != spec.parent:
                raise InvalidArgumentError(
                    "IMPORT_OF_OTHER_PRODUCT",
                    f"the import belongs to {imported.product}, the batch to {spec.parent}; name an import of its own",
                    fields=[FieldViolation("import_manifest", imported.name)],
                )
            drafts.extend(plan(imported.images, spec.count, spec.seed))

    async def chunk(start: int) -> list[dict[str, Any]]:
        await load()
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(draft: Draft) -> dict[str, Any]:
            async with gate:
                record = await asyncio.to_thread(_make, job.platform.store, spec, draft)
            return record.model_dump(mode="json")

        return list(await asyncio.gather(*(one(draft) for draft in drafts[start : start + CHUNK])))

    records: list[dict[str, Any]] = []
    await job.progress("augment", 0, spec.count)
    for start in range(0, spec.count, CHUNK):
        records += await job.step("chunk", chunk, start)
        await job.progress("augment", len(records), spec.count)
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


def _make(store: ObjectStore, spec: AugmentImagesSpec, draft: Draft) -> ImageRecord:
    """One image of the batch, written to the store; made again it is the same bytes under the same name."""
    parent = draft.parent.image
    made = render(store.get(parent), method=spec.method, parameters=spec.parameters, seed=spec.seed, index=draft.index)
    record = sidecar(
        made, method=spec.method, parameters=spec.parameters, seed=spec.seed, index=draft.index, parent=parent.sha256
    )
    return ImageRecord(
        image=store.put_blob(made.image, ".png"),
        mask=store.put_blob(made.mask, ".png"),
        height=made.height,
        width=made.width,
        label=Label.DEFECT,
        source=Source.OUT_OF_DISTRIBUTION,
        split=Split.TRAIN,
        group=draft.parent.group,
        parents=(parent.sha256,),
        sidecar=store.put_blob(record, ".json"),
    )


WORKFLOWS = {"AugmentImages": Workflow(run=augment_images, spec=AugmentImagesSpec)}
