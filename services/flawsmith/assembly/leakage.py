"""Nothing of the test split may reach train: neither an image, nor what was made from it, nor a near-duplicate.

Nor may what was made from train be judged: an image belongs to the split of all that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flawsmith.assembly.near_duplicates import Fingerprint, fingerprint, near_duplicates
from flawsmith.assembly.reading import a_few_at_once
from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import ImageRecord, ObjectRef, Source, Split

ReadObject = Callable[[ObjectRef], bytes]
"""Reads an object and compares it with its sha256; raises domain errors."""


def find_leaks(images: Sequence[ImageRecord]) -> list[FieldViolation]:
    """Leaks that the records show by themselves: equal hashes, parents, groups.

    Validation counts as held out like test: it sets thresholds on images that train must not know.
    """
    train = [record for record in images if record.split == Split.TRAIN]
    held_out = [record for record in images if record.split != Split.TRAIN]
    by_digest = {record.image.sha256: record for record in train}
    by_group = {record.group: record for record in train if record.group}
    test_digests = {record.image.sha256 for record in held_out if record.split == Split.TEST}
    names = {record.image.sha256: record for record in held_out}
    leaks = []
    for record in held_out:
        twin = by_digest.get(record.image.sha256)
        relative = by_group.get(record.group)
        if twin is not None:
            leaks.append(_leak(record, f"is the same image as {_name(twin)} of train"))
        elif relative is not None:
            leaks.append(_leak(record, f"is of group {record.group!r}, as is {_name(relative)} of train"))
        if record.split == Split.VALIDATION and record.image.sha256 in test_digests:
            leaks.append(_leak(record, "is also in test"))
        if record.split == Split.TEST and record.source not in (Source.REAL, Source.RECONSTRUCTED):
            leaks.append(_leak(record, "is synthetic; test holds real images and reconstructed normals only"))
    for record in images:
        for parent in record.parents:
            origin = names.get(parent) or by_digest.get(parent)
            if origin is not None and origin.split != record.split:
                leaks.append(_leak(record, f"was made from {_name(origin)} of {origin.split.value}"))
    return leaks


def find_near_duplicates(
    images: Sequence[ImageRecord], read: ReadObject, progress: Callable[[int, int], None] | None = None
) -> list[FieldViolation]:
    """Test images of which train shows the same picture. Reads every train and test image, a few at a time."""
    concerned = [record for record in images if record.split != Split.VALIDATION]
    prints: list[Fingerprint] = []
    with a_few_at_once(lambda record: fingerprint(decode_image(read(record.image))), concerned) as results:
        for entry in results:
            prints.append(entry)
            if progress is not None:
                progress(len(prints), len(concerned))
    return near_duplicate_leaks(list(zip(concerned, prints, strict=True)))


def near_duplicate_leaks(images: Sequence[tuple[ImageRecord, Fingerprint]]) -> list[FieldViolation]:
    """The same of fingerprints that are known."""
    test = [entry for entry in images if entry[0].split == Split.TEST]
    train = [entry for entry in images if entry[0].split == Split.TRAIN]
    return [
        _leak(
            test[pair.first][0],
            f"shows the same picture as {_name(train[pair.second][0])} of train (agreement {pair.agreement:.2f})",
        )
        for pair in near_duplicates([entry[1] for entry in test], [entry[1] for entry in train])
    ]


def refuse(leaks: Sequence[FieldViolation]) -> None:
    """Raise FailedPreconditionError (LEAKAGE) that lists every leak, if there is one."""
    if leaks:
        shown = "; ".join(f"{leak.field} {leak.description}" for leak in leaks[:5])
        more = f"; and {len(leaks) - 5} more, see the violations" if len(leaks) > 5 else ""
        raise FailedPreconditionError(
            "LEAKAGE",
            f"the data set was not made: its test results would be worthless. {shown}{more}. Leave out the batches "
            "that hold these images, or mend the data and import it again",
            fields=list(leaks),
        )


def _leak(record: ImageRecord, text: str) -> FieldViolation:
    return FieldViolation(_name(record), text)


def _name(record: ImageRecord) -> str:
    return record.original_path or f"{record.source.value} {record.image.sha256[:12]}"
