"""Presets, prompts, reviews and the catalog."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from flawsmith.common.convert import to_model
from flawsmith.common.errors import FailedPreconditionError, InvalidArgumentError
from flawsmith.common.manifests import ImageRecord, Label, ObjectRef, Regime, Review, Source, Split
from flawsmith.common.regimes import PROMPTS
from flawsmith.common.v1 import common_pb2
from flawsmith.generation.presets import preset_values
from flawsmith.generation.prompts import (
    PromptDecision,
    PromptManifest,
    PromptPreview,
    PromptState,
    check_approved,
    check_newest,
    decided,
    revise,
)
from flawsmith.generation.requests import FineTuneRequest
from flawsmith.generation.reviews import count_reviews, decide, reviewed
from flawsmith.generation.spec import FineTuneSpec
from flawsmith.generation.v1 import generation_pb2

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("regime", "epochs", "alpha", "prompts"),
    [
        (Regime.ZERO_SHOT, 5, 0.60, ("skt background cracked", "skt background scratched")),
        (Regime.FEW_SHOT, 49, 0.95, ("skt background",)),
        (Regime.FULL_SHOT, 25, 0.80, ("skt background",)),
    ],
)
def test_sd15_presets_are_the_papers(regime: Regime, epochs: int, alpha: float, prompts: tuple[str, ...]) -> None:
    spec = FineTuneSpec.model_validate(preset_values(regime, "sd15"))
    assert spec.preset == f"in-and-out-{regime.value.removesuffix('_shot')}"
    assert (spec.algorithm, spec.precision, spec.ema_decay, spec.noise_offset) == ("c3lier", "float16", 0, 0)
    assert (spec.epochs, spec.alpha, PROMPTS[regime]) == (epochs, alpha, prompts)
    assert (spec.rank, spec.rank_alpha, spec.conv_rank, spec.conv_alpha) == (32, 16, 4, 1)
    assert (spec.unet_learning_rate, spec.text_encoder_learning_rate) == (1e-5, 1e-5)
    assert (spec.batch_size, spec.repeats, spec.regularization_images, spec.prior_weight) == (12, 10, 200, 1.0)
    assert (spec.min_snr_gamma, spec.clip_skip, spec.seed, spec.max_steps) == (5, 2, 1234, None)
    assert (spec.instance_prompt, spec.class_prompt) == ("skt background", "background")


def fine_tune_request(**config: object) -> FineTuneRequest:
    ref = ObjectRef(uri="s3://b/k", sha256="0" * 64, size=1)
    return FineTuneRequest.model_validate(
        {
            "name": "products/p/adapters/a", "parent": "products/p", "import_manifest": ref, "regime": "few_shot",
            "config": config, "seed": 3,
        }
    )  # fmt: skip


def test_requests_are_filled_in_from_the_presets_of_regime_and_base_model() -> None:
    mini, published = fine_tune_request(rank=8).config, fine_tune_request(base_model="sd15").config
    assert (mini.base_model, mini.rank, mini.seed, mini.alpha) == ("mini", 8, 3, 0.95)
    assert mini.unet_learning_rate > published.unet_learning_rate == 1e-5
    # What is stored with the job reads the same after an update of the presets.
    stored = fine_tune_request(rank=8).model_dump(mode="json")
    assert FineTuneRequest.model_validate(stored).config == mini


def test_an_imported_model_is_tuned_as_its_architecture_wants_and_the_request_says() -> None:
    values = fine_tune_request(base_model="our-xl").model_dump(mode="json") | {"architecture": "stable-diffusion-xl"}
    asked = {"base_model": "our-xl", "precision": "bfloat16"}
    config = FineTuneRequest.model_validate({**values, "config": asked}).config
    assert (config.preset, config.resolution, config.precision) == ("in-and-out-few", 1024, "bfloat16")
    # A job keeps what was filled in once.
    stored = FineTuneRequest.model_validate({**values, "config": asked}).model_dump(mode="json")
    assert FineTuneRequest.model_validate(stored).config == config


@pytest.mark.parametrize(
    ("given", "config", "seed"),
    [
        ({}, {"preset": "in-and-out-few"}, 1234), ({}, {"base_model": "sd15"}, 1234), ({}, {}, 0),
        ({"seed": 7}, {"preset": "in-and-out-few"}, 7), ({"seed": 0}, {"preset": "in-and-out-few"}, 0),
    ],
)  # fmt: skip
def test_the_published_seed_is_used_unless_the_request_has_one(
    given: dict[str, int], config: dict[str, str], seed: int
) -> None:
    message = generation_pb2.FineTuneAdapterRequest(
        parent="products/p", import_manifest=common_pb2.ObjectRef(uri="s3://b/k", sha256="0" * 64, size=1),
        regime=common_pb2.REGIME_FEW_SHOT, config=generation_pb2.FineTuneConfig(**config), **given,
    )  # fmt: skip
    request = to_model(message, FineTuneRequest, name="products/p/adapters/a")
    assert request.config.seed == seed
    assert FineTuneRequest.model_validate(request.model_dump(mode="json")) == request


def test_a_request_may_name_a_preset_and_changes_of_its_own_go_over_it() -> None:
    config = fine_tune_request(preset="in-and-out-full", batch_size=2).config
    assert (config.base_model, config.preset) == ("mini", "in-and-out-full")
    assert (config.epochs, config.alpha, config.batch_size, config.unet_learning_rate) == (25, 0.80, 2, 1e-5)
    assert fine_tune_request().config.preset == "mini-few"
    with pytest.raises(ValidationError, match=r"config\.preset\n.*'in-and-out-zero', 'in-and-out-few'"):
        fine_tune_request(preset="in-and-out")


def test_every_bad_field_is_reported_with_its_path() -> None:
    with pytest.raises(ValidationError) as caught:
        fine_tune_request(alpha=1.2, algorithm="loha", batch_size=0, unknown=1)
    paths = {".".join(str(part) for part in error["loc"]) for error in caught.value.errors()}
    assert paths == {"config.alpha", "config.algorithm", "config.batch_size", "config.unknown"}
    with pytest.raises(ValidationError, match="both height and width"):
        fine_tune_request(height=64)


def test_the_newest_decision_about_a_prompt_counts() -> None:
    manifest = PromptManifest(name="products/p/prompts/x", text="skt", author="ann", create_time=NOW)
    draft = decided(manifest, [])
    assert draft.state is PromptState.DRAFT
    yes = PromptDecision(state=PromptState.APPROVED, decided_by="bo", decide_time=NOW)
    no = PromptDecision(state=PromptState.REJECTED, decided_by="cy", decide_time=NOW, reason="too dark")
    approved, rejected = decided(manifest, [no, yes]), decided(manifest, [yes, no])
    assert (approved.state, approved.decided_by) == (PromptState.APPROVED, "bo")
    assert (rejected.state, rejected.decided_by, rejected.reason) == (PromptState.REJECTED, "cy", "too dark")
    check_approved([approved])
    with pytest.raises(FailedPreconditionError) as caught:
        check_approved([approved, draft, rejected])
    assert caught.value.reason == "PROMPT_NOT_APPROVED"
    assert [field.description for field in caught.value.fields] == ["is draft", "is rejected"]


def test_prompts_go_from_draft_to_previewed_to_approved_to_revised() -> None:
    manifest = PromptManifest(name="products/p/prompts/x", text="skt", author="ann", create_time=NOW)
    preview = PromptPreview(
        images=(ObjectRef(uri="s3://b/k", sha256="0" * 64, size=1),), drawn_with="mini", seed=1, create_time=NOW
    )
    yes = PromptDecision(state=PromptState.APPROVED, decided_by="bo", decide_time=NOW)
    newer = preview.model_copy(update={"drawn_with": "products/p/adapters/a"})
    states = [
        decided(manifest), decided(manifest, [], [preview]), decided(manifest, [yes], [preview, newer]),
        decided(manifest, [yes], [preview], "products/p/prompts/x-v2"),
    ]  # fmt: skip
    assert [prompt.state for prompt in states] == ["draft", "previewed", "approved", "revised"]
    assert (states[2].previews, states[2].previewed_with) == (newer.images, "products/p/adapters/a")
    # Who approved what is still told after a revision.
    assert (states[3].decided_by, states[3].revised_as) == ("bo", "products/p/prompts/x-v2")
    check_newest(states[2])
    with pytest.raises(FailedPreconditionError, match="go on with products/p/prompts/x-v2") as caught:
        check_newest(states[3])
    assert caught.value.reason == "PROMPT_REVISED"
    with pytest.raises(FailedPreconditionError) as caught:
        check_approved(states)
    assert [field.description for field in caught.value.fields] == [
        "is draft", "is previewed", "is revised as products/p/prompts/x-v2",
    ]  # fmt: skip


def test_a_revision_is_a_version_of_its_own_that_names_the_one_before() -> None:
    first = PromptManifest(name="products/p/prompts/x-v7", text="skt", author="ann", create_time=NOW)
    second = revise(first, "skt torn", "blurred", by="bo", at=NOW)
    third = revise(second, "skt worn", "", by="cy", at=NOW)
    # What somebody called x-v7 is a first version all the same.
    assert [(p.name.rpartition("/")[2], p.version, p.revises) for p in (second, third)] == [
        ("x-v7-v2", 2, first.name), ("x-v7-v3", 3, second.name),
    ]  # fmt: skip
    assert (second.text, second.negative_text, second.author) == ("skt torn", "blurred", "bo")
    assert first.text == "skt"


def record(digit: str) -> ImageRecord:
    return ImageRecord(
        image=ObjectRef(uri=f"s3://b/{digit}", sha256=digit * 64, size=1), height=4, width=4, label=Label.DEFECT,
        source=Source.IN_DISTRIBUTION, split=Split.TRAIN,
    )  # fmt: skip


def test_the_newest_decision_about_an_image_counts() -> None:
    records = [record("a"), record("b"), record("c")]
    everything = decide(records, [], Review.ACCEPTED, by="ann", at=NOW, reason="")
    one = decide(records, ["b" * 64], Review.REJECTED, by="bo", at=NOW, reason="blurred")
    images = reviewed(records, [everything, one])
    assert [image.review for image in images] == [Review.ACCEPTED, Review.REJECTED, Review.ACCEPTED]
    assert (images[1].decided_by, images[1].reason) == ("bo", "blurred")
    assert count_reviews(images) == {"pending": 0, "accepted": 2, "rejected": 1}
    assert count_reviews(reviewed(records, [one])) == {"pending": 2, "accepted": 0, "rejected": 1}


def test_decisions_about_unknown_images_are_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        decide([record("a")], ["a" * 64, "d" * 64], Review.ACCEPTED, by="ann", at=NOW, reason="")
    assert caught.value.reason == "UNKNOWN_IMAGES"
    with pytest.raises(InvalidArgumentError) as caught:
        decide([record("a")], [], Review.PENDING, by="ann", at=NOW, reason="")
    assert caught.value.reason == "INVALID_REVIEW"
