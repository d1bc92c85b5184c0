"""What callers ask for, and the checks that need the store: nothing is queued that cannot work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from flawsmith.common.errors import FieldViolation, InvalidArgumentError, NotFoundError
from flawsmith.common.manifests import AdapterManifest, ImageRecord, ImportManifest, ObjectRef, Regime, Review
from flawsmith.common.resources import Resources, check_name
from flawsmith.generation.catalog import find_entry, require_base_model, require_base_of_adapter
from flawsmith.generation.inpainting import PRESETS, Inpaint, choose_material
from flawsmith.generation.presets import drawing_values, preset_values
from flawsmith.generation.prompt_lengths import check_lengths
from flawsmith.generation.prompts import (
    Prompt,
    PromptDecision,
    PromptManifest,
    PromptPreview,
    PromptState,
    check_approved,
    check_newest,
    decided,
    next_version,
)
from flawsmith.generation.reconstruction import Reconstruct, choose_normals
from flawsmith.generation.serving import triton_model
from flawsmith.generation.spec import MAX_SIDE, MIN_SIDE, FineTuneSpec

DECISIONS, PREVIEWS = "decisions", "previews"
"""Events beside a prompt."""


class FineTuneRequest(BaseModel):
    """FineTuneAdapter: fields as in the proto; name: of the adapter to make.

    config: what the caller left out is filled in from the preset it names, else from that of the regime and the base
    model, here and once; its seed is the request's where that has one. architecture: the base model's, for that alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    parent: str
    import_manifest: ObjectRef
    regime: Regime
    architecture: str = Field(default="", exclude=True)
    config: FineTuneSpec
    seed: int | None = Field(default=None, ge=0, lt=2**63)

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("regime") not in [regime.value for regime in Regime]:
            return {"config": {}, **values}  # reported as a bad field
        config = dict(values.get("config", {}))
        if values.get("seed") is not None:
            config.setdefault("seed", values["seed"])
        preset = preset_values(
            Regime(values["regime"]), config.get("base_model"), config.get("preset"), values.get("architecture", "")
        )
        return {**values, "config": {"seed": 0, **preset, **config}}


class TextToImage(BaseModel):
    """prompts: names of prompts; images take them in turn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: tuple[str, ...] = Field(min_length=1, max_length=100)


class DrawingOptions(BaseModel):
    """How images are drawn, whatever they are for: fields as in the proto. What is None follows the adapter, the base
    model (`presets.drawing_values`) or the strategy's preset."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    adapter: str = ""
    base_model: str = ""
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    height: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    width: int | None = Field(default=None, ge=MIN_SIDE, le=MAX_SIDE)
    steps: int | None = Field(default=None, ge=1, le=1000)
    guidance: float | None = Field(default=None, ge=0.0, le=50.0)
    clip_skip: int | None = Field(default=None, ge=1, le=12)
    seed: int = Field(default=0, ge=0, lt=2**62)

    @model_validator(mode="after")
    def _both_sides(self) -> Self:
        if (self.height is None) != (self.width is None):
            raise ValueError("give both height and width, or neither")
        return self


class PreviewRequest(DrawingOptions):
    """PreviewPrompt: fields as in the proto; name: of the prompt."""

    name: str
    count: int = Field(default=4, ge=1, le=16)


class GenerateRequest(DrawingOptions):
    """GenerateImages: fields as in the proto; name: of the batch to make."""

    name: str
    parent: str
    round_size: bool = False
    text_to_image: TextToImage | None = None
    inpaint: Inpaint | None = None
    reconstruct: Reconstruct | None = None
    start_index: int = Field(default=0, ge=0, le=1_000_000)
    count: int = Field(default=0, ge=0, le=10_000, validate_default=True)

    @field_validator("count")
    @classmethod
    def _some(cls, value: int, info: ValidationInfo) -> int:
        if not value and info.data.get("reconstruct") is None:
            raise ValueError("must be at least 1; only reconstruct takes 0, which is all normals of its split")
        return value

    @model_validator(mode="after")
    def _one_strategy(self) -> Self:
        if sum(one is not None for one in (self.text_to_image, self.inpaint, self.reconstruct)) != 1:
            raise ValueError("set exactly one strategy: text_to_image, inpaint or reconstruct")
        return self

    @model_validator(mode="after")
    def _nothing_unused(self) -> Self:
        values = {
            "adapter": self.adapter or None, "alpha": self.alpha, "steps": self.steps, "guidance": self.guidance,
            "clip_skip": self.clip_skip, "start_index": self.start_index or None,
        }  # fmt: skip
        given = [name for name, value in values.items() if value is not None]
        if self.reconstruct is not None and given:
            raise ValueError(
                f"{', '.join(given)}: leave unset with reconstruct, which sends the images that it chooses through the "
                "base model's autoencoder alone: nothing is denoised there, and no adapter changes it"
            )
        return self

    @property
    def strategy(self) -> str:
        """Name of the strategy that is set: see `flawsmith.generation.strategies`."""
        return "inpaint" if self.inpaint else "reconstruct" if self.reconstruct else "text_to_image"

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of prompts, as the strategy has them."""
        strategy = self.text_to_image or self.inpaint
        return strategy.prompts if strategy else ()


class CheckPromptsRequest(DrawingOptions):
    """CheckPrompts: fields as in the proto."""

    parent: str
    texts: tuple[str, ...] = Field(min_length=1, max_length=100)


class ReviseRequest(BaseModel):
    """RevisePrompt: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    text: str = Field(min_length=1, max_length=1000)
    negative_text: str = Field(default="", max_length=1000)


