"""Whitening of sampled patches: the one decomposition behind `patches`, `pca`, `zca` and `kmeans`.

Samples x (n, d) have mean m and covariance C = V diag(s) V^T. A patch has the whitened coordinates
D V^T (x - m) with D = 1 / sqrt(s + floor), and a direction c in whitened space is the filter V D c: its response to a
patch is c times the patch's whitened coordinates, up to a constant that the bias takes up.

The floor is scale-free, the larger of two. `regulariser` times the mean variance (over all d directions) keeps
directions that hardly vary in the data, the highest spatial frequencies, from being blown up to the size of the rest:
at 0.1, which is also what Coates & Ng add to patches of unit variance, k-means on photographs finds edges and blobs of
colour; at 0.01 half of its filters are noise. min(1, d / n) times the median of the variances above rounding is about
what sampling noise alone adds or takes: with n near d, small variances come out many times too small. With n below d,
dividing by the samples' own deviations would put all samples at equal distances, and each filter would know one
picture. The reference adds 1e-3 to the eigenvalues of the unnormalised scatter matrix, so there the input's unit
decides.

With fewer samples than dimensions the n x n Gram matrix is decomposed instead of the d x d covariance; where both are
beyond a few thousand, the whitening is fitted to some of the samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices

from .eigen import leading_eigenvectors
from .krylov import lanczos

# Variances below this fraction of the largest are float32 rounding: centring alone leaves 1e-7 of the mean's square.
RANK_TOLERANCE = 1e-6
# Samples whose deviation is below this fraction of their root mean square do not vary beyond float32 rounding.
CONSTANT_RATIO = 1e-5
# Beyond this order a decomposition takes several seconds of one core, and grows with the cube.
LARGEST_ORDER = 2500
# Up to this order products and decomposition in float64 are cheap, beyond it float32 halves the time.
FLOAT64_ORDER = 1024


@dataclass
class Whitening:
    """Centre, principal directions and regularised scales of a set of samples.

    Attributes:
        mean: (d,) float32.
        directions: (r, d) float32, orthonormal rows, largest variance first. r is 0 where nothing varies.
        variances: (r,) float64, of the samples along `directions`.
        floor: what is added to each variance before its root is divided by.
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    floor: float

    @property
    def rank(self) -> int:
        """Number of directions kept."""
        return len(self.variances)

    @property
    def scales(self) -> np.ndarray:
        """(r,) float32: what whitening multiplies the coordinate along each direction by."""
        return (1.0 / np.sqrt(self.variances + self.floor)).astype(np.float32)

    def whiten(self, samples: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Return the whitened coordinates of samples (n, d) as float32 (n, r)."""
        out = np.empty((len(samples), self.rank), np.float32)
        projection = np.ascontiguousarray((self.directions * self.scales[:, None]).T)

        def block(rows: slice) -> None:
            np.matmul(samples[rows] - self.mean, projection, out=out[rows])

        each(block, row_slices(len(samples)), threads)
        return out

    def filters(self, coordinates: np.ndarray, threads: int | None = None) -> np.ndarray:
        """Return the filters (k, d), float32, that look along `coordinates` (k, r) of the whitened space."""
        out = np.empty((len(coordinates), len(self.mean)), np.float32)

        def block(rows: slice) -> None:
            np.matmul(coordinates[rows].astype(np.float32, copy=False) * self.scales, self.directions, out=out[rows])

        each(block, row_slices(len(coordinates)), threads)
        return out


def fit_whitening(
    samples: np.ndarray, regulariser: float, leading: int | None = None, threads: int | None = None
) -> Whitening:
    """Decompose the covariance of samples.

    Args:
        samples: (n, d) float32, finite; n may be below d, and 0. Where n and d are beyond `LARGEST_ORDER`, so many of
            them, evenly spread, are used.
        regulariser: see the module's text.
        leading: keep at most so many directions, which may save most of the decomposition. The median is then not
            known, and the floor is the first term alone.
        threads: workers.
    """
    if min(samples.shape) > LARGEST_ORDER:
        samples = samples[np.linspace(0, len(samples) - 1, LARGEST_ORDER).astype(int)]
    num_samples, dimension = samples.shape
    if num_samples < 2:
        return _nothing(samples)
    mean = samples.mean(axis=0, dtype=np.float64).astype(np.float32)
    primal = num_samples > dimension
    matrix = _covariance(samples, mean, threads) if primal else _gram(samples, mean, threads)
    total = float(np.trace(matrix, dtype=np.float64))
    if total <= CONSTANT_RATIO**2 * _mean_square(samples):
        return _nothing(samples)
    variances, vectors = _leading_eigenvectors(matrix, leading, threads)
    floor = regulariser * total / dimension
    if leading is None:
        floor = max(floor, min(1.0, dimension / num_samples) * float(np.median(variances)))
    if not primal:
        vectors = _sample_directions(vectors, samples, mean, threads)
    return Whitening(mean, _fix_signs(vectors), variances, floor)


def _nothing(samples: np.ndarray) -> Whitening:
    """Return the whitening of samples that do not vary: no directions."""
    dimension = samples.shape[1]
    return Whitening(np.zeros(dimension, np.float32), np.zeros((0, dimension), np.float32), np.zeros(0), 1.0)


def _mean_square(samples: np.ndarray) -> float:
    """Mean of |x|^2 over the samples."""
    return float(np.mean(np.einsum("nd,nd->n", samples, samples), dtype=np.float64))


def _covariance(samples: np.ndarray, mean: np.ndarray, threads: int | None) -> np.ndarray:
    """Population covariance (d, d), summed in float64 over blocks of rows; products are float32 where d is large."""
    precise = np.float64 if samples.shape[1] <= FLOAT64_ORDER else np.float32

    def block(rows: slice) -> np.ndarray:
        centred = samples[rows].astype(precise) - mean
        return np.asarray(centred.T @ centred)

    total = np.zeros((samples.shape[1], samples.shape[1]))
    blocks = row_slices(len(samples), 2048)
    for start in range(0, len(blocks), 4):  # a few at a time: each is d x d
        for part in each(block, blocks[start : start + 4], threads):
            total += part
    total /= len(samples)
    return total.astype(precise, copy=False)


def _gram(samples: np.ndarray, mean: np.ndarray, threads: int | None) -> np.ndarray:
    """Inner products of the centred samples over n, (n, n), which has the covariance's eigenvalues."""
    precise = np.float64 if len(samples) <= FLOAT64_ORDER else np.float32
    centred = samples.astype(precise) - mean
    out = np.empty((len(samples), len(samples)), precise)

    def block(rows: slice) -> None:
        np.matmul(centred[rows], centred.T, out=out[rows])

    each(block, row_slices(len(samples), 512), threads)
    out /= len(samples)
    return out


def _sample_directions(vectors: np.ndarray, samples: np.ndarray, mean: np.ndarray, threads: int | None) -> np.ndarray:
    """Turn unit eigenvectors of the Gram matrix (r, n) into directions (r, d) of the covariance."""
    centred = samples - mean
    rows = np.empty((len(vectors), samples.shape[1]), np.float32)

    def block(part: slice) -> None:
        np.matmul(vectors[part], centred, out=rows[part])
        rows[part] /= np.linalg.norm(rows[part], axis=1, keepdims=True)

    each(block, row_slices(len(vectors), 512), threads)
    return rows


def _leading_eigenvectors(
    matrix: np.ndarray, leading: int | None, threads: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return variances (r,), largest first, and unit eigenvectors as rows (r, order), both above rounding."""
    order = len(matrix)
    # A quarter of the spectrum is where computing part of it starts to pay.
    if leading is not None and leading < order // 4:
        near = lanczos(matrix, leading, threads) if order > FLOAT64_ORDER else None
        values, rows = near or leading_eigenvectors(matrix, leading)
    else:
        values, vectors = np.linalg.eigh(matrix)
        rows = vectors.T
    values, rows = values[::-1][:leading], rows[::-1][:leading]
    kept = values > RANK_TOLERANCE * values[0]
    return values[kept].astype(np.float64), np.ascontiguousarray(rows[kept], dtype=np.float32)


def _fix_signs(rows: np.ndarray) -> np.ndarray:
    """Make the entry of largest magnitude positive: an eigenvector's sign is otherwise up to the library."""
    rows *= largest_signs(rows).astype(rows.dtype)[:, None]
    return rows


def largest_signs(rows: np.ndarray) -> np.ndarray:
    """Return the sign of the entry of largest magnitude of each row, (k,); 1 for rows of zeros."""
    largest = rows[np.arange(len(rows)), np.abs(rows).argmax(axis=1)]
    return np.where(largest < 0, -1, 1)
