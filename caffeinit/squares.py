"""Sums of squares of a unit's weights, or of their gradients, with a factor for every output channel.

Change rates are quotients of such sums (`rates.py`). The gradient of a matrix product's weight is never formed where few
rows go through it: for dW = dY^T X, the squares of column j sum up to x_j^T (dY dY^T) x_j, which needs N x N numbers in
place of O x I. Sums are float64: an explicit float32 sum over 16 million squares is off in the third digit.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

_BLOCK_ROWS = 256


class Squares(Protocol):
    """Squares Q[o, j] of one unit, summed over the kernel; output channel o reads the input channels of its group only."""

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return sum_o factors[o] * Q[o, j] for every input channel j, (I,) float64.

        Args:
            factors: (O,) of the output channels.
        """


class ArraySquares:
    """Squares of an array in the form (group, O/group, I/group, *kernel)."""

    def __init__(self, array: np.ndarray) -> None:
        self._shape = array.shape[:3]
        if array.ndim == 3 and array.size > 1 << 22:
            self._largest = max(float(np.abs(array).max()), np.finfo(np.float64).tiny)
            self._array: np.ndarray | None = array
        else:
            self._array = None
            flat = array.reshape(*self._shape, -1).astype(np.float64)
            self._squares = np.vecdot(flat, flat)

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        rows = factors.reshape(self._shape[:2])
        if self._array is None:
            return np.asarray(np.einsum("go,goj->gj", rows, self._squares).reshape(-1))
        total = np.zeros((self._shape[0], self._shape[2]))
        for start in range(0, self._shape[1], _BLOCK_ROWS):
            # Divided by the largest first: squares of small gradients would leave single precision.
            block = self._array[:, start : start + _BLOCK_ROWS] * np.float32(1 / self._largest)
            roots = np.sqrt(rows[:, start : start + _BLOCK_ROWS, None]).astype(np.float32)
            block *= roots
            total += np.square(block, out=block).sum(axis=1, dtype=np.float64)
        return total.reshape(-1) * self._largest**2


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
