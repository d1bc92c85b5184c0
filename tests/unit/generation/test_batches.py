"""What a batch asks of the model that draws it."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from pydantic import ValidationError

from flawsmith.common.convert import to_model
from flawsmith.common.errors import UnavailableError
from flawsmith.common.jobs import Job
from flawsmith.common.manifests import AdapterManifest, ObjectRef, Regime
from flawsmith.generation import batches
from flawsmith.generation.batches import _drawing
from flawsmith.generation.drawing_request import DrawingRequest, to_tensors
from flawsmith.generation.requests import Artist, GenerateRequest, PreviewRequest
from flawsmith.generation.v1 import generation_pb2

REF = ObjectRef(uri="s3://b/a", sha256="0" * 64, size=1)
ADAPTER = AdapterManifest(
    name="products/p/adapters/a", product="products/p", base_model="sd15", base_model_sha256="0" * 64,
    regime=Regime.FEW_SHOT, algorithm="c3lier", rank=4, weights=REF, alpha=0.9, instance_prompt="a", class_prompt="b",
    training_images=(REF,), steps=1, epochs=1, parameters={"clip_skip": 2, "height": 64, "width": 96},
    create_time=datetime(2026, 1, 1, tzinfo=UTC),
)  # fmt: skip


@pytest.mark.parametrize(
    ("adapter", "asked", "used"), [(ADAPTER, None, 2), (ADAPTER, 1, 1), (None, None, 1), (None, 3, 3)]
)
def test_clip_skip_is_the_adapters_unless_the_request_has_one(
    adapter: AdapterManifest | None, asked: int | None, used: int
) -> None:
    artist = Artist(base_model="sd15", base_model_sha256="0" * 64, adapter=adapter)
    batch = generation_pb2.GenerateImagesRequest(
        parent="products/p", count=1, clip_skip=asked, text_to_image=generation_pb2.TextToImage(prompts=["x"])
    )
    preview = generation_pb2.PreviewPromptRequest(name="products/p/prompts/x", clip_skip=asked)
    for request in (
        to_model(batch, GenerateRequest, name="products/p/batches/b"),
        to_model(preview, PreviewRequest),
    ):
        drawing = _drawing(request, artist, 512)
        assert (drawing.clip_skip, drawing.height, drawing.width) == (used, *((64, 96) if adapter else (512, 512)))


def test_an_imported_model_draws_as_its_architecture_was_trained() -> None:
    artist = Artist(base_model="our-flux", base_model_sha256="0" * 64, architecture="flux2-klein", adapter=None)
    batch = generation_pb2.GenerateImagesRequest(
        parent="products/p", count=1, text_to_image=generation_pb2.TextToImage(prompts=["x"])
    )
    drawing = _drawing(to_model(batch, GenerateRequest, name="products/p/batches/b"), artist, 1024)
    assert (drawing.steps, drawing.guidance) == (4, 1.0)


def test_what_reconstruction_does_not_use_is_refused() -> None:
    values = {
        "name": "products/p/batches/b", "parent": "products/p", "count": 1, "clip_skip": 2,
        "reconstruct": {"import_manifest": REF},
    }  # fmt: skip
    with pytest.raises(ValidationError, match="clip_skip: leave unset with reconstruct"):
        GenerateRequest.model_validate(values)


async def test_an_answer_with_another_number_of_images_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from a Triton whose model had been stopped for minutes: it answered the next caller with what was late."""

    async def infer(model: str, tensors: dict[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
        return {"images": np.zeros((2, 8, 8, 3), np.uint8)}

    monkeypatch.setattr(batches, "keep_loaded", lambda *_: None)
    triton = SimpleNamespace(infer=infer)
    job: Any = SimpleNamespace(
        platform=SimpleNamespace(store=None, triton=triton),
        settings=SimpleNamespace(triton=SimpleNamespace(repository="")),
    )
    artist = Artist(base_model="mini", base_model_sha256="0" * 64, adapter=None)
    drawing = DrawingRequest(prompt="wood", base_model_sha256="0" * 64, height=64, width=64, steps=1, seeds=(1, 2, 3))
    with pytest.raises(UnavailableError, match="2 images to 3 seeds") as caught:
        await batches._infer(cast(Job, job), artist, to_tensors(drawing), ["images"])
    assert caught.value.reason == "TRITON_FAILED"
    fitting = to_tensors(drawing.model_copy(update={"seeds": (1, 2)}))
    assert len((await batches._infer(cast(Job, job), artist, fitting, ["images"]))["images"]) == 2
