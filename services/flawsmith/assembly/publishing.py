"""The last step of every way to a data set: check for leakage, then publish."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Sequence
from typing import Any

from flawsmith.assembly import leakage
from flawsmith.assembly.assembling import Batch, assemble
from flawsmith.assembly.peers import Peers
from flawsmith.assembly.products import requires_review
from flawsmith.assembly.reviewing import kept_out
from flawsmith.assembly.threads import in_thread
from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import AdapterManifest, BatchManifest, ImportManifest, ObjectRef, Regime, Review, Source
from flawsmith.common.resources import Resources, describe


async def publish_dataset(
    job: Job,
    peers: Peers,
    *,
    name: str,
    product: str,
    import_ref: ObjectRef,
    batches: Sequence[ObjectRef],
    review_required: Collection[str],
    regime: Regime,
    seed: int,
    adapter: ObjectRef | None = None,
) -> dict[str, Any]:
    """Assemble, check and publish a data set as a durable step; returns its description.

    Images that a person rejected are never used. review_required: names of generated batches of which only accepted
    images are; all of them where the product requires review. adapter: the one that drew the batches; found in their
    sidecars when None. The real positives that it was tuned on are those of a few-shot data set.
    """
    now = await job.now()
    resources = job.platform.resources

    async def ask() -> dict[str, dict[str, str]]:
        """By the name of a generated batch, what reviews keep out of it."""
        names = {(await asyncio.to_thread(resources.load, ref, BatchManifest)).name for ref in batches}
        unknown = sorted(set(review_required) - names)
        if unknown:
            raise InvalidArgumentError(
                "UNKNOWN_BATCH",
                f"review_required names {', '.join(unknown)}, which is not among the batches",
                fields=[FieldViolation("review_required", batch) for batch in unknown],
            )
        generated = sorted(name for name in names if "/batches/" in name)
        required = names if await asyncio.to_thread(requires_review, resources, product) else set(review_required)
        return {name: await kept_out(peers, name, accepted_only=name in required) for name in generated}

    reviews = await job.step("reviews", ask)

    async def publish() -> dict[str, Any]:
        imported = await asyncio.to_thread(resources.load, import_ref, ImportManifest)
        loaded = []
        for ref in batches:
            manifest = await asyncio.to_thread(resources.load, ref, BatchManifest)
            said = reviews.get(manifest.name, {})
            loaded.append(Batch(manifest, ref, {digest: Review(review) for digest, review in said.items()}))
        drawn_with = adapter or await asyncio.to_thread(find_adapter, resources, loaded)
        known = None
        if drawn_with is not None:
            tuned = await asyncio.to_thread(resources.load, drawn_with, AdapterManifest)
            known = [image.sha256 for image in tuned.training_images]
        dataset = assemble(
            name=name, imported=imported, import_ref=import_ref, batches=loaded, regime=regime, seed=seed,
            create_time=now, positives=known, adapter=drawn_with,
        )  # fmt: skip
        leakage.refuse(
            await in_thread(
                job, "check", lambda tell: leakage.find_near_duplicates(dataset.images, job.platform.store.get, tell)
            )
        )
        ref = await asyncio.to_thread(resources.publish, name, dataset)
        return describe(dataset, ref)

    return await job.step("publish", publish)


def find_adapter(resources: Resources, batches: Sequence[Batch]) -> ObjectRef | None:
    """Manifest of the adapter that drew the in-distribution batches; None where there is none, or more than one.

    A batch is drawn with one adapter, which the sidecar of each of its images names.
    """
    names = set()
    for batch in batches:
        first = batch.manifest.images[0] if batch.manifest.images else None
        if first is not None and first.source == Source.IN_DISTRIBUTION and first.sidecar is not None:
            names.add(json.loads(resources.store.get(first.sidecar)).get("adapter"))
    names.discard(None)
    if len(names) != 1:
        return None
    _, ref = resources.get(names.pop(), AdapterManifest)
    return ref
