"""What goes into a data set, what must not, and how a manifest is checked against its objects."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime

import pytest

from flawsmith.assembly import leakage
from flawsmith.assembly.assembling import Batch, assemble, validate_dataset
from flawsmith.common.errors import (
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from flawsmith.common.images import encode_png
from flawsmith.common.manifests import (
    BatchManifest,
    DatasetManifest,
    ImageRecord,
    ImportManifest,
    Label,
    LeftOut,
    ObjectRef,
    Regime,
    Review,
    Source,
    Split,
    SplitCounts,
)
from flawsmith.common.selection import select_fine_tuning, select_positives

from .support import SIZE, sample

NOW = datetime(2026, 1, 2, tzinfo=UTC)
PRODUCT = "products/plate"
Objects = dict[str, bytes]


def store(objects: Objects, data: bytes) -> ObjectRef:
    digest = hashlib.sha256(data).hexdigest()
    uri = f"s3://b/{digest}"
    objects[uri] = data
    return ObjectRef(uri=uri, sha256=digest, size=len(data))


def reader(objects: Objects):
    def read(ref: ObjectRef) -> bytes:
        if ref.uri not in objects:
            raise NotFoundError("OBJECT_NOT_FOUND", f"no {ref.uri}")
        if hashlib.sha256(objects[ref.uri]).hexdigest() != ref.sha256:
            raise DataLossError("OBJECT_CHANGED", "sha256 differs")
        return objects[ref.uri]

    return read


class World:
    """An import of 6 + 2 + 3 normals (train, validation, test) and 8 + 2 + 2 defects, with all its objects."""

    def __init__(self) -> None:
        self.objects: Objects = {}
        images = []
        for label, counts in ((Label.NORMAL, (6, 2, 3)), (Label.DEFECT, (8, 2, 2))):
            for split, count in zip(Split, counts, strict=True):
                for number in range(count):
                    images.append(self.record(label, split, f"{split}/{label}{number}"))
        self.imported = ImportManifest(
            name=f"{PRODUCT}/imports/i1", product=PRODUCT, layout="kolektorsdd2", split_rule="as given", seed=0,
            images=tuple(images), create_time=NOW,
        )  # fmt: skip
        self.import_ref = store(self.objects, b"import")

    def record(self, label: Label, split: Split, path: str, **values) -> ImageRecord:
        seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
        image, mask = sample(seed, defective=label == Label.DEFECT)
        fields = {
            "image": store(self.objects, encode_png(image)),
            "mask": store(self.objects, encode_png(mask)) if label == Label.DEFECT else None,
            "height": SIZE[0], "width": SIZE[1], "label": label, "source": Source.REAL, "split": split,
            "group": path, "original_path": path,
        }  # fmt: skip
        return ImageRecord(**fields | values)

    def of(self, split: Split, label: Label) -> list[ImageRecord]:
        return [record for record in self.imported.images if record.split == split and record.label == label]

    def batch(self, source: Source, count: int, parents: list[ImageRecord], **values) -> Batch:
        digests = tuple(parent.image.sha256 for parent in parents)
        images = tuple(
            self.record(
                Label.DEFECT, Split.TRAIN, f"{source}{number}", source=source, parents=digests, group="",
                original_path="",
            )
            for number in range(count)
        )  # fmt: skip
        manifest = BatchManifest(
            **{
                "name": f"{PRODUCT}/batches/{source.value.replace('_', '-')}", "product": PRODUCT, "source": source,
                "method": "memseg", "seed": 0, "images": images, "create_time": NOW,
            }
            | values
        )  # fmt: skip
        return Batch(manifest, store(self.objects, manifest.model_dump_json().encode()))

    def reconstructed(self, split: Split, parents: list[ImageRecord]) -> Batch:
        """Normals that say they belong to a split, one made from each parent."""
        images = tuple(
            self.record(
                Label.NORMAL, split, f"{parent.original_path} reconstructed", source=Source.RECONSTRUCTED,
                parents=(parent.image.sha256,), group=parent.group, original_path="",
            )
            for parent in parents
        )  # fmt: skip
        return self.batch(Source.RECONSTRUCTED, 0, [], images=images, method="reconstruct")

    def assemble(self, batches: list[Batch], regime: Regime = Regime.FULL_SHOT, **values) -> DatasetManifest:
        return assemble(
            name=f"{PRODUCT}/datasets/d1", imported=self.imported, import_ref=self.import_ref, batches=batches,
            regime=regime, create_time=NOW, **{"seed": 0} | values,
        )  # fmt: skip


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.fixture(scope="module")
def out_of(world: World) -> Batch:
    return world.batch(Source.OUT_OF_DISTRIBUTION, 4, world.of(Split.TRAIN, Label.NORMAL)[:2])


def counts(dataset: DatasetManifest) -> dict[Split, SplitCounts]:
    return dataset.counts


def test_full_shot(world: World, out_of: Batch) -> None:
    inside = world.batch(Source.IN_DISTRIBUTION, 3, world.of(Split.TRAIN, Label.DEFECT))
    made = world.assemble([inside, out_of])
    assert counts(made) == {
        Split.TRAIN: SplitCounts(normal=6, real_defect=8, in_distribution=3, out_of_distribution=4),
        Split.VALIDATION: SplitCounts(normal=2, real_defect=2),
        Split.TEST: SplitCounts(normal=3, real_defect=2),
    }
    assert {record.source for record in made.images if record.split == Split.TEST} == {Source.REAL}
    assert made.inputs == (world.import_ref, inside.ref, out_of.ref)
    assert made == world.assemble([inside, out_of])


def test_few_shot_knows_five_positives_and_those_the_batch_was_made_from(world: World, out_of: Batch) -> None:
    parents = world.of(Split.TRAIN, Label.DEFECT)[3:7]
    inside = world.batch(Source.IN_DISTRIBUTION, 3, parents)
    made = world.assemble([inside, out_of], Regime.FEW_SHOT)
    assert counts(made)[Split.TRAIN] == SplitCounts(normal=6, real_defect=5, in_distribution=3, out_of_distribution=4)
    # Other positives are not known: none sets a threshold either.
    assert counts(made)[Split.VALIDATION] == SplitCounts(normal=2)
    assert counts(made)[Split.TEST] == SplitCounts(normal=3, real_defect=2)
    positives = {record.image.sha256 for record in made.images if record.split == Split.TRAIN}
    assert {parent.image.sha256 for parent in parents} <= positives


def test_few_shot_uses_the_adapters_positives(world: World, out_of: Batch) -> None:
    wanted = {record.image.sha256 for record in world.of(Split.TRAIN, Label.DEFECT)[:5]}
    made = world.assemble([out_of], Regime.FEW_SHOT, positives=wanted)
    used = {
        record.image.sha256
        for record in made.images
        if record.split == Split.TRAIN and record.label == Label.DEFECT and record.source == Source.REAL
    }
    assert used == wanted


def test_zero_shot_has_no_real_positive(world: World, out_of: Batch) -> None:
    inside = world.batch(Source.IN_DISTRIBUTION, 3, world.of(Split.TRAIN, Label.NORMAL))
    made = world.assemble([inside, out_of], Regime.ZERO_SHOT)
    assert counts(made)[Split.TRAIN] == SplitCounts(normal=6, in_distribution=3, out_of_distribution=4)
    assert counts(made)[Split.VALIDATION] == SplitCounts(normal=2)


@pytest.mark.parametrize(("regime", "parents"), [(Regime.ZERO_SHOT, 1), (Regime.FEW_SHOT, 6)])
def test_batches_of_a_richer_regime_are_refused(world: World, regime: Regime, parents: int) -> None:
    inside = world.batch(Source.IN_DISTRIBUTION, 2, world.of(Split.TRAIN, Label.DEFECT)[:parents])
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([inside], regime)
    assert caught.value.reason == "REGIME_VIOLATED"


def test_what_reviews_keep_out_is_left_out_and_counted(world: World, out_of: Batch) -> None:
    batch = world.batch(Source.IN_DISTRIBUTION, 4, world.of(Split.TRAIN, Label.DEFECT))
    digests = [record.image.sha256 for record in batch.manifest.images]
    said = {digests[0]: Review.REJECTED, digests[1]: Review.REJECTED, digests[3]: Review.PENDING}
    made = world.assemble([out_of, Batch(batch.manifest, batch.ref, said)])
    drawn = [record.image.sha256 for record in made.images if record.source == Source.IN_DISTRIBUTION]
    assert drawn == [digests[2]]
    assert made.left_out == (LeftOut(batch=batch.manifest.name, rejected=2, pending=1),)
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([Batch(batch.manifest, batch.ref, dict.fromkeys(digests, Review.REJECTED))])
    assert caught.value.reason == "NO_ACCEPTED_IMAGES"


@pytest.mark.parametrize("split", [Split.TEST, Split.VALIDATION])
@pytest.mark.parametrize("label", list(Label))
def test_synthetics_of_held_out_images_stop_an_assembly(world: World, split: Split, label: Label) -> None:
    parent = world.of(split, label)[0]
    batch = world.batch(Source.OUT_OF_DISTRIBUTION, 2, [*world.of(Split.TRAIN, Label.NORMAL), parent])
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([batch])
    assert caught.value.reason == "LEAKAGE"
    assert len(caught.value.fields) == 2
    assert all(parent.original_path in leak.description for leak in caught.value.fields)


def test_a_test_image_among_the_synthetics_stops_an_assembly(world: World) -> None:
    batch = world.batch(Source.OUT_OF_DISTRIBUTION, 2, world.of(Split.TRAIN, Label.NORMAL))
    stolen = batch.manifest.images[0].model_copy(update={"image": world.of(Split.TEST, Label.DEFECT)[0].image})
    manifest = batch.manifest.model_copy(update={"images": (stolen, *batch.manifest.images[1:])})
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([Batch(manifest, batch.ref)])
    assert caught.value.reason == "LEAKAGE"
    assert [leak.field for leak in caught.value.fields] == ["test/defect0"]


@pytest.mark.parametrize("regime", [Regime.FEW_SHOT, Regime.FULL_SHOT])
def test_reconstructed_normals_are_normals_of_their_own_split(world: World, out_of: Batch, regime: Regime) -> None:
    train, validation, test = (
        world.reconstructed(split, world.of(split, Label.NORMAL)[:count])
        for split, count in ((Split.TRAIN, 4), (Split.VALIDATION, 1), (Split.TEST, 3))
    )
    plain, made = world.assemble([out_of], regime), world.assemble([out_of, train, validation, test], regime)
    for split, count in ((Split.TRAIN, 4), (Split.VALIDATION, 1), (Split.TEST, 3)):
        # Real images are what they are without the control, and counted apart from it.
        assert counts(made)[split] == counts(plain)[split].model_copy(update={"reconstructed": count})
        found = [one for one in made.images if one.split == split and one.source == Source.RECONSTRUCTED]
        assert {one.label for one in found} == {Label.NORMAL}
        assert len(found) == count
    assert validate_dataset(made, reader(world.objects))[0] == []


def test_reconstructed_normals_alone_are_no_defects(world: World) -> None:
    train = world.reconstructed(Split.TRAIN, world.of(Split.TRAIN, Label.NORMAL))
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([train], Regime.ZERO_SHOT)
    assert caught.value.reason == "NO_POSITIVES"


@pytest.mark.parametrize(
    ("split", "parents"),
    [(Split.TRAIN, Split.TEST), (Split.TEST, Split.TRAIN), (Split.TEST, Split.VALIDATION)],
)
def test_reconstructed_normals_in_another_split_than_their_parents_stop_an_assembly(
    world: World, out_of: Batch, split: Split, parents: Split
) -> None:
    parent = world.of(parents, Label.NORMAL)[0]
    wrong = world.reconstructed(split, [parent])
    images = tuple(record.model_copy(update={"group": ""}) for record in wrong.manifest.images)
    batch = Batch(wrong.manifest.model_copy(update={"images": images}), wrong.ref)
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([out_of, batch])
    assert caught.value.reason == "LEAKAGE"
    descriptions = [leak.description for leak in caught.value.fields]
    assert descriptions == [f"was made from {parent.original_path} of {parents.value}"]


def test_near_duplicates_of_test_images_are_found(world: World, out_of: Batch) -> None:
    path = world.of(Split.TEST, Label.NORMAL)[1].original_path
    seed = int(hashlib.sha256(path.encode()).hexdigest()[:8], 16)
    brighter = (sample(seed)[0] // 10 * 9 + 20).astype("uint8")
    copy = out_of.manifest.images[0].model_copy(update={"image": store(world.objects, encode_png(brighter))})
    images = [*world.imported.images, *out_of.manifest.images]
    told: list[tuple[int, int]] = []
    read = reader(world.objects)
    assert leakage.find_near_duplicates(images, read, lambda done, total: told.append((done, total))) == []
    assert told[-1] == (23, 23)
    leaks = leakage.find_near_duplicates([*images, copy], read)
    assert [leak.field for leak in leaks] == [path]
    with pytest.raises(FailedPreconditionError, match=path):
        leakage.refuse(leaks)


def test_batches_that_do_not_belong(world: World, out_of: Batch) -> None:
    other = world.batch(Source.OUT_OF_DISTRIBUTION, 1, [], product="products/other")
    real = world.batch(Source.REAL, 1, [])
    for batch, reason in ((other, "BATCH_OF_OTHER_PRODUCT"), (real, "NOT_SYNTHETIC")):
        with pytest.raises(InvalidArgumentError) as caught:
            world.assemble([batch])
        assert caught.value.reason == reason
    stranger = world.record(Label.NORMAL, Split.TRAIN, "another import's")
    with pytest.raises(FailedPreconditionError) as missing:
        world.assemble([world.batch(Source.OUT_OF_DISTRIBUTION, 1, [stranger])])
    assert missing.value.reason == "BATCH_OF_OTHER_IMPORT"


def test_zero_shot_without_synthetics_has_no_positive(world: World) -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        world.assemble([], Regime.ZERO_SHOT)
    assert caught.value.reason == "NO_POSITIVES"


def test_selection_by_regime(world: World) -> None:
    images = world.imported.images
    train_defects = {record.image.sha256 for record in world.of(Split.TRAIN, Label.DEFECT)}
    assert select_positives(images, Regime.ZERO_SHOT, 0) == []
    few = select_positives(images, Regime.FEW_SHOT, 0)
    assert len(few) == 5
    assert {record.image.sha256 for record in few} <= train_defects
    assert few == select_positives(tuple(reversed(images)), Regime.FEW_SHOT, 0)
    assert any(few != select_positives(images, Regime.FEW_SHOT, seed) for seed in range(1, 5))
    assert {record.image.sha256 for record in select_positives(images, Regime.FULL_SHOT, 0)} == train_defects
    assert select_fine_tuning(images, Regime.FEW_SHOT, 0) == few
    normals = select_fine_tuning(images, Regime.ZERO_SHOT, 0)
    assert {record.image.sha256 for record in normals} == {
        record.image.sha256 for record in world.of(Split.TRAIN, Label.NORMAL)
    }
    many = [world.imported.images[0].model_copy(update={"image": ObjectRef(uri="s3://b/x", sha256=f"{i:064x}", size=1)})
            for i in range(120)]  # fmt: skip
    assert len(select_fine_tuning(many, Regime.ZERO_SHOT, 3)) == 50


@pytest.mark.parametrize("regime", [Regime.FEW_SHOT, Regime.FULL_SHOT])
def test_regimes_that_need_positives_say_so(world: World, regime: Regime) -> None:
    normals = [record for record in world.imported.images if record.label == Label.NORMAL]
    with pytest.raises(FailedPreconditionError) as caught:
        select_positives(normals, regime, 0)
    assert caught.value.reason == "NO_POSITIVES"
    assert "zero_shot" in caught.value.message


def test_a_sound_manifest_is_valid(world: World, out_of: Batch) -> None:
    made = world.assemble([out_of])
    problems, checked = validate_dataset(made, reader(world.objects))
    assert problems == []
    # 23 real images with 12 masks, 4 synthetic ones with masks.
    assert checked == 23 + 12 + 4 + 4


def test_a_manifest_is_compared_with_its_objects(world: World, out_of: Batch) -> None:
    made = world.assemble([out_of])
    objects = dict(world.objects)
    missing, changed, wrong_mask = made.images[0], made.images[1], out_of.manifest.images[0]
    del objects[missing.image.uri]
    objects[changed.image.uri] += b"x"
    black = store(objects, encode_png(sample(1)[1]))
    images = tuple(
        record.model_copy(update={"mask": black}) if record.image == wrong_mask.image else record
        for record in made.images
    )
    tampered = made.model_copy(
        update={
            "images": (*images[:5], images[5].model_copy(update={"height": 7}), *images[6:]),
            "counts": made.counts | {Split.TEST: SplitCounts(normal=99)},
        }
    )
    problems, _ = validate_dataset(tampered, reader(objects))
    text = "\n".join(problems)
    assert len(problems) == 5
    for part in (missing.image.uri, changed.image.uri, black.uri, "7 x 80", "counts"):
        assert part in text


def test_sidecars_are_compared_with_their_images(world: World, out_of: Batch) -> None:
    objects = dict(world.objects)
    drawn = out_of.manifest.images
    lines = [json.dumps({"image": record.image.sha256}).encode() for record in drawn]

    def problems(*sidecars: ObjectRef | None) -> tuple[list[str], int]:
        images = tuple(
            record.model_copy(update={"sidecar": sidecar}) for record, sidecar in zip(drawn, sidecars, strict=True)
        )
        batch = Batch(out_of.manifest.model_copy(update={"images": images}), out_of.ref)
        return validate_dataset(world.assemble([batch]), reader(objects))

    def jsonl(*data: bytes) -> ObjectRef:
        ref = store(objects, b"\n".join(data))
        objects[ref.uri + ".jsonl"] = objects[ref.uri]
        return ref.model_copy(update={"uri": ref.uri + ".jsonl"})

    own = [store(objects, b'{"seed": %d}' % number) for number in range(4)]
    shared, short = jsonl(*lines), jsonl(*lines[:3])
    assert problems(*own) == ([], 23 + 12 + 8 + 4)
    assert problems(*[shared] * 4) == ([], 23 + 12 + 8 + 1)
    found, _ = problems(*[short] * 4)
    assert found == [f"{short.uri} (sidecar) says nothing of {drawn[3].image.uri}"]
    broken, gone = jsonl(b"not json"), own[0].model_copy(update={"uri": "s3://b/gone"})
    found, _ = problems(shared, broken, gone, None)
    assert len(found) == 2
    assert {broken.uri, gone.uri} == {problem.split(" ")[0].rstrip(":") for problem in found}


def test_an_outage_is_not_called_a_broken_data_set(world: World, out_of: Batch) -> None:
    def down(ref: ObjectRef) -> bytes:
        raise UnavailableError("OBJECT_STORE_UNAVAILABLE", "down")

    with pytest.raises(UnavailableError):
        validate_dataset(world.assemble([out_of]), down)