class DecideRequest(BaseModel):
    """DecidePrompt: fields as in the proto."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    state: PromptState
    reason: str = Field(default="", max_length=1000)

    @model_validator(mode="after")
    def _decides(self) -> Self:
        if self.state not in (PromptState.APPROVED, PromptState.REJECTED):
            raise ValueError("state must be approved or rejected")
        return self


class ReviewRequest(BaseModel):
    """ReviewImages: what was decided."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    review: Review


def find_architecture(resources: Resources, base_model: str) -> str:
    """A base model's architecture; without an id that of the default one. Raises what `find_entry` raises."""
    return find_entry(resources, base_model or FineTuneSpec.model_fields["base_model"].default).architecture


def check_fine_tuning(resources: Resources, request: FineTuneRequest) -> tuple[ImportManifest, ObjectRef]:
    """The import, and the base model's manifest.

    Raises what `require_base_model`, `check_lengths` and `ObjectStore.get` raise, and InvalidArgumentError
    (IMPORT_OF_OTHER_PRODUCT).
    """
    spec = request.config
    base_model = require_base_model(resources, spec.base_model)
    prompts = {"config.instance_prompt": spec.instance_prompt, "config.class_prompt": spec.class_prompt}
    check_lengths(resources, spec.base_model, prompts)
    imported = resources.load(request.import_manifest, ImportManifest)
    if imported.product != request.parent:
        raise InvalidArgumentError(
            "IMPORT_OF_OTHER_PRODUCT",
            f"the import belongs to {imported.product}, the adapter to {request.parent}; name an import of its own",
            fields=[FieldViolation("import_manifest", imported.name)],
        )
    return imported, base_model


class Artist(BaseModel):
    """Who draws: an adapter on its base model, or a base model alone. base_model_sha256: of the model's manifest.
    architecture: the model's; when empty the catalog's of that id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    base_model_sha256: str
    architecture: str = ""
    adapter: AdapterManifest | None

    @property
    def triton_model(self) -> str:
        """The Triton model that draws with the base model."""
        return triton_model(self.base_model, self.base_model_sha256)

    @property
    def name(self) -> str:
        """Name of the adapter, or id of the base model."""
        return self.adapter.name if self.adapter else self.base_model


def find_artist(resources: Resources, product: str, options: DrawingOptions) -> Artist:
    """Raises InvalidArgumentError (INVALID_NAME, OTHER_PRODUCT, ADAPTER_BASE_MISMATCH), NotFoundError
    (RESOURCE_NOT_FOUND), and what `require_base_model` and `require_base_of_adapter` raise."""
    if not options.adapter:
        base_model = options.base_model or FineTuneSpec.model_fields["base_model"].default
        ref = require_base_model(resources, base_model)
        architecture = find_architecture(resources, base_model)
        return Artist(base_model=base_model, base_model_sha256=ref.sha256, architecture=architecture, adapter=None)
    check_name(options.adapter, "products/{product}/adapters/{adapter}", "adapter")
    _check_own(product, [options.adapter])
    adapter, _ = resources.get(options.adapter, AdapterManifest)
    if options.base_model not in ("", adapter.base_model):
        raise InvalidArgumentError(
            "ADAPTER_BASE_MISMATCH",
            f"{adapter.name} belongs to the base model {adapter.base_model}, not to {options.base_model}; leave "
            "base_model empty, or fine-tune an adapter on it",
            fields=[FieldViolation("base_model", f"the adapter's is {adapter.base_model}")],
        )
    require_base_of_adapter(resources, adapter.base_model, adapter.base_model_sha256, adapter.name)
    return Artist(
        base_model=adapter.base_model,
        base_model_sha256=adapter.base_model_sha256,
        architecture=find_architecture(resources, adapter.base_model),
        adapter=adapter,
    )


def check_preview(resources: Resources, product: str, request: PreviewRequest) -> Artist:
    """Who draws a prompt's preview.

    Raises what `get_prompt`, `check_newest`, `find_artist` and `check_lengths` raise.
    """
    prompt = get_prompt(resources, request.name)
    check_newest(prompt)
    artist = find_artist(resources, product, request)
    check_lengths(resources, artist.base_model, _texts_read(request, artist, [prompt]))
    return artist


def check_texts(resources: Resources, request: CheckPromptsRequest) -> None:
    """Raises what `find_artist` and `check_lengths` raise."""
    artist = find_artist(resources, request.parent, request)
    check_lengths(resources, artist.base_model, {f"texts.{index}": text for index, text in enumerate(request.texts)})


def check_generation(
    resources: Resources, request: GenerateRequest, *, require_approval: bool
) -> tuple[Artist, list[Prompt]]:
    """Who draws a batch, and its prompts in the order of the request.

    Raises what `find_artist`, `check_lengths`, `choose_material` and `choose_normals` raise, NotFoundError
    (UNKNOWN_PROMPT), InvalidArgumentError (INVALID_NAME, OTHER_PRODUCT) and FailedPreconditionError
    (PROMPT_NOT_APPROVED) unless approval is not required.
    """
    for name in request.prompts:
        check_name(name, "products/{product}/prompts/{prompt}", "prompts")
    _check_own(request.parent, request.prompts)
    artist = find_artist(resources, request.parent, request)
    prompts = [get_prompt(resources, name) for name in request.prompts]
    check_lengths(resources, artist.base_model, _texts_read(request, artist, prompts))
    if require_approval:
        check_approved(prompts)
    if request.inpaint is not None:
        imported = resources.load(request.inpaint.import_manifest, ImportManifest)
        choose_material(imported, request.inpaint, request.seed, request.parent, artist.adapter)
    if request.reconstruct is not None:
        find_normals(resources, request, request.reconstruct)
    return artist, prompts


def steps_and_guidance(request: DrawingOptions, artist: Artist) -> tuple[int, float]:
    """Those of the request; what it leaves out is the strategy's preset's, or else the base model's."""
    adapted = artist.adapter is not None
    strategy = request.strategy if isinstance(request, GenerateRequest) else "text_to_image"
    usual = drawing_values(artist.base_model, artist.architecture, adapted=adapted, strategy=strategy)
    if isinstance(request, GenerateRequest) and request.inpaint:
        usual |= PRESETS[request.inpaint.preset]
    return request.steps or usual["steps"], usual["guidance"] if request.guidance is None else request.guidance


