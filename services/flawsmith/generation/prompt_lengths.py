"""How long prompts are for a base model, told before anything is queued, from the files of its tokenizer.

Stable Diffusion's text encoders are CLIP's, which reads text in pieces (words, digits, runs of other signs), and each
piece as the tokens that byte-pair merges leave of its bytes (Radford et al. 2021; Sennrich et al. 2016). Counted here
as transformers' CLIPTokenizer counts without ftfy: transformers itself is no part of the API's image.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from flawsmith.common.errors import FieldViolation, InvalidArgumentError
from flawsmith.common.manifests import ObjectRef
from flawsmith.common.resources import Resources
from flawsmith.generation.catalog import BaseModelManifest, installed_base_model

_CLIP = ("stable-diffusion", "stable-diffusion-xl")
"""Architectures; the second tokenizer of XL counts as its first one does."""
_WINDOW, _MERGES = 77, 49152 - 256 - 2
"""Tokens of CLIP's text encoder where its configuration says nothing, and how many merges its tokenizer reads."""
_PIECES = re.compile(r"'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)
_PLAIN_BYTES = (*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1))
_OTHER_BYTES = [byte for byte in range(256) if byte not in _PLAIN_BYTES]
_LETTERS = {byte: chr(byte) for byte in _PLAIN_BYTES} | {byte: chr(256 + n) for n, byte in enumerate(_OTHER_BYTES)}
"""How merges are written: a letter for each byte, none of them a space."""


@dataclass(frozen=True)
class PromptReader:
    """What a base model reads of a prompt. tokens: at most. ranks: of its merges, the lowest goes first."""

    tokens: int
    ranks: Mapping[tuple[str, ...], int]

    def count(self, text: str) -> int:
        """Tokens of a text, without those of its start and end."""
        shown = (sign for sign in text if sign in "\t\n\r" or unicodedata.category(sign)[0] != "C")
        apart = "".join(f" {sign} " if _stands_alone(sign) else sign for sign in shown if sign != "\ufffd")
        return sum(map(self._tokens_of, _PIECES.findall(unicodedata.normalize("NFC", apart).lower())))

    def _tokens_of(self, piece: str) -> int:
        parts = [_LETTERS[byte] for byte in piece.encode()]
        parts[-1] += "</w>"
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if pair not in self.ranks:
                break
            merged: list[str] = []
            for part in parts:
                if merged and (merged[-1], part) == pair:
                    merged[-1] += part
                else:
                    merged.append(part)
            parts = merged
        return len(parts)


def _stands_alone(sign: str) -> bool:
    """Numerals and Chinese characters are pieces of their own."""
    return unicodedata.category(sign)[0] == "N" or unicodedata.name(sign, "").startswith(
        ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH")
    )


@functools.lru_cache(maxsize=8)
def find_reader(resources: Resources, base_model: ObjectRef) -> PromptReader | None:
    """The reader of an installed base model, by its manifest; None where it is not CLIP's. Raises what the store
    raises."""
    manifest = resources.load(base_model, BaseModelManifest)
    files = {file.path: file.object for file in manifest.files}
    merges, config = files.get("tokenizer/merges.txt"), files.get("text_encoder/config.json")
    if manifest.entry.architecture not in _CLIP or merges is None or config is None:
        return None
    # The first line is the format's version.
    pairs = resources.store.get(merges).decode().strip().split("\n")[1 : _MERGES + 1]
    window = json.loads(resources.store.get(config)).get("max_position_embeddings", _WINDOW)
    return PromptReader(tokens=window - 2, ranks={tuple(pair.split()): rank for rank, pair in enumerate(pairs)})


def check_lengths(resources: Resources, base_model: str, texts: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError (PROMPT_TOO_LONG), listing every text that the base model would not read to its end.

    base_model: id of an installed one. texts: by the field, or by the prompt's name, that they come from. How much
    other models than CLIP's read is not known here, and nothing refused.
    """
    installed = installed_base_model(resources, base_model)
    reader = find_reader(resources, installed) if installed else None
    if reader is None:
        return
    counts = {field: reader.count(text) for field, text in texts.items()}
    long = {field: count for field, count in counts.items() if count > reader.tokens}
    if long:
        listing = "; ".join(f"{texts[field]!r} has {count}" for field, count in long.items())
        raise InvalidArgumentError(
            "PROMPT_TOO_LONG",
            f"{base_model} reads {reader.tokens} tokens (words, or parts of them) of a prompt: {listing}; shorten, or "
            "take another base model",
            fields=[FieldViolation(field, f"has {count} tokens of {reader.tokens}") for field, count in long.items()],
        )
