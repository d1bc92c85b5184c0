"""Prompts and what people decide about them: a batch uses approved prompts only.

A prompt's text never changes; a revised prompt is another prompt. Decisions are appended, the newest counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import Field

from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.common.manifests import Manifest


class PromptState(StrEnum):
    """Where a prompt stands."""

    DRAFT = "draft"
    APPROVED = "approved"
    REJECTED = "rejected"


class PromptManifest(Manifest):
    """A prompt as written: `products/{product}/prompts/{prompt}`. author: who wrote it."""

    name: str
    text: str = Field(min_length=1, max_length=1000)
    negative_text: str = Field(default="", max_length=1000)
    author: str
    create_time: datetime


class PromptDecision(Manifest):
    """One decision of one person. state: approved or rejected."""

    state: PromptState
    decided_by: str
    decide_time: datetime
    reason: str = ""


class Prompt(Manifest):
    """A prompt with its newest decision."""

    name: str
    text: str
    negative_text: str
    state: PromptState = PromptState.DRAFT
    decided_by: str = ""
    decide_time: datetime | None = None
    reason: str = ""
    create_time: datetime


def decided(manifest: PromptManifest, decisions: Sequence[PromptDecision]) -> Prompt:
    """A prompt as it stands after its decisions, oldest first."""
    newest = decisions[-1].model_dump() if decisions else {}
    return Prompt.model_validate({**manifest.model_dump(exclude={"author"}), **newest})


def check_approved(prompts: Sequence[Prompt]) -> None:
    """Raise FailedPreconditionError (PROMPT_NOT_APPROVED), listing every prompt that nobody approved."""
    open_ones = [prompt for prompt in prompts if prompt.state is not PromptState.APPROVED]
    if open_ones:
        listing = ", ".join(f"{prompt.name} ({prompt.state.value})" for prompt in open_ones)
        raise FailedPreconditionError(
            "PROMPT_NOT_APPROVED",
            f"a person must approve these prompts first (DecidePrompt), or leave them out: {listing}",
            fields=[FieldViolation(prompt.name, f"is {prompt.state.value}") for prompt in open_ones],
        )
