"""Data-set layouts, recognised by themselves: one file each and one line here."""

from __future__ import annotations

from collections.abc import Sequence

from flawsmith.assembly.layouts import dsaii, kolektorsdd2, mvtec_ad
from flawsmith.assembly.layouts.base import Layout, ListedImage, Listing, Read, is_image
from flawsmith.common.errors import FieldViolation, InvalidArgumentError

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (kolektorsdd2.LAYOUT, mvtec_ad.LAYOUT, dsaii.LAYOUT)}

__all__ = ["LAYOUTS", "Layout", "ListedImage", "Listing", "Read", "is_image", "recognise"]


def recognise(paths: Sequence[str]) -> tuple[Layout, str]:
    """The layout of a folder, and the sub-folder ("" or "NAME/") in which it begins.

    paths: of all files, relative, with `/`. The data set may lie in the folder itself or in one sub-folder.
    Raises InvalidArgumentError: UNKNOWN_LAYOUT says what was found and what is known, SEVERAL_DATASETS names the
    sub-folders when there is more than one data set.
    """
    matches = []
    for root in ["", *sorted({path.split("/", 1)[0] + "/" for path in paths if "/" in path})]:
        inside = [path.removeprefix(root) for path in paths if path.startswith(root)]
        matches += [(layout, root) for layout in LAYOUTS.values() if layout.recognise(inside)]
        if root == "" and matches:
            break
    if len(matches) == 1:
        return matches[0]
    if matches:
        names = ", ".join(root or "the folder itself" for _, root in matches)
        raise InvalidArgumentError(
            "SEVERAL_DATASETS",
            f"{len(matches)} data sets were found ({names}); import one at a time, each as a product of its own",
            fields=[FieldViolation(root or ".", f"has the layout {layout.name}") for layout, root in matches],
        )
    known = "; ".join(f"{layout.name}: {layout.shape}" for layout in LAYOUTS.values())
    raise InvalidArgumentError(
        "UNKNOWN_LAYOUT",
        f"the folder has no known layout. Known are {known}. Found: {_summary(paths)}",
        fields=[FieldViolation("prefix", "rearrange the files into one of the known layouts")],
    )


def _summary(paths: Sequence[str]) -> str:
    """The first folders with their number of files, for a message."""
    counts: dict[str, int] = {}
    for path in paths:
        folder = path.rpartition("/")[0] + "/" if "/" in path else "./"
        counts[folder] = counts.get(folder, 0) + 1
    if not counts:
        return "nothing"
    shown = [f"{folder} ({count} files)" for folder, count in sorted(counts.items())[:8]]
    return ", ".join(shown) + (f" and {len(counts) - 8} more folders" if len(counts) > 8 else "")
