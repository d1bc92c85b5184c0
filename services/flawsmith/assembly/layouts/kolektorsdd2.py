"""KolektorSDD2 (Bozic et al., 2021): `train/10000.png` with `train/10000_GT.png`, likewise `test/`.

A mask without a white pixel marks a normal. An optional `items.csv` with the columns `split`, `image` and `item`
names the part or the run of consecutive shots that each image belongs to.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from flawsmith.assembly.layouts.base import Layout, ListedImage, Listing, Read, is_image
from flawsmith.common.errors import FieldViolation
from flawsmith.common.manifests import Split

_ITEMS = "items.csv"
_MASK = "_GT"
_FILE = re.compile(r"(train|test)/([^/]+)")


def recognise(paths: Sequence[str]) -> bool:
    """Masks named `*_GT.*` lie beside images in `train/` or `test/`."""
    return any(_FILE.fullmatch(path) and PurePosixPath(path).stem.endswith(_MASK) for path in paths if is_image(path))


def list_images(paths: Sequence[str], read: Read) -> Listing:
    """See Layout. The published archive's stray duplicates, `10301 (copy).png` and its mask, are left out."""
    images = sorted(path for path in paths if is_image(path) and "(copy)" not in path)
    problems = [
        FieldViolation(path, "does not lie in train/ or test/; move it there or take it out")
        for path in images
        if not _FILE.fullmatch(path)
    ]
    placed = [path for path in images if _FILE.fullmatch(path)]
    masks = {_image_key(path): path for path in placed if PurePosixPath(path).stem.endswith(_MASK)}
    groups: dict[tuple[str, str], str] = {}
    if _ITEMS in paths:
        groups, table_problems = _read_items(read(_ITEMS))
        problems += table_problems
    listed = []
    for path in placed:
        if PurePosixPath(path).stem.endswith(_MASK):
            continue
        folder, name = path.split("/")
        mask = masks.pop(str(PurePosixPath(path).with_suffix("")), None)
        if mask is None:
            problems.append(
                FieldViolation(path, f"has no mask; add {PurePosixPath(path).stem}{_MASK}.png (all black for a normal)")
            )
        group = groups.get((folder, name), path)
        if groups and (folder, name) not in groups:
            problems.append(FieldViolation(path, f"is missing in {_ITEMS}; add its row or remove the table"))
        listed.append(ListedImage(path, mask, None, Split(folder), "", group))
    problems += [FieldViolation(path, "is a mask without an image") for path in masks.values()]
    return Listing(tuple(listed), tuple(problems), "train and test as given")


def _image_key(mask: str) -> str:
    """`train/10000_GT.png` -> `train/10000`."""
    return str(PurePosixPath(mask).with_suffix("")).removesuffix(_MASK)


def _read_items(data: bytes) -> tuple[dict[tuple[str, str], str], list[FieldViolation]]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        if not {"split", "image", "item"} <= set(reader.fieldnames or ()):
            return {}, [FieldViolation(_ITEMS, "needs the columns split, image and item")]
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        return {}, [FieldViolation(_ITEMS, f"is not a readable CSV table ({error}); save it as UTF-8")]
    groups: dict[tuple[str, str], str] = {}
    problems = []
    for number, row in enumerate(rows, start=2):
        split, image, item = row["split"], row["image"], row["item"]
        if not (split and image and item):
            problems.append(FieldViolation(_ITEMS, f"line {number} lacks a value"))
            continue
        groups[split, image] = f"item {item}"
    return groups, problems


LAYOUT = Layout(
    name="kolektorsdd2",
    shape="train/10000.png with train/10000_GT.png, and the same in test/",
    recognise=recognise,
    list_images=list_images,
)
