"""MVTec AD (Bergmann et al., 2019): `train/good`, `test/{good,DEFECT}`, `ground_truth/DEFECT/NNN_mask.png`.

Its train part holds normals only, so test defects are split by a rule of `splits.assign`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from flawsmith.assembly.layouts.base import Layout, ListedImage, Listing, Read, is_image
from flawsmith.common.errors import FieldViolation
from flawsmith.common.manifests import Label, Split

_FILE = re.compile(r"(train/good|test/[^/]+|ground_truth/[^/]+)/[^/]+")


def recognise(paths: Sequence[str]) -> bool:
    """Images lie in `train/good/`."""
    return any(path.startswith("train/good/") for path in paths if is_image(path))


def list_images(paths: Sequence[str], read: Read) -> Listing:
    """See Layout."""
    images = sorted(path for path in paths if is_image(path))
    problems = [
        FieldViolation(path, "does not lie in train/good, test/DEFECT or ground_truth/DEFECT; move it or take it out")
        for path in images
        if not _FILE.fullmatch(path)
    ]
    placed = [path for path in images if _FILE.fullmatch(path)]
    masks = {_image_key(path): path for path in placed if path.startswith("ground_truth/")}
    listed = []
    for path in placed:
        part, kind, _ = path.split("/")
        if part == "ground_truth":
            continue
        if kind == "good":
            listed.append(ListedImage(path, None, Label.NORMAL, Split(part), "", path))
            continue
        mask = masks.pop(str(PurePosixPath(path).with_suffix("")), None)
        if mask is None:
            expected = f"ground_truth/{kind}/{PurePosixPath(path).stem}_mask.png"
            problems.append(FieldViolation(path, f"has no mask; add {expected}"))
        listed.append(ListedImage(path, mask, Label.DEFECT, None, kind, path))
    problems += [FieldViolation(path, "is a mask without an image in test/") for path in masks.values()]
    kinds = {path.split("/")[1] for path in paths if path.startswith("test/") and path.count("/") >= 2} - {"good"}
    filled = {image.defect_type for image in listed}
    problems += [FieldViolation(f"test/{kind}", "holds no image") for kind in sorted(kinds - filled)]
    return Listing(tuple(listed), tuple(problems), "normals of train and test as given")


def _image_key(mask: str) -> str:
    """`ground_truth/cut/003_mask.png` -> `test/cut/003`."""
    _, kind, name = mask.split("/")
    return f"test/{kind}/{PurePosixPath(name).stem.removesuffix('_mask')}"


LAYOUT = Layout(
    name="mvtec-ad",
    shape="train/good, test/good, test/DEFECT and ground_truth/DEFECT/NNN_mask.png",
    recognise=recognise,
    list_images=list_images,
)
