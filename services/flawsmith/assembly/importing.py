"""Turn a folder of images into a product's real data: everything is checked first, and all problems are listed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from flawsmith.assembly import splits
from flawsmith.assembly.layouts import Layout, ListedImage, Listing, Read, recognise
from flawsmith.assembly.near_duplicates import Fingerprint, fingerprint, near_duplicates, near_duplicates_within
from flawsmith.assembly.reading import a_few_at_once
from flawsmith.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from flawsmith.common.images import decode_image, decode_mask, encode_png
from flawsmith.common.manifests import ImageRecord, Label, ObjectRef, Source, Split

Result = TypeVar("Result")

MIN_SIDE = 32
"""Pixels; smaller images carry no defect that a classifier could learn."""
Progress = Callable[[int, int], None]
"""(images done, images in all)."""


class PlannedImage(BaseModel):
    """One image of an import: where its bytes and its mask's are now, and its record, whose references have no URI
    until `copy_image`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: str
    mask_path: str | None
    record: ImageRecord


class ImportPlan(BaseModel):
    """Everything about an import but the copying: nothing was written yet."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layout: str
    split_rule: str
    images: tuple[PlannedImage, ...]


@dataclass(frozen=True)
class _Checked:
    """A readable image with a fitting mask. given: split of the layout."""

    listed: ListedImage
    image: ObjectRef
    mask: ObjectRef | None
    height: int
    width: int
    label: Label
    fingerprint: Fingerprint


def plan_import(
    paths: Sequence[str],
    read: Read,
    *,
    seed: int,
    validation_share: float = 0.2,
    progress: Progress | None = None,
) -> ImportPlan:
    """Check a data set and fix its splits.

    paths: of all files, relative, with `/`. read: one file's bytes, called from several threads; a few images are in
    memory at once, and only a fingerprint of each is kept.
    Raises InvalidArgumentError: UNKNOWN_LAYOUT, SEVERAL_DATASETS, NO_VALIDATION, or DATASET_INVALID with one
    violation for each problem (its path and what is wrong).
    """
    layout, root = recognise(paths)
    listing = _list(layout, root, paths, read)
    checked, problems = _check_images(listing, root, read, progress)
    problems = [*listing.problems, *problems, *_check_classes(listing, checked), *_check_splits(checked)]
    if problems:
        shown = "; ".join(f"{problem.field} {problem.description}" for problem in problems[:5])
        more = f"; and {len(problems) - 5} more, see the violations" if len(problems) > 5 else ""
        raise InvalidArgumentError(
            "DATASET_INVALID", f"nothing was imported; mend {len(problems)} problems: {shown}{more}", fields=problems
        )
    joined = [(pair.first, pair.second) for pair in near_duplicates_within([entry.fingerprint for entry in checked])]
    items = [
        splits.Item(entry.label, entry.listed.split, entry.listed.defect_type, entry.listed.group) for entry in checked
    ]
    assigned, rule = splits.assign(
        items, seed=seed, validation_share=validation_share, joined=[*joined, *_identical(checked)]
    )
    _require_validation(assigned, items)
    images = tuple(_planned(entry, split, root) for entry, split in zip(checked, assigned, strict=True))
    return ImportPlan(layout=layout.name, split_rule=f"{listing.given_splits}; {rule}", images=images)


def copy_image(planned: PlannedImage, read: Read, put: Callable[[bytes, str], ObjectRef]) -> ImageRecord:
    """Write an image and its mask; returns the record with the references of what was written.

    put: writes bytes under a name made from their hash and a suffix. Raises InvalidArgumentError (UPLOAD_CHANGED)
    when a file is no longer what was checked; nothing is written then.
    """
    record = planned.record
    image = read(planned.path)
    mask = normalised_mask(read(planned.mask_path)) if record.mask and planned.mask_path else None
    if _digest(image) != record.image.sha256 or (record.mask and mask and _digest(mask) != record.mask.sha256):
        raise InvalidArgumentError(
            "UPLOAD_CHANGED",
            f"{planned.path} changed after it was checked; do not write into the folder during an import, start again",
            fields=[FieldViolation(planned.path, "changed during the import")],
        )
    written = {"image": put(image, _suffix(planned.path)), "mask": put(mask, ".png") if mask else None}
    return record.model_copy(update=written)


def normalised_mask(data: bytes) -> bytes:
    """A mask file as one-channel PNG of 0 and 255."""
    return encode_png(decode_mask(data))


def _list(layout: Layout, root: str, paths: Sequence[str], read: Read) -> Listing:
    inside = [path.removeprefix(root) for path in paths if path.startswith(root)]
    listing = layout.list_images(inside, lambda path: read(root + path))
    problems = tuple(FieldViolation(root + problem.field, problem.description) for problem in listing.problems)
    return Listing(listing.images, problems, listing.given_splits)


def _check_images(
    listing: Listing, root: str, read: Read, progress: Progress | None
) -> tuple[list[_Checked], list[FieldViolation]]:
    checked: list[_Checked] = []
    problems: list[FieldViolation] = []
    with a_few_at_once(lambda listed: _check_image(listed, root, read), listing.images) as results:
        for done, (entry, found) in enumerate(results, start=1):
            problems += found
            if entry is not None:
                checked.append(entry)
            if progress is not None:
                progress(done, len(listing.images))
    return checked, problems


def _check_image(listed: ListedImage, root: str, read: Read) -> tuple[_Checked | None, list[FieldViolation]]:
    """None, and why, when the image or its mask is no good."""
    problems: list[FieldViolation] = []
    path, mask_path = root + listed.path, root + listed.mask_path if listed.mask_path else None
    data = _try(lambda: read(path), path, problems)
    image = None if data is None else _try(lambda: decode_image(data), path, problems)
    mask_data = None if mask_path is None else _try(lambda: read(mask_path), mask_path, problems)
    mask = None if mask_data is None else _try(lambda: decode_mask(mask_data), mask_path or "", problems)
    if data is None or image is None or (mask_path is not None and mask is None):
        return None, problems
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE:
        problems.append(FieldViolation(path, f"is {height} x {width} pixels; sides must be at least {MIN_SIDE}"))
        return None, problems
    if mask is not None and mask_path is not None and mask.shape != (height, width):
        problems.append(
            FieldViolation(
                mask_path,
                f"is {mask.shape[0]} x {mask.shape[1]} pixels but its image is {height} x {width} (height x width)",
            )
        )
        return None, problems
    white = mask is not None and bool(mask.any())
    if listed.label == Label.DEFECT and mask is not None and not white:
        problems.append(FieldViolation(mask_path or path, "is all black though its image is a defect"))
        return None, problems
    label = listed.label or (Label.DEFECT if white else Label.NORMAL)
    entry = _Checked(
        listed=listed,
        image=_reference(data),
        mask=_reference(encode_png(mask)) if mask is not None and white else None,
        height=height,
        width=width,
        label=label,
        fingerprint=fingerprint(image),
    )
    return entry, problems


def _try(step: Callable[[], Result], path: str, problems: list[FieldViolation]) -> Result | None:
    """The step's result; None, and a problem added, when the file is at fault."""
    try:
        return step()
    except (InvalidArgumentError, NotFoundError) as error:
        problems.append(FieldViolation(path, error.message))
        return None


