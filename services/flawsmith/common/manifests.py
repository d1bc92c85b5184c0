"""What the services hand to each other: references to objects, and the manifests that name them.

A manifest is a JSON object in the store, written after everything that it names, never changed afterwards.
Field names equal those of the protos, so that a servicer converts without a table.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Manifest(BaseModel):
    """Base of everything stored: unknown fields are an error, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ObjectRef(Manifest):
    """One immutable object. uri: `s3://bucket/key`; sha256: 64 hex digits; size: bytes."""

    uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Split(StrEnum):
    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class Label(StrEnum):
    NORMAL = "normal"
    DEFECT = "defect"


class Source(StrEnum):
    """Where an image came from."""

    REAL = "real"
    IN_DISTRIBUTION = "in_distribution"  # drawn by the fine-tuned diffusion model
    OUT_OF_DISTRIBUTION = "out_of_distribution"  # per-region augmentation of a normal
    RECONSTRUCTED = "reconstructed"  # a normal that went through the diffusion model's autoencoder


class Regime(StrEnum):
    """How many real positives may be used (In&Out, section "Regimes")."""

    ZERO_SHOT = "zero_shot"
    FEW_SHOT = "few_shot"
    FULL_SHOT = "full_shot"


class Review(StrEnum):
    """A person's decision on one synthetic image."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"


class ImageRecord(Manifest):
    """One image of a manifest.

    height, width: pixels. mask: single-channel PNG of the same size, 0 or 255; None where there is none.
    parents: sha256 of the real images that a synthetic one was made from (leakage guard).
    group: images of one part or shot; a group never crosses a split. sidecar: all that made it: a JSON file of its own,
    or a `.jsonl` file that it shares, in which the `image` of its line is the image's sha256.
    """

    image: ObjectRef
    mask: ObjectRef | None = None
    height: int = Field(ge=1)
    width: int = Field(ge=1)
    label: Label
    source: Source
    split: Split
    defect_type: str = ""
    group: str = ""
    original_path: str = ""
    parents: tuple[str, ...] = ()
    sidecar: ObjectRef | None = None


class ImportManifest(Manifest):
    """A product's real data as imported: `products/{product}/imports/{import}`.

    layout: `kolektorsdd2`, `mvtec-ad` or `dsaii`. split_rule: in words, with its seed, how the splits came about.
    """

    name: str
    product: str
    layout: str
    split_rule: str
    seed: int
    images: tuple[ImageRecord, ...]
    licence: str = ""
    create_time: datetime


class AdapterPreview(Manifest):
    """What an adapter drew after so many steps of its training."""

    step: int
    image: ObjectRef


class CopyThresholds(Manifest):
    """From which similarity to a training image a picture counts as its copy: compared as a whole, or by a window
    around what was painted. held_out: real images of the product, not trained on, of which 99 % stay under it."""

    whole: float
    window: float
    held_out: int


class AdapterManifest(Manifest):
    """A LoRA adapter: `products/{product}/adapters/{adapter}`.

    weights: kohya-style safetensors. base_model_sha256: the base model's manifest hash, so that an adapter
    never meets another model. algorithm: `lierla` or `c3lier`. alpha: the regime's default merge weight.
    losses: of each step, JSON; loss_curve: as a picture. previews: drawn on the way, preview: at the end.
    imported_from: the file of one that was trained elsewhere, of whose training nothing is known; of a folder JSON that
    lists its files. copy_thresholds:
    None where the product has too few real images to find them.
    """

    name: str
    product: str
    base_model: str
    base_model_sha256: str
    regime: Regime
    algorithm: str
    rank: int
    weights: ObjectRef
    alpha: float
    instance_prompt: str
    class_prompt: str
    training_images: tuple[ObjectRef, ...]
    steps: int
    epochs: int
    final_loss: float | None = None
    losses: ObjectRef | None = None
    loss_curve: ObjectRef | None = None
    preview: ObjectRef | None = None
    previews: tuple[AdapterPreview, ...] = ()
    imported_from: ObjectRef | None = None
    copy_thresholds: CopyThresholds | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    create_time: datetime


class DroppedImage(Manifest):
    """An image that a batch has not got. index: its place in the request, from 0."""

    index: int
    reason: str


class FailureRemoval(Manifest):
    """How images that show no defect were removed from a batch.

    drawn: images drawn in all; of these unchanged and unlike any real defect. unplaced: parents that had no place for a
    mask, so that none of these was drawn. threshold: similarity that 95 % of the
    real defects reach, None where it was not tested. references: real defects compared with. note: what was not tested,
    and why.
    """

    drawn: int
    unchanged: int
    unlike: int
    unplaced: int = 0
    dropped: tuple[DroppedImage, ...] = ()
    threshold: float | None = None
    references: int = 0
    note: str = ""


class CopiedImage(Manifest):
    """An image of a batch that copies a training image. index: its place among the batch's images, from 0."""

    index: int
    training_image: ObjectRef
    similarity: float


class CopyCheck(Manifest):
    """Which images of a batch copy an image that the adapter was tuned on; they stay in the batch.

    copies: the flagged ones. threshold: similarity from which one is flagged, None where none was compared.
    highest_similarity: of all images. training_images: compared with. note: why none was compared.
    """

    copies: tuple[CopiedImage, ...] = ()
    threshold: float | None = None
    highest_similarity: float | None = None
    training_images: int = 0
    note: str = ""


class BatchManifest(Manifest):
    """Synthetic images made in one go: `products/{product}/batches/{batch}` (generation) or
    `products/{product}/augmentedBatches/{batch}` (augmentation).

    import_manifest: the import whose normals were painted into or reconstructed. removal: None where failures were not
    looked for. copy_check: None where no adapter drew.
    """

    name: str
    product: str
    source: Source
    method: str
    seed: int
    images: tuple[ImageRecord, ...]
    import_manifest: ObjectRef | None = None
    removal: FailureRemoval | None = None
    copy_check: CopyCheck | None = None
    create_time: datetime


class SplitCounts(Manifest):
    """Images of one split by label and source. normal: real ones; reconstructed: normals too, counted apart."""

    normal: int = 0
    real_defect: int = 0
    in_distribution: int = 0
    out_of_distribution: int = 0
    reconstructed: int = 0


class LeftOut(Manifest):
    """Images of a generated batch that a data set does not hold: rejected by a person, or still pending where only
    accepted ones were asked for."""

    batch: str
    rejected: int = 0
    pending: int = 0


class DatasetManifest(Manifest):
    """A versioned training set: `products/{product}/datasets/{dataset}`.

    The test split holds real images, and reconstructions of its own normals. inputs: the manifests (import, batches) it
    was assembled from. left_out: batches of which reviews kept images out.
    """

    name: str
    product: str
    regime: Regime
    images: tuple[ImageRecord, ...]
    counts: dict[Split, SplitCounts]
    inputs: tuple[ObjectRef, ...]
    seed: int
    adapter: ObjectRef | None = None
    left_out: tuple[LeftOut, ...] = ()
    create_time: datetime
