"""The span of the leading eigenvectors of large symmetric matrices, by block Lanczos.

LAPACK reduces the whole matrix to three diagonals first, half of which is a product of the matrix with one vector after
another: 2.7 s of one core for the 384 leading ones of order 2304, against 1 s here, where nearly all is products of
matrices that the cores share. What is found is checked, so that it either is good enough or not used.
Method: Golub & Underwood, The block Lanczos method for computing eigenvalues, in Mathematical Software III, 1977, with the
basis kept orthogonal in full.
"""

from __future__ import annotations

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices

from .eigen import leading_eigenvectors

BLOCK = 32
# |A v - s v| / s of a vector that will do. Such a v lies among eigenvectors with eigenvalues that near to s.
TOLERANCE = 0.1
_ROWS = 512  # of a product, to each core


def lanczos(matrix: np.ndarray, count: int, threads: int | None = None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the largest eigenvalues in rising order, (count,), and unit vectors as rows, (count, order).

    The vectors are orthogonal to each other, also with respect to the matrix. None if a basis of three times as many does
    not suffice, as where the spectrum is flat, or if the matrix has fewer directions.

    Args:
        matrix: (order, order) symmetric, without negative eigenvalues.
        count: at most a quarter of the order.
        threads: workers.
    """
    order, kind = len(matrix), matrix.dtype
    first, most = (min(order, size) for size in (max(2 * count, 12 * BLOCK), max(3 * count, 16 * BLOCK)))
    basis, images = np.empty((order, most + BLOCK), kind), np.empty((order, most), kind)
    start = np.random.default_rng(0).standard_normal((order, BLOCK)).astype(kind)
    basis[:, :BLOCK] = np.linalg.qr(start)[0]
    size, checked = BLOCK, first
    while size <= most:
        last = slice(size - BLOCK, size)
        images[:, last] = rest = _product(matrix, np.ascontiguousarray(basis[:, last]), threads)
        if size >= checked:
            if found := _leading(basis[:, :size], images[:, :size], count, threads):
                return found
            checked = size + count // 2
        for _ in range(2):  # once leaves what rounding makes of it, which is all where nothing new is left
            rest = rest - _product(basis[:, :size], _product(basis[:, :size].T, rest, threads), threads)
            rest = np.linalg.qr(rest)[0]
        basis[:, size : size + BLOCK] = rest
        size += BLOCK
    return None


def _leading(
    basis: np.ndarray, images: np.ndarray, count: int, threads: int | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the leading pairs within the span of a basis (order, m), if they are good enough.

    Args:
        images: the matrix times the basis.
    """
    values, rows = leading_eigenvectors(_product(basis.T, images, threads), count)
    turns = np.ascontiguousarray(rows.T)
    vectors = _product(basis, turns, threads)
    missed = np.linalg.norm(_product(images, turns, threads) - vectors * values, axis=0)
    if not (missed < TOLERANCE * values).all():
        return None
    return values, np.ascontiguousarray(vectors.T)


def _product(left: np.ndarray, right: np.ndarray, threads: int | None) -> np.ndarray:
    out = np.empty((len(left), right.shape[1]), right.dtype)
    each(lambda rows: np.matmul(left[rows], right, out=out[rows]), row_slices(len(left), _ROWS), threads)
    return out
