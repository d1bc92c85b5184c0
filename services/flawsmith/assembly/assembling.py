"""Put a versioned training set together from real data and synthetic batches."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flawsmith.assembly import leakage
from flawsmith.assembly.near_duplicates import Fingerprint, fingerprint
from flawsmith.assembly.reading import a_few_at_once
from flawsmith.common.errors import FailedPreconditionError, FieldViolation, FlawsmithError, InvalidArgumentError
from flawsmith.common.images import decode_image, decode_mask
from flawsmith.common.manifests import (
    BatchManifest,
    DatasetManifest,
    ImageRecord,
    ImportManifest,
    Label,
    LeftOut,
    ObjectRef,
    Regime,
    Review,
    Source,
    Split,
    SplitCounts,
)
from flawsmith.common.selection import FEW_SHOT_POSITIVES, select_positives, train_images


@dataclass(frozen=True)
class Batch:
    """Synthetic images to put in. kept_out: sha256 of those that may not be used, with what a person said of each:
    rejected, or pending where every image must be accepted."""

    manifest: BatchManifest
    ref: ObjectRef
    kept_out: Mapping[str, Review] = field(default_factory=dict)


def assemble(
    *,
    name: str,
    imported: ImportManifest,
    import_ref: ObjectRef,
    batches: Sequence[Batch],
    regime: Regime,
    seed: int,
    create_time: datetime,
    positives: Collection[str] | None = None,
    adapter: ObjectRef | None = None,
) -> DatasetManifest:
    """Build the manifest of a data set.

    Train: all real train normals, the real positives that the regime allows, the batches' images. Validation: real;
    normals only in the zero- and few-shot regimes, where no other positive may be known. Test: real, everything.
    Reconstructed normals stay in the split of the images that they were made from, whichever it is.
    positives: sha256 of the real positives to use, where an adapter was tuned on certain ones; chosen by the seed
    when None, with those that the batches were made from among them.
    Raises InvalidArgumentError (BATCH_OF_OTHER_PRODUCT, NOT_SYNTHETIC) and FailedPreconditionError (NO_POSITIVES,
    NO_ACCEPTED_IMAGES, BATCH_OF_OTHER_IMPORT, REGIME_VIOLATED, LEAKAGE as far as records show it).
    """
    _check_batches(batches, imported)
    synthetic = [record for batch in batches for record in _usable(batch)]
    # A leak is the graver fault: it is named before the regime is.
    real = [record for record in imported.images if record.source == Source.REAL]
    held_out = [record for record in real if record.split != Split.TRAIN]
    leakage.refuse(leakage.find_leaks([*held_out, *synthetic]))
    chosen = _positives(imported.images, synthetic, regime, seed, positives)
    kept = [
        record
        for record in held_out
        if record.split == Split.TEST or record.label == Label.NORMAL or regime == Regime.FULL_SHOT
    ]
    images = _distinct([*train_images(imported.images, Label.NORMAL), *chosen, *synthetic, *kept])
    if not any(record.split == Split.TRAIN and record.label == Label.DEFECT for record in images):
        raise FailedPreconditionError(
            "NO_POSITIVES",
            "train would hold no defect, real or synthetic; add a batch, or use a regime with real positives",
            fields=[FieldViolation("batches", "add at least one batch")],
        )
    leakage.refuse(leakage.find_leaks(images))
    return DatasetManifest(
        name=name,
        product=imported.product,
        regime=regime,
        images=tuple(images),
        counts=count(images),
        inputs=(import_ref, *(batch.ref for batch in batches)),
        seed=seed,
        adapter=adapter,
        left_out=tuple(left_out for batch in batches if (left_out := _left_out(batch)) is not None),
        create_time=create_time,
    )


def count(images: Sequence[ImageRecord]) -> dict[Split, SplitCounts]:
    """Images of each split by label and source."""
    counts = {}
    for split in Split:
        part = [record for record in images if record.split == split]
        defects = [record.source for record in part if record.label == Label.DEFECT]
        reconstructed = [record.source for record in part].count(Source.RECONSTRUCTED)
        counts[split] = SplitCounts(
            normal=len(part) - len(defects) - reconstructed,
            reconstructed=reconstructed,
            real_defect=defects.count(Source.REAL),
            in_distribution=defects.count(Source.IN_DISTRIBUTION),
            out_of_distribution=defects.count(Source.OUT_OF_DISTRIBUTION),
        )
    return counts


def validate_dataset(
    manifest: DatasetManifest,
    read: leakage.ReadObject,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[str], int]:
    """Compare a manifest with its objects and with the rules on leakage.

    read: raises when an object is missing or its sha256 differs. Returns everything that is wrong, in words, and how
    many objects were read. Errors that say nothing of the data (UNAVAILABLE) pass through.
    """
    problems = [f"{leak.field} {leak.description}" for leak in leakage.find_leaks(manifest.images)]
    if manifest.counts != count(manifest.images):
        problems.append("counts are not those of the images")
    checked = 0
    readable: list[tuple[ImageRecord, Fingerprint]] = []
    with a_few_at_once(lambda record: _check_objects(record, read), manifest.images) as results:
        for done, (record, (found, entry)) in enumerate(zip(manifest.images, results, strict=True), start=1):
            checked += 1 + (record.mask is not None)
            problems += found
            if entry is not None:
                readable.append((record, entry))
            if progress is not None:
                progress(done, len(manifest.images))
    sidecars: dict[ObjectRef, list[ImageRecord]] = {}
    for record in manifest.images:
        if record.sidecar is not None:
            sidecars.setdefault(record.sidecar, []).append(record)
    with a_few_at_once(lambda item: _check_sidecar(*item, read), list(sidecars.items())) as results:
        for found in results:
            problems += found
    known = {problem.split(" ", 1)[0] for problem in problems}
    problems += [
        f"{leak.field} {leak.description}" for leak in leakage.near_duplicate_leaks(readable) if leak.field not in known
    ]
    return problems, checked + len(sidecars)


def _check_sidecar(ref: ObjectRef, records: list[ImageRecord], read: leakage.ReadObject) -> list[str]:
    """What is wrong with a sidecar file, which tells of one image or has a line for each of several."""
    try:
        data = read(ref)
        if len(data) != ref.size:
            return [f"{ref.uri} (sidecar) has {len(data)} bytes, not {ref.size}"]
        if not ref.uri.endswith(".jsonl"):
            json.loads(data)
            return []
        told = {json.loads(line)["image"] for line in data.splitlines()}
    except FlawsmithError as error:
        if error.code == "UNAVAILABLE":
            raise
        return [f"{ref.uri} (sidecar): {error.message}"]
    except (ValueError, KeyError, TypeError):
        return [f"{ref.uri} (sidecar) is not readable JSON"]
    return [
        f"{ref.uri} (sidecar) says nothing of {record.image.uri}"
        for record in records
        if record.image.sha256 not in told
    ]


def _check_objects(record: ImageRecord, read: leakage.ReadObject) -> tuple[list[str], Fingerprint | None]:
    """What is wrong with a record's objects, and the image's fingerprint if it could be read."""
    problems: list[str] = []
    entry: Fingerprint | None = None
    for role, ref in (("image", record.image), ("mask", record.mask)):
        if ref is None:
            continue
        try:
            data = read(ref)
            if len(data) != ref.size:
                problems.append(f"{ref.uri} ({role}) has {len(data)} bytes, not {ref.size}")
            pixels = decode_mask(data) if role == "mask" else decode_image(data)
        except FlawsmithError as error:
            if error.code == "UNAVAILABLE":
                raise
            problems.append(f"{ref.uri} ({role}): {error.message}")
            continue
        if role == "image":
            entry = fingerprint(pixels)
        if pixels.shape[:2] != (record.height, record.width):
            size = f"{pixels.shape[0]} x {pixels.shape[1]}"
            problems.append(f"{ref.uri} ({role}) is {size}, not {record.height} x {record.width} (height x width)")
        if role == "mask" and bool(pixels.any()) != (record.label == Label.DEFECT):
            problems.append(f"{ref.uri} (mask) does not go with the label {record.label.value}")
    return problems, entry


def _check_batches(batches: Sequence[Batch], imported: ImportManifest) -> None:
    known = {record.image.sha256 for record in imported.images}
    for batch in batches:
        manifest = batch.manifest
        if manifest.product != imported.product:
            raise InvalidArgumentError(
                "BATCH_OF_OTHER_PRODUCT",
                f"{manifest.name} belongs to {manifest.product}, the import to {imported.product}; leave it out",
                fields=[FieldViolation("batches", manifest.name)],
            )
        if any(record.source == Source.REAL for record in manifest.images):
            raise InvalidArgumentError(
                "NOT_SYNTHETIC",
                f"{manifest.name} holds real images; bring them in by an import, which gives them a split",
                fields=[FieldViolation("batches", manifest.name)],
            )
        strangers = {parent for record in manifest.images for parent in record.parents} - known
        if strangers:
            raise FailedPreconditionError(
                "BATCH_OF_OTHER_IMPORT",
                f"{manifest.name} was made from {len(strangers)} images that {imported.name} does not hold, so nobody "
                "can say whether they are test images; assemble it with the import that it was made from",
                fields=[FieldViolation("batches", manifest.name)],
            )


def _usable(batch: Batch) -> list[ImageRecord]:
    """A batch's images that may be used: as train images, but for reconstructed normals, which keep their split."""
    usable = [
        record if record.source == Source.RECONSTRUCTED else record.model_copy(update={"split": Split.TRAIN})
        for record in batch.manifest.images
        if record.image.sha256 not in batch.kept_out
    ]
    if not usable:
        raise FailedPreconditionError(
            "NO_ACCEPTED_IMAGES",
            f"no image of {batch.manifest.name} may be used: every one was rejected, or waits for a review that this "
            "data set requires; review the batch first, or leave it out",
            fields=[FieldViolation("batches", batch.manifest.name)],
        )
    return usable


