"""What a data-set layout says of a list of files, before any pixel is read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from flawsmith.common.errors import FieldViolation
from flawsmith.common.manifests import Label, Split

Read = Callable[[str], bytes]
"""Path relative to the data set's folder -> the file's bytes."""

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


@dataclass(frozen=True)
class ListedImage:
    """One image as its place in the folder describes it.

    label: None where only the mask's pixels tell. split: None where the layout leaves it to `splits.assign`.
    group: images of one part or shot, never to be parted; the image's own path where nothing is known.
    """

    path: str
    mask_path: str | None
    label: Label | None
    split: Split | None
    defect_type: str
    group: str


@dataclass(frozen=True)
class Listing:
    """All images of a data set, what is wrong with the list, and how its splits were given, in words."""

    images: tuple[ListedImage, ...]
    problems: tuple[FieldViolation, ...]
    given_splits: str


@dataclass(frozen=True)
class Layout:
    """A data-set layout. shape: what it looks like, for people.

    recognise: whether relative paths have this layout. list_images: reads the list (and small tables such as
    `items.csv`, through `read`), never an image.
    """

    name: str
    shape: str
    recognise: Callable[[Sequence[str]], bool]
    list_images: Callable[[Sequence[str], Read], Listing]


def is_image(path: str) -> bool:
    """Whether a path's suffix is an image's; hidden files (such as macOS' `._*`) are not."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES and not PurePosixPath(path).name.startswith(".")
