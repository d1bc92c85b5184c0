"""What a data set's sizes stop before anything is trained or uploaded. The work itself is tested with real servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flawsmith.classification.deploying import deploy_classifier
from flawsmith.classification.requests import DeployClassifierSpec, TrainClassifierSpec
from flawsmith.classification.workflows import train_classifier
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import (
    DatasetManifest,
    ImageRecord,
    Label,
    ObjectRef,
    Regime,
    Source,
    Split,
    SplitCounts,
)
from flawsmith.common.settings import Settings

VERSION = "products/p/classifiers/c/versions/v"
REF = ObjectRef(uri="s3://flawsmith/x", sha256="0" * 64, size=1)


def job(sizes: list[tuple[int, int]], **version: object) -> Job:
    """A job that finds a data set with real images of these sizes, and a version; it has no store to write to."""
    records = [
        ImageRecord(image=REF, height=height, width=width, label=Label.NORMAL, source=Source.REAL, split=Split.TRAIN)
        for height, width in sizes
    ]
    synthetic = records[0].model_copy(update={"height": 64, "width": 64, "source": Source.IN_DISTRIBUTION})
    dataset = DatasetManifest(
        name="products/p/datasets/d", product="products/p", regime=Regime.FULL_SHOT,
        images=(*records, *[synthetic] * 9), counts={Split.TRAIN: SplitCounts()}, inputs=(), seed=0,
        create_time=datetime.now(UTC),
    )  # fmt: skip

    async def step(name: str, run: Callable[[], Awaitable[Any]]) -> Any:
        return await run()

    async def progress(*_: object) -> None:
        pass

    found = SimpleNamespace(dataset_manifest=REF, **version)
    resources = SimpleNamespace(load=lambda *_: dataset, get=lambda *_: (found, REF))
    platform = SimpleNamespace(resources=resources, store=None, triton=None)
    return cast(Job, SimpleNamespace(platform=platform, settings=Settings(), step=step, progress=progress))


def training(**asked: int) -> TrainClassifierSpec:
    return TrainClassifierSpec.model_validate(
        {"name": VERSION, "principal": "me", "dataset_manifest": REF.model_dump(), **asked}
    )


async def test_images_of_a_size_that_no_classifier_takes_are_said_before_training() -> None:
    """The usual size of the real images counts."""
    with pytest.raises(InvalidArgumentError) as error:
        await train_classifier(job([(64, 64), (2048, 2448), (2048, 2448)]), training())
    assert error.value.reason == "IMAGE_SIZE_UNSUPPORTED"
    assert "2048 x 2448" in error.value.message


async def test_an_input_that_images_are_too_small_for_is_said_before_training() -> None:
    with pytest.raises(FailedPreconditionError) as error:
        await train_classifier(job([(64, 64)]), training(height=64, width=64 * 8 + 1))
    assert error.value.reason == "IMAGES_TOO_SMALL"
    with pytest.raises(FailedPreconditionError) as error:
        await train_classifier(job([(64, 64)]), training(height=64, width=64 * 8))
    assert error.value.reason == "DATASET_NOT_TRAINABLE"  # there are no defects


@pytest.mark.parametrize(("size", "reason"), [((4000, 8001), "IMAGES_TOO_LARGE"), ((63, 63), "IMAGES_TOO_SMALL")])
async def test_a_version_that_would_answer_no_image_of_its_product_is_not_deployed(
    size: tuple[int, int], reason: str
) -> None:
    with pytest.raises(FailedPreconditionError) as error:
        await deploy_classifier(job([size], height=512, width=512), DeployClassifierSpec(name=VERSION, principal="me"))
    assert error.value.reason == reason
