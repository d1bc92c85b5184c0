"""Checks what a demo left: `python tests/check_demo.py OUT`. Prints what is wrong and exits 1."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from PIL import Image

_VERSION = {
    "model": str, "version": str, "steps": int, "ap_trapezoid": float, "ap": float, "precision": float,
    "recall": float, "threshold": float, "threshold_rule": str,
}  # fmt: skip
SHAPE: dict[str, Any] = {
    "dataset": {
        "uri": str,
        "counts": {
            "train": {"normal": int, "real_defect": int, "in_distribution": int, "out_of_distribution": int},
            "validation": {"normal": int, "defect": int},
            "test": {"normal": int, "defect": int},
        },
    },
    "adapter": {"uri": str, "steps": int, "final_loss": float},
    "classifier": _VERSION,
    "baseline": _VERSION,
    "triton": {"max_abs_diff_vs_onnxruntime": float},
    "seconds": dict.fromkeys(("import", "finetune", "generate", "assemble", "train", "classify"), float),
}


def problems(folder: Path) -> list[str]:
    """Everything that is wrong with a demo's output."""
    summary = json.loads((folder / "summary.json").read_text())
    found = list(_differences(summary, SHAPE, "summary"))
    if not found:
        train = summary["dataset"]["counts"]["train"]
        if not train["in_distribution"] or not train["out_of_distribution"]:
            found.append("no synthetic images of one kind")
        for name in ("classifier", "baseline"):
            part = summary[name]
            found += [f"{name}.{key} is not in [0, 1]" for key in ("ap", "recall") if not 0 <= part[key] <= 1]
        if summary["classifier"]["steps"] != summary["baseline"]["steps"]:
            found.append("classifier and baseline took different numbers of steps")
        if summary["triton"]["max_abs_diff_vs_onnxruntime"] > 1e-4:
            found.append("Triton's answers differ from ONNX Runtime's")
    for name in ("contact-sheet.png", "pr-curve.png"):
        with Image.open(folder / name) as picture:
            if len(picture.convert("RGB").getcolors(2**24) or []) < 16:
                found.append(f"{name} is empty")
    return found


def _differences(value: Any, shape: Any, path: str) -> list[str]:
    if isinstance(shape, dict):
        if not isinstance(value, dict) or set(value) != set(shape):
            return [f"{path} must have exactly {sorted(shape)}"]
        return [entry for key in shape for entry in _differences(value[key], shape[key], f"{path}.{key}")]
    accepted = (int, float) if shape is float else (shape,)
    return [] if isinstance(value, accepted) else [f"{path} must be {shape.__name__}, is {value!r}"]


if __name__ == "__main__":
    found = problems(Path(sys.argv[1]))
    print("\n".join(found) or "the demo's output is complete")
    sys.exit(1 if found else 0)
