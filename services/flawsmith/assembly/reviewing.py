"""What people decided about prompts and drawn images, as the generation service tells."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from flawsmith.assembly.peers import Peers
from flawsmith.common.convert import to_message
from flawsmith.common.errors import FailedPreconditionError, FieldViolation
from flawsmith.generation.v1 import generation_pb2

_PAGE = 500
_POLL_S = 2.0
_PREFERENCE = ("approved", "previewed", "draft", "revised", "rejected")
Say = Callable[[int, int, str], Awaitable[None]]
"""(decided, in all, what is awaited, for people)."""


async def find_prompts(peers: Peers, product: str, texts: Sequence[str]) -> list[str]:
    """Names of the product's prompts with these texts; drafts are written where there are none.

    An approved one is preferred, so that a text is approved once and not for every data set. A text that a person
    revised stands for its newest version. A draft's id follows from its text: two calls at once write one draft.
    """
    known = [
        prompt
        for prompt in await _all(peers, "ListPrompts", generation_pb2.ListPromptsRequest, product, "prompts")
        if not prompt.get("negative_text")
    ]
    names = []
    for text in texts:
        same = [prompt for prompt in known if prompt["text"] == text]
        same.sort(key=lambda prompt: _PREFERENCE.index(prompt["state"]))
        if same and same[0]["state"] != "rejected":
            names.append(str(same[0]["name"]))
            continue
        if same:
            raise FailedPreconditionError(
                "PROMPT_REJECTED",
                f"{same[0]['name']} ({text!r}) was rejected; approve it after all, or request with other prompts",
                fields=[FieldViolation("generation.prompts", text)],
            )
        values = {"parent": product, "text": text, "prompt_id": f"p{hashlib.sha256(text.encode()).hexdigest()[:12]}"}
        made = await peers.call("generation", "CreatePrompt", to_message(values, generation_pb2.CreatePromptRequest))
        names.append(str(made["name"]))
    return names


async def check_texts(peers: Peers, product: str, texts: Sequence[str], *, adapter: str, base_model: str) -> None:
    """Raise InvalidArgumentError (PROMPT_TOO_LONG) where the model that will draw them does not read all of the texts:
    before a person approves them, and before an adapter is tuned."""
    request = generation_pb2.CheckPromptsRequest(parent=product, adapter=adapter, base_model=base_model, texts=texts)
    await peers.call("generation", "CheckPrompts", request)


async def await_prompts(peers: Peers, names: Sequence[str], say: Say) -> list[str]:
    """Wait until a person decided about every prompt, or about its newest version; returns those approved.

    Raises FailedPreconditionError (PROMPT_REJECTED) when none was.
    """

    async def newest(name: str) -> dict[str, Any]:
        while True:
            prompt = await peers.call("generation", "GetPrompt", generation_pb2.GetPromptRequest(name=name))
            if prompt["state"] != "revised":
                return prompt
            name = prompt["revised_as"]

    async def look() -> list[dict[str, Any]] | None:
        prompts = [await newest(name) for name in names]
        undecided = ("draft", "previewed")
        drafts = [f"{prompt['name']} ({prompt['text']!r})" for prompt in prompts if prompt["state"] in undecided]
        if drafts:
            text = f"approve or reject with DecidePrompt: {', '.join(drafts)}"
            await say(len(prompts) - len(drafts), len(prompts), text)
            return None
        return prompts

    decided = await peers.poll(look, every_s=_POLL_S)
    approved = [str(prompt["name"]) for prompt in decided if prompt["state"] == "approved"]
    if not approved:
        raise FailedPreconditionError(
            "PROMPT_REJECTED",
            "every prompt was rejected; request again with other prompts",
            fields=[FieldViolation("generation.prompts", str(prompt["text"])) for prompt in decided],
        )
    return approved


async def await_review(peers: Peers, batch: str, say: Say) -> None:
    """Wait until a person decided about every image of a batch."""

    async def look() -> bool | None:
        images = await list_reviews(peers, batch)
        pending = sum(image.get("review", "pending") == "pending" for image in images)
        if pending:
            text = f"{pending} of {len(images)} images of {batch} wait for a review; decide with ReviewImages"
            await say(len(images) - pending, len(images), text)
            return None
        return True

    await peers.poll(look, every_s=_POLL_S)


async def kept_out(peers: Peers, batch: str, *, accepted_only: bool) -> dict[str, str]:
    """By sha256, the images of a batch that may not be used, with what was decided about each so far: rejected, and
    with accepted_only also pending."""
    unusable = ("rejected", "pending") if accepted_only else ("rejected",)
    said = {
        str(image["record"]["image"]["sha256"]): str(image.get("review", "pending"))
        for image in await list_reviews(peers, batch)
    }
    return {digest: review for digest, review in said.items() if review in unusable}


async def list_reviews(peers: Peers, batch: str) -> list[dict[str, Any]]:
    """All images of a generated batch with their reviews."""
    return await _all(peers, "ListBatchImages", generation_pb2.ListBatchImagesRequest, batch, "images")


async def _all(peers: Peers, method: str, request: Any, parent: str, field: str) -> list[dict[str, Any]]:
    """Every page of a list."""
    entries: list[dict[str, Any]] = []
    token = ""
    while True:
        answer = await peers.call("generation", method, request(parent=parent, page_size=_PAGE, page_token=token))
        entries += answer.get(field, [])
        token = answer.get("next_page_token", "")
        if not token:
            return entries