def _texts_read(request: GenerateRequest | PreviewRequest, artist: Artist, prompts: Sequence[Prompt]) -> dict[str, str]:
    """What the base model reads, by where it comes from: negative texts with guidance alone."""
    inpaint = request.inpaint if isinstance(request, GenerateRequest) else None
    texts = {prompt.name: prompt.text for prompt in prompts}
    if steps_and_guidance(request, artist)[1] > 1:
        texts |= {f"{prompt.name}: negative_text": prompt.negative_text for prompt in prompts}
        if inpaint and not all(prompt.negative_text for prompt in prompts):
            texts["inpaint.negative_text"] = inpaint.negative_text
    return texts


def find_normals(resources: Resources, request: GenerateRequest, spec: Reconstruct) -> list[ImageRecord]:
    """The images that a batch reconstructs. Raises what `choose_normals` and `ObjectStore.get` raise."""
    return choose_normals(
        resources.load(spec.import_manifest, ImportManifest),
        spec,
        product=request.parent,
        count=request.count,
        seed=request.seed,
        sized=request.height is not None,
    )


def _check_own(product: str, names: Sequence[str]) -> None:
    foreign = [name for name in names if not name.startswith(f"{product}/")]
    if foreign:
        raise InvalidArgumentError(
            "OTHER_PRODUCT",
            f"the batch belongs to {product}; these do not: {', '.join(foreign)}",
            fields=[FieldViolation(name, f"is not of {product}") for name in foreign],
        )


def get_prompt(resources: Resources, name: str) -> Prompt:
    """A prompt as it stands. Raises NotFoundError (UNKNOWN_PROMPT)."""
    try:
        manifest, _ = resources.get(name, PromptManifest)
    except NotFoundError as error:
        product, _, identifier = name.partition("/prompts/")
        root = identifier.rpartition("-v")[0] or identifier
        versions = [
            entry for entry in resources.list_ids(product, "prompts") if entry == root or entry.startswith(f"{root}-v")
        ]
        known = f"known versions of it are {', '.join(versions)}" if versions else "see ListPrompts"
        raise NotFoundError("UNKNOWN_PROMPT", f"there is no prompt {name}; {known}") from error
    return decided(
        manifest,
        resources.events(name, DECISIONS, PromptDecision),
        resources.events(name, PREVIEWS, PromptPreview),
        _revised_as(resources, manifest),
    )


def _revised_as(resources: Resources, manifest: PromptManifest) -> str:
    following = next_version(manifest)
    if not resources.exists(following):
        return ""
    # Somebody may have written another prompt under this name.
    return following if resources.get(following, PromptManifest)[0].revises == manifest.name else ""
