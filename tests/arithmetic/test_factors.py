"""Factors on arrays: each number is rounded once, whatever the layout and the threads."""

import numpy as np
import pytest

from caffeinit.arithmetic.factors import copied, fits, is_finite, is_zero, multiply, shortened

# Shape, axes that the factors vary along, and the order of the axes in memory.
CASES = [
    ((3, 70, 5000), (0, 1), (0, 1, 2)),
    ((1, 5000, 70), (1,), (0, 2, 1)),
    ((7, 3, 5, 5), (0, 1), (3, 1, 0, 2)),
    ((9,), (0,), (0,)),
    ((), (), ()),
]


@pytest.mark.parametrize(("shape", "axes", "order"), CASES, ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_products_are_rounded_once(
    shape: tuple[int, ...], axes: tuple[int, ...], order: tuple[int, ...], threads: int
) -> None:
    rng = np.random.default_rng(0)
    stored = rng.standard_normal([shape[a] for a in order], np.float32)
    array = stored.transpose(np.argsort(order))
    factors = [np.exp(rng.standard_normal([s if a in axes else 1 for a, s in enumerate(shape)])) for _ in range(2)]
    expected = (array.astype(np.float64) * factors[0] * factors[1]).astype(np.float32)
    np.testing.assert_array_equal(copied(array, threads), array)
    assert fits(array, *factors, threads=threads)
    assert multiply(array, *factors, threads=threads)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("factors", [[np.full((1, 1), 1e30)], [np.array([[1.0], [1e30]])], [np.ones((1, 1))]], ids=str)
def test_numbers_that_are_not_finite_are_told(factors: list[np.ndarray]) -> None:
    array = np.full((2, 3), 1e20 if factors[0].max() > 1 else np.nan, np.float32)
    before = array.copy()
    assert not fits(array, *factors)
    np.testing.assert_array_equal(array, before)
    assert not multiply(array, *factors)


@pytest.mark.parametrize("shape", [(), (5,), (70, 5000), (3, 400, 300), (0, 3)], ids=str)
def test_one_number_that_is_not_finite_is_found(shape: tuple[int, ...]) -> None:
    array = np.zeros(shape, np.float32)
    assert is_finite(array)
    for at, bad in ((-1, np.nan), (array.size // 2, -np.inf)):
        if array.size:
            array.reshape(-1)[at] = bad
            assert not is_finite(array)
            array.reshape(-1)[at] = 1


def test_large_factors_that_meet_small_numbers_fit() -> None:
    array = np.array([[1e-10, 1e10]], np.float32)
    factors = [np.array([[1e38, 1.0]]), np.array([[1.0, 1e20]])]
    assert fits(array, *factors)
    assert multiply(array, *factors)


@pytest.mark.parametrize("threads", [1, 3])
def test_factors_of_single_precision_are_taken_as_they_are(threads: int) -> None:
    rng = np.random.default_rng(0)
    array = rng.standard_normal((300, 2000), np.float32)
    factors = shortened(np.exp(rng.standard_normal((300, 1))))
    assert factors.dtype == np.float32
    expected = (array.astype(np.float64) * factors.astype(np.float64)).astype(np.float32)
    assert multiply(array, factors, threads=threads)
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("size", [1e-42, 1e-320, 1e39, np.inf])
def test_factors_without_room_in_single_precision_stay_as_they_are(size: float) -> None:
    factors = np.array([1.0, size])
    assert shortened(factors) is factors


@pytest.mark.parametrize("shape", [(), (1,), (3, 5), (700, 400)])
def test_a_single_number_that_is_not_zero_is_found(shape: tuple[int, ...]) -> None:
    assert is_zero(np.zeros((0, 3), np.float32))
    assert is_zero(np.zeros(shape, np.float32))
    size = int(np.prod(shape))
    for place in {0, size // 2, size - 1}:
        array = np.zeros(shape, np.float32)
        array[np.unravel_index(place, shape)] = np.nan
        assert not is_zero(array)
