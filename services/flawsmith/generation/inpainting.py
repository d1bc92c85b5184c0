"""Batches of defects painted into good images: what is asked for, what may be used, and one image after the other.

The methods are DSAII's (masks of real defects, moved and turned onto good images) and DIAG's (the same without any
training); `masks` has the geometry, `strategies.inpaint` the drawing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from flawsmith.common.foreground import foreground_mask
from flawsmith.common.images import decode_image, decode_mask
from flawsmith.common.manifests import AdapterManifest, ImageRecord, ImportManifest, Label, ObjectRef, Regime
from flawsmith.common.selection import select_positives, train_images
from flawsmith.drawing import DEFECTS, DIRECTED, direction_named, kinds_named
from flawsmith.generation.masks import (
    FINE_AREAS,
    LEAST_TURN,
    BankMask,
    Crop,
    Placed,
    angle_range,
    area_range,
    check_mask,
    crop_around,
    drawn_masks,
    drawn_size,
    object_region,
    paste,
    place,
    widened,
)

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # Stable Diffusion inpainting as DSAII uses it; steps and guidance are the base model's usual ones.
    "dsaii": {"strength": 1.0, "padding": 8, "negative_text": ""},
    # DIAG as published.
    "diag": {
        "strength": 0.99,
        "padding": 2,
        "steps": 30,
        "guidance": 20.0,
        "negative_text": "smooth, plain, black, dark, shadow",
    },
}
_TRIES_A_PARENT = 4
MAX_REFERENCES = 64
"""Real defects that drawn ones are compared with; more of them change nothing but the time it takes."""
Read = Callable[[ObjectRef], bytes]


class Inpaint(BaseModel):
    """GenerateImages' strategy `inpaint`: fields as in the proto. What the caller left out and the preset says is
    filled in from it, once."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: tuple[str, ...] = Field(min_length=1, max_length=100)
    import_manifest: ObjectRef
    preset: Literal["dsaii", "diag"] = "dsaii"
    regime: Regime | None = None
    foreground: Literal["texture", "object"] = "texture"
    masks: Literal["", "imported", "drawn"] = ""
    defect_types: tuple[str, ...] = Field(default=(), max_length=100)
    min_area: float | None = Field(default=None, gt=0.0, lt=1.0)
    max_area: float | None = Field(default=None, gt=0.0, lt=1.0)
    max_angle: float | None = Field(default=None, ge=0.0, le=180.0)
    strength: float = Field(gt=0.0, le=1.0)
    padding: int = Field(ge=0, le=1024)
    feather: int = Field(default=2, ge=0, le=256)
    min_change: float = Field(default=4.0, ge=0.0, le=255.0)
    max_redraws: int = Field(default=7, ge=0, le=20)
    negative_text: str = Field(max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        preset = PRESETS.get(values.get("preset", "dsaii"), PRESETS["dsaii"])
        return {**{name: preset[name] for name in ("strength", "padding", "negative_text")}, **values}

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_area is not None and self.max_area is not None and self.min_area > self.max_area:
            raise ValueError("min_area must not be above max_area")
        return self


@dataclass(frozen=True)
class Material:
    """Real images that a batch may use. normals: to paint into. positives: defects with masks, in order of their
    hashes; their masks are placed unless `drawn`, in which case the platform's own are."""

    normals: list[ImageRecord]
    positives: list[ImageRecord]
    drawn: bool


def choose_material(
    imported: ImportManifest, spec: Inpaint, seed: int, product: str, adapter: AdapterManifest | None
) -> Material:
    """What a batch may use of an import: train only, and of its defects those that the adapter was tuned on, or those
    of the regime, where nobody knows what an adapter was tuned on: the one that it was imported for, if none is asked
    for.

    Raises InvalidArgumentError (IMPORT_OF_OTHER_PRODUCT, UNKNOWN_DEFECT_TYPE) and FailedPreconditionError (NO_NORMALS,
    NO_MASKS, NO_POSITIVES).
    """
    if imported.product != product:
        raise InvalidArgumentError(
            "IMPORT_OF_OTHER_PRODUCT",
            f"the import belongs to {imported.product}, the batch to {product}; name an import of its own",
            fields=[FieldViolation("inpaint.import_manifest", imported.name)],
        )
    normals = train_images(imported.images, Label.NORMAL)
    if not normals:
        raise FailedPreconditionError("NO_NORMALS", "the import has no normals in its train split; import some")
    allowed = _allowed(imported, spec, seed, adapter)
    masked = [record for record in allowed if record.mask is not None]
    wanted = set(spec.defect_types)
    fitting = [record for record in masked if not wanted or record.defect_type in wanted]
    kinds = sorted({record.defect_type for record in masked} - {""})
    drawable = [kind for kind in DEFECTS if kind != "none"]
    drawn = spec.masks == "drawn" or (spec.masks == "" and not fitting and wanted <= set(drawable))
    unknown = sorted(wanted - set(drawable if drawn else kinds))
    if unknown:
        raise InvalidArgumentError(
            "UNKNOWN_DEFECT_TYPE",
            f"there are no masks of {', '.join(unknown)}; imported are {', '.join(kinds) or 'none with a name'}, drawn "
            f"can be {', '.join(drawable)}",
            fields=[FieldViolation("inpaint.defect_types", kind) for kind in unknown],
        )
    if not drawn and not fitting:
        raise FailedPreconditionError(
            "NO_MASKS",
            "the real defects that may be used have no masks; import some, or set masks to drawn",
            fields=[FieldViolation("inpaint.masks", "imported")],
        )
    return Material(normals, fitting if not drawn else masked, drawn)


def _allowed(imported: ImportManifest, spec: Inpaint, seed: int, adapter: AdapterManifest | None) -> list[ImageRecord]:
    defects = train_images(imported.images, Label.DEFECT)
    if adapter is not None and adapter.imported_from is None:
        tuned = {ref.sha256 for ref in adapter.training_images}
        return [record for record in defects if record.image.sha256 in tuned]
    if spec.regime is not None:
        return select_positives(imported.images, spec.regime, seed)
    return defects if adapter is None or not defects else select_positives(imported.images, adapter.regime, seed)


@dataclass(frozen=True)
class Candidate:
    """One image about to be drawn: the part of its parent that the model sees, at the model's size.

    image: uint8, h x w x 3. mask: uint8, h x w, 255 where the model draws: a little more than what is pasted, so that
    thin defects are not lost between latents.
    """

    index: int
    parent: ImageRecord
    pixels: np.ndarray
    placed: Placed
    crop: Crop
    image: np.ndarray
    mask: np.ndarray


class Painter:
    """Prepares and finishes the images of one batch; safe for threads.

    prompts: texts that images take in turn; drawn masks are of a kind that an image's text names, unless the request
    names kinds, and lines among them lie in the direction that it names. native_side, multiple: see `native_size`.
    size: height and width at which the model draws, instead of its own. areas, angles: for each defect type, the share
    of the image that a mask may cover, and how far masks are turned to either side, degrees, where a prompt names no
    direction.
    """

    def __init__(
        self,
        material: Material,
        spec: Inpaint,
        seed: int,
        read: Read,
        *,
        prompts: Sequence[str],
        native_side: int,
        multiple: int,
        size: tuple[int, int] | None = None,
    ) -> None:
        self._material = material
        self._spec = spec
        self._seed = seed
        self._read = read
        self._native_side = native_side
        self._multiple = multiple
        self._size = size
        self._order = np.random.default_rng([seed, 1]).permutation(len(material.normals))
        bank = self._load_bank()
        self._banks = [self._bank_of(bank, text) for text in prompts]
        own = self._own_masks() if material.drawn else bank
        low, high = area_range(own, spec.foreground)
        areas = (
            low if spec.min_area is None else spec.min_area,
            high if spec.max_area is None else spec.max_area,
        )
        if areas[0] > areas[1]:
            raise InvalidArgumentError(
                "BAD_AREA_RANGE",
                f"defects cannot cover {areas[0]:.3%} to {areas[1]:.3%} of an image: what you leave out is taken from "
                f"{low:.3%} to {high:.3%}; set both min_area and max_area",
                fields=[FieldViolation("inpaint.min_area", "is above max_area")],
            )
        fine = FINE_AREAS if not own and spec.min_area is None and spec.max_area is None else {}
        self.areas = {mask.defect_type: fine.get(mask.defect_type, areas) for mask in bank}
        self.angles = {
            kind: angle_range([mask for mask in bank if mask.defect_type == kind])
            if spec.max_angle is None
            else spec.max_angle
            for kind in self.areas
        }
        self._angles = [self._angles_of(text) for text in prompts]

    def _load_bank(self) -> list[BankMask]:
        """Raises InvalidArgumentError (EMPTY_MASK, FULL_MASK) for masks that nobody can place."""
        if self._material.drawn:
            return drawn_masks(self._seed, self._spec.defect_types)
        bank = []
        for record in self._material.positives:
            mask = decode_mask(self._read(_mask_of(record)))
            check_mask(mask, record.original_path or record.image.sha256)
            bank.append(BankMask(mask, record.defect_type, record.image.sha256))
        return bank

    def _bank_of(self, bank: list[BankMask], text: str) -> list[BankMask]:
        """The masks that images of a prompt may get."""
        if not self._material.drawn:
            return bank
        kinds = self._spec.defect_types or kinds_named(text)
        if direction := direction_named(text):
            return drawn_masks(self._seed, kinds, direction)
        return [mask for mask in bank if mask.defect_type in kinds] or bank

    def _angles_of(self, text: str) -> dict[str, float]:
        """How far masks of a prompt's images are turned: lines that were drawn in its direction stay in it."""
        if not self._material.drawn or not direction_named(text) or self._spec.max_angle is not None:
            return self.angles
        return {kind: LEAST_TURN if kind in DIRECTED else angle for kind, angle in self.angles.items()}

    def _own_masks(self) -> list[BankMask]:
        """The product's masks, where they show how large defects are but are not placed."""
        masks = [decode_mask(self._read(_mask_of(record))) for record in self._material.positives]
        return [BankMask(mask, origin="own") for mask in masks if mask.any() and not mask.all()]

    def prepare(self, index: int, attempt: int) -> Candidate:
        """Choose and place a mask for the index-th image; another attempt places another one, into the same parent at
        first, into any after `_TRIES_A_PARENT` attempts: in some surfaces no defect looks like the real ones.

        Raises FailedPreconditionError (NO_PLACE, NO_OBJECT) and what reading raises.
        """
        rng = np.random.default_rng([self._seed, 2, index, attempt])
        turn = index if attempt < _TRIES_A_PARENT else int(rng.integers(len(self._order)))
        parent = self._material.normals[int(self._order[turn % len(self._order)])]
        pixels = decode_image(self._read(parent.image))
        prompt = index % len(self._banks)
        bank, angles = self._banks[prompt], self._angles[prompt]
        placed = place(bank, self._region(pixels, parent), self._spec.foreground, self.areas, rng, angles)
        crop = crop_around(placed.mask, self._spec.padding, self._native_side)
        height, width = self._size or drawn_size(crop, self._native_side, self._multiple)
        image, mask = _scale(pixels, placed.mask, crop, height, width)
        return Candidate(index, parent, pixels, placed, crop, image, widened(mask, self._multiple))

    def _region(self, pixels: np.ndarray, parent: ImageRecord) -> np.ndarray:
        if self._spec.foreground == "texture":
            return np.full(pixels.shape[:2], 255, np.uint8)
        region = object_region(foreground_mask(pixels))
        if not region.any():
            raise FailedPreconditionError(
                "NO_OBJECT",
                f"no object stands out from the background of {parent.original_path or parent.image.sha256}; set "
                "foreground to texture",
            )
        return region

    def finish(self, candidate: Candidate, drawn: np.ndarray) -> np.ndarray:
        """The parent with the drawn defect in it; see `masks.paste`."""
        return paste(candidate.pixels, drawn, candidate.placed.mask, candidate.crop, self._spec.feather)

    def look(self, pixels: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """An image's defect as it is compared with others: image and mask of the crop around it, squares of the
        model's native side."""
        crop = crop_around(mask, self._spec.padding, self._native_side)
        return _scale(pixels, mask, crop, self._native_side, self._native_side)

    def references(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The real defects that may be used, as `look` shows them; `MAX_REFERENCES` at most."""
        chosen = self._material.positives
        if len(chosen) > MAX_REFERENCES:
            positions = np.random.default_rng([self._seed, 3]).choice(len(chosen), MAX_REFERENCES, replace=False)
            chosen = [chosen[position] for position in sorted(positions.tolist())]
        return [
            self.look(decode_image(self._read(record.image)), decode_mask(self._read(_mask_of(record))))
            for record in chosen
        ]


def _scale(pixels: np.ndarray, mask: np.ndarray, crop: Crop, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    larger = height > crop.height or width > crop.width
    image = cv2.resize(crop.of(pixels), (width, height), interpolation=cv2.INTER_CUBIC if larger else cv2.INTER_AREA)
    # Anything that the mask touches stays in it, however much smaller it gets.
    share = cv2.resize(crop.of(mask), (width, height), interpolation=cv2.INTER_LINEAR if larger else cv2.INTER_AREA)
    return image, np.where(share >= (128 if larger else 1), np.uint8(255), np.uint8(0))


def _mask_of(record: ImageRecord) -> ObjectRef:
    if record.mask is None:
        raise ValueError("a record of the material has a mask")
    return record.mask


def batches_of(candidates: Sequence[Candidate], keys: Sequence[object]) -> list[list[int]]:
    """Positions of candidates that can be drawn in one call: of one key (their prompt) and one size."""
    groups: dict[object, list[int]] = {}
    for position, (candidate, key) in enumerate(zip(candidates, keys, strict=True)):
        groups.setdefault((key, candidate.image.shape), []).append(position)
    return list(groups.values())
