"""The demo's product, written in KolektorSDD2's layout."""

from pathlib import Path

import cv2
import numpy as np

from flawsmith.drawing import draw_sample, write_sample_dataset


def test_layout_is_that_of_kolektorsdd2(tmp_path: Path) -> None:
    write_sample_dataset(
        tmp_path, seed=5, train_normal=6, train_defect=3, test_normal=4, test_defect=2, height=64, width=48
    )
    for split, first, normals, defects in (("train", 10000, 6, 3), ("test", 20000, 4, 2)):
        expected = {
            f"{number}{suffix}.png" for number in range(first, first + normals + defects) for suffix in ("", "_GT")
        }
        assert {path.name for path in (tmp_path / split).iterdir()} == expected
        positives = 0
        for number in range(first, first + normals + defects):
            image = cv2.imread(str(tmp_path / split / f"{number}.png"), cv2.IMREAD_UNCHANGED)
            mask = cv2.imread(str(tmp_path / split / f"{number}_GT.png"), cv2.IMREAD_UNCHANGED)
            assert image.shape == (64, 48, 3)
            assert mask.shape == (64, 48)
            assert set(np.unique(mask)) <= {0, 255}
            positives += bool(mask.any())
        assert positives == defects


def test_same_seed_writes_the_same_pixels(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_sample_dataset(tmp_path / folder, seed=1, train_normal=2, train_defect=1, test_normal=1, test_defect=1)
    for path in (tmp_path / "a").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_defects_change_only_their_mask_and_are_visible() -> None:
    for seed in range(30):
        bad, mask = draw_sample(np.random.default_rng(seed), 160, 128, defective=True)
        good, empty = draw_sample(np.random.default_rng(seed), 160, 128, defective=False)
        assert not empty.any()
        difference = np.abs(bad.astype(int) - good).max(axis=-1)
        assert not difference[mask == 0].any()
        assert difference[mask == 255].max() >= 20
