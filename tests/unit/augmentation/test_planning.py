"""Which normals a batch is made from."""

from collections import Counter

import pytest

from flawsmith.augmentation.planning import image_generator, plan
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.common.manifests import ImageRecord, Label, ObjectRef, Source, Split


def record(number: int, split: Split = Split.TRAIN, label: Label = Label.NORMAL) -> ImageRecord:
    ref = ObjectRef(uri=f"s3://b/{number}", sha256=f"{number:064x}", size=1)
    return ImageRecord(image=ref, height=32, width=32, label=label, source=Source.REAL, split=split)


def test_only_train_normals_and_evenly() -> None:
    records = [record(i) for i in range(7)] + [record(20, Split.TEST), record(21, Split.VALIDATION)]
    records.append(record(22, label=Label.DEFECT))
    drafts = plan(records, 24, seed=3)
    assert [draft.index for draft in drafts] == list(range(24))
    used = Counter(draft.parent.image.sha256 for draft in drafts)
    assert set(used) == {f"{i:064x}" for i in range(7)}
    assert max(used.values()) - min(used.values()) <= 1
    assert plan(records, 24, seed=3) == drafts
    assert plan(records, 24, seed=4) != drafts


def test_without_normals() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        plan([record(1, Split.TEST)], 3, seed=0)
    assert caught.value.reason == "NO_NORMALS"


def test_generators_differ_and_repeat() -> None:
    first = image_generator(1, 2).integers(2**62)
    assert first == image_generator(1, 2).integers(2**62)
    assert len({image_generator(seed, index).integers(2**62) for seed in range(4) for index in range(4)}) == 16
