"""Tokens are counted as transformers counts them, and limits are those at which drawing refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from flawsmith.common.errors import InvalidArgumentError
from flawsmith.common.resources import Resources
from flawsmith.generation.architectures.stable_diffusion import tokenize
from flawsmith.generation.prompt_lengths import PromptReader, check_lengths, find_reader
from tests.unit.generation.support import MINI, install_text_files, spelling_tokenizer
from tests.unit.memory_store import MemoryStore


def reader_of(model: str, **files: bytes) -> PromptReader | None:
    resources = Resources(MemoryStore())
    return find_reader(resources, install_text_files(resources, model, **files))


MINI_READER = reader_of("mini")
MINI_TOKENIZER = CLIPTokenizer.from_pretrained(MINI / "tokenizer")
WORDS = "metal background scratched with crack texture part don't it's groundground gro und_ 12 m\u00b2 \u6f22\u5b57"


@given(st.one_of(st.text(max_size=80), st.lists(st.sampled_from(WORDS.split()), max_size=30).map(" ".join)))
@settings(max_examples=400, deadline=None)
def test_texts_are_counted_as_the_tokenizer_does(text: str) -> None:
    assert MINI_READER is not None
    assert MINI_READER.count(text) == len(MINI_TOKENIZER(text).input_ids) - 2


def test_a_tokenizer_without_merges_spells(tmp_path: Path) -> None:
    spelled = reader_of("sd15", merges=b"#version: 0.2\n", config=b'{"max_position_embeddings": 40}')
    assert spelled is not None
    for text in ("skt background", "\u00fcber 12,5 %"):
        assert spelled.count(text) == len(spelling_tokenizer(tmp_path)(text).input_ids) - 2
    assert spelled.tokens == 38
    published = reader_of("sd15", config=b"{}")
    assert published is not None
    assert published.tokens == 75


def test_drawing_refuses_from_the_same_length_on() -> None:
    resources = Resources(MemoryStore())
    install_text_files(resources, "mini")
    for text in ("crack " * 30, "crack " * 29 + "grey"):
        check_lengths(resources, "mini", {"prompts": text})
        tokenize(MINI_TOKENIZER, [text], 32, torch.device("cpu"))
    with pytest.raises(InvalidArgumentError, match="reads 30 tokens") as drawing:
        tokenize(MINI_TOKENIZER, ["crack " * 31], 32, torch.device("cpu"))
    with pytest.raises(
        InvalidArgumentError, match=r"mini reads 30 tokens .*'crack .*' has 31; 'crack .*' has 40; shorten"
    ) as early:
        check_lengths(resources, "mini", {"short": "crack", "long": "crack " * 31, "longer": "crack " * 40})
    assert early.value.reason == drawing.value.reason == "PROMPT_TOO_LONG"
    assert [(field.field, field.description) for field in early.value.fields] == [
        ("long", "has 31 tokens of 30"), ("longer", "has 40 tokens of 30"),
    ]  # fmt: skip


def test_what_is_not_known_is_not_refused() -> None:
    resources = Resources(MemoryStore())
    install_text_files(resources, "flux2-klein-4b")  # its tokenizer has merges too, of another kind
    install_text_files(resources, "sdxl-inpaint", config=b'{"max_position_embeddings": 77}')
    check_lengths(resources, "flux2-klein-4b", {"prompts": "crack " * 160})
    check_lengths(resources, "sdxl-inpaint", {"prompts": "crack " * 75})
    with pytest.raises(InvalidArgumentError, match="sdxl-inpaint reads 75"):
        check_lengths(resources, "sdxl-inpaint", {"prompts": "crack " * 76})
