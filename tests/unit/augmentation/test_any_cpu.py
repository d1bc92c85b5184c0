"""The same seed gives the same bytes whatever the CPU's vector units, and a read-only installation serves its cache."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = """
import sys
from flawsmith.common import kernel_cache
if sys.argv[1] == "plain":
    kernel_cache.BASELINE = kernel_cache.FALLBACK
import numpy as np
from tests.unit.augmentation.test_any_cpu import digest
print(*np.show_config("dicts")["SIMD Extensions"]["found"])
print(digest())
"""


def digest() -> str:
    """Of what every method makes of images of many shapes and kinds, with objects found and zones cut out."""
    from flawsmith.augmentation.augment import augment, method_named
    from flawsmith.augmentation.methods import METHODS
    from flawsmith.augmentation.sources import ImagePool

    hashed = hashlib.sha256()
    rng = np.random.default_rng(5)
    pictures = [rng.integers(0, 256, (70, 90, 3), dtype=np.uint8) for _ in range(3)]
    pool = ImagePool(["a", "b", "c"], pictures.__getitem__)
    for size in ((64, 64), (97, 51), (256, 200)):
        noise = rng.integers(60, 200, (*size, 3), dtype=np.uint8)
        noise[: size[0] // 5] //= 8  # a dark background for `object`
        for image in (noise, np.ascontiguousarray(noise[:, :, 1])):
            for name in sorted(METHODS):
                for seed in range(12):
                    values = {"foreground": "object"} if seed % 3 == 0 else {}
                    parameters = method_named(name).parameters.model_validate(values)
                    sources = {"textures": pool, "anomalies": pool} if seed % 2 else {}
                    made = augment(image, np.random.default_rng(seed), method=name, parameters=parameters, **sources)
                    hashed.update(made.image.tobytes() + made.mask.tobytes() + repr(made.drawn).encode())
    return hashed.hexdigest()


def run(mode: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, mode],
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True, text=True, timeout=200, cwd=root,
    )  # fmt: skip


AVX512 = {
    "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR",
    "OPENCV_CPU_DISABLE": "AVX512_SKX,AVX512_ICL",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL,-AVX512BW,-AVX512DQ,-AVX512CD",
}
AVX2 = {
    "NPY_DISABLE_CPU_FEATURES": AVX512["NPY_DISABLE_CPU_FEATURES"] + " AVX2 FMA3",
    "OPENCV_CPU_DISABLE": "AVX512_SKX,AVX512_ICL,AVX2,FMA3,FP16,SSE4_2",
    "GLIBC_TUNABLES": AVX512["GLIBC_TUNABLES"] + ",-AVX2,-FMA,-FMA4",
}


@pytest.mark.parametrize(("mode", "environment"), [("baseline", AVX512), ("plain", AVX2)], ids=["no AVX-512", "SSE2"])
def test_bytes_do_not_depend_on_vector_units(mode: str, environment: dict[str, str]) -> None:
    made = run(mode, environment)
    assert made.returncode == 0, made.stderr
    features, got = made.stdout.splitlines()
    assert "AVX512" not in features
    assert mode == "baseline" or "AVX2" not in features
    assert got == digest()


def test_a_read_only_installation_serves_the_cache_that_it_was_given(tmp_path: Path) -> None:
    """As in a container with a read-only root: nothing is written, nothing compiled again."""
    package = tmp_path / "site"
    source = Path(__file__).parents[3] / "services" / "flawsmith"
    packages = ("__init__.py", "augmentation/__init__.py", "common/__init__.py")
    for name in (*packages, "augmentation/kernels.py", "common/kernel_cache.py"):
        target = package / "flawsmith" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (source / name).exists():
            target.write_bytes((source / name).read_bytes())
    environment = {"PYTHONPATH": str(package), "HOME": str(tmp_path / "nowhere")}
    script = (
        "from flawsmith.augmentation import kernels\n"
        "dispatchers = [value for value in vars(kernels).values() if hasattr(value, 'stats')]\n"
        f"assert kernels.__file__.startswith({str(package)!r}), kernels.__file__\n"
        "print(sum(sum(d.stats.cache_hits.values()) for d in dispatchers), "
        "sum(sum(d.stats.cache_misses.values()) for d in dispatchers))\n"
    )

    def load(**extra: str) -> str:
        made = subprocess.run(
            [sys.executable, "-P", "-c", script], env={**os.environ, **environment, **extra},
            capture_output=True, text=True, timeout=200, cwd=tmp_path,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        return made.stdout.strip()

    hits, misses = map(int, load().split())
    assert hits == 0
    assert misses > 10
    cache = package / "flawsmith" / "augmentation" / "__pycache__"
    before = {path.name: path.stat().st_mtime_ns for path in cache.glob("*.nb*")}
    # A folder that takes no files, for root as well, who heeds no permissions.
    subprocess.run(["chattr", "+i", str(cache)], check=False, capture_output=True)
    try:
        assert load() == f"{misses} 0"
    finally:
        subprocess.run(["chattr", "-i", str(cache)], check=False, capture_output=True)
    assert {path.name: path.stat().st_mtime_ns for path in cache.glob("*.nb*")} == before
