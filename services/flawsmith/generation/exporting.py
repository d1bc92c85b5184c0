"""Batches of defects with masks, laid out as folders that other tools read: DSAII's own layout, and MVTec AD's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.common.images import decode_image, encode_png
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import BatchManifest, ImageRecord, ImportManifest, Label, Manifest, ObjectRef, Review
from flawsmith.common.resources import Resources, check_name, describe
from flawsmith.common.selection import train_images
from flawsmith.generation.reviews import reviewed_batch

CHUNK = 64
"""Files a step."""
_AT_ONCE = 8
_TRAIN_SHARE = 5
"""One in so many of the parents becomes a train normal of MVTec AD's layout, where no other normals are left."""
URLS = "img_url.json"


class ExportRequest(BaseModel):
    """ExportBatch: fields as in the proto; name: of the export to make."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    batch: str
    layout: Literal["dsaii", "mvtec-ad"] = "dsaii"
    accepted_only: bool = False


class ExportedFile(Manifest):
    """One file. path: inside the export's folder, with forward slashes."""

    path: str
    object: ObjectRef


class ExportManifest(Manifest):
    """A batch laid out as a folder: `products/{product}/exports/{export}`. prefix: where its files lie. left_out:
    images of the batch that it does not hold, the rejected ones among them."""

    name: str
    batch: str
    layout: str
    prefix: str
    files: tuple[ExportedFile, ...]
    anomaly_count: int
    normal_count: int
    left_out: int
    create_time: datetime


@dataclass(frozen=True)
class Folder:
    """A layout before it is written. files: what lies at each path. left_out: see `ExportManifest`."""

    files: Mapping[str, ObjectRef]
    anomalies: int
    normals: int
    left_out: int


def dsaii(product: str, images: Sequence[ImageRecord], normals: Sequence[ImageRecord]) -> Folder:
    """`{CLASS}/{normal,anomaly,mask}/NNN.png`. A mask has its anomaly's number; normals are the anomalies' parents,
    whatever the format that they were imported in (see `in_format`)."""
    parents = {_parent(record) for record in images}
    used = [record for record in normals if record.image.sha256 in parents]
    files: dict[str, ObjectRef] = {}
    for number, record in enumerate(used):
        files[f"{product}/normal/{number:03d}.png"] = record.image
    for number, record in enumerate(images):
        files[f"{product}/anomaly/{number:03d}.png"] = record.image
        files[f"{product}/mask/{number:03d}.png"] = _mask(record)
    return Folder(files, len(images), len(used), 0)


def mvtec_ad(product: str, images: Sequence[ImageRecord], normals: Sequence[ImageRecord]) -> Folder:
    """`{CLASS}/train/good`, `{CLASS}/test/{good,DEFECT}`, `{CLASS}/ground_truth/{DEFECT}/NNN_mask.png`.

    Normals that are parents of anomalies go to test, the others to train: a detector that was trained on a test
    image's parent would find the defect by comparing pixels. Where all are parents, one in five goes to train, and
    the anomalies made from those are left out.
    Raises FailedPreconditionError (TOO_FEW_NORMALS).
    """
    of_images = {_parent(record) for record in images}
    parents = [record for record in normals if record.image.sha256 in of_images]
    train = [record for record in normals if record.image.sha256 not in of_images] or parents[::_TRAIN_SHARE]
    known = {record.image.sha256 for record in train}
    test = [record for record in parents if record.image.sha256 not in known]
    kept = [record for record in images if _parent(record) not in known]
    if not kept or not test:
        raise FailedPreconditionError(
            "TOO_FEW_NORMALS",
            f"the batch was made from {len(parents)} normals, too few to part train from test; use the layout dsaii, "
            "or draw into more normals",
        )
    files: dict[str, ObjectRef] = {}
    for part, records in (("train", train), ("test", test)):
        for number, record in enumerate(records):
            files[f"{product}/{part}/good/{number:03d}{_suffix(record.image)}"] = record.image
    numbers: dict[str, int] = {}
    for record in kept:
        kind = _folder_name(record.defect_type)
        number = numbers[kind] = numbers.get(kind, -1) + 1
        files[f"{product}/test/{kind}/{number:03d}.png"] = record.image
        files[f"{product}/ground_truth/{kind}/{number:03d}_mask.png"] = _mask(record)
    return Folder(files, len(kept), len(train) + len(test), len(images) - len(kept))


LAYOUTS: Mapping[str, Callable[[str, Sequence[ImageRecord], Sequence[ImageRecord]], Folder]] = {
    "dsaii": dsaii,
    "mvtec-ad": mvtec_ad,
}


def _parent(record: ImageRecord) -> str:
    """The normal that a defect was painted into; what else it was made from comes after."""
    return record.parents[0]


def _suffix(ref: ObjectRef) -> str:
    return PurePosixPath(ref.uri).suffix or ".png"


def in_format(path: str, source: ObjectRef, data: bytes) -> bytes:
    """A file's bytes as its path says: PNG where the source is none, the source's own otherwise. The pixels stay."""
    return encode_png(decode_image(data)) if path.endswith(".png") and _suffix(source) != ".png" else data


