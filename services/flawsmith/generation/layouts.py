"""How base models lie in files: diffusers' folders, a part each. Nothing here needs the libraries that load them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from flawsmith.common.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError

INDEX = "model_index.json"
_STABLE_DIFFUSION = ("vae", "text_encoder", "tokenizer", "unet", "scheduler")
PARTS: Mapping[str, tuple[str, ...]] = {
    "stable-diffusion": _STABLE_DIFFUSION,
    "stable-diffusion-xl": (*_STABLE_DIFFUSION, "text_encoder_2", "tokenizer_2"),
    "flux2-klein": ("vae", "text_encoder", "tokenizer", "transformer", "scheduler"),
}
"""Folders that a model of each architecture has. Others, e.g. a safety checker, are left where they are: it blackens
harmless pictures of metal."""
_PIPELINES: Mapping[str, str] = {
    "StableDiffusionPipeline": "stable-diffusion",
    "StableDiffusionInpaintPipeline": "stable-diffusion",
    "StableDiffusionXLPipeline": "stable-diffusion-xl",
    "StableDiffusionXLInpaintPipeline": "stable-diffusion-xl",
    "Flux2KleinPipeline": "flux2-klein",
}
_WITHOUT_WEIGHTS = ("tokenizer", "tokenizer_2", "scheduler")
_TEXTS = (".json", ".txt", ".model", ".jinja", ".md")
_WEIGHTS = re.compile(r"(?:model|diffusion_pytorch_model)(?:\.(?P<variant>\w+))?(?:-\d{5}-of-\d{5})?\.safetensors")


def architecture_of(model_index: bytes) -> str:
    """The architecture of the model whose `model_index.json` it is: a key of `PARTS`.

    Raises FailedPreconditionError: BASE_MODEL_INCOMPLETE (it cannot be read), BASE_MODEL_UNSUPPORTED (of another).
    """
    try:
        pipeline = str(json.loads(model_index)["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE",
            f"{INDEX} is missing or names no pipeline; the model must be in diffusers' layout",
        ) from error
    if pipeline not in _PIPELINES:
        raise FailedPreconditionError(
            "BASE_MODEL_UNSUPPORTED",
            f"models of diffusers' {pipeline} are not supported; those of {', '.join(sorted(_PIPELINES))} are",
        )
    return _PIPELINES[pipeline]


def select_files(paths: Iterable[str], architecture: str, *, variant: str | None = None) -> list[str]:
    """Of the files of a model those that it is loaded from, in order: configuration, licence, and one set of
    safetensors a part. Never pickles, which run what is in them.

    paths: inside the model's folder, with forward slashes. variant: `fp16` prefers those weights; they are taken too
    where there are no others. Raises FailedPreconditionError (BASE_MODEL_INCOMPLETE) that names what is missing.
    """
    known = sorted(paths)
    chosen = [path for path in known if "/" not in path and (path == INDEX or _is_about(path))]
    missing = [] if INDEX in known else [INDEX]
    for part in PARTS[architecture]:
        inside = [path for path in known if path.startswith(f"{part}/") and path.count("/") == 1]
        chosen += [path for path in inside if PurePosixPath(path).suffix in _TEXTS]
        if not inside:
            missing.append(f"{part}/")
        elif part not in _WITHOUT_WEIGHTS:
            weights = _choose_weights(inside, variant)
            chosen += weights
            if not weights:
                missing.append(f"{part}/*.safetensors")
    if missing:
        raise FailedPreconditionError(
            "BASE_MODEL_INCOMPLETE",
            f"the model lacks {', '.join(missing)}; it must be in diffusers' layout with safetensors",
        )
    return sorted(chosen)


def _is_about(path: str) -> bool:
    return path.upper().startswith(("LICENSE", "LICENCE", "README", "NOTICE"))


def _choose_weights(paths: list[str], variant: str | None) -> list[str]:
    by_variant: dict[str | None, list[str]] = {}
    for path in paths:
        match = _WEIGHTS.fullmatch(PurePosixPath(path).name)
        if match is not None:
            by_variant.setdefault(match["variant"], []).append(path)
    order = (variant, None, "fp16") if variant else (None, "fp16")
    return next((by_variant[name] for name in order if name in by_variant), [])


def check_weights(path: Path) -> None:
    """Check that a safetensors file is one, and whole. Raises InvalidArgumentError (WEIGHTS_UNREADABLE)."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > size:
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
        if 8 + length + end != size:
            raise ValueError(f"it has {size:,} bytes, its header says {8 + length + end:,}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgumentError(
            "WEIGHTS_UNREADABLE",
            f"{path.name} is no whole safetensors file ({error}); download it again (a git clone without LFS leaves "
            "placeholders)",
            fields=[FieldViolation(path.name, str(error))],
        ) from error
