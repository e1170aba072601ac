"""Sums of squares of a unit's weights, or of their gradients, with a factor for every output channel.

Change rates are quotients of such sums (`rates.py`). The gradient of a matrix product's weight is never formed where few
rows go through it: for dW = dY^T X, the squares of column j sum up to x_j^T (dY dY^T) x_j, which needs N x N numbers in
place of O x I. Sums are float64: an explicit float32 sum over 16 million squares is off in the third digit.
Of nets whose weights are not to be in memory all at once, squares are not either: they lie in files (`mapped.py`).
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from caffeinit.mapped import ScratchArrays, release
from caffeinit.workers import each, row_slices

_BLOCK_ROWS = 32  # summed in single precision
_FILED_BYTES = 1 << 16  # of a product's rows; fewer are not worth a place in a file


class Squares(Protocol):
    """Squares Q[o, j] of one unit, summed over the kernel; output channel o reads the input channels of its group only."""

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return sum_o factors[o] * Q[o, j] for every input channel j, (I,) float64.

        Args:
            factors: (O,) of the output channels.
        """


class ArraySquares:
    """Squares of an array in the form (group, O/group, I/group, *kernel)."""

    def __init__(self, array: np.ndarray, threads: int = 1, most: int = 1 << 22) -> None:
        """Look at an array, which must stay as it is as long as sums are asked for.

        Args:
            threads: that share large arrays; 0 for one per core.
            most: numbers of an array without kernel whose squares are kept; those of larger ones are formed anew each time.
        """
        self._shape = array.shape[:3]
        self._threads = threads
        if array.ndim == 3 and array.size > most:
            self._largest = max(float(np.maximum(array.max(), -array.min())), float(np.finfo(np.float32).tiny))
            self._array: np.ndarray | None = array
            release(array)
        else:
            self._array = None
            flat = array.reshape(*self._shape, -1).astype(np.float64)
            self._squares = np.vecdot(flat, flat)
        self._plain: np.ndarray | None = None

    def take(self, other: ArraySquares) -> bool:
        """Add the squares of another array of this form, if those of both are kept; return whether they were."""
        if self._array is not None or other._array is not None:
            return False
        self._squares += other._squares
        self._plain = None
        return True

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
        release(self._array)
        return np.asarray(total) * (self._largest**2 * top)

    def _block(self, at: slice, roots: np.ndarray) -> np.ndarray:
        """Return the sums over some rows: few enough to be added up in single precision."""
        assert self._array is not None
        block = self._array[:, at] * roots[:, at, None]
        return np.asarray(np.square(block, out=block).sum(axis=1).reshape(-1), np.float64)


class FiledSquares:
    """Squares of arrays, each in the form (group, O/group, I/group, *kernel), added up in a file.

    What lies there are the roots of the sums: squares of small gradients would leave single precision.
    """

    def __init__(self, place: ScratchArrays, threads: int = 1) -> None:
        """Begin with nothing; `threads` share large arrays, 0 for one per core."""
        self._place = place
        self._threads = threads
        self._roots: np.ndarray | None = None
        self._sums: ArraySquares | None = None

    @classmethod
    def of(cls, array: np.ndarray, place: ScratchArrays, threads: int = 1) -> Squares:
        """Return the squares of one array; without a kernel it is looked at where it lies, and must stay as it is."""
        if array.size == math.prod(array.shape[:3]):
            return ArraySquares(array.reshape(array.shape[:3]), threads, most=0)
        squares = cls(place, threads)
        squares.add(array)
        return squares

    def add(self, array: np.ndarray) -> None:
        """Add the squares of an array."""
        roots = self._place.zeros(array.shape[:3]) if self._roots is None else self._roots
        kernel = tuple(range(3, array.ndim))

        def take(at: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                sums = np.square(array[:, at], dtype=np.float64).sum(axis=kernel)
                roots[:, at] = np.sqrt(np.square(roots[:, at], dtype=np.float64) + sums)

        each(take, row_slices(roots.shape[1], _BLOCK_ROWS), self._threads)
        for seen in (array, roots):
            release(seen)
        self._roots, self._sums = roots, None

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        assert self._roots is not None
        if self._sums is None:
            self._sums = ArraySquares(self._roots, self._threads, most=0)
        return self._sums.columns(factors)


class ProductSquares:
    """Squares of the gradient dY^T X of a matrix product's weight."""

    def __init__(self, diffs: np.ndarray, inputs: np.ndarray, place: ScratchArrays | None = None) -> None:
        """Keep the gradient of the product, (N, O), and its input, (N, I).

        Args:
            place: what is large is kept there and not in memory.
        """
        if place is not None and diffs.nbytes + inputs.nbytes > _FILED_BYTES:
            self._diffs, self._inputs = place.copy(diffs), place.copy(inputs)
        else:
            self._diffs, self._inputs = diffs.astype(np.float64), inputs.astype(np.float64)

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        diffs, inputs = (a.astype(np.float64, copy=False) for a in (self._diffs, self._inputs))
        for seen in (self._diffs, self._inputs):
            release(seen)
        gram = (diffs * factors) @ diffs.T
        return np.asarray(np.vecdot(inputs.T, (gram @ inputs).T)).clip(0)
