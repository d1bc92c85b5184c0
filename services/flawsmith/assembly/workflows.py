"""The durable work of the assembly service."""

from __future__ import annotations

import asyncio
from typing import Any

from flawsmith.assembly.describing import describe_import
from flawsmith.assembly.importing import ImportPlan, PlannedImage, copy_image, plan_import
from flawsmith.assembly.peers import Peers
from flawsmith.assembly.publishing import publish_dataset
from flawsmith.assembly.requesting import request_dataset
from flawsmith.assembly.resolving import find_import
from flawsmith.assembly.spec import AssembleSpec, ImportSpec, RequestDatasetSpec
from flawsmith.assembly.threads import Tell, in_thread
from flawsmith.common.errors import NotFoundError
from flawsmith.common.jobs import Job, Workflow
from flawsmith.common.manifests import ImageRecord, ImportManifest, ObjectRef

CHUNK = 64
"""Images a step: what a killed worker repeats at most."""
_AT_ONCE = 8


async def import_images(job: Job, spec: ImportSpec) -> dict[str, Any]:
    """Check everything, then copy, then publish: bad data changes nothing."""
    store, resources = job.platform.store, job.platform.resources
    folder = store.key(spec.prefix).rstrip("/") + "/"

    def read(path: str) -> bytes:
        return store.get_key(folder + path)

    def check(tell: Tell) -> ObjectRef:
        paths = [key.removeprefix(folder) for key in store.list_keys(folder)]
        if not paths:
            raise NotFoundError("NOTHING_UPLOADED", f"there is nothing at {spec.prefix}; upload the files first")
        plan = plan_import(paths, read, seed=spec.seed, validation_share=spec.validation_share, progress=tell)
        return store.put_blob(plan.model_dump_json().encode(), ".json")

    async def check_all() -> dict[str, Any]:
        return (await in_thread(job, "check", check)).model_dump(mode="json")

    # The plan of a large data set is too much for a row of the job database: the store keeps it.
    plan_ref = ObjectRef.model_validate(await job.step("check", check_all))

    async def load() -> dict[str, Any]:
        """What later steps need to know of the plan."""
        found = await asyncio.to_thread(resources.load, plan_ref, ImportPlan)
        plans.append(found)
        return {"layout": found.layout, "split_rule": found.split_rule, "total": len(found.images)}

    plans: list[ImportPlan] = []
    head = await job.step("plan", load)

    async def copy(start: int) -> list[dict[str, Any]]:
        if not plans:  # another worker went on
            await load()
        gate = asyncio.Semaphore(_AT_ONCE)

        async def one(planned: PlannedImage) -> dict[str, Any]:
            async with gate:
                record = await asyncio.to_thread(copy_image, planned, read, store.put_blob)
            return record.model_dump(mode="json")

        return list(await asyncio.gather(*(one(planned) for planned in plans[0].images[start : start + CHUNK])))

    records: list[dict[str, Any]] = []
    for start in range(0, head["total"], CHUNK):
        await job.progress("copy", start, head["total"])
        records += await job.step("copy", copy, start)
    manifest = ImportManifest(
        name=spec.name,
        product=spec.parent,
        layout=head["layout"],
        split_rule=head["split_rule"],
        seed=spec.seed,
        images=tuple(ImageRecord.model_validate(record) for record in records),
        licence=spec.licence,
        create_time=await job.now(),
    )

    async def publish() -> dict[str, Any]:
        ref = await asyncio.to_thread(resources.publish, spec.name, manifest)
        return describe_import(manifest, ref)

    return await job.step("publish", publish)


async def assemble_dataset(job: Job, spec: AssembleSpec) -> dict[str, Any]:
    """Assemble from an import and batches that exist."""

    async def resolve() -> dict[str, Any]:
        _, ref = await asyncio.to_thread(find_import, job.platform.resources, spec.parent, spec.import_)
        return ref.model_dump(mode="json")

    return await publish_dataset(
        job,
        Peers(job.platform, job.principal, job.settings.jobs.outage_patience_s),
        name=spec.name,
        product=spec.parent,
        import_ref=ObjectRef.model_validate(await job.step("resolve", resolve)),
        batches=spec.batches,
        review_required=spec.review_required,
        regime=spec.regime,
        seed=spec.seed,
    )


WORKFLOWS = {
    "ImportImages": Workflow(run=import_images, spec=ImportSpec),
    "AssembleDataset": Workflow(run=assemble_dataset, spec=AssembleSpec),
    "RequestDataset": Workflow(run=request_dataset, spec=RequestDatasetSpec, waits=True),
}
