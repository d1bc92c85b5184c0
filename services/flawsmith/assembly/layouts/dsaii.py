"""DSAII: `normal/000.png`, `anomaly/000.png` with `mask/000.png`, and `img_url.json`, which nobody here reads.

The paper's text calls the folder of anomalies `defect/`. Nothing is said of splits: every image's is left to
`splits.assign`, but for one normal in five, which is test.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from flawsmith.assembly.layouts.base import Layout, ListedImage, Listing, Read, is_image
from flawsmith.common.errors import FieldViolation
from flawsmith.common.manifests import Label, Split

_FILE = re.compile(r"(normal|anomaly|defect|mask)/[^/]+")
_TEST_EVERY = 5


def recognise(paths: Sequence[str]) -> bool:
    """Images lie in `normal/` and in `anomaly/` or `defect/`."""
    folders = {path.split("/")[0] for path in paths if is_image(path) and path.count("/") == 1}
    return "normal" in folders and bool(folders & {"anomaly", "defect"})


def list_images(paths: Sequence[str], read: Read) -> Listing:
    """See Layout."""
    images = sorted(path for path in paths if is_image(path))
    problems = [
        FieldViolation(path, "does not lie in normal/, anomaly/ or mask/; move it there or take it out")
        for path in images
        if not _FILE.fullmatch(path)
    ]
    placed = [PurePosixPath(path) for path in images if _FILE.fullmatch(path)]
    masks = {path.stem: path for path in placed if path.parts[0] == "mask"}
    normals = [path for path in placed if path.parts[0] == "normal"]
    listed = [
        ListedImage(
            str(path), None, Label.NORMAL, Split.TEST if place % _TEST_EVERY == 0 else Split.TRAIN, "", str(path)
        )
        for place, path in enumerate(normals, start=1)
    ]
    for path in placed:
        if path.parts[0] in ("normal", "mask"):
            continue
        mask = masks.pop(path.stem, None)
        if mask is None:
            problems.append(FieldViolation(str(path), f"has no mask; add mask/{path.stem}.png"))
        listed.append(ListedImage(str(path), str(mask) if mask else None, Label.DEFECT, None, "", str(path)))
    problems += [FieldViolation(str(path), "is a mask without an image in anomaly/") for path in masks.values()]
    return Listing(tuple(listed), tuple(problems), f"one normal in {_TEST_EVERY}, by name, is test")


LAYOUT = Layout(
    name="dsaii",
    shape="normal/000.png, anomaly/000.png (or defect/000.png) and mask/000.png",
    recognise=recognise,
    list_images=list_images,
)
