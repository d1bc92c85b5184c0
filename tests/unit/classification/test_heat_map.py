import io
import math

import numpy as np
import pytest
from PIL import Image

from flawsmith.classification.heat_map import draw_heat_map


def pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "L"
        return np.asarray(picture)


def test_the_strongest_evidence_is_white_and_lies_where_its_cell_does() -> None:
    evidence = np.full((4, 3), -2.0, np.float32)
    evidence[3, 0] = 5.0
    evidence[0, 2] = 2.5
    drawn = draw_heat_map(evidence, 80, 30, "grad-cam")
    found = pixels(drawn.png)
    assert found.shape == (80, 30)
    assert (drawn.peak, drawn.method) == (5.0, "grad-cam")
    assert np.unravel_index(found.argmax(), found.shape)[0] >= 60
    assert found[60:, :10].max() == 255
    assert found[:20, 20:].max() == 128
    assert found[30, 5] == 0  # what speaks against a defect is left out


def test_without_evidence_it_is_black() -> None:
    drawn = draw_heat_map(np.full((2, 2), -1.0, np.float32), 8, 8, "segmentation")
    assert drawn.peak == 0.0
    assert not pixels(drawn.png).any()


@pytest.mark.parametrize(("height", "width"), [(4096, 4096), (4000, 300), (1, 300_000)])
def test_a_batch_of_the_largest_maps_fits_one_answer(height: int, width: int) -> None:
    evidence = np.random.default_rng(0).normal(size=(max(1, height // 8), max(1, width // 8))).astype(np.float32)
    drawn = draw_heat_map(evidence, height, width, "segmentation")
    rows, columns = pixels(drawn.png).shape
    halvings = round(math.log2(max(height / rows, width / columns)))
    assert (rows, columns) == (max(1, height >> halvings), max(1, width >> halvings))
    assert 64 * len(drawn.png) < 4 * 2**20 - 64 * 2**10  # a gRPC client's default, less the other fields
