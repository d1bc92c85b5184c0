"""Layouts of exported batches, read back by the importer."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from flawsmith.assembly.layouts import recognise
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.images import decode_image
from flawsmith.common.manifests import ImageRecord, Label, ObjectRef, Source, Split
from flawsmith.generation.exporting import Folder, dsaii, in_format, mvtec_ad


def ref(name: str) -> ObjectRef:
    return ObjectRef(uri=f"s3://b/{name}.png", sha256=f"{sum(map(ord, name)):064x}", size=1)


NORMALS = [
    ImageRecord(
        image=ref(f"normal {number}"), height=64, width=64, label=Label.NORMAL, source=Source.REAL, split=Split.TRAIN
    )
    for number in range(10)
]


def painted(number: int, parent: int, defect_type: str = "scratch") -> ImageRecord:
    return ImageRecord(
        image=ref(f"painted {number}"), mask=ref(f"mask {number}"), height=64, width=64, label=Label.DEFECT,
        source=Source.IN_DISTRIBUTION, split=Split.TRAIN, defect_type=defect_type,
        parents=(NORMALS[parent].image.sha256, NORMALS[9].image.sha256),
    )  # fmt: skip


def test_dsaii_numbers_anomalies_masks_and_their_parents() -> None:
    folder = dsaii("plate", [painted(0, 3), painted(1, 1), painted(2, 3)], NORMALS)
    assert folder == Folder(
        {
            "plate/normal/000.png": ref("normal 1"), "plate/normal/001.png": ref("normal 3"),
            "plate/anomaly/000.png": ref("painted 0"), "plate/mask/000.png": ref("mask 0"),
            "plate/anomaly/001.png": ref("painted 1"), "plate/mask/001.png": ref("mask 1"),
            "plate/anomaly/002.png": ref("painted 2"), "plate/mask/002.png": ref("mask 2"),
        }, 3, 2, 0,
    )  # fmt: skip


def test_dsaiis_normals_are_png_whatever_was_imported() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    jpeg = cv2.imencode(".jpg", pixels)[1].tobytes()
    image = ObjectRef(uri="s3://b/photo.jpg", sha256="7" * 64, size=len(jpeg))
    photo = NORMALS[3].model_copy(update={"image": image})
    one = painted(0, 3).model_copy(update={"parents": (image.sha256,)})
    assert dsaii("plate", [one], [photo]).files["plate/normal/000.png"] == image
    data = in_format("plate/normal/000.png", image, jpeg)
    assert data.startswith(b"\x89PNG")
    assert np.array_equal(decode_image(data), decode_image(jpeg))
    # What is a PNG, or keeps its name, stays bit for bit.
    assert in_format("plate/normal/000.png", ref("x"), data) is data
    assert in_format("plate/train/good/000.jpg", image, jpeg) is jpeg


def test_mvtec_ads_train_knows_no_parent_of_a_test_image() -> None:
    folder = mvtec_ad("plate", [painted(0, 3), painted(1, 1, "good"), painted(2, 3, ""), painted(3, 3, "a/b")], NORMALS)
    files = folder.files
    train = {path: entry for path, entry in files.items() if "/train/" in path}
    assert len(train) == 8
    assert not {entry.sha256 for entry in train.values()} & {NORMALS[1].image.sha256, NORMALS[3].image.sha256}
    assert [files[f"plate/test/good/00{number}.png"] for number in (0, 1)] == [ref("normal 1"), ref("normal 3")]
    assert files["plate/test/scratch/000.png"] == ref("painted 0")
    assert files["plate/ground_truth/scratch/000_mask.png"] == ref("mask 0")
    # A kind without a name, and one that would be taken for a normal.
    assert files["plate/test/defect/000.png"] == ref("painted 1")
    assert files["plate/ground_truth/defect/001_mask.png"] == ref("mask 2")
    assert files["plate/test/a_b/000.png"] == ref("painted 3")
    assert (folder.anomalies, folder.normals, folder.left_out) == (4, 10, 0)


def test_where_all_normals_are_parents_some_are_kept_for_train_without_their_defects() -> None:
    images = [painted(number, number % 10) for number in range(20)]
    folder = mvtec_ad("plate", images, NORMALS)
    train = {entry.sha256 for path, entry in folder.files.items() if "/train/" in path}
    assert len(train) == 2
    assert (folder.anomalies, folder.left_out) == (16, 4)
    kept = {entry.uri for path, entry in folder.files.items() if "/test/scratch/" in path}
    assert not kept & {record.image.uri for record in images if record.parents[0] in train}
    with pytest.raises(FailedPreconditionError, match="use the layout dsaii") as caught:
        mvtec_ad("plate", [painted(0, 0)], NORMALS[:1])
    assert caught.value.reason == "TOO_FEW_NORMALS"


@pytest.mark.parametrize(("layout", "name"), [(mvtec_ad, "mvtec-ad"), (dsaii, "dsaii")])
def test_the_importer_reads_both(layout: object, name: str) -> None:
    folder = layout("plate", [painted(number, number) for number in range(4)], NORMALS)  # type: ignore[operator]
    paths = [*folder.files, *(["plate/img_url.json"] if name == "dsaii" else [])]
    found, root = recognise(paths)
    assert (found.name, root) == (name, "plate/")
    listing = found.list_images([path.removeprefix(root) for path in paths], lambda path: b"")
    assert not listing.problems
    defects = [image for image in listing.images if image.label is Label.DEFECT]
    assert len(defects) == folder.anomalies
    assert all(image.mask_path for image in defects)
    assert len(listing.images) - len(defects) == folder.normals
