"""What callers ask for, and the checks that need the store: nothing is queued that cannot work."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import AdapterManifest, ImportManifest, ObjectRef, Regime, Review
from flawsmith.common.resources import Resources, check_name
from flawsmith.generation.catalog import require_base_model
from flawsmith.generation.presets import preset_values
from flawsmith.generation.prompts import Prompt, PromptDecision, PromptManifest, PromptState, check_approved, decided
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE, FineTuneSpec

DECISIONS = "decisions"
"""Events beside a prompt."""


class FineTuneRequest(BaseModel):
    """FineTuneAdapter: fields as in the proto; name: of the adapter to make.

    config: what the caller left out is filled in from the preset it names, else from that of the regime and the base
    model, here and once.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    import_manifest: ObjectRef
    regime: Regime
    config: FineTuneSpec
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("regime") not in [regime.value for regime in Regime]:
            return {"config": {}, **values}  # reported as a bad field
        config = {"seed": values.get("seed", 0), **values.get("config", {})}
        preset = preset_values(Regime(values["regime"]), config.get("base_model"), config.get("preset"))
        return {**values, "config": {**preset, **config}}


class TextToImage(BaseModel):
    """prompts: names of prompts; images take them in turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: tuple[str, ...] = Field(min_length=1, max_length=100)


class GenerateRequest(BaseModel):
    """GenerateImages: fields as in the proto; name: of the batch to make. steps, guidance: the base model's usual ones
    when None (`presets.drawing_values`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    adapter: str
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    count: int = Field(ge=1, le=10_000)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0.0, le=50.0)
    seed: int = Field(default=0, ge=0, lt=2**62)
    text_to_image: TextToImage

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


class DecideRequest(BaseModel):
    """DecidePrompt: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    state: PromptState
    reason: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _decides(self) -> Self:
        if self.state is PromptState.DRAFT:
            raise ValueError("state must be approved or rejected")
        return self


class ReviewRequest(BaseModel):
    """ReviewImages: what was decided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    review: Review


def check_fine_tuning(resources: Resources, request: FineTuneRequest) -> tuple[ImportManifest, ObjectRef]:
    """The import, and the base model's manifest.

    Raises what `require_base_model` and `ObjectStore.get` raise, and InvalidArgumentError (IMPORT_OF_OTHER_PRODUCT).
    """
    base_model = require_base_model(resources, request.config.base_model)
    imported = resources.load(request.import_manifest, ImportManifest)
    if imported.product != request.parent:
        raise InvalidArgumentError(
            "IMPORT_OF_OTHER_PRODUCT",
            f"the import belongs to {imported.product}, the adapter to {request.parent}; name an import of its own",
            fields=[FieldViolation("import_manifest", imported.name)],
        )
    return imported, base_model


def check_generation(
    resources: Resources, request: GenerateRequest, *, require_approval: bool
) -> tuple[AdapterManifest, list[Prompt]]:
    """The adapter and the prompts of a batch, in the order of the request.

    Raises NotFoundError (RESOURCE_NOT_FOUND), InvalidArgumentError (INVALID_NAME, OTHER_PRODUCT),
    FailedPreconditionError (PROMPT_NOT_APPROVED) unless approval is not required.
    """
    check_name(request.adapter, "products/{product}/adapters/{adapter}", "adapter")
    for name in request.text_to_image.prompts:
        check_name(name, "products/{product}/prompts/{prompt}", "text_to_image.prompts")
    foreign = [
        name for name in (request.adapter, *request.text_to_image.prompts) if not name.startswith(f"{request.parent}/")
    ]
    if foreign:
        raise InvalidArgumentError(
            "OTHER_PRODUCT",
            f"the batch belongs to {request.parent}; these do not: {', '.join(foreign)}",
            fields=[FieldViolation(name, f"is not of {request.parent}") for name in foreign],
        )
    adapter, _ = resources.get(request.adapter, AdapterManifest)
    prompts = [get_prompt(resources, name) for name in request.text_to_image.prompts]
    if require_approval:
        check_approved(prompts)
    return adapter, prompts


def get_prompt(resources: Resources, name: str) -> Prompt:
    """A prompt as it stands. Raises NotFoundError (RESOURCE_NOT_FOUND)."""
    manifest, _ = resources.get(name, PromptManifest)
    return decided(manifest, resources.events(name, DECISIONS, PromptDecision))
