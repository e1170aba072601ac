"""LAPACK's leading eigenvectors: those of numpy's whole decomposition, whoever else is at work."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from caffeinit.draw.eigen import leading_eigenvectors


def symmetric(order, kind, seed=0):
    samples = np.random.default_rng(seed).standard_normal((2 * order, order)) * np.linspace(1, 3, order)
    return (samples.T @ samples / len(samples)).astype(kind)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(("order", "count"), [(1, 1), (2, 1), (40, 7), (90, 90)])
def test_they_are_the_last_of_all(order, count, kind):
    matrix = symmetric(order, kind)
    values, rows = leading_eigenvectors(matrix.copy(), count)
    exact, all_vectors = np.linalg.eigh(matrix.astype(np.float64))
    accuracy = 200 * np.finfo(kind).eps
    np.testing.assert_allclose(values, exact[-count:], rtol=accuracy)
    np.testing.assert_allclose(rows @ rows.T, np.eye(count), atol=accuracy)
    np.testing.assert_allclose(np.abs(rows @ all_vectors[:, -count:]), np.eye(count), atol=2e3 * accuracy)


def test_several_at_once_are_the_same():
    matrices = [symmetric(60, np.float32, seed) for seed in range(8)]
    alone = [leading_eigenvectors(m.copy(), 10)[1] for m in matrices]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda m: leading_eigenvectors(m.copy(), 10)[1], matrices))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_finite_is_no_answer():
    matrix = symmetric(20, np.float32)
    matrix[3, 3] = np.nan
    with pytest.raises(ArithmeticError, match="order 20"):
        leading_eigenvectors(matrix, 4)
