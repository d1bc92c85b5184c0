"""What a batch of painted images may use, and one image after the other, on images that are drawn here."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import cv2
import numpy as np
import pytest
from pydantic import ValidationError

from flawsmith.common.errors import FailedPreconditionError, FlawsmithError, InvalidArgumentError
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import (
    AdapterManifest,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
)
from flawsmith.drawing import DEFECTS, draw_sample
from flawsmith.generation.inpainting import Inpaint, Painter, batches_of, choose_material
from flawsmith.generation.masks import DSAII_AREAS
from flawsmith.generation.requests import GenerateRequest

REF = ObjectRef(uri="s3://b/import", sha256="0" * 64, size=1)
HEIGHT, WIDTH = 120, 96
SPEC = {"prompts": ("products/p/prompts/a",), "import_manifest": REF}


class Blobs:
    """Bytes by their hash."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def put(self, data: bytes) -> ObjectRef:
        digest = hashlib.sha256(data).hexdigest()
        self.data[digest] = data
        return ObjectRef(uri=f"s3://b/{digest}", sha256=digest, size=len(data))

    def read(self, ref: ObjectRef) -> bytes:
        return self.data[ref.sha256]


@pytest.fixture(scope="module")
def blobs() -> Blobs:
    return Blobs()


@pytest.fixture(scope="module")
def imported(blobs: Blobs) -> ImportManifest:
    rng, records = np.random.default_rng(3), []
    for split, defective, count in (
        ("train", False, 6),
        ("train", True, 8),
        ("validation", True, 2),
        ("test", True, 3),
    ):
        for number in range(count):
            image, mask = draw_sample(rng, HEIGHT, WIDTH, defective=defective)
            records.append(
                ImageRecord(
                    image=blobs.put(encode_png(image)), mask=blobs.put(encode_png(mask)) if defective else None,
                    height=HEIGHT, width=WIDTH, label=Label.DEFECT if defective else Label.NORMAL, source=Source.REAL,
                    split=Split(split), defect_type=("scratch", "dent")[number % 2] if defective else "",
                    group=f"part {len(records)}", original_path=f"{split}/{len(records)}.png",
                )
            )  # fmt: skip
    return ImportManifest(
        name="products/p/imports/i", product="products/p", layout="mvtec-ad", split_rule="given", seed=0,
        images=tuple(records), create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def spec(**values: object) -> Inpaint:
    return Inpaint.model_validate({**SPEC, **values})


def adapter(imported: ImportManifest, positives: int) -> AdapterManifest:
    train = [r.image for r in imported.images if r.split is Split.TRAIN and r.label is Label.DEFECT]
    normals = [r.image for r in imported.images if r.split is Split.TRAIN and r.label is Label.NORMAL]
    return AdapterManifest(
        name="products/p/adapters/a", product="products/p", base_model="mini", base_model_sha256="0" * 64,
        regime=Regime.FEW_SHOT, algorithm="c3lier", rank=4, weights=REF, alpha=0.9, instance_prompt="a",
        class_prompt="b", training_images=tuple(train[:positives] or normals), steps=1, epochs=1, final_loss=0.1,
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
    )  # fmt: skip


def test_presets_fill_in_what_is_not_asked_for() -> None:
    plain, diag = spec(), spec(preset="diag", padding=9)
    assert (plain.strength, plain.negative_text) == (1.0, "")
    assert (diag.strength, diag.padding) == (0.99, 9)
    assert diag.negative_text == "smooth, plain, black, dark, shadow"
    assert spec(preset="diag", negative_text="rust").negative_text == "rust"
    assert Inpaint.model_validate(diag.model_dump(mode="json")) == diag


@pytest.mark.parametrize(
    "values",
    [
        {"strength": 0.0}, {"preset": "magic"}, {"min_area": 0.5, "max_area": 0.1}, {"max_redraws": 21},
        {"foreground": "everything"}, {"prompts": ()},
    ],
)  # fmt: skip
def test_values_without_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec(**values)


def test_exactly_one_strategy_is_asked_for() -> None:
    common = {"name": "products/p/batches/b", "parent": "products/p", "count": 1}
    texts = {"prompts": ("products/p/prompts/a",)}
    assert GenerateRequest.model_validate({**common, "text_to_image": texts}).prompts == texts["prompts"]
    assert GenerateRequest.model_validate({**common, "inpaint": SPEC}).prompts == SPEC["prompts"]
    for both in ({}, {"text_to_image": texts, "inpaint": SPEC}):
        with pytest.raises(ValidationError, match="exactly one strategy"):
            GenerateRequest.model_validate({**common, **both})


def test_only_train_may_be_used_and_of_its_defects_what_adapter_or_regime_allow(imported: ImportManifest) -> None:
    material = choose_material(imported, spec(), 1, "products/p", None)
    assert {record.split for record in (*material.normals, *material.positives)} == {Split.TRAIN}
    assert (len(material.normals), len(material.positives), material.drawn) == (6, 8, False)
    few = choose_material(imported, spec(regime=Regime.FEW_SHOT), 1, "products/p", None)
    assert len(few.positives) == 5
    tuned = adapter(imported, 3)
    of_adapter = choose_material(imported, spec(regime=Regime.FULL_SHOT), 1, "products/p", tuned)
    assert {r.image.sha256 for r in of_adapter.positives} == {ref.sha256 for ref in tuned.training_images}
    scratches = choose_material(imported, spec(defect_types=("scratch",)), 1, "products/p", None)
    assert {record.defect_type for record in scratches.positives} == {"scratch"}


def test_masks_are_drawn_where_no_real_ones_may_be_used(imported: ImportManifest) -> None:
    for changes, tuned in ((spec(regime=Regime.ZERO_SHOT), None), (spec(), adapter(imported, 0))):
        material = choose_material(imported, changes, 1, "products/p", tuned)
        assert (material.drawn, material.positives) == (True, [])
    wanted = choose_material(imported, spec(masks="drawn"), 1, "products/p", None)
    # The real defects are compared with all the same.
    assert (wanted.drawn, len(wanted.positives)) == (True, 8)
    assert choose_material(imported, spec(defect_types=("hole",)), 1, "products/p", None).drawn


def test_of_an_imported_adapter_the_regime_says_which_defects_may_be_used(imported: ImportManifest) -> None:
    elsewhere = adapter(imported, 0).model_copy(update={"imported_from": REF, "training_images": ()})
    few = choose_material(imported, spec(masks="imported"), 1, "products/p", elsewhere)
    assert few == choose_material(imported, spec(regime=Regime.FEW_SHOT), 1, "products/p", None)
    asked = choose_material(imported, spec(regime=Regime.FULL_SHOT), 1, "products/p", elsewhere)
    assert (len(asked.positives), asked.drawn) == (8, False)
    zero = elsewhere.model_copy(update={"regime": Regime.ZERO_SHOT})
    assert choose_material(imported, spec(), 1, "products/p", zero).drawn
    normals = tuple(record for record in imported.images if record.label is Label.NORMAL)
    good = imported.model_copy(update={"images": normals})
    assert choose_material(good, spec(), 1, "products/p", elsewhere).drawn


def test_drawn_masks_are_as_large_as_the_products_own(imported: ImportManifest, blobs: Blobs) -> None:
    own, made = painter(imported, blobs), painter(imported, blobs, masks="drawn")
    low, high = own.areas["scratch"]
    assert set(made.areas.values()) == set(own.areas.values()) == {(low, high)} != {DSAII_AREAS["texture"]}
    assert low <= made.prepare(0, 0).placed.mask.astype(bool).mean() <= high
    # What says nothing of a defect's size is passed over.
    full = blobs.put(encode_png(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    images = tuple(record.model_copy(update={"mask": full if record.mask else None}) for record in imported.images)
    odd = painter(imported.model_copy(update={"images": images}), blobs, masks="drawn")
    assert odd.areas["dent"] == DSAII_AREAS["texture"]


def test_drawn_masks_without_own_ones_are_as_large_as_their_kind(imported: ImportManifest, blobs: Blobs) -> None:
    zero = {"masks": "drawn", "regime": Regime.ZERO_SHOT}
    assert painter(imported, blobs, **zero).areas == {
        **dict.fromkeys(("scratch", "crack", "pit"), (0.003, 0.04)),
        **dict.fromkeys(("hole", "stain", "dent", "chip"), (0.05, 0.10)),
    }
    # Who names an area has it, whatever is drawn; what is left out is DSAII's.
    for named, areas in (({"min_area": 0.02}, (0.02, 0.10)), ({"min_area": 0.01, "max_area": 0.02}, (0.01, 0.02))):
        assert set(painter(imported, blobs, **zero, **named).areas.values()) == {areas}
    with pytest.raises(InvalidArgumentError, match=r"taken from 5\.000% to 10\.000%; set both") as caught:
        painter(imported, blobs, **zero, max_area=0.04)
    assert caught.value.reason == "BAD_AREA_RANGE"


def test_drawn_lines_lie_in_the_direction_that_an_images_prompt_names(imported: ImportManifest, blobs: Blobs) -> None:
    texts = ("skt background with a horizontal scratch", "skt background with a vertical scratch", "skt scratched")

    def flat(index: int, **values: object) -> np.ndarray:
        """Whether the masks of a prompt's images are wider than high."""
        made = painter(imported, blobs, texts, masks="drawn", regime=Regime.ZERO_SHOT, **values)
        boxes = [cv2.boundingRect(made.prepare(image, 0).placed.mask) for image in range(index, 90, 3)]
        return np.array([width > height for _, _, width, height in boxes])

    assert flat(0).mean() > 0.9
    assert flat(1).mean() < 0.1
    assert 0.2 < flat(2).mean() < 0.8
    # Who says how far masks are turned has it so.
    assert 0.2 < flat(0, max_angle=180.0).mean() < 0.8


def test_drawn_masks_are_of_the_kinds_that_an_images_prompt_names(imported: ImportManifest, blobs: Blobs) -> None:
    texts = ("skt background cracked", "skt background", "dents and stains", "skt scratched")

    def kinds(**values: object) -> list[set[str]]:
        made = painter(imported, blobs, texts, **values)
        return [
            {made.prepare(index, attempt).placed.source.defect_type for index in range(n, 60, 4) for attempt in (0, 1)}
            for n in range(4)
        ]

    named = [{"crack"}, set(DEFECTS) - {"none"}, {"dent", "stain"}, {"scratch"}]
    assert kinds(masks="drawn", regime=Regime.ZERO_SHOT) == named
    # Also where the product's own masks say how large they are.
    assert kinds(masks="drawn") == named
    # Who names kinds has those, and real masks are what they are.
    assert kinds(masks="drawn", defect_types=("hole",)) == [{"hole"}] * 4
    assert kinds() == [{"scratch", "dent"}] * 4


@pytest.mark.parametrize(
    ("values", "product", "error", "reason"),
    [
        ({}, "products/q", InvalidArgumentError, "IMPORT_OF_OTHER_PRODUCT"),
        ({"defect_types": ("moth",)}, "products/p", InvalidArgumentError, "UNKNOWN_DEFECT_TYPE"),
        ({"defect_types": ("moth",), "masks": "drawn"}, "products/p", InvalidArgumentError, "UNKNOWN_DEFECT_TYPE"),
        ({"masks": "imported", "regime": "zero_shot"}, "products/p", FailedPreconditionError, "NO_MASKS"),
    ],
)  # fmt: skip
def test_material_that_is_not_there_is_said(
    imported: ImportManifest, values: dict[str, object], product: str, error: type[FlawsmithError], reason: str
) -> None:
    with pytest.raises(error) as caught:
        choose_material(imported, spec(**values), 1, product, None)
    assert caught.value.reason == reason


def test_an_import_without_normals_is_refused(imported: ImportManifest) -> None:
    defects = tuple(record for record in imported.images if record.label is Label.DEFECT)
    with pytest.raises(FailedPreconditionError) as caught:
        choose_material(imported.model_copy(update={"images": defects}), spec(), 1, "products/p", None)
    assert caught.value.reason == "NO_NORMALS"


def painter(
    imported: ImportManifest, blobs: Blobs, prompts: tuple[str, ...] = ("skt background",), *,
    size: tuple[int, int] | None = None, **values: object,
) -> Painter:  # fmt: skip
    chosen = spec(**values)
    material = choose_material(imported, chosen, 1, "products/p", None)
    return Painter(material, chosen, 1, blobs.read, prompts=prompts, native_side=64, multiple=4, size=size)


def test_an_image_is_prepared_for_the_model_and_finished(imported: ImportManifest, blobs: Blobs) -> None:
    made = painter(imported, blobs)
    for index in range(6):
        one = made.prepare(index, 0)
        share = np.count_nonzero(one.placed.mask) / one.placed.mask.size
        low, high = made.areas[one.placed.source.defect_type]
        assert low <= share <= high
        assert max(one.image.shape[:2]) == 64
        assert not any(side % 4 for side in one.image.shape[:2])
        # The model is shown all of the mask, and some surface beside it.
        assert one.mask.any()
        assert not one.mask.all()
        assert np.count_nonzero(one.crop.of(one.placed.mask)) == np.count_nonzero(one.placed.mask)
        painted = made.finish(one, np.full_like(one.image, 10))
        assert np.array_equal(painted[one.placed.mask == 0], one.pixels[one.placed.mask == 0])
        assert (painted != one.pixels).any()
    # Every normal has its turn before one comes again.
    assert len({made.prepare(index, 0).parent.image.sha256 for index in range(6)}) == 6


def test_another_attempt_is_another_place_and_after_four_any_parent(imported: ImportManifest, blobs: Blobs) -> None:
    made, again = painter(imported, blobs), painter(imported, blobs)
    first, second = made.prepare(2, 0), made.prepare(2, 1)
    assert not np.array_equal(first.placed.mask, second.placed.mask)
    parents = [made.prepare(2, attempt).parent.image.sha256 for attempt in range(12)]
    assert len(set(parents[:4])) == 1
    assert len(set(parents)) > 2
    # What another worker prepares is the same.
    for attempt in (1, 7):
        assert np.array_equal(again.prepare(2, attempt).placed.mask, made.prepare(2, attempt).placed.mask)
        assert again.prepare(2, attempt).parent == made.prepare(2, attempt).parent


def test_a_size_that_is_asked_for_is_drawn(imported: ImportManifest, blobs: Blobs) -> None:
    assert painter(imported, blobs, size=(96, 80)).prepare(0, 0).image.shape == (96, 80, 3)


def test_objects_before_a_background_are_kept_to(imported: ImportManifest, blobs: Blobs) -> None:
    rng = np.random.default_rng(0)
    scene = np.full((HEIGHT, WIDTH, 3), 15, np.uint8)
    scene[30:90, 20:70] = 180
    scene = np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8)
    flat = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    defects = [record for record in imported.images if record.label is Label.DEFECT]

    def with_normal(image: np.ndarray) -> ImportManifest:
        normal = imported.images[0].model_copy(update={"image": blobs.put(encode_png(image))})
        return imported.model_copy(update={"images": (normal, *defects)})

    made = painter(with_normal(scene), blobs, foreground="object")
    for attempt in range(10):
        mask = made.prepare(0, attempt).placed.mask
        assert not mask[:25].any()
        assert not mask[95:].any()
        assert not mask[:, :15].any()
    with pytest.raises(FailedPreconditionError, match="set foreground to texture") as caught:
        painter(with_normal(flat), blobs, foreground="object").prepare(0, 0)
    assert caught.value.reason == "NO_OBJECT"


def test_masks_are_turned_as_far_as_the_request_says(imported: ImportManifest, blobs: Blobs) -> None:
    some = painter(imported, blobs, max_angle=0.0)
    assert {some.prepare(index, 0).placed.transform.angle for index in range(5)} == {0.0}
    drawn = painter(imported, blobs, masks="drawn", regime=Regime.ZERO_SHOT)
    assert set(drawn.angles.values()) == {180.0}
    with pytest.raises(ValidationError, match="max_angle"):
        painter(imported, blobs, max_angle=181.0)


def test_bad_masks_and_ranges_are_refused(imported: ImportManifest, blobs: Blobs) -> None:
    full = blobs.put(encode_png(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    images = [
        record.model_copy(update={"mask": full}) if record.mask and record.split is Split.TRAIN else record
        for record in imported.images
    ]
    with pytest.raises(InvalidArgumentError, match=r"train/\d+\.png covers the whole image") as caught:
        painter(imported.model_copy(update={"images": tuple(images)}), blobs)
    assert caught.value.reason == "FULL_MASK"
    with pytest.raises(InvalidArgumentError, match="set both min_area and max_area") as caught:
        painter(imported, blobs, min_area=0.9)
    assert caught.value.reason == "BAD_AREA_RANGE"
    with pytest.raises(FailedPreconditionError) as placing:
        painter(imported, blobs, min_area=0.9, max_area=0.95).prepare(0, 0)
    assert placing.value.reason == "NO_PLACE"


def test_references_show_real_defects_as_drawn_ones_are_shown(imported: ImportManifest, blobs: Blobs) -> None:
    shown = painter(imported, blobs).references()
    assert len(shown) == 8
    for image, mask in shown:
        assert (image.shape, mask.shape) == ((64, 64, 3), (64, 64))
        assert mask.any()


def test_what_shares_prompt_and_size_is_drawn_together(imported: ImportManifest, blobs: Blobs) -> None:
    made = painter(imported, blobs, size=(64, 64))
    candidates = [made.prepare(index, 0) for index in range(4)]
    assert batches_of(candidates, [0, 1, 0, 1]) == [[0, 2], [1, 3]]
    assert batches_of([*candidates, painter(imported, blobs, size=(96, 80)).prepare(0, 0)], [0] * 5) == [
        [0, 1, 2, 3],
        [4],
    ]
