"""Brings an adapter to another format: `python -m flawsmith.generation.convert_adapter`, a `ConvertRun` on stdin.

A process of its own, as workers import no torch.
"""

from __future__ import annotations

import json
import shutil
from typing import Any

from flawsmith.common.child import Reporter, child_main
from flawsmith.common.errors import FailedPreconditionError
from flawsmith.generation.adapter_formats import algorithm_of, rank_of, read_adapter, write_adapter
from flawsmith.generation.adapter_switch import AdapterSwitch
from flawsmith.generation.diffusion import load_model
from flawsmith.generation.spec import ConvertRun


def run(job: ConvertRun, reporter: Reporter) -> dict[str, Any]:
    """Convert; returns the `format` of the source, the adapter's `algorithm` and `rank`, and the base model's own
    `side` in pixels. A file that has the format already is copied byte by byte.

    Raises what `load_model`, `read_adapter` and `AdapterSwitch.prepare` raise, and FailedPreconditionError
    (ADAPTER_BASE_MISMATCH) where the file says that it is for another base model.
    """
    reporter.progress("load", 0, 1)
    model = load_model(job.base_model)
    weights, metadata, found = read_adapter(job.source, model)
    wanted = _base_model_of(metadata)
    if wanted not in ("", job.base_model_sha256):
        raise FailedPreconditionError(
            "ADAPTER_BASE_MISMATCH",
            f"the file's adapter was trained on the base model {wanted[:16]}..., not on "
            f"{job.base_model_sha256[:16]}...; name that one, or fine-tune an adapter on this one",
        )
    AdapterSwitch(model.networks).prepare(weights)
    if found is job.format and job.source.is_file():
        shutil.copyfile(job.source, job.target)
    else:
        write_adapter(weights, job.target, model, job.format, metadata=metadata)
    reporter.progress("load", 1, 1)
    return {
        "format": found.value,
        "algorithm": algorithm_of(weights, model).value,
        "rank": rank_of(weights),
        "side": model.native_side,
    }


def _base_model_of(metadata: str) -> str:
    """Hash of the base model's manifest that our own files name; empty for those of others."""
    try:
        return str(json.loads(metadata or "{}").get("base_model_sha256", ""))
    except (ValueError, AttributeError):
        return ""


if __name__ == "__main__":
    child_main(ConvertRun, run)
