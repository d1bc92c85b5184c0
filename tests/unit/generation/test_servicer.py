"""What the service refuses before anything is queued, and pages that fit into a message."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from google.longrunning import operations_pb2

from flawsmith.assembly.reviewing import list_reviews
from flawsmith.common.convert import to_dict
from flawsmith.common.errors import FlawsmithError
from flawsmith.common.manifests import (
    BatchManifest,
    ImageRecord,
    ImportManifest,
    Label,
    ObjectRef,
    Review,
    Source,
    Split,
)
from flawsmith.common.resources import Resources
from flawsmith.common.settings import Settings
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.catalog import install_files, load_catalog
from flawsmith.generation.exporting import ExportRequest, check_export
from flawsmith.generation.prompts import PromptDecision, PromptManifest, PromptState
from flawsmith.generation.requests import DECISIONS
from flawsmith.generation.reviews import REVIEWS, ReviewDecision
from flawsmith.generation.servicer import GenerationServicer
from flawsmith.generation.v1 import generation_pb2 as pb
from tests.unit.generation.support import install_text_files
from tests.unit.memory_store import MemoryStore

PRODUCT = "products/p"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
GRPC_CLIENTS_TAKE = 4 * 2**20


class Service:
    """The servicer on a store in memory. started: kinds of the operations that it began."""

    def __init__(self, **settings: Any) -> None:
        self.store = MemoryStore()
        self.resources = Resources(self.store)
        self.started: list[str] = []
        platform = SimpleNamespace(store=self.store, resources=self.resources, settings=Settings(**settings))
        self.servicer = GenerationServicer(platform, self)  # type: ignore[arg-type]

    async def start(self, context: Any, kind: str, *request: Any, **where: Any) -> operations_pb2.Operation:
        self.started.append(kind)
        return operations_pb2.Operation(name=f"operations/{kind}")

    async def call(self, service: str, method: str, request: Any) -> dict[str, Any]:
        """As assembly's `Peers` does, through messages that every client of gRPC takes."""
        answer = await getattr(self.servicer, method)(request, None)
        assert answer.ByteSize() < GRPC_CLIENTS_TAKE
        return to_dict(answer)

    async def refusal(self, method: str, request: Any) -> FlawsmithError:
        """The error of a call that starts nothing."""
        before = list(self.started)
        with pytest.raises(FlawsmithError) as caught:
            await getattr(self.servicer, method)(request, None)
        assert self.started == before
        return caught.value

    def prompt(self, text: str, negative: str = "", *, approved: bool = True) -> str:
        name = f"{PRODUCT}/prompts/{hashlib.sha256((text + negative).encode()).hexdigest()[:8]}"
        manifest = PromptManifest(name=name, text=text, negative_text=negative, author="ann", create_time=NOW)
        self.resources.publish(name, manifest)
        if approved:
            decision = PromptDecision(state=PromptState.APPROVED, decided_by="bo", decide_time=NOW)
            self.resources.append_event(name, DECISIONS, decision)
        return name

    def imported(self) -> common_pb2.ObjectRef:
        manifest = ImportManifest(
            name=f"{PRODUCT}/imports/i", product=PRODUCT, layout="mvtec-ad", split_rule="given", seed=0, images=(),
            create_time=NOW,
        )  # fmt: skip
        return common_pb2.ObjectRef(**self.resources.publish(manifest.name, manifest).model_dump())

    def batch(self, count: int, parents: int = 1) -> list[ImageRecord]:
        """Publishes `products/p/batches/b`; returns its images."""
        made_from = tuple(hashlib.sha256(b"%d" % number).hexdigest() for number in range(parents))
        records = [
            ImageRecord(
                image=ref(f"image {number}"), mask=ref(f"mask {number}"), height=64, width=64, label=Label.DEFECT,
                source=Source.IN_DISTRIBUTION, split=Split.TRAIN, parents=made_from,
            )
            for number in range(count)
        ]  # fmt: skip
        manifest = BatchManifest(
            name=f"{PRODUCT}/batches/b", product=PRODUCT, source=Source.IN_DISTRIBUTION, method="inpaint", seed=0,
            images=tuple(records), import_manifest=ref("import"), create_time=NOW,
        )  # fmt: skip
        self.resources.publish(manifest.name, manifest)
        return records


def ref(name: str) -> ObjectRef:
    return ObjectRef(uri=f"s3://b/{name}", sha256=hashlib.sha256(name.encode()).hexdigest(), size=1)


@pytest.mark.parametrize(("count", "parents"), [(500, 250), (60, 2000)])
async def test_images_with_many_parents_are_listed_in_pages_that_fit(count: int, parents: int) -> None:
    service = Service()
    records = service.batch(count, parents)
    listed = await list_reviews(service, f"{PRODUCT}/batches/b")  # type: ignore[arg-type]
    assert [image["record"]["image"]["sha256"] for image in listed] == [record.image.sha256 for record in records]
    assert all(len(image["record"]["parents"]) == parents for image in listed)


