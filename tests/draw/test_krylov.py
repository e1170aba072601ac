"""Block Lanczos: what it finds are leading directions as LAPACK finds them, and where it finds none it says so."""

import numpy as np
import pytest

from caffeinit.draw.eigen import leading_eigenvectors
from caffeinit.draw.krylov import TOLERANCE, lanczos

ORDER, COUNT = 600, 40


def with_spectrum(values, seed=0):
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((ORDER, ORDER)))[0]
    matrix = (turned * values) @ turned.T
    return ((matrix + matrix.T) / 2).astype(np.float32)


FALLING = 1 / np.arange(1, ORDER + 1) ** 1.5


def test_leading_vectors_are_orthogonal_and_hold_what_the_exact_ones_do():
    matrix = with_spectrum(FALLING)
    values, rows = lanczos(matrix, COUNT)
    exact = leading_eigenvectors(matrix.copy(), COUNT)[0]
    assert rows.shape == (COUNT, ORDER)
    np.testing.assert_allclose(rows @ rows.T, np.eye(COUNT), rtol=0, atol=3e-6)
    assert (np.diff(values) >= 0).all()
    assert values.sum() == pytest.approx(exact.sum(), rel=1e-3)
    held = rows @ matrix @ rows.T
    np.testing.assert_allclose(held, np.diag(values), rtol=0, atol=1e-5 * values[-1])
    assert (np.linalg.norm(rows @ matrix - values[:, None] * rows, axis=1) <= TOLERANCE * values + 1e-6).all()


def test_a_planted_span_is_found_to_rounding():
    matrix = with_spectrum(np.where(np.arange(ORDER) < COUNT, 5.0 + np.arange(ORDER), 0.01))
    rows, exact = lanczos(matrix, COUNT)[1], leading_eigenvectors(matrix.copy(), COUNT)[1]
    assert np.linalg.svd(rows @ exact.T, compute_uv=False).min() > 1 - 1e-5


@pytest.mark.parametrize("rank", [0, 1, COUNT - 1])
def test_missing_directions_are_not_made_up(rank):
    assert lanczos(with_spectrum(np.where(np.arange(ORDER) < rank, 1.0, 0.0)), COUNT) is None


def test_exactly_as_many_directions_are_found():
    values, _ = lanczos(with_spectrum(np.where(np.arange(ORDER) < COUNT, 1.0, 0.0)), COUNT)
    np.testing.assert_allclose(values, np.ones(COUNT), rtol=0, atol=1e-5)


def test_threads_do_not_show():
    matrix = with_spectrum(FALLING)
    one, three = (lanczos(matrix, COUNT, threads)[1] for threads in (1, 3))
    np.testing.assert_array_equal(one, three)
