"""Which images Classify answers, and whether it would answer a product's at all."""

from __future__ import annotations

from collections.abc import Collection

from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import DatasetManifest, Source

Size = tuple[int, int]
"""Height and width, pixels."""

MAX_PIXELS = 32_000_000
"""Of an image to judge: 100 MB decoded, 430 MB on the way with alpha or 16 bits, in as many threads as CPUs."""

MOST_ENLARGED = 8
"""An image whose cropped side would be enlarged more than so many times shows nothing of the part."""


def real_sizes(dataset: DatasetManifest) -> list[Size]:
    """Of the data set's real images, one each."""
    return [(image.height, image.width) for image in dataset.images if image.source is Source.REAL]


def enlargement(image: Size, target: Size) -> float:
    """How many times an image is enlarged on its way to the classifier's input; below 1 it is shrunk."""
    # What is cropped keeps the target's aspect ratio, so one factor holds for both sides.
    return max(target[0] / image[0], target[1] / image[1])


def check_enlargement(images: Collection[Size], target: Size) -> None:
    """Refuse an input size with which Classify would answer none of the product's images.

    images: sizes of the real ones. Raises FailedPreconditionError (IMAGES_TOO_SMALL).
    """
    largest = min(images, key=lambda image: enlargement(image, target))
    if enlargement(largest, target) > MOST_ENLARGED:
        raise FailedPreconditionError(
            "IMAGES_TOO_SMALL",
            f"the data set's real images are {largest[0]} x {largest[1]} pixels (height x width) at best; a classifier "
            f"that looks at {target[0]} x {target[1]} would answer none of them, for Classify enlarges images at most "
            f"{MOST_ENLARGED} times: train with a smaller height and width (--height, --width)",
        )


def check_answerable(images: Collection[Size], target: Size) -> None:
    """Refuse to deploy a version that would answer none of the product's images.

    images: sizes of the real ones. Raises FailedPreconditionError (IMAGES_TOO_SMALL, IMAGES_TOO_LARGE).
    """
    check_enlargement(images, target)
    smallest = min(images, key=lambda image: image[0] * image[1])
    if smallest[0] * smallest[1] > MAX_PIXELS:
        raise FailedPreconditionError(
            "IMAGES_TOO_LARGE",
            f"the data set's real images are {smallest[0]} x {smallest[1]} pixels (height x width) or larger, and "
            f"Classify answers images of at most {MAX_PIXELS:,} pixels: scale the product's images down, import them "
            "anew and train on those, or export the version (ExportClassifier) for a runtime of your own",
        )
