"""Moments against numpy in float64, and laws of folding."""

import numpy as np
import pytest

from caffeinit.arithmetic.moments import Moments

SHAPES = [
    ((5, 3, 7, 11), 1),
    ((2, 4, 300, 301), 1),  # several blocks
    ((40, 6), 1),
    ((3, 5, 8), 2),  # channels last, as a matrix product leaves them
    ((4, 2, 3, 5, 6), 1),
]


def draw(shape, axis, seed=0, offset=3.0):
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.1, 10, [d if i == axis else 1 for i, d in enumerate(shape)])
    return ((rng.standard_normal(shape) + offset) * scale).astype(np.float32)


def exact(values, axis):
    others = tuple(i for i in range(values.ndim) if i != axis)
    values = values.astype(np.float64)
    return values.mean(axis=others), values.std(axis=others)


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_moments_are_those_of_float64(shape, axis):
    values = draw(shape, axis)
    moments = Moments(shape[axis])
    moments.update(values, axis)
    mean, std = exact(values, axis)
    # float32 sums of at most a block's positions: a few roundings of 6e-8.
    np.testing.assert_allclose(moments.mean, mean, rtol=2e-6)
    np.testing.assert_allclose(moments.std, std, rtol=2e-6)
    assert moments.max_abs == np.abs(values).max()
    assert moments.count == values.size // shape[axis]


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_the_cut_into_batches_moves_moments_by_rounding_only(shape, axis):
    values = draw(shape, axis)
    whole, pieces = Moments(shape[axis]), Moments(shape[axis])
    whole.update(values, axis)
    for piece in np.array_split(values, 2):
        pieces.update(piece, axis)
    np.testing.assert_allclose(pieces.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(pieces.std, whole.std, rtol=1e-6)
    assert pieces.count == whole.count


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (0, 3), (2, 3, 0)], ids=str)
def test_nothing_folds_in_as_nothing(shape):
    moments = Moments(3)
    moments.update(np.zeros(shape, np.float32))
    assert moments.count == 0
    assert not moments.std.any()


def test_a_mean_of_a_thousand_deviations_costs_no_digits():
    values = draw((20, 2, 64, 64), 1, offset=1000.0)
    moments = Moments(2)
    moments.update(values)
    # The values themselves are rounded to 6e-8 * 1000 deviations; a one-pass sum would be off by 2e-2.
    np.testing.assert_allclose(moments.std, exact(values, 1)[1], rtol=1e-5)


def test_scaled_moments_are_the_moments_of_scaled_values():
    values = draw((6, 3, 9, 9), 1)
    scale, shift = np.array([2.0, -0.5, 7.0]), np.array([0.1, 3.0, -2.0])
    moments, direct = Moments(3), Moments(3)
    moments.update(values)
    direct.update((values * scale[:, None, None] + shift[:, None, None]).astype(np.float32))
    predicted = moments.scaled(scale, shift)
    np.testing.assert_allclose(predicted.mean, direct.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(predicted.std, direct.std, rtol=1e-5)


def test_channels_that_do_not_vary_are_dead():
    values = draw((8, 4, 5, 5), 1)
    values[:, 1] = 7.0
    values[:, 2] = 0.0
    values[:, 3] = 1e4 + 1e-4 * np.sign(values[:, 3])  # below float32's spacing at 1e4
    moments = Moments(4)
    moments.update(values)
    assert moments.dead.tolist() == [False, True, True, True]


def test_the_largest_magnitude_of_zeros_has_no_sign():
    moments = Moments(1)
    moments.update(np.zeros((2, 1, 3, 3), np.float32))
    assert not np.signbit(moments.largest[0])


def test_a_small_but_varying_channel_is_alive():
    values = draw((8, 1, 5, 5), 1, offset=0.0) * np.float32(1e-12)
    moments = Moments(1)
    moments.update(values)
    assert not moments.dead.any()


def test_nan_is_not_lost():
    values = draw((4, 2, 6, 6), 1)
    values[2, 0, 3, 3] = np.nan
    moments = Moments(2)
    moments.update(values)
    assert np.isnan(moments.std[0])
    assert np.isnan(moments.max_abs)
    assert moments.dead[0]


def test_numbers_whose_squares_single_precision_cannot_hold():
    values = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32) * np.float32(1e25)
    moments = Moments(2)
    with np.errstate(over="ignore"):  # as all callers do
        moments.update(values)
    wide = values.astype(np.float64)
    np.testing.assert_allclose(moments.std, wide.std(axis=(0, 2)), rtol=1e-6)
    np.testing.assert_allclose(moments.mean, wide.mean(axis=(0, 2)), rtol=1e-6)


@pytest.mark.parametrize("size", [1e-20, 1e-23, 1e-26])
def test_numbers_whose_squares_are_too_small_for_single_precision(size):
    values = np.random.default_rng(0).standard_normal((3, 4, 200)).astype(np.float32)
    values[:, 0] *= size
    values[1, 1] *= size
    values[:, 2] = 0
    moments = Moments(4)
    moments.update(values)
    np.testing.assert_allclose(moments.std, values.astype(np.float64).std(axis=(0, 2)), rtol=1e-6)
    assert moments.dead.tolist() == [False, False, True, False]
