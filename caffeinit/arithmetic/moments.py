"""Streaming per-channel moments.

Batches are folded in one at a time; no activation outlives its batch. An image's channel is summed in float32 while it
lies in the cache: the mean first, then squared deviations; images and batches are merged in float64. E[x^2] - m^2 in
float32 would be percents off where the mean is a thousand deviations, and is taken only where it is at most two.

An activation is (N, C, ...) or (N, C), channels on `axis`; moments are (C,), taken over all other axes. Another cut
into batches changes the result by rounding only.
Method: pairwise update of Chan, Golub & LeVeque, The American Statistician 37(3), 1983.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, Self

import numpy as np

from caffeinit.arithmetic.buffers import ThreadMemory

# A channel whose deviation is below this fraction of its mean cannot be given another to a thousandth: float32 keeps
# 6e-8 of the mean. Well below, it carries rounding noise only, which normalising would blow up to unit size.
DEAD_RATIO = 1e-4
SMALLEST_STD = 1e-30
# A difference of sums of squares is taken where the mean's part is at most so many times it: two bits are lost then.
CANCELLED = 4.0
BLOCK_ELEMENTS = 1 << 18  # 1 MB of float32: a block stays in the cache for the few passes over it
# Below both, squared deviations may have lost digits, or all, for single precision holds nothing smaller than 1e-45.
LOST_SQUARES, LOST_MEAN = 1e-34, 1e-15
SHORT = 128  # rows of fewer numbers are summed faster by einsum than by one dot product each

_memory = ThreadMemory()


@dataclass(frozen=True)
class PictureMoments:
    """What is left of an activation: moments of each channel of each picture.

    Attributes:
        means, squares: (n, C); float32 means, and sums of squared deviations from them.
        lowest, highest: (n, C), or (1, C) of all pictures: least and largest values; NaN where these were not looked at.
        positions: values in each channel of each picture.
    """

    means: np.ndarray
    squares: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray
    positions: int

    @classmethod
    def of(cls, size: int, means: np.ndarray, squares: np.ndarray, *extremes: np.ndarray) -> Self:
        """Return the moments of `size` values; the arrays may have axes of size 1 besides.

        Args:
            extremes: least and largest values, or nothing where these were not looked at.
        """
        rows = (means.shape[0], means.shape[1])
        means, squares = means.reshape(rows), squares.reshape(rows)
        lowest, highest = (a.reshape(rows) for a in extremes) if extremes else (np.full((1, rows[1]), np.nan),) * 2
        return cls(means, squares, lowest, highest, size // max(means.size, 1))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the moments of pictures that were looked at in parts."""
        if len(parts) == 1:
            return parts[0]
        means, squares, lowest, highest = (
            np.concatenate([getattr(p, name) for p in parts]) for name in ("means", "squares", "lowest", "highest")
        )
        return cls(means, squares, lowest, highest, parts[0].positions)

    @property
    def are_lost(self) -> bool:
        """Whether single precision may have held too little of the squares: of numbers above 1e19, or below 1e-19."""
        return not np.isfinite(self.squares).all() or bool(_lost(self.means, self.squares).any())

    def merged(self) -> tuple[int, np.ndarray, np.ndarray]:
        """Return count, means and squared deviations, (C,) float64, of all pictures together."""
        count = len(self.means) * self.positions
        exact = self.means.astype(np.float64)
        mean = exact.mean(axis=0) if count else np.zeros(exact.shape[1])
        squares = self.squares.sum(axis=0, dtype=np.float64) + self.positions * ((exact - mean) ** 2).sum(axis=0)
        return count, mean, squares

    def extremes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return least and largest values, (C,) float64, of all pictures together."""
        lowest = self.lowest.min(axis=0, initial=math.inf).astype(np.float64)
        return lowest, self.highest.max(axis=0, initial=-math.inf).astype(np.float64)


class Reduced(Protocol):
    """An activation that lies out of reach, on a device."""

    def moments(self, axis: int) -> Sequence[PictureMoments] | None:
        """Return the moments of its channels on `axis`; None if it has to be brought here for that."""

    def __array__(self) -> np.ndarray: ...


class Moments:
    """Count, mean and deviation per channel of everything folded in so far.

    Attributes:
        count: values per channel.
        mean: (C,) float64.
        squares: (C,) float64, sums of squared deviations from the mean.
        lowest, highest: (C,) float64, least and largest values; NaN where they were not looked at.
        parts: what was pooled to make this, such as the outputs of each use of one weight; empty where nothing was.
    """

    def __init__(self, num_channels: int) -> None:
        self.parts: tuple[Moments, ...] = ()
        self.count = 0
        self.mean = np.zeros(num_channels)
        self.squares = np.zeros(num_channels)
        self.lowest = np.full(num_channels, math.inf)
        self.highest = np.full(num_channels, -math.inf)

    @classmethod
    def pooled(cls, parts: Sequence[Moments]) -> Moments:
        """Return the moments of all that these are moments of; one part at least, with as many channels each."""
        if len(parts) == 1:
            return parts[0]
        pool = cls(len(parts[0].mean))
        for part in parts:
            pool.merge(part.count, part.mean, part.squares)
            pool.reach(part.lowest, part.highest)
        pool.parts = tuple(parts)
        return pool

    @property
    def std(self) -> np.ndarray:
        """Standard deviation per channel, (C,) float64, population form."""
        return np.sqrt(self.squares / max(self.count, 1))

    @property
    def dead(self) -> np.ndarray:
        """Boolean (C,): channels that do not vary, beyond rounding, and must not be divided by."""
        return ~(self.std > np.maximum(DEAD_RATIO * np.abs(self.mean), SMALLEST_STD))

    @property
    def largest(self) -> np.ndarray:
        """Largest magnitude per channel, (C,) float64; 0 of nothing, NaN where it was not looked at."""
        return np.abs(np.maximum(self.highest, -self.lowest)) if self.count else np.zeros(len(self.mean))

    @property
    def max_abs(self) -> float:
        """Largest magnitude over all channels."""
        return float(self.largest.max(initial=0))

    @np.errstate(over="ignore", invalid="ignore")
    def merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        """Fold in another sample's count, means and sums of squared deviations; what is not finite shows in the sum."""
        total = self.count + count
        if count == 0:
            return
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self.squares = self.squares + squares + delta * delta * (self.count * count / total)
        self.count = total

    @np.errstate(over="ignore", invalid="ignore")
    def update(self, values: np.ndarray | Reduced, axis: int = 1, pool: Executor | None = None) -> None:
        """Fold in one batch of activations, float32, channels on `axis`.

        The result does not depend on `pool`, the threads that share the work: blocks are folded in order. Values that are
        not finite show in it.
        """
        self.fold(picture_moments(values, axis, pool))

    @np.errstate(over="ignore", invalid="ignore")
    def fold(self, found: Iterable[PictureMoments]) -> None:
        """Fold in moments of pictures, in order. How they were cut does not show where all have as many positions."""
        for _, parts in itertools.groupby(found, key=lambda part: part.positions):
            joined = PictureMoments.joined(list(parts))
            self.merge(*joined.merged())
            self.reach(*joined.extremes())

    def reach(self, lowest: np.ndarray, highest: np.ndarray) -> None:
        """Take note of values, (C,) each. NaN is not lost in the comparison: it is what a caller looks for."""
        self.lowest, self.highest = np.minimum(self.lowest, lowest), np.maximum(self.highest, highest)

    @np.errstate(over="ignore", invalid="ignore")
    def scaled(self, scale: np.ndarray, shift: np.ndarray) -> Moments:
        """Return the moments of scale * x + shift, without looking at x again. What is not finite shows in them."""
        other = Moments(len(self.mean))
        other.count = self.count
        other.mean = self.mean * scale + shift
        other.squares = self.squares * scale * scale
        if self.count:
            ends = self.lowest * scale + shift, self.highest * scale + shift
            other.reach(np.minimum(*ends), np.maximum(*ends))
        return other


