"""Proof on pictures that two nets, or one before and after a change, are the same function."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import IO, Self

import numpy as np
from numpy.typing import ArrayLike

from caffeinit.graph import Shape
from caffeinit.graph.places import Places

# Weights are rounded once more, 6e-8 of each; deep nets blow that up a few hundred times.
TOLERANCE = 1e-4
# What a sigmoid puts out is told as a part of this at least: sixteen of its steps are within the tolerance then. What it
# reads is compared beside it.
_SQUASHED = 2.0**-20 / TOLERANCE
# Outputs are kept in memory up to this size, and on disk beyond it.
SPOOL_BYTES = 128 << 20
_EQUAL_OR_NOT = "iubOSU"  # numpy's kinds of whole numbers, truth values and words

Values = Mapping[str, np.ndarray]


@dataclass
class Difference:
    """By how much one value differs over all pictures.

    Attributes:
        largest: largest finite magnitude in A.
        gap: largest difference; infinite where a side is not finite and the other is not the same.
        changed: rows whose largest entry is another one; None where the value is not one row a picture.
        rows: how many rows it is of then.
        places: what the value tells the places of; None of other values.
        squashed: a sigmoid puts it out.
        chosen_from: of a list of entries that the data choose, the values that tell all of it (`graph/heads.py`).
        counted: whole numbers that were held against each other, for being equal or not; 0 of real numbers.
        unequal: how many of them differ, and `ties`: how many of these are places of numbers that tie within `tolerance`.
        shapes: of both sides, where they differ.
        step: the coarsest step of the types of real numbers that it came in, as a part of a number; 0 of none.
    """

    name: str
    largest: float = 0.0
    gap: float = 0.0
    changed: int | None = None
    rows: int = 0
    shapes: tuple[Shape, Shape] | None = None
    step: float = 0.0
    places: Places | None = None
    squashed: bool = False
    chosen_from: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    counted: int = 0
    unequal: int = 0
    ties: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers, of which none is nearly another."""
        return self.counted > 0 or self.places is not None

    @property
    def relative(self) -> float:
        """The difference as a part of the largest magnitude; equal values give 0, also where they are all 0.

        Whole numbers that differ, and do not tie, give infinity.
        """
        if self.is_whole and not self.shapes:
            return float("inf") if self.unequal > self.ties else 0.0
        largest = max(self.largest, _SQUASHED) if self.squashed else self.largest
        return self.gap / largest if self.gap and largest else float("inf") if self.gap else 0.0

    def told_apart(self) -> str:
        """Return in words how many whole numbers differ, and how many of these mean nothing."""
        what = "places of largest values" if self.places else "whole numbers"
        counts = f"{self.unequal} of {self.counted} {what} differ"
        if not self.ties:
            return counts
        number = "all" if self.ties == self.unequal else f"{self.ties}"
        return f"{counts}, {number} of them between values that tie within {self.tolerance:g} of the largest"

    def see(self, a: np.ndarray, b: np.ndarray, ranked: np.ndarray | None = None) -> None:
        """Take in one batch of both sides; axes of size 1 do not matter, other shapes make the difference infinite.

        Args:
            ranked: side A's numbers that the value tells the places of.
        """
        if [n for n in a.shape if n != 1] != [n for n in b.shape if n != 1]:
            self.shapes, self.gap = (a.shape, b.shape), float("inf")
            return
        b = b.reshape(a.shape)
        if self.places or (a.dtype.kind in _EQUAL_OR_NOT and b.dtype.kind in _EQUAL_OR_NOT):
            self._count(a, b, ranked)
            return
        self.step = max(self.step, *(float(np.finfo(x.dtype).eps) for x in (a, b) if x.dtype.kind == "f"), 0.0)
        if a.dtype != np.float32 or b.dtype != np.float32:
            a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = float(np.abs(a - b).max(initial=0))
            largest = float(np.abs(a).max(initial=0))
            if not np.isfinite(gap) or not np.isfinite(largest):  # infinities that are equal differ by 0
                gap = float(np.abs(np.where(a == b, 0, a - b)).max(initial=0))
                largest = float(np.abs(a[np.isfinite(a)]).max(initial=0))
        self.gap = max(self.gap, gap if np.isfinite(gap) else float("inf"))
        self.largest = max(self.largest, largest)
        if a.ndim > 1 and a.size and 1 < a.shape[1] == a.size // len(a):
            rows = [x.reshape(len(x), -1).argmax(1) for x in (a, b)]
            self.changed = (self.changed or 0) + int((rows[0] != rows[1]).sum())
            self.rows += len(a)

    def _count(self, a: np.ndarray, b: np.ndarray, ranked: np.ndarray | None) -> None:
        """Take in whole numbers."""
        other = np.asarray(a != b)
        self.counted += other.size
        self.unequal += int(other.sum())
        if self.places and ranked is not None and other.any():
            self.ties += int((self.places.tied(ranked, a, b, self.tolerance) & other).sum())


def is_kept(difference: Difference, others: Mapping[str, Difference], tolerance: float) -> bool:
    """Tell whether a value is the same within a tolerance.

    Of a list rounding may turn a choice, and all entries behind it are others then. It is kept if what it is chosen from
    is.

    Args:
        others: value -> its difference.
    """
    if difference.relative <= tolerance:
        return True
    told = [others[name] for name in difference.chosen_from if name in others]
    return bool(told) and len(told) == len(difference.chosen_from) and all(d.relative <= tolerance for d in told)


class KeptValues:
    """Values of all batches, one after the other, kept in a file without a name once they are many."""

    def __init__(self, names: Sequence[str], folder: str | PathLike[str] | None = None) -> None:
        """Prepare; `folder` is for the file, None the system's."""
        self.names = list(names)
        self._count = 0
        place = None if folder is None else fspath(folder)
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=place)  # noqa: SIM115

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._file.close()

    def keep(self, values: Mapping[str, ArrayLike]) -> None:
        """Keep the values of one batch."""
        for name in self.names:
            np.save(self._file, values[name], allow_pickle=False)
        self._count += 1

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        """Yield what was kept, batch by batch."""
        self._file.seek(0)
        for _ in range(self._count):
            yield {name: np.load(self._file, allow_pickle=False) for name in self.names}
