"""The mini base model's own tokenizer and text encoder, in CLIP's formats."""

import json
import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from training.mini_autoencoder import learning_rate
from training.mini_data import draw_random, training_caption

logger = logging.getLogger(__name__)

MAX_TOKENS = 32
TEXT_ENCODER = "text.pt"
_WIDTH = 192
_BATCH = 64
_PEAK_RATE = 1e-3


def open_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer in a folder, which is made first where there is none: with another, after captions have changed,
    a text encoder would read other words than it has learnt."""
    if not (folder / "vocab.json").exists():
        _write_tokenizer(folder)
    return CLIPTokenizer(
        str(folder / "vocab.json"),
        str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
        pad_token="<|endoftext|>",  # noqa: S106 - a token of text
    )


def _write_tokenizer(folder: Path) -> None:
    """Byte-level BPE over the captions' words; every other word falls back to shorter pieces."""
    rng = np.random.default_rng(0)
    words: Counter[str] = Counter()
    for _ in range(4000):
        # Pictures do not matter here: the smallest ones are quickest.
        drawing = draw_random(rng, 16)
        words.update(f"{training_caption(rng, drawing)} {drawing.caption}".replace(",", " ,").split())
    # Random identifiers occur once or twice; they must stay unknown.
    frequent = {word: count for word, count in sorted(words.items()) if count >= 8}
    alphabet = list(bytes_to_unicode().values())
    merges = _learn_merges(frequent)
    vocabulary = alphabet + [f"{letter}</w>" for letter in alphabet] + ["".join(pair) for pair in merges]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # Last: a folder with it is complete.
    (folder / "vocab.json").write_text(json.dumps(numbered, ensure_ascii=False), encoding="utf-8")


def _learn_merges(words: dict[str, int]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first (ties by spelling), until every word is one token."""
    pieces = {word: [*word[:-1], f"{word[-1]}</w>"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, parts in pieces.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            return merges
        best = max(sorted(pairs), key=lambda pair: pairs[pair])
        merges.append(best)
        for word, parts in pieces.items():
            pieces[word] = _merge(parts, best)


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for part in parts:
        # A part just merged must not merge again with the next one under the same rule.
        if merged and (merged[-1], part) == pair:
            merged[-1] = "".join(pair)
        else:
            merged.append(part)
    return merged


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A CLIP text transformer of three layers, 192 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            projection_dim=_WIDTH,
            num_hidden_layers=3,
            num_attention_heads=6,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def tokenize(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids, N x MAX_TOKENS."""
    encoded = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    return torch.as_tensor(encoded.input_ids)


def train_text_encoder(folder: Path, steps: int, seed: int) -> None:
    """Trains on the captions of folder/latents; writes folder/text.pt.

    The end of the text and every place that pads it (two thirds of MAX_TOKENS) learn to tell which words came before. A
    UNet's cross-attention begins by looking everywhere alike, so that these places are what it sees: without words in
    them it learnt colours in thousands of steps, and surfaces not at all.
    """
    torch.manual_seed(seed)
    tokenizer = open_tokenizer(folder / "tokenizer")
    captions: list[str] = []
    for path in sorted((folder / "latents").glob("[0-9]*[0-9].npz")):
        with np.load(path) as chunk:
            captions += json.loads(str(chunk["captions"]))
    ids = tokenize(tokenizer, captions)
    model = build_text_encoder(tokenizer)
    words = nn.Linear(_WIDTH, len(tokenizer))
    parameters = [*model.parameters(), *words.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3)
    running = 0.0
    for step in range(steps):
        rng = np.random.default_rng([seed, 3, step])
        tokens = ids[torch.from_numpy(rng.integers(0, len(ids), _BATCH))]
        said = torch.zeros(_BATCH, len(tokenizer)).scatter_(1, tokens, 1.0)
        ends = tokens == tokenizer.eos_token_id
        told = words(model(tokens)[0][ends])
        target = said[:, None].expand(-1, MAX_TOKENS, -1)[ends]
        loss = F.binary_cross_entropy_with_logits(told, target, reduction="sum") / len(told)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, _PEAK_RATE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        running = 0.95 * running + 0.05 * loss.item() if running else loss.item()
        if (step + 1) % 50 == 0:
            logger.info("text step %d: %.4f nats a caption", step + 1, running)
    torch.save(model.state_dict(), folder / TEXT_ENCODER)