def picture_moments(
    values: np.ndarray | Reduced, axis: int = 1, pool: Executor | None = None, extremes: bool = True
) -> Sequence[PictureMoments]:
    """Return the moments of an activation, in parts: of pictures, or of rows where channels are the last axis.

    Args:
        values: float32, channels on `axis`.
        pool: threads to share the work among.
        extremes: False leaves least and largest values out, which takes half of the time; they are NaN then.
    """
    found = None if isinstance(values, np.ndarray) else values.moments(axis)
    if found is not None:
        return found
    blocks = as_blocks(np.asarray(values), axis)
    look = partial(_block_moments, extremes=extremes)
    return list(pool.map(look, blocks) if pool else map(look, blocks))


def as_blocks(values: np.ndarray, axis: int) -> list[np.ndarray]:
    """Cut an activation into (n, C, P) views (P positions) of about `BLOCK_ELEMENTS`."""
    axis %= values.ndim
    channels = values.shape[axis]
    if axis == values.ndim - 1 and values.ndim > 1:
        rows = values.reshape(-1, channels)  # (samples, C): positions are the rows
        size = max(1, BLOCK_ELEMENTS // max(channels, 1))
        return [rows[i : i + size].T[None] for i in range(0, len(rows), size)]
    lead = int(np.prod(values.shape[:axis], dtype=np.int64))
    stacked = values.reshape(lead, channels, int(np.prod(values.shape[axis + 1 :], dtype=np.int64)))
    size = max(1, BLOCK_ELEMENTS // max(channels * stacked.shape[2], 1))
    return [stacked[i : i + size] for i in range(0, lead, size)]


@np.errstate(over="ignore", invalid="ignore")
def _block_moments(block: np.ndarray, extremes: bool = True) -> PictureMoments:
    """Return the moments of one (n, C, P) block."""
    channels, positions = block.shape[1:]
    if block.size == 0:
        nothing = np.zeros((0, channels))
        return PictureMoments(nothing, nothing, nothing, nothing, positions)
    means = (block @ np.ones(positions, np.float32)) / np.float32(positions)
    squares = _squared_deviations(block, means)
    if not np.isfinite(squares).all() and np.isfinite(block).all():
        # Numbers above 1e19, whose squares single precision cannot hold.
        means, squares = _wide_moments(block)
    elif (lost := _lost(means, squares)).any():
        # Nor those of numbers below 1e-19; each channel of each picture decides for itself.
        means, squares = means.astype(np.float64), squares.astype(np.float64)
        means[lost], squares[lost] = _wide_moments(block[lost])
    lowest, highest = _extremes(block) if extremes else (np.full(channels, np.nan),) * 2
    return PictureMoments(means, squares, lowest[None], highest[None], positions)


def _lost(means: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """Tell for each channel whether its deviations are too small for single precision to hold their squares."""
    return np.asarray((squares < LOST_SQUARES) & (means != 0) & (np.abs(means) < LOST_MEAN))


def _wide_moments(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return means and sums of squared deviations from them over the last axis, in double precision."""
    wide = block.astype(np.float64)
    means = wide.mean(axis=-1)
    return means, ((wide - means[..., None]) ** 2).sum(axis=-1)


def _extremes(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and largest values of each channel of a block, (C,) each."""
    # Pictures first, whose numbers follow on each other further than those of one row do.
    lowest, highest = (block[0], block[0]) if len(block) == 1 else (block.min(axis=0), block.max(axis=0))
    return lowest.min(axis=1), highest.max(axis=1)


def _squared_deviations(block: np.ndarray, means: np.ndarray) -> np.ndarray:
    """Return sums of squared deviations from these means, (n, C) float32.

    In channels whose mean is not large against their deviation they follow from the sums of squares, which spares a
    pass. Each channel of each picture decides for itself, so that the cut into blocks does not show.
    """
    positions = block.shape[2]
    sums = np.einsum("ncp,ncp->nc", block, block) if positions < SHORT else np.vecdot(block, block)
    offsets = means * means
    offsets *= np.float32(positions)
    squares = np.asarray(sums - offsets)
    doubtful = ~(offsets <= np.float32(CANCELLED) * squares)
    for number in np.flatnonzero(doubtful.any(axis=1)):
        channels = np.flatnonzero(doubtful[number])
        (deviations,) = _memory.take([((len(channels), positions), np.dtype(np.float32))])
        np.take(block[number], channels, axis=0, out=deviations, mode="clip")  # "raise" would copy once more
        deviations -= means[number, channels, None]
        # Deviations from a rounded mean: the error is of second order, P * rounding ** 2.
        squares[number, channels] = np.vecdot(deviations, deviations)
    return squares
