"""Prompts and what people decide about them: a batch uses approved prompts only.

A prompt's text never changes; a revision is the next version, a prompt of its own that names the one it revises.
Previews and decisions are appended as events, the newest of a kind counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import Manifest, ObjectRef


class PromptState(StrEnum):
    """Where a prompt stands."""

    DRAFT = "draft"
    PREVIEWED = "previewed"
    APPROVED = "approved"
    REJECTED = "rejected"
    REVISED = "revised"


class PromptManifest(Manifest):
    """A prompt as written: `products/{product}/prompts/{prompt}`. author: who wrote it. revises: name of the version
    before; empty for the first."""

    name: str
    text: str = Field(min_length=1, max_length=1000)
    negative_text: str = Field(default="", max_length=1000)
    author: str
    version: int = Field(default=1, ge=1)
    revises: str = ""
    create_time: datetime


class PromptPreview(Manifest):
    """Images drawn from a prompt for those who decide. drawn_with: name of the adapter, or id of the base model."""

    images: tuple[ObjectRef, ...]
    drawn_with: str
    seed: int
    create_time: datetime


class PromptDecision(Manifest):
    """One decision of one person. state: approved or rejected."""

    state: PromptState
    decided_by: str
    decide_time: datetime
    reason: str = ""


class Prompt(Manifest):
    """A prompt as it stands. previews, previewed_with: of the newest preview."""

    name: str
    text: str
    negative_text: str
    author: str
    version: int
    revises: str
    state: PromptState = PromptState.DRAFT
    decided_by: str = ""
    decide_time: datetime | None = None
    reason: str = ""
    revised_as: str = ""
    previews: tuple[ObjectRef, ...] = ()
    previewed_with: str = ""
    create_time: datetime


def decided(
    manifest: PromptManifest,
    decisions: Sequence[PromptDecision] = (),
    previews: Sequence[PromptPreview] = (),
    revised_as: str = "",
) -> Prompt:
    """A prompt as it stands after its events, oldest first. A revision outweighs every decision, a decision every
    preview. revised_as: name of the next version where there is one."""
    values = manifest.model_dump()
    if previews:
        values |= {
            "state": PromptState.PREVIEWED,
            "previews": previews[-1].images,
            "previewed_with": previews[-1].drawn_with,
        }
    if decisions:
        values |= decisions[-1].model_dump()
    if revised_as:
        values |= {"state": PromptState.REVISED, "revised_as": revised_as}
    return Prompt.model_validate(values)


def next_version(manifest: PromptManifest) -> str:
    """Name of the version after a prompt: the first version's with a number."""
    root = manifest.name.removesuffix(f"-v{manifest.version}") if manifest.revises else manifest.name
    return f"{root}-v{manifest.version + 1}"


def revise(manifest: PromptManifest, text: str, negative_text: str, *, by: str, at: datetime) -> PromptManifest:
    """The next version of a prompt; once published, it is what makes the prompt a revised one."""
    return PromptManifest(
        name=next_version(manifest),
        text=text,
        negative_text=negative_text,
        author=by,
        version=manifest.version + 1,
        revises=manifest.name,
        create_time=at,
    )


def check_newest(prompt: Prompt) -> None:
    """Raise FailedPreconditionError (PROMPT_REVISED) for a prompt that has a newer version."""
    if prompt.revised_as:
        raise FailedPreconditionError(
            "PROMPT_REVISED",
            f"{prompt.name} was revised and stays as it was; go on with {prompt.revised_as}",
            fields=[FieldViolation("name", f"is revised as {prompt.revised_as}")],
        )


def check_approved(prompts: Sequence[Prompt]) -> None:
    """Raise FailedPreconditionError (PROMPT_NOT_APPROVED), listing every prompt that nobody approved."""
    open_ones = [prompt for prompt in prompts if prompt.state is not PromptState.APPROVED]
    if open_ones:
        listing = ", ".join(f"{prompt.name} ({_standing(prompt)})" for prompt in open_ones)
        raise FailedPreconditionError(
            "PROMPT_NOT_APPROVED",
            f"a person must approve these prompts first (DecidePrompt), or leave them out: {listing}",
            fields=[FieldViolation(prompt.name, f"is {_standing(prompt)}") for prompt in open_ones],
        )


def _standing(prompt: Prompt) -> str:
    return f"{prompt.state.value} as {prompt.revised_as}" if prompt.revised_as else prompt.state.value