def test_rejected_images_are_never_exported() -> None:
    service = Service()
    records = service.batch(5)

    def review(review: Review, *numbers: int) -> None:
        images = tuple(records[number].image.sha256 for number in numbers)
        decision = ReviewDecision(images=images, review=review, decided_by="bo", decide_time=NOW)
        service.resources.append_event(f"{PRODUCT}/batches/b", REVIEWS, decision)

    def exported(*, accepted_only: bool = False) -> list[ImageRecord]:
        request = ExportRequest(
            name=f"{PRODUCT}/exports/e", parent=PRODUCT, batch=f"{PRODUCT}/batches/b", accepted_only=accepted_only
        )
        return check_export(service.resources, request)[1]

    assert exported() == records
    review(Review.REJECTED, 0, 1, 2)
    review(Review.ACCEPTED, 2, 3)
    assert exported() == [records[2], records[3], records[4]]
    assert exported(accepted_only=True) == [records[2], records[3]]
    review(Review.REJECTED, 2, 3)
    assert exported() == [records[4]]
    with pytest.raises(FlawsmithError, match="each is rejected or pending; accept some") as caught:
        exported(accepted_only=True)
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "NO_ACCEPTED_IMAGES")
    review(Review.REJECTED, 4)
    with pytest.raises(FlawsmithError, match=r"none of the 5 images .* each is rejected; accept some"):
        exported()


RESEARCH_ONLY = load_catalog()["sd15"].model_copy(
    update={"id": "research", "commercial_use": False, "licence": "CC-BY-NC-4.0", "licence_limits": "no products"}
)
USES: dict[str, Callable[[Service], Any]] = {
    "PullBaseModel": lambda service: pb.PullBaseModelRequest(id="research"),
    "FineTuneAdapter": lambda service: pb.FineTuneAdapterRequest(
        parent=PRODUCT, import_manifest=service.imported(), regime=common_pb2.REGIME_FEW_SHOT,
        config=pb.FineTuneConfig(base_model="research"),
    ),
    "PreviewPrompt": lambda service: pb.PreviewPromptRequest(name=service.prompt("skt"), base_model="research"),
    "GenerateImages": lambda service: pb.GenerateImagesRequest(
        parent=PRODUCT, base_model="research", count=1, text_to_image=pb.TextToImage(prompts=[service.prompt("skt")])
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", USES)
async def test_models_that_no_product_may_be_made_with_are_used_where_that_is_allowed_alone(method: str) -> None:
    for allowed in (False, True):
        service = Service(allow_non_commercial_models=allowed)
        install_files(service.resources, RESEARCH_ONLY, [], source="a test")
        request = USES[method](service)
        if allowed:
            await getattr(service.servicer, method)(request, None)
            assert service.started == [method]
            continue
        error = await service.refusal(method, request)
        assert (error.code, error.reason) == ("FAILED_PRECONDITION", "NON_COMMERCIAL_LICENCE")
        assert "no products" in error.message
        assert "FLAWSMITH_ALLOW_NON_COMMERCIAL_MODELS" in error.message


LONG = "crack " * 31


async def test_prompts_that_the_base_model_does_not_read_to_their_end_start_nothing() -> None:
    service = Service()
    install_text_files(service.resources, "mini")
    long, short = service.prompt(LONG, approved=False), service.prompt("skt background")

    def tuning(**config: str) -> pb.FineTuneAdapterRequest:
        return pb.FineTuneAdapterRequest(
            parent=PRODUCT, import_manifest=service.imported(), regime=common_pb2.REGIME_FEW_SHOT,
            config=pb.FineTuneConfig(**config),
        )  # fmt: skip

    def drawing(*prompts: str, **values: Any) -> pb.GenerateImagesRequest:
        text = pb.TextToImage(prompts=prompts)
        return pb.GenerateImagesRequest(parent=PRODUCT, count=1, text_to_image=text, **values)

    refused = [
        ("GenerateImages", drawing(short, long), [long]),
        ("PreviewPrompt", pb.PreviewPromptRequest(name=long), [long]),
        ("FineTuneAdapter", tuning(instance_prompt=LONG), ["config.instance_prompt"]),
        ("FineTuneAdapter", tuning(class_prompt=LONG), ["config.class_prompt"]),
        ("CheckPrompts", pb.CheckPromptsRequest(parent=PRODUCT, texts=["skt", LONG]), ["texts.1"]),
    ]  # fmt: skip
    for method, request, fields in refused:
        error = await service.refusal(method, request)
        assert (error.code, error.reason) == ("INVALID_ARGUMENT", "PROMPT_TOO_LONG")
        assert "mini reads 30 tokens" in error.message
        assert [field.field for field in error.fields] == fields
    await service.servicer.CheckPrompts(pb.CheckPromptsRequest(parent=PRODUCT, texts=["skt"]), None)
    await service.servicer.GenerateImages(drawing(short), None)
    await service.servicer.PreviewPrompt(pb.PreviewPromptRequest(name=short), None)
    await service.servicer.FineTuneAdapter(tuning(instance_prompt="crack " * 30), None)
    assert service.started == ["GenerateImages", "PreviewPrompt", "FineTuneAdapter"]


async def test_negative_texts_are_read_with_guidance_alone() -> None:
    service = Service()
    install_text_files(service.resources, "mini")
    name = service.prompt("skt background", LONG)

    def drawing(**values: Any) -> pb.GenerateImagesRequest:
        return pb.GenerateImagesRequest(
            parent=PRODUCT, count=1, text_to_image=pb.TextToImage(prompts=[name]), **values
        )  # fmt: skip

    for request in (drawing(), drawing(guidance=1.5)):  # mini's own guidance is 6
        error = await service.refusal("GenerateImages", request)
        assert error.reason == "PROMPT_TOO_LONG"
        assert [field.field for field in error.fields] == [f"{name}: negative_text"]
    await service.servicer.GenerateImages(drawing(guidance=1.0), None)
    assert service.started == ["GenerateImages"]
