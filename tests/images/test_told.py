"""What is told of how pictures are prepared."""

import numpy as np
import pytest

from caffeinit.images import Preprocessing, read_images

MEAN = np.full((3, 16, 16), 100.0)


@pytest.mark.parametrize(
    ("asked", "shape", "words"),
    [
        ({}, (1, 3, 8, 6), "8x6 by warp, bgr, no mean, scale 1"),
        (
            {"channels": "rgb", "scale": 0.017, "mean": (123.7, 116.3, 103.5)},
            (1, 3, 8, 6),
            "8x6 by warp, rgb, mean 123.7,116.3,103.5, scale 0.017",
        ),
        ({}, (1, 1, 8, 8), "8x8 by warp, gray, no mean, scale 1"),
        (
            {"mean": MEAN, "crop": 8},
            (1, 3, 8, 8),
            "8x8 by warp to 16x16 and the middle of it, 25 % of it, bgr, mean picture, scale 1",
        ),
        ({"crop": 8}, (1, 3, 8, 8), "8x8 from the middle, bgr, no mean, scale 1"),
        (
            {"resize": "short", "resize_to": (10, 12)},
            (1, 3, 8, 8),
            "8x8 by short to 10x12 and the middle of it, bgr, no mean, scale 1",
        ),
    ],
)
def test_preparation_is_told_beside_the_source(asked, shape, words):
    pictures = np.zeros((2, 20, 20, shape[1]), np.uint8)
    told = read_images({"data": shape}, pictures, preprocessing=Preprocessing(**asked)).describe()
    assert told.splitlines()[1].endswith(f" ({words})")


def test_numbers_that_are_fed_as_they_are_are_told_nothing_of():
    told = read_images({"data": (1, 3, 8, 6)}, np.zeros((2, 3, 8, 6), np.float32)).describe()
    assert told.splitlines()[1].endswith("array")
