import numpy as np
import pytest

from flawsmith.classification.answerable import (
    MAX_PIXELS,
    MOST_ENLARGED,
    Size,
    check_answerable,
    check_enlargement,
    enlargement,
)
from flawsmith.classification.preprocess import preprocess
from flawsmith.common.errors import FailedPreconditionError


@pytest.mark.parametrize("image", [(20, 30), (30, 20), (25, 400), (400, 25)])
def test_enlargement_is_that_of_a_pixel_in_the_middle(image: Size) -> None:
    target = (160, 200)
    pixels = np.zeros((*image, 3), np.uint8)
    pixels[image[0] // 2, image[1] // 2] = 255
    # Bilinear enlarging keeps a pixel's weight: it becomes as many times as bright, all in all, as it has more area.
    brighter = preprocess(pixels, *target).astype(float).sum() / pixels.sum()
    assert enlargement(image, target) ** 2 == pytest.approx(brighter, rel=0.03)


def test_a_product_that_would_be_enlarged_too_much_is_refused() -> None:
    target = (2048, 256)
    fitting = (2048 // MOST_ENLARGED, 256 // MOST_ENLARGED)
    check_enlargement([(10, 10), fitting], target)  # one that is answered is enough
    with pytest.raises(FailedPreconditionError) as error:
        check_enlargement([(10, 10), (fitting[0] - 1, fitting[1])], target)
    assert error.value.reason == "IMAGES_TOO_SMALL"
    for part in ("255 x 32", "2048 x 256", "8 times", "--height, --width"):
        assert part in error.value.message
    with pytest.raises(FailedPreconditionError) as error:
        check_answerable([(10, 10)], target)
    assert error.value.reason == "IMAGES_TOO_SMALL"


def test_a_product_whose_images_are_all_too_large_is_refused() -> None:
    largest = (4000, MAX_PIXELS // 4000)
    check_answerable([(8000, 8000), largest], (512, 512))
    with pytest.raises(FailedPreconditionError) as error:
        check_answerable([(8000, 8000), (4001, largest[1])], (512, 512))
    assert error.value.reason == "IMAGES_TOO_LARGE"
    for part in ("4001 x 8000", "32,000,000 pixels", "scale the product's images down"):
        assert part in error.value.message