def _mask(record: ImageRecord) -> ObjectRef:
    if record.mask is None:
        raise ValueError("check_export refuses images without masks")
    return record.mask


def _folder_name(defect_type: str) -> str:
    """A kind of defect as a folder's name; `good` is taken by normals."""
    name = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in defect_type) or "defect"
    return "defect" if name == "good" else name


def check_export(resources: Resources, request: ExportRequest) -> tuple[BatchManifest, list[ImageRecord]]:
    """The batch and those of its images that are asked for; never those that a person rejected.

    Raises NotFoundError (RESOURCE_NOT_FOUND), InvalidArgumentError (INVALID_NAME, OTHER_PRODUCT) and
    FailedPreconditionError (NO_MASKS, NO_ACCEPTED_IMAGES).
    """
    check_name(request.batch, "products/{product}/batches/{batch}", "batch")
    if not request.batch.startswith(f"{request.parent}/"):
        raise InvalidArgumentError(
            "OTHER_PRODUCT",
            f"{request.batch} does not belong to {request.parent}; export it under its own product",
            fields=[FieldViolation("batch", f"is not of {request.parent}")],
        )
    manifest, images = reviewed_batch(resources, request.batch)
    unusable = (Review.REJECTED, Review.PENDING) if request.accepted_only else (Review.REJECTED,)
    chosen = [image.record for image in images if image.review not in unusable]
    if not chosen:
        raise FailedPreconditionError(
            "NO_ACCEPTED_IMAGES",
            f"none of the {len(images)} images of {request.batch} may be exported: each is {' or '.join(unusable)}; "
            "accept some first (`flawsmith review`)",
        )
    if manifest.import_manifest is None or any(record.mask is None for record in chosen):
        raise FailedPreconditionError(
            "NO_MASKS",
            f"the images of {request.batch} ({manifest.method}) lack masks of defects, which the layouts are "
            "made of; export a batch of the strategy inpaint",
        )
    return manifest, chosen


async def export_batch(job: Job, request: ExportRequest) -> dict[str, Any]:
    """Write a batch's files under a prefix, a few a step; publish the list of them last."""
    resources, store = job.platform.resources, job.platform.store
    product = request.parent.removeprefix("products/")
    prefix = f"{request.name}/files/"

    def plan() -> tuple[Folder, int]:
        """Follows from what is stored, so that no step needs to record it, but for reviews."""
        manifest, images = check_export(resources, request)
        assert manifest.import_manifest is not None  # check_export's word
        imported = resources.load(manifest.import_manifest, ImportManifest)
        folder = LAYOUTS[request.layout](product, images, train_images(imported.images, Label.NORMAL))
        return folder, len(manifest.images)

    async def lay_out() -> dict[str, Any]:
        folder, total = await asyncio.to_thread(plan)
        files = {path: ref.model_dump(mode="json") for path, ref in folder.files.items()}
        data = json.dumps(files).encode()
        listed = await asyncio.to_thread(store.put_blob, data, ".json")
        return {
            "files": listed.model_dump(mode="json"), "total": len(files), "anomalies": folder.anomalies,
            "normals": folder.normals, "left_out": total - folder.anomalies,
        }  # fmt: skip

    laid_out = await job.step("lay out", lay_out)
    listing = json.loads(await asyncio.to_thread(store.get, ObjectRef.model_validate(laid_out["files"])))
    sources = {path: ObjectRef.model_validate(ref) for path, ref in listing.items()}
    paths = list(sources)

    async def copy(start: int) -> list[dict[str, Any]]:
        gate = asyncio.Semaphore(_AT_ONCE)

        def one(path: str) -> dict[str, Any]:
            data = in_format(path, sources[path], store.get(sources[path]))
            return ExportedFile(path=path, object=store.put(prefix + path, data)).model_dump(mode="json")

        async def gated(path: str) -> dict[str, Any]:
            async with gate:
                return await asyncio.to_thread(one, path)

        return list(await asyncio.gather(*map(gated, paths[start : start + CHUNK])))

    copied: list[dict[str, Any]] = []
    for start in range(0, len(paths), CHUNK):
        await job.progress("copy", start, len(paths))
        copied += await job.step("copy", copy, start)
    now = await job.now()

    async def publish() -> dict[str, Any]:
        def write() -> dict[str, Any]:
            files = [ExportedFile.model_validate(file) for file in copied]
            if request.layout == "dsaii":
                urls = [{"img_path": path, "url": ref.uri} for path, ref in sources.items() if "/mask/" not in path]
                path = f"{product}/{URLS}"
                files.append(
                    ExportedFile(path=path, object=store.put(prefix + path, json.dumps(urls, indent=1).encode()))
                )
            manifest = ExportManifest(
                name=request.name, batch=request.batch, layout=request.layout, prefix=store.uri(prefix),
                files=tuple(files), anomaly_count=laid_out["anomalies"], normal_count=laid_out["normals"],
                left_out=laid_out["left_out"], create_time=now,
            )  # fmt: skip
            return describe(manifest, resources.publish(request.name, manifest))

        return await asyncio.to_thread(write)

    result: dict[str, Any] = await job.step("publish", publish)
    return result
