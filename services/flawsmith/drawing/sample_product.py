"""The demo's own product: a brushed steel plate with a milled edge and a drilled hole, good and defective.

Same fixture, same camera: only the light, the brushing, the position by a pixel or two and the defect change.
"""

from pathlib import Path

import cv2
import numpy as np

from flawsmith.drawing.defects import draw_defect, random_defect
from flawsmith.drawing.noise import FloatArray, as_float, coordinates, smooth, streaks, white
from flawsmith.drawing.scene import ByteArray, to_bytes

_DEFECTS = ("scratch", "scratch", "pit", "crack", "stain")
_STEEL = (0.56, 0.57, 0.585)


def draw_plate(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """A good plate, RGB float32 in [0, 1], height x width x 3."""
    y, x = coordinates(height, width)
    fine = streaks(rng, height, width, 90, 1.3, np.pi / 2)
    broad = streaks(rng, height, width, 300, 8, np.pi / 2)
    slope = rng.normal(0, 0.03) * (x / width - 0.5) + rng.normal(0, 0.03) * (y / height - 0.5)
    shine = 0.10 * np.exp(-0.5 * ((x / width - 0.5 - rng.normal(0, 0.05)) / 0.28) ** 2)
    grain = 0.012 * smooth(rng, height, width, 1.4, 1.4)
    level = 1 + rng.normal(0, 0.02) + 0.05 * fine + 0.02 * broad + slope + shine + grain
    image = as_float(level)[..., None] * np.float32(_STEEL)

    side = min(height, width)
    jitter = rng.normal(0, 0.4, 3)
    # The milled edge on the left: a bright chamfer with a dark line where the face begins.
    edge = 0.07 * side + jitter[0]
    chamfer = np.clip(edge - x, 0, 1)[..., None]
    image = image * (1 + 0.18 * chamfer)
    image = image * (1 - 0.35 * np.exp(-0.5 * ((x - edge) / 0.8) ** 2))[..., None]
    # A drilled hole near the top right corner, with a countersink that catches the light on one side.
    dx, dy = x - (width - 0.17 * side + jitter[1]), y - (0.17 * side + jitter[2])
    distance = np.hypot(dx, dy) / (0.07 * side)
    ring = np.exp(-0.5 * ((distance - 1.15) / 0.14) ** 2) * (0.35 * (dx - dy) / (np.abs(dx) + np.abs(dy) + 1e-3))
    bore = np.clip((1 - distance) * 0.07 * side + 0.5, 0, 1)[..., None]
    image = (image * (1 + ring[..., None])) * (1 - 0.82 * bore)

    image = as_float(cv2.GaussianBlur(as_float(image), (3, 3), 0.55, borderType=cv2.BORDER_REFLECT))
    image += np.float32(0.008) * white(rng, height, width)[..., None]
    return as_float(np.clip(image, 0, 1))


def draw_sample(rng: np.random.Generator, height: int, width: int, *, defective: bool) -> tuple[ByteArray, ByteArray]:
    """One plate: image (uint8, height x width x 3, RGB) and mask (uint8, height x width, 0 or 255)."""
    plate_rng, defect_rng = (np.random.default_rng(seed) for seed in rng.integers(0, 2**63, 2))
    image = draw_plate(plate_rng, height, width)
    mask = np.zeros((height, width), dtype=np.bool_)
    if defective:
        kind = str(defect_rng.choice(_DEFECTS))
        defect = random_defect(defect_rng, kind)
        # Visible to a person, but not glaring: classifiers that only look for black pixels should fail.
        painted, mask = draw_defect(image, defect, defect_rng)
        keep = np.float32(defect_rng.uniform(0.45, 0.85))
        image = as_float(np.where(mask[..., None], image + keep * (painted - image), image))
    return to_bytes(image), mask.astype(np.uint8) * np.uint8(255)


def write_sample_dataset(
    folder: Path,
    *,
    seed: int = 0,
    train_normal: int = 120,
    train_defect: int = 24,
    test_normal: int = 60,
    test_defect: int = 20,
    height: int = 160,
    width: int = 128,
) -> None:
    """Writes the product in KolektorSDD2's layout: train/10000.png with train/10000_GT.png, test/20000.png and so on.

    Masks are 8-bit, 0 or 255; an all-zero mask marks a normal. Normals and defects are shuffled. Existing files
    of the same names are overwritten; the same arguments write the same pixels.
    """
    rng = np.random.default_rng(seed)
    for split, first, normals, defects in (
        ("train", 10000, train_normal, train_defect),
        ("test", 20000, test_normal, test_defect),
    ):
        target = Path(folder) / split
        target.mkdir(parents=True, exist_ok=True)
        labels = np.array([False] * normals + [True] * defects)
        rng.shuffle(labels)
        for offset, defective in enumerate(labels):
            image, mask = draw_sample(rng, height, width, defective=bool(defective))
            _write_png(target / f"{first + offset}.png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
            _write_png(target / f"{first + offset}_GT.png", mask)


def _write_png(path: Path, image: cv2.typing.MatLike) -> None:
    # cv2.imwrite reports failure only by its return value.
    if not cv2.imwrite(str(path), image):
        raise OSError(f"cannot write {path}")