def _check_classes(listing: Listing, checked: Sequence[_Checked]) -> list[FieldViolation]:
    """Splits that could not train or judge anything. Nothing is said where unreadable files may be the cause."""
    if len(checked) < len(listing.images) or not listing.images:
        return [] if listing.images else [FieldViolation(".", "holds no image")]

    def count(split: Split | None, label: Label) -> int:
        return sum(entry.listed.split == split and entry.label == label for entry in checked)

    problems = []
    if not count(Split.TRAIN, Label.NORMAL):
        problems.append(FieldViolation("train", "holds no normals; add images of good parts"))
    if not count(Split.TEST, Label.NORMAL):
        problems.append(FieldViolation("test", "holds no normals; a classifier could not be judged"))
    in_train, open_ones = count(Split.TRAIN, Label.DEFECT), count(None, Label.DEFECT)
    if in_train and not count(Split.TEST, Label.DEFECT) and not open_ones:
        problems.append(
            FieldViolation("test", f"holds no defects though train has {in_train}; a classifier could not be judged")
        )
    return problems


def _check_splits(checked: Sequence[_Checked]) -> list[FieldViolation]:
    """The same picture or the same part on both sides of the given split; the same file also where it is open."""
    train = [entry for entry in checked if entry.listed.split == Split.TRAIN]
    test = [entry for entry in checked if entry.listed.split != Split.TRAIN]
    problems = []
    by_digest = {entry.image.sha256: entry for entry in train}
    by_group = {entry.listed.group: entry for entry in train}
    for entry in test:
        path = entry.listed.path
        twin, relative = by_digest.get(entry.image.sha256), by_group.get(entry.listed.group)
        if twin is not None:
            problems.append(FieldViolation(path, f"is the same file as {twin.listed.path} of train; remove one"))
        elif relative is not None and entry.listed.split is not None:
            problems.append(
                FieldViolation(path, f"belongs to {entry.listed.group}, of which {relative.listed.path} is in train")
            )
    known = {problem.field for problem in problems}
    # Images whose split is open go with the picture that they resemble: the good image that they were painted into.
    given = [entry for entry in test if entry.listed.split is not None]
    for pair in near_duplicates([entry.fingerprint for entry in given], [entry.fingerprint for entry in train]):
        path = given[pair.first].listed.path
        if path not in known:
            problems.append(
                FieldViolation(
                    path,
                    f"shows the same picture as {train[pair.second].listed.path} of train "
                    f"(agreement {pair.agreement:.2f}); remove one",
                )
            )
    return problems


def _identical(checked: Sequence[_Checked]) -> list[tuple[int, int]]:
    """Positions of files with the same bytes; grain to compare may be missing in them."""
    first: dict[str, int] = {}
    return [
        (first[entry.image.sha256], index)
        for index, entry in enumerate(checked)
        if first.setdefault(entry.image.sha256, index) != index
    ]


def _require_validation(assigned: Sequence[Split], items: Sequence[splits.Item]) -> None:
    if not any(
        split == Split.VALIDATION and item.label == Label.NORMAL for split, item in zip(assigned, items, strict=True)
    ):
        raise InvalidArgumentError(
            "NO_VALIDATION",
            "no normals can be held out for validation without parting a group; import at least two groups of "
            "train normals (for KolektorSDD2, see the column `item` of items.csv)",
            fields=[FieldViolation("train", "all normals belong to one group")],
        )


def _planned(entry: _Checked, split: Split, root: str) -> PlannedImage:
    listed = entry.listed
    return PlannedImage(
        path=root + listed.path,
        mask_path=root + listed.mask_path if listed.mask_path else None,
        record=ImageRecord(
            image=entry.image,
            mask=entry.mask,
            height=entry.height,
            width=entry.width,
            label=entry.label,
            source=Source.REAL,
            split=split,
            defect_type=listed.defect_type,
            group=listed.group,
            original_path=listed.path,
        ),
    )


def _suffix(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _reference(data: bytes) -> ObjectRef:
    return ObjectRef(uri="", sha256=_digest(data), size=len(data))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
