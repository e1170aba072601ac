"""Sums of squares of a unit's weights, or of their gradients, with a factor for every output channel.

Change rates are quotients of such sums (`statistics/rates.py`). The gradient of a matrix product's weight is never formed
where few rows go through it: for dW = dY^T X, the squares of column j sum up to x_j^T (dY dY^T) x_j, which needs N x N
numbers in place of O x I; where each picture's gradient is squared by itself, only products of rows of one picture count.
Sums are float64: an explicit float32 sum over 16 million squares is off in the third digit.
Of nets whose weights are not to be in memory all at once, squares are not either: they lie in files (`storage/mapped.py`).
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices
from caffeinit.graph import Shape
from caffeinit.storage.mapped import ScratchArrays, release

_BLOCK_ROWS = 32  # summed in single precision
# Sums of squares between these are far from the ends of single precision, and what underflows does not count in them.
_LEAST, _MOST = 1e-20, 1e30
_FILED_BYTES = 1 << 16  # of a product's rows; fewer are not worth a place in a file


class Squares(Protocol):
    """Squares Q[o, j] of one unit, summed over the kernel; output channel o reads the input channels of its group only."""

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return sum_o factors[o] * Q[o, j] for every input channel j, (I,) float64.

        Args:
            factors: (O,) of the output channels.
        """


class KeptSquares:
    """Squares summed over the kernel, in memory."""

    def __init__(self, sums: np.ndarray) -> None:
        """Take the sums, (group, O/group, I/group) float64."""
        self.sums = sums
        self._plain: np.ndarray | None = None

    def take(self, other: KeptSquares) -> None:
        """Add others of this form."""
        self.sums += other.sums
        self._plain = None

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        if np.all(factors == factors[0]):
            if self._plain is None:
                self._plain = self.sums.sum(axis=1).reshape(-1)
            return np.asarray(self._plain * factors[0])
        rows = factors.reshape(self.sums.shape[:2])
        return np.asarray(np.einsum("go,goj->gj", rows, self.sums).reshape(-1))


class PictureSquares(KeptSquares):
    """The squares of gradients of single pictures, added up."""

    def add(self, gradient: np.ndarray) -> None:
        """Add the squares of one picture's gradient, (group, O/group, I/group, *kernel) float32."""
        flat = np.ascontiguousarray(gradient).reshape(-1)
        scale = 1.0
        if not _LEAST < float(np.dot(flat, flat)) < _MOST:
            largest = float(np.maximum(flat.max(initial=0), -flat.min(initial=0)))
            scale = 2.0 ** -np.frexp(largest)[1] if 0 < largest < math.inf else 1.0
        rows = (flat * np.float32(scale) if scale != 1 else flat).reshape(self.sums.size, -1)
        found = np.einsum("nk,nk->n", rows, rows).reshape(self.sums.shape)
        self.sums += found / scale**2 if scale != 1 else found


def array_squares(array: np.ndarray, threads: int = 1, most: int = 1 << 20) -> Squares:
    """Return the squares of an array (group, O/group, I/group, *kernel).

    Args:
        array: has to stay as it is as long as sums are asked for.
        threads: that share large arrays; 0 for one per core.
        most: numbers of an array without kernel whose squares are kept; those of larger ones are formed anew each time.
    """
    if array.ndim == 3 and array.size > most:
        return ArraySquares(array, threads)
    squares = PictureSquares(np.zeros(array.shape[:3]))
    squares.add(array)
    return squares


