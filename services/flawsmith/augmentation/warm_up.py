"""`python -m flawsmith.augmentation.warm_up`: compile the kernels, for an installation or an image build.

A process that serves imports this before it says that it is ready; with the cache filled that takes a fraction of a
second, and no request ever waits for a compiler.
"""

from __future__ import annotations

import importlib


def warm_up() -> None:
    """Load every compiled kernel, compiling what is in no cache yet (about ten seconds, once)."""
    # Signatures are explicit, so the import is all.
    importlib.import_module("flawsmith.augmentation.kernels")


if __name__ == "__main__":
    warm_up()
