"""Layouts are recognised, good data sets come in unchanged, and every problem of a bad one is named at once."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from flawsmith.assembly.importing import copy_image, plan_import
from flawsmith.assembly.layouts import recognise
from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.images import decode_mask, encode_png
from flawsmith.common.manifests import Label, ObjectRef, Split

from .support import SIZE, dsaii, ksdd2, mvtec, sample

DATA = Path(__file__).parents[4] / "shared" / "data"


def tally(plan) -> Counter:
    return Counter((entry.record.split, entry.record.label) for entry in plan.images)


def violations(error: InvalidArgumentError) -> dict[str, str]:
    return {violation.field: violation.description for violation in error.fields}


def refused(plan, files) -> dict[str, str]:
    with pytest.raises(InvalidArgumentError) as caught:
        plan(files)
    assert caught.value.reason == "DATASET_INVALID"
    return violations(caught.value)


def test_kolektorsdd2(plan) -> None:
    files = ksdd2()
    made = plan(files)
    assert made.layout == "kolektorsdd2"
    assert tally(made) == {
        (Split.TRAIN, Label.NORMAL): 8, (Split.VALIDATION, Label.NORMAL): 2, (Split.TEST, Label.NORMAL): 4,
        (Split.TRAIN, Label.DEFECT): 6, (Split.VALIDATION, Label.DEFECT): 1, (Split.TEST, Label.DEFECT): 3,
    }  # fmt: skip
    for entry in made.images:
        record = entry.record
        assert record.image.sha256 == hashlib.sha256(files[entry.path]).hexdigest()
        assert (record.height, record.width) == SIZE
        black = not decode_mask(files[entry.path.replace(".png", "_GT.png")]).any()
        assert (record.label == Label.NORMAL) == black == (record.mask is None)
        assert (record.split == Split.TEST) == entry.path.startswith("test/")
    assert "20%" in made.split_rule
    assert "seed 0" in made.split_rule


def test_mvtec_defects_are_split_by_a_recorded_rule(plan) -> None:
    made = plan(mvtec(), seed=7)
    assert made.layout == "mvtec-ad"
    by_kind = Counter(
        (entry.record.defect_type, entry.record.split == Split.TEST)
        for entry in made.images
        if entry.record.label == Label.DEFECT
    )
    # Half of 4, half of 3 rounded up, and the only one of its kind stays in test.
    assert by_kind == {
        ("kind0", False): 2, ("kind0", True): 2, ("kind1", False): 2, ("kind1", True): 1, ("kind2", True): 1,
    }  # fmt: skip
    assert "seed 7" in made.split_rule
    assert "half" in made.split_rule
    assert tally(made)[Split.VALIDATION, Label.DEFECT] == 0, "train would be left with fewer than five"
    assert plan(mvtec(), seed=7) == made
    assert any(plan(mvtec(), seed=seed) != made for seed in range(8, 12))


def test_mvtec_masks_belong_to_their_images(plan) -> None:
    files = mvtec()
    for entry in plan(files).images:
        if entry.record.mask is not None:
            _, kind, name = entry.path.split("/")
            assert entry.mask_path == f"ground_truth/{kind}/{name[:3]}_mask.png"


@pytest.mark.parametrize("make", [ksdd2, mvtec])
def test_one_folder_deeper(make, plan) -> None:
    files = {f"leather/{path}": data for path, data in make().items()} | {"readme.txt": b"hello"}
    made = plan(files)
    assert all(entry.path.startswith("leather/") for entry in made.images)
    assert tally(made) == tally(plan(make()))


def test_unknown_layout_says_what_is_known_and_found() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        recognise(["images/a.png", "images/b.png", "labels.txt"])
    assert caught.value.reason == "UNKNOWN_LAYOUT"
    for part in ("train/good", "10000_GT.png", "images/ (2 files)"):
        assert part in caught.value.message
    with pytest.raises(InvalidArgumentError) as caught:
        recognise([])
    assert "nothing" in caught.value.message


def test_several_classes_are_named() -> None:
    paths = [f"{product}/train/good/000.png" for product in ("leather", "wood")]
    with pytest.raises(InvalidArgumentError) as caught:
        recognise(paths)
    assert caught.value.reason == "SEVERAL_DATASETS"
    assert "leather/" in caught.value.message
    assert "wood/" in caught.value.message


def oversized_png(side: int) -> bytes:
    """A header of side x side pixels before a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(64)))


