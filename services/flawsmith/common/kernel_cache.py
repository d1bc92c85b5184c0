"""Where compiled kernels lie, and for which instruction set they are compiled."""

from __future__ import annotations

import contextlib
from pathlib import Path

import llvmlite.binding
import numba
from numba.core import caching

BASELINE, FALLBACK = "x86-64-v3", "x86-64"
"""x86-64-v3 (AVX2) is what every server CPU of the last ten years has."""


class PackageCacheLocator(caching.InTreeCacheLocator):
    """Beside the source, as numba does, but also where that is read-only and was filled when it was installed.

    numba asks for a writable folder before it reads a cache; a container's root file system is none.
    """

    def ensure_cache_path(self) -> None:
        """Take a folder that is there and filled; otherwise it must be writable."""
        folder = Path(self.get_cache_path())
        with contextlib.suppress(OSError):
            if any(folder.glob(f"{Path(self._py_file).stem}.*.nbi")):
                return
        super().ensure_cache_path()


def configure() -> None:
    """Compile for the baseline whatever this CPU offers beyond it. Call before the first function is compiled."""
    features = llvmlite.binding.get_host_cpu_features()
    numba.config.CPU_NAME = BASELINE if features.get("avx2") and features.get("bmi2") else FALLBACK
    numba.config.CPU_FEATURES = ""
    # Where Intel's vector mathematics happen to be installed they would round otherwise than the C library.
    numba.config.DISABLE_INTEL_SVML = True
    # The second is numba's own, for a package that is installed read-only and was never warmed up.
    numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.{PackageCacheLocator.__name__},UserWideCacheLocator"
