"""Batches of good images that went through a base model's encoder and decoder: which images, and at what size.

A control: a classifier that learnt the decoder's trace instead of defects calls these normals defective. They go
through the model as a whole, never in tiles: seams would be a trace that no drawn image has.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import ImageRecord, ImportManifest, Label, ObjectRef, Split
from flawsmith.common.selection import real_images
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE


class Reconstruct(BaseModel):
    """GenerateImages' strategy `reconstruct`: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    import_manifest: ObjectRef
    split: Split = Split.TRAIN


def choose_normals(
    imported: ImportManifest, spec: Reconstruct, *, product: str, count: int, seed: int, sized: bool
) -> list[ImageRecord]:
    """Real normals of the split, in order of their hashes: all of them where count is 0, else so many by the seed.

    sized: whether the size at which they go through the model is given, instead of their own.
    Raises InvalidArgumentError (IMPORT_OF_OTHER_PRODUCT) and FailedPreconditionError (NO_NORMALS, TOO_FEW_NORMALS,
    IMAGE_TOO_LARGE).
    """
    if imported.product != product:
        raise InvalidArgumentError(
            "IMPORT_OF_OTHER_PRODUCT",
            f"the import belongs to {imported.product}, the batch to {product}; name an import of its own",
            fields=[FieldViolation("reconstruct.import_manifest", imported.name)],
        )
    normals = real_images(imported.images, spec.split, Label.NORMAL)
    if not normals:
        raise FailedPreconditionError(
            "NO_NORMALS",
            f"the import has no normals in its {spec.split.value} split; choose another split, or import some",
            fields=[FieldViolation("reconstruct.split", spec.split.value)],
        )
    if count > len(normals):
        raise FailedPreconditionError(
            "TOO_FEW_NORMALS",
            f"the import has {len(normals)} normals in its {spec.split.value} split, and each is reconstructed once; "
            f"ask for at most as many, or for 0, which is all of them, instead of {count}",
            fields=[FieldViolation("count", f"at most {len(normals)}")],
        )
    if count:
        chosen = np.random.default_rng([seed, 4]).choice(len(normals), size=count, replace=False)
        normals = [normals[index] for index in sorted(chosen.tolist())]
    large = [] if sized else [record for record in normals if max(record.height, record.width) > MAX_SIDE]
    if large:
        record = large[0]
        raise FailedPreconditionError(
            "IMAGE_TOO_LARGE",
            f"{len(large)} images are larger than the model can make at once, such as "
            f"{record.original_path or record.image.sha256[:12]} of {record.height} x {record.width} pixels (height x "
            f"width); give a height and width of at most {MAX_SIDE}, to which they are scaled meanwhile",
            fields=[FieldViolation("height", "is needed"), FieldViolation("width", "is needed")],
        )
    return normals


def fit(pixels: np.ndarray, size: tuple[int, int] | None, multiple: int) -> np.ndarray:
    """An image as it goes into the model: scaled to the size, or with none at its own, so that nothing but the
    autoencoder changes it: mirrored beyond its right and bottom edges up to sides that the model can make.

    pixels: uint8, H x W x 3. size: height and width. multiple: what the model's sides must be multiples of.
    """
    if size is not None:
        return _scale(pixels, *size)
    height, width = (max(-(-side // multiple), -(-MIN_SIDE // multiple)) * multiple for side in pixels.shape[:2])
    down, right = height - pixels.shape[0], width - pixels.shape[1]
    return cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REFLECT)


def unfit(made: np.ndarray, height: int, width: int, *, sized: bool) -> np.ndarray:
    """The reverse of `fit`: what the model made of an image of height x width. sized: whether it was scaled."""
    return _scale(made, height, width) if sized else np.ascontiguousarray(made[:height, :width])


def _scale(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    smaller = height < pixels.shape[0] or width < pixels.shape[1]
    return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