def test_all_problems_at_once(plan) -> None:
    files = ksdd2()
    files["train/10000.png"] = b"not an image"
    files["train/10001.png"] = files["train/10001.png"][:1000]
    files["train/10002.png"] = oversized_png(50_000)
    files["train/10003_GT.png"] = encode_png(np.zeros((SIZE[0], SIZE[1] + 1), np.uint8))
    del files["train/10004_GT.png"]
    files["test/29999_GT.png"] = files["test/20000_GT.png"]
    files["test/20001.png"] = files["train/10005.png"]
    files["train/10006.png"] = encode_png(np.zeros((20, 20, 3), np.uint8))
    files["extra/1.png"] = files["train/10007.png"]
    found = refused(plan, files)
    assert set(found) == {
        "train/10000.png", "train/10001.png", "train/10002.png", "train/10003_GT.png", "train/10004.png",
        "test/29999_GT.png", "test/20001.png", "train/10006.png", "extra/1.png",
    }  # fmt: skip
    assert "too large" in found["train/10002.png"]
    assert "96 x 81" in found["train/10003_GT.png"]
    assert "96 x 80" in found["train/10003_GT.png"]
    assert "10004_GT.png" in found["train/10004.png"]
    assert "train/10005.png" in found["test/20001.png"]


@pytest.mark.parametrize("folder", ["anomaly", "defect"])
def test_dsaiis_anomalies_follow_the_good_images_that_they_were_painted_into(plan, folder: str) -> None:
    made = plan(dsaii(folder=folder))
    assert made.layout == "dsaii"
    splits = {image.path: image.record.split for image in made.images}
    for number in range(10):
        assert splits[f"{folder}/{number:03}.png"] == splits[f"normal/{number:03}.png"]
        assert (splits[f"normal/{number:03}.png"] == Split.TEST) == (number % 5 == 4)
    masks = {image.path: image.mask_path for image in made.images}
    assert masks[f"{folder}/003.png"] == "mask/003.png"


def test_dsaii_problems(plan) -> None:
    files = dsaii()
    del files["mask/001.png"]
    files["mask/777.png"] = files["mask/000.png"]
    files["other/1.png"] = files["normal/000.png"]
    found = refused(plan, files)
    assert set(found) == {"anomaly/001.png", "mask/777.png", "other/1.png"}
    assert "mask/001.png" in found["anomaly/001.png"]


def test_mvtec_problems(plan) -> None:
    files = mvtec()
    del files["ground_truth/kind0/001_mask.png"]
    files["ground_truth/kind0/777_mask.png"] = files["ground_truth/kind0/000_mask.png"]
    files["ground_truth/kind1/000_mask.png"] = encode_png(np.zeros(SIZE, np.uint8))
    files["test/kind9/readme.txt"] = b""
    found = refused(plan, files)
    assert set(found) == {
        "test/kind0/001.png", "ground_truth/kind0/777_mask.png", "ground_truth/kind1/000_mask.png", "test/kind9",
    }  # fmt: skip
    assert "ground_truth/kind0/001_mask.png" in found["test/kind0/001.png"]


@pytest.mark.parametrize(
    ("train", "test", "field"),
    [((0, 6), (3, 2), "train"), ((6, 3), (0, 3), "test"), ((6, 3), (3, 0), "test")],
)
def test_classes_that_could_not_train_or_judge(plan, train, test, field) -> None:
    assert field in refused(plan, ksdd2(train, test))


def test_normals_alone_are_a_data_set(plan) -> None:
    assert tally(plan(ksdd2((10, 0), (4, 0)))).keys() == {(split, Label.NORMAL) for split in Split}