class ArraySquares:
    """Squares of an array (group, O/group, I/group), formed anew for each sum."""

    def __init__(self, array: np.ndarray, threads: int = 1) -> None:
        """Look at an array; see `array_squares`."""
        self._array = array
        self._threads = threads
        self._largest = 1.0  # what numbers are divided by before they are squared
        self._plain: np.ndarray | None = None

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        if self._plain is None:
            self._plain = self._first()
        if np.all(factors == factors[0]):
            return np.asarray(self._plain * factors[0])
        return self._weighted(factors)

    def _first(self) -> np.ndarray:
        """Return the plain sums, and see whether numbers have to be divided before they are squared."""
        with np.errstate(over="ignore", invalid="ignore"):
            found = self._sum(None)
        if _LEAST < float(found.sum()) < _MOST:
            return found
        largest = max(float(self._array.max()), -float(self._array.min()), float(np.finfo(np.float32).tiny))
        self._largest = largest
        return self._weighted(np.ones(math.prod(self._array.shape[:2])))

    def _weighted(self, factors: np.ndarray) -> np.ndarray:
        rows = factors.reshape(self._array.shape[:2])
        # Divided by the largest first: squares of small gradients would leave single precision.
        top = max(float(rows.max()), float(np.finfo(np.float32).tiny))
        roots = (np.sqrt(rows / top) / self._largest).astype(np.float32)
        return self._sum(roots) * (self._largest**2 * top)

    def _sum(self, roots: np.ndarray | None) -> np.ndarray:
        cuts = row_slices(self._array.shape[1], _BLOCK_ROWS)
        total = sum(each(lambda at: self._block(at, roots), cuts, self._threads))
        release(self._array)
        return np.asarray(total)

    def _block(self, at: slice, roots: np.ndarray | None) -> np.ndarray:
        """Return the sums over some rows: few enough to be added up in single precision."""
        block = self._array[:, at] if roots is None else self._array[:, at] * roots[:, at, None]
        return np.asarray(np.einsum("goj,goj->gj", block, block).reshape(-1), np.float64)


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
            return ArraySquares(array.reshape(array.shape[:3]), threads)
        squares = cls(place, threads)
        squares.add(array)
        return squares

    def add(self, array: np.ndarray) -> None:
        """Add the squares of an array."""
        kernel = tuple(range(3, array.ndim))
        self._add(array.shape[:3], lambda at: np.square(array[:, at], dtype=np.float64).sum(axis=kernel))
        release(array)

    def add_sums(self, sums: np.ndarray) -> None:
        """Add squares that are summed over the kernel, (group, O/group, I/group)."""
        self._add(sums.shape, lambda at: sums[:, at])

    def _add(self, shape: Shape, squares: Callable[[slice], np.ndarray]) -> None:
        roots = self._place.zeros(shape) if self._roots is None else self._roots

        def take(at: slice) -> None:
            with np.errstate(over="ignore", invalid="ignore"):
                roots[:, at] = np.sqrt(np.square(roots[:, at], dtype=np.float64) + squares(at))

        each(take, row_slices(roots.shape[1], _BLOCK_ROWS), self._threads)
        release(roots)
        self._roots, self._sums = roots, None

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        assert self._roots is not None
        if self._sums is None:
            self._sums = ArraySquares(self._roots, self._threads)
        return self._sums.columns(factors)


class ProductSquares:
    """Squares of the gradients dY^T X of a matrix product's weight, each picture's by itself."""

    def __init__(
        self, diffs: np.ndarray, inputs: np.ndarray, pictures: np.ndarray, place: ScratchArrays | None = None
    ) -> None:
        """Keep the gradient of the product, (N, O), and its input, (N, I).

        Args:
            pictures: (N,) which picture a row is of; the gradient of a picture is that of all its rows.
            place: what is large is kept there and not in memory.
        """
        self._same = pictures[:, None] == pictures
        if place is not None and diffs.nbytes + inputs.nbytes > _FILED_BYTES:
            self._diffs, self._inputs = place.copy(diffs), place.copy(inputs)
        else:
            self._diffs, self._inputs = diffs.astype(np.float64), inputs.astype(np.float64)

    def columns(self, factors: np.ndarray) -> np.ndarray:
        """Return the sums for every input channel."""
        diffs, inputs = (a.astype(np.float64, copy=False) for a in (self._diffs, self._inputs))
        for seen in (self._diffs, self._inputs):
            release(seen)
        gram = np.where(self._same, (diffs * factors) @ diffs.T, 0)
        return np.asarray(np.vecdot(inputs.T, (gram @ inputs).T)).clip(0)


class SquaresInOrder:
    """Squares of units that several threads add up, a piece of pictures each, in the order of the pieces.

    Of each unit one piece's squares are there beside the sum, and not a whole net's, and the sum does not depend on which
    thread is the first.

    Attributes:
        parts: unit's key -> squares that add up to its sum.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        """Begin with nothing."""
        self.parts: dict[str, list[Squares]] = {key: [] for key in keys}
        self._turns = dict.fromkeys(self.parts, 0)  # unit's key -> the piece that adds next
        self._changed = threading.Condition()
        self._is_broken = False

    @contextmanager
    def turn(self, number: int) -> Iterator[Callable[[str, Squares], None]]:
        """Give what adds the squares of piece `number`, of every unit once; pieces have to begin in order."""
        try:
            yield partial(self._add, number)
        except BaseException:
            with self._changed:
                self._is_broken = True
                self._changed.notify_all()
            raise

    def _add(self, number: int, key: str, squares: Squares) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turns[key] == number or self._is_broken)
        if self._is_broken:  # an earlier piece has ended in an error, which is what counts
            return
        parts = self.parts[key]
        last = parts[-1] if parts else None
        if isinstance(last, KeptSquares) and isinstance(squares, KeptSquares):
            last.take(squares)
        else:
            parts.append(squares)
        with self._changed:
            self._turns[key] += 1
            self._changed.notify_all()
