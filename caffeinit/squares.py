"""Sums of squares of a unit's weights, or of their gradients, with a factor for every output channel.

Change rates are quotients of such sums (`rates.py`). The gradient of a matrix product's weight is never formed where few
rows go through it: for dW = dY^T X, the squares of column j sum up to x_j^T (dY dY^T) x_j, which needs N x N numbers in
place of O x I. Sums are float64: an explicit float32 sum over 16 million squares is off in the third digit.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from caffeinit.workers import each, row_slices

_BLOCK_ROWS = 32  # summed in single precision


class Squares(Protocol):
    """Squares Q[o, j] of one unit, summed over the kernel; output channel o reads the input channels of its group only."""

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return sum_o factors[o] * Q[o, j] for every input channel j, (I,) float64.

        Args:
            factors: (O,) of the output channels.
        """


class ArraySquares:
    """Squares of an array in the form (group, O/group, I/group, *kernel)."""

    def __init__(self, array: np.ndarray, threads: int = 1) -> None:
        """Look at an array, which must stay as it is as long as sums are asked for.

        Args:
            threads: that share large arrays; 0 for one per core.
        """
        self._shape = array.shape[:3]
        self._threads = threads
        if array.ndim == 3 and array.size > 1 << 22:
            self._largest = max(float(np.maximum(array.max(), -array.min())), float(np.finfo(np.float32).tiny))
            self._array: np.ndarray | None = array
        else:
            self._array = None
            flat = array.reshape(*self._shape, -1).astype(np.float64)
            self._squares = np.vecdot(flat, flat)
        self._plain: np.ndarray | None = None

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        if np.all(factors == factors[0]):
            if self._plain is None:
                self._plain = self._weighted(np.ones_like(factors))
            return np.asarray(self._plain * factors[0])
        return self._weighted(factors)

    def _weighted(self, factors: np.ndarray) -> np.ndarray:
        rows = factors.reshape(self._shape[:2])
        if self._array is None:
            return np.asarray(np.einsum("go,goj->gj", rows, self._squares).reshape(-1))
        # Divided by the largest first: squares of small gradients would leave single precision.
        top = max(float(rows.max()), float(np.finfo(np.float32).tiny))
        roots = (np.sqrt(rows / top) / self._largest).astype(np.float32)
        cuts = row_slices(self._shape[1], _BLOCK_ROWS)
        total = sum(each(lambda at: self._block(at, roots), cuts, self._threads))
        return np.asarray(total) * (self._largest**2 * top)

    def _block(self, at: slice, roots: np.ndarray) -> np.ndarray:
        """Return the sums over some rows: few enough to be added up in single precision."""
        assert self._array is not None
        block = self._array[:, at] * roots[:, at, None]
        return np.asarray(np.square(block, out=block).sum(axis=1).reshape(-1), np.float64)


class ProductSquares:
    """Squares of the gradient dY^T X of a matrix product's weight."""

    def __init__(self, diffs: np.ndarray, inputs: np.ndarray) -> None:
        """Keep the gradient of the product, (N, O), and its input, (N, I)."""
        self._diffs = diffs.astype(np.float64)
        self._inputs = inputs.astype(np.float64)

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        gram = (self._diffs * factors) @ self._diffs.T
        return np.asarray(np.vecdot(self._inputs.T, (gram @ self._inputs).T)).clip(0)
