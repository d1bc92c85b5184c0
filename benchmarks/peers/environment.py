"""A peer's own virtual environment, made once under build/ from pinned requirements."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

from flawsmith.common.child import COMPUTE_ENVIRONMENT

ROOT = Path(__file__).parents[2]
TORCH = "torch==2.13.0+cpu"
_TORCH_INDEX = "https://download.pytorch.org/whl/cpu"
# Twice quiet: errors only.
_INSTALL = ("-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check", "--no-deps")


def peer_python(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made when it is missing or its requirements changed.

    peer: `anomalib`; its requirements are `<peer>-requirements.txt` beside this file. Takes minutes the first time.
    Raises subprocess.CalledProcessError when an installation fails; its messages are on stderr.
    """
    requirements = Path(__file__).with_name(f"{peer}-requirements.txt")
    folder = ROOT / "build/peers" / peer
    python, ready = folder / "bin/python", folder / ".ready"
    wanted = hashlib.sha256(requirements.read_bytes() + TORCH.encode() + sys.version.encode()).hexdigest()
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"making the environment of {peer} in {folder}: torch first, then {requirements.name}", file=sys.stderr)
    venv.create(folder, clear=True, with_pip=True)
    # Torch apart, as in the Makefile: pip's hash mode is all or nothing, and an open index means CUDA packages.
    if subprocess.run([python, *_INSTALL, TORCH], stderr=subprocess.DEVNULL, check=False).returncode:
        subprocess.run([python, *_INSTALL, "--index-url", _TORCH_INDEX, TORCH], check=True)
    subprocess.run([python, *_INSTALL, "--require-hashes", "--requirement", requirements], check=True)
    ready.write_text(wanted)
    return python


def side_environment() -> dict[str, str]:
    """Environment variables of every side, ours and the peer's: numerical libraries keep to one thread, and malloc
    keeps what is freed, which is worth a fifth to the peer at 600 x 200 and next to nothing to us."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {**os.environ, **COMPUTE_ENVIRONMENT, **dict.fromkeys(names, "1")}