def _left_out(batch: Batch) -> LeftOut | None:
    said = Counter(batch.kept_out.get(record.image.sha256) for record in batch.manifest.images)
    rejected, pending = said[Review.REJECTED], said[Review.PENDING]
    return LeftOut(batch=batch.manifest.name, rejected=rejected, pending=pending) if rejected or pending else None


def _positives(
    images: Sequence[ImageRecord],
    synthetic: Sequence[ImageRecord],
    regime: Regime,
    seed: int,
    wanted: Collection[str] | None,
) -> list[ImageRecord]:
    """Real positives for train, checked against what the synthetics were made from."""
    available = {record.image.sha256: record for record in train_images(images, Label.DEFECT)}
    used = {parent for record in synthetic for parent in record.parents if parent in available}
    if regime == Regime.FULL_SHOT:
        return select_positives(images, regime, seed)
    chosen = {} if regime == Regime.ZERO_SHOT else {digest: available[digest] for digest in sorted(used)}
    if wanted is not None and regime == Regime.FEW_SHOT:
        chosen |= {digest: available[digest] for digest in sorted(wanted) if digest in available}
    limit = 0 if regime == Regime.ZERO_SHOT else FEW_SHOT_POSITIVES
    if len(used | set(chosen)) > limit:
        raise FailedPreconditionError(
            "REGIME_VIOLATED",
            f"the batches were made from {len(used | set(chosen))} real positives, but the {regime.value} regime knows "
            f"at most {limit}; use batches of an adapter of that regime, or assemble for the full_shot regime",
            fields=[FieldViolation("regime", f"at most {limit} real positives")],
        )
    if regime == Regime.ZERO_SHOT:
        return []
    # Fill up with the seed's own choice: the same that an adapter with this seed is tuned on.
    for record in select_positives(images, regime, seed):
        if len(chosen) < FEW_SHOT_POSITIVES:
            chosen.setdefault(record.image.sha256, record)
    return [chosen[digest] for digest in sorted(chosen)]


def _distinct(images: Sequence[ImageRecord]) -> list[ImageRecord]:
    """Without repetitions of an image within a split; the first record stays."""
    return list({(record.split, record.image.sha256): record for record in reversed(images)}.values())[::-1]