def altered(image: np.ndarray, how: str) -> bytes:
    if how == "jpeg":
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=90)
        image = np.asarray(Image.open(buffer).convert("RGB"))
    elif how == "brighter":
        image = np.clip(image * 1.08 + 6, 0, 255).astype(np.uint8)
    elif how == "shifted":
        image = np.roll(image, (2, 1), axis=(0, 1))
    elif how == "flipped":
        image = np.ascontiguousarray(image[:, ::-1])
    if how == "same pixels":
        return cv2.imencode(".png", image[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return encode_png(image)


@pytest.mark.parametrize("how", ["same pixels", "jpeg", "brighter", "shifted", "flipped"])
def test_near_duplicates_across_the_given_split(plan, how: str) -> None:
    files = ksdd2()
    files["test/20000.png"] = altered(sample(10004)[0], how)
    found = refused(plan, files)
    assert set(found) == {"test/20000.png"}
    assert "train/10004.png" in found["test/20000.png"]


def test_groups_of_items_csv_stay_together(plan) -> None:
    files = ksdd2((12, 6), (4, 3))
    rows = ["split,image,defect,item"]
    numbers = sorted(path for path in files if "_GT" not in path)
    for index, path in enumerate(numbers):
        part, name = path.split("/")
        rows.append(f"{part},{name},0,{part}-{index // 3}")
    files["items.csv"] = "\n".join(rows).encode()
    for seed in range(4):
        made = plan(files, seed=seed)
        parts: dict[str, set[Split]] = {}
        for entry in made.images:
            parts.setdefault(entry.record.group, set()).add(entry.record.split)
        assert all(len(splits) == 1 for splits in parts.values())
        assert tally(made)[Split.VALIDATION, Label.NORMAL] > 0


def test_a_group_on_both_sides_is_refused(plan) -> None:
    files = ksdd2()
    rows = ["split,image,item"]
    for path in files:
        if "_GT" not in path:
            part, name = path.split("/")
            rows.append(f"{part},{name},{0 if name in ('10000.png', '20000.png') else name}")
    files["items.csv"] = "\n".join(rows).encode()
    found = refused(plan, files)
    assert set(found) == {"test/20000.png"}
    assert "train/10000.png" in found["test/20000.png"]


@pytest.mark.parametrize("table", [b"\xff\xfe\x00", b"a,b\n1,2\n", b"split,image,item\ntrain,,3\n"])
def test_unreadable_tables(plan, table: bytes) -> None:
    assert "items.csv" in refused(plan, ksdd2() | {"items.csv": table})


def test_pictures_of_one_shot_are_held_out_together(plan) -> None:
    files = ksdd2()
    files["train/10001.png"] = altered(sample(10000)[0], "jpeg")
    for seed in range(4):
        made = {entry.path: entry.record.split for entry in plan(files, seed=seed).images}
        assert made["train/10000.png"] == made["train/10001.png"]


def test_one_group_cannot_be_held_out(plan) -> None:
    files = ksdd2((4, 0), (2, 0))
    rows = ["split,image,item"]
    rows += [f"{path.split('/')[0]},{path.split('/')[1]},{path.split('/')[0]}" for path in files if "_GT" not in path]
    files["items.csv"] = "\n".join(rows).encode()
    with pytest.raises(InvalidArgumentError) as caught:
        plan(files)
    assert caught.value.reason == "NO_VALIDATION"


def test_the_published_archives_stray_copies_are_left_out(plan) -> None:
    files = ksdd2()
    files["train/10003 (copy).png"] = files["train/10003.png"]
    files["train/10003_GT (copy).png"] = files["train/10003_GT.png"]
    assert tally(plan(files)) == tally(plan(ksdd2()))


def test_copying_writes_what_was_planned(plan) -> None:
    files = ksdd2()
    # A mask of other values: any that is not black is defect.
    odd = decode_mask(files["train/10010_GT.png"]) // 255 * 7
    files["train/10010_GT.png"] = encode_png(odd)
    made = plan(files)
    written: dict[str, bytes] = {}

    def put(data: bytes, suffix: str):
        digest = hashlib.sha256(data).hexdigest()
        written[f"s3://b/{digest}{suffix}"] = data
        return ObjectRef(uri=f"s3://b/{digest}{suffix}", sha256=digest, size=len(data))

    records = [copy_image(entry, files.__getitem__, put) for entry in made.images]
    for record in records:
        assert hashlib.sha256(written[record.image.uri]).hexdigest() == record.image.sha256
        if record.mask is not None:
            mask = cv2.imdecode(np.frombuffer(written[record.mask.uri], np.uint8), cv2.IMREAD_UNCHANGED)
            assert mask.ndim == 2
            assert set(np.unique(mask)) == {0, 255}
            assert mask.shape == (record.height, record.width)
    with pytest.raises(InvalidArgumentError) as caught:
        copy_image(made.images[0], lambda path: files["train/10009.png"], put)
    assert caught.value.reason == "UPLOAD_CHANGED"


def test_files_are_read_one_at_a_time_and_progress_is_told() -> None:
    files = ksdd2()
    told = []
    plan_import(list(files), files.__getitem__, seed=0, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, 24) for done in range(1, 25)]


@pytest.mark.skipif(not (DATA / "ksdd1").exists(), reason="needs ../shared/data/ksdd1, which is not here")
def test_kolektorsdd_as_it_lies_on_disk() -> None:
    root = DATA / "ksdd1"
    paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    made = plan_import(paths, lambda path: (root / path).read_bytes(), seed=0)
    counts = tally(made)
    assert counts[Split.TEST, Label.NORMAL] == 105
    assert counts[Split.TEST, Label.DEFECT] == 16
    assert counts[Split.TRAIN, Label.NORMAL] + counts[Split.VALIDATION, Label.NORMAL] == 228
    assert counts[Split.TRAIN, Label.DEFECT] + counts[Split.VALIDATION, Label.DEFECT] == 34
    assert 40 <= counts[Split.VALIDATION, Label.NORMAL] <= 52
    groups: dict[str, set[Split]] = {}
    for entry in made.images:
        groups.setdefault(entry.record.group, set()).add(entry.record.split)
    assert len(groups) > 10
    assert all(len(splits) == 1 for splits in groups.values())


@pytest.mark.skipif(not (DATA / "mvtec-leather").exists(), reason="needs ../shared/data/mvtec-leather, not here")
@pytest.mark.parametrize("folder", ["mvtec-leather", "mvtec-leather/leather"])
def test_mvtec_leather_as_it_lies_on_disk(folder: str) -> None:
    root = DATA / folder
    paths = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]
    made = plan_import(paths, lambda path: (root / path).read_bytes(), seed=0)
    counts = tally(made)
    assert counts[Split.TRAIN, Label.DEFECT] >= 5
    assert (
        counts[Split.TRAIN, Label.DEFECT] + counts[Split.VALIDATION, Label.DEFECT] + counts[Split.TEST, Label.DEFECT]
        == 11
    )
