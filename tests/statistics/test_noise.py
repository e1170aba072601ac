"""The noise on a net's heads: covariance 1, and what is summed over pictures comes out as expected."""

import numpy as np
import pytest

from caffeinit.statistics.noise import PictureNoise, draw_signs


@pytest.mark.parametrize("shape", [(1, 1), (1, 3), (2, 5), (1, 2, 3, 3), (1, 40, 40)])
def test_every_number_is_a_sign(shape):
    drawn = PictureNoise({"head": shape}, np.random.default_rng(0)).draw(7)["head"]
    assert drawn.shape == (7 * shape[0], *shape[1:])
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(np.abs(drawn), 1)


@pytest.mark.parametrize(("sizes", "pictures"), [((1,), 1), ((2,), 2), ((5, 3), 8), ((10,), 16)])
def test_over_a_block_of_pictures_the_covariance_is_one(sizes, pictures):
    shapes = {str(at): (1, size) for at, size in enumerate(sizes)}
    noise = PictureNoise(shapes, np.random.default_rng(0))
    for _ in range(3):
        rows = np.concatenate(list(noise.draw(pictures).values()), axis=1)
        np.testing.assert_array_equal(rows.T @ rows, pictures * np.eye(sum(sizes)))


@pytest.mark.parametrize("shape", [(1, 3), (1, 1500)])
def test_over_seeds_a_picture_s_covariance_is_one(shape):
    drawn = [PictureNoise({"a": shape}, np.random.default_rng(seed)).draw(2)["a"][1] for seed in range(4000)]
    found = np.stack(drawn)[:, :3].T @ np.stack(drawn)[:, :3] / 4000
    np.testing.assert_allclose(found, np.eye(3), atol=5 / np.sqrt(4000))


@pytest.mark.parametrize("shape", [(1, 6), (1, 1500)])
def test_the_cut_into_batches_does_not_show(shape):
    found = []
    for cut in ([11], [4, 7], [1] * 11):
        noise = PictureNoise({"a": shape}, np.random.default_rng(3))
        found.append(np.concatenate([noise.draw(count)["a"] for count in cut]))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_without_heads_there_is_no_noise():
    assert PictureNoise({}, np.random.default_rng(0)).draw(4) == {}


def test_signs_are_as_likely_as_each_other():
    assert abs(draw_signs(np.random.default_rng(0), (10000,)).mean()) < 5 / np.sqrt(10000)
