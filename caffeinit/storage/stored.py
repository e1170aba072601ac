"""Arrays of real numbers that lie in a file: read, and changed where they lie.

Numbers keep their type, half, single or double precision; those that did not change keep their bits. Runs of numbers
with a tag before each are read as they are, with steps over the tags.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from caffeinit.arithmetic.workers import row_slices
from caffeinit.errors import WeightsError
from caffeinit.storage import wire
from caffeinit.storage.paging import let_go, let_go_of

FLOAT = np.dtype("<f4")
_BLOCK = 1 << 20  # numbers that are compared at once
NAMES = {2: "float16", 4: "float", 8: "double"}


@dataclass
class Chunk:
    """Numbers that follow each other: `step` bytes apart, the first at `start`."""

    start: int
    count: int
    step: int


@dataclass
class StoredArray:
    """An array in a buffer.

    Attributes:
        where: names the array in errors.
        shape: as stored; four axes in old files.
        dtype: the type of the stored numbers.
        chunks: where they lie.
    """

    data: wire.Buffer
    where: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype = FLOAT
    chunks: list[Chunk] = field(default_factory=list)

    @property
    def encoding(self) -> str:
        """Name of the stored numbers' type."""
        return NAMES[self.dtype.itemsize]

    @property
    def count(self) -> int:
        """How many numbers are stored."""
        return sum(c.count for c in self.chunks)

    def stored(self) -> np.ndarray:
        """Return a copy of the numbers in their own type, (count,)."""
        if not self.chunks:
            return np.empty(0, self.dtype)
        pieces = [self._view(c) for c in self.chunks]
        copy = np.concatenate(pieces) if len(pieces) != 1 else pieces[0].copy()
        self._release()
        return copy

    def array(self) -> np.ndarray:
        """Return a new float32 array in the stored shape.

        Raises:
            WeightsError: a stored double does not fit into float32.
        """
        return to_float(self.stored(), self.where).reshape(self.shape)

    def patches(self, array: np.ndarray) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield (offset, bytes) for what must be written over the buffer so that it holds `array`.

        Numbers that did not change keep their bits, also where the stored type is wider or narrower than float32.

        Raises:
            WeightsError: a changed number is not finite, or not in the range of the stored type.
        """
        # Single precision is only compared, so the usual one chunk need not be copied.
        in_place = len(self.chunks) == 1 and self.dtype == FLOAT
        new = merged(self._view(self.chunks[0]) if in_place else self.stored(), array, self.where)
        self._release()
        if new is None:
            return
        at = 0
        for chunk in self.chunks:
            yield chunk.start, self._encode(chunk, new[at : at + chunk.count])
            at += chunk.count

    def round_as_stored(self, array: np.ndarray) -> bool:
        """Round numbers in place as `round_as_stored` does."""
        if self.dtype.itemsize >= FLOAT.itemsize:
            return False
        return round_as_stored(self.stored(), array, self.where)

    def _release(self) -> None:
        """Let go of the file's pages, or a net that was read would be in memory twice."""
        if self.chunks:
            last = self.chunks[-1]
            let_go(self.data, self.chunks[0].start, last.start + last.count * last.step)

    def _view(self, chunk: Chunk) -> np.ndarray:
        return np.ndarray((chunk.count,), self.dtype, self.data, chunk.start, (chunk.step,))

    def _encode(self, chunk: Chunk, numbers: np.ndarray) -> bytes | memoryview:
        if chunk.step == self.dtype.itemsize:
            return np.ascontiguousarray(numbers, self.dtype).view(np.uint8).data
        size = chunk.step * (chunk.count - 1) + self.dtype.itemsize
        spread = bytearray(self.data[chunk.start : chunk.start + size])
        np.ndarray((chunk.count,), self.dtype, spread, 0, (chunk.step,))[...] = numbers
        return bytes(spread)


def to_float(numbers: np.ndarray, where: str) -> np.ndarray:
    """Return stored numbers in single precision; `numbers` itself if it has it.

    Raises:
        WeightsError: a double is too large.
    """
    with np.errstate(over="ignore"):
        array: np.ndarray = numbers.astype(np.float32, copy=False)
    if numbers.dtype.itemsize == 8 and not np.array_equal(np.isfinite(array), np.isfinite(numbers)):
        raise WeightsError(f"{where}: holds numbers that are too large for single precision")
    return array


def merged(old: np.ndarray, array: np.ndarray, where: str) -> np.ndarray | None:
    """Return the numbers to store, flat and in the type of `old`, or None if none changed.

    Numbers that did not change keep their bits, also where the stored type is wider or narrower than float32.

    Args:
        old: what is stored; changed in place, unless it is in single precision.

    Raises:
        WeightsError: a changed number is not finite, or not in the range of the stored type.
    """
    given = np.ascontiguousarray(array, np.float32).reshape(-1)
    old = old.reshape(-1)
    if given.size != old.size:
        raise WeightsError(f"{where}: {given.size} numbers are given for the {old.size} in the file")
    # Block by block: flags of a large array, and the part of a mapped file that it is in, would take as much as itself.
    has_changed = [_merge(old[at], given[at], where) for at in row_slices(old.size, _BLOCK)]
    if not any(has_changed):
        return None
    return given if old.dtype == given.dtype else old


def _merge(old: np.ndarray, given: np.ndarray, where: str) -> bool:
    """Merge a block as `merged` does; return whether a number has changed."""
    changed = to_float(old, where).view(np.uint32) != given.view(np.uint32)
    if not changed.any():
        let_go_of(old)
        return False
    if not np.isfinite(given).all() and not np.isfinite(given[changed]).all():  # to pick them out costs a copy
        raise WeightsError(f"{where}: a number to be written is not finite")
    if old.dtype == given.dtype:
        let_go_of(old)
        return True
    with np.errstate(over="ignore"):
        old[changed] = given[changed].astype(old.dtype)
    if not np.isfinite(old[changed]).all():
        raise WeightsError(
            f"{where}: {np.abs(given[changed]).max():.6g} is too large for {NAMES[old.dtype.itemsize]}, "
            "the type in which the file stores it"
        )
    return True


def round_as_stored(old: np.ndarray, array: np.ndarray, where: str) -> bool:
    """Round numbers in place to what they are once `merged` has stored them, and return whether any became another one.

    Args:
        old: what is stored, in at most single precision; changed in place.

    Raises:
        WeightsError: as for `merged`.
    """
    new = merged(old, array, where)
    if new is None:
        return False
    rounded = to_float(new, where).reshape(array.shape)
    if np.array_equal(rounded, array, equal_nan=True):
        return False
    array[...] = rounded
    return True


def run_length(data: wire.Buffer, first: wire.Field, end: int) -> tuple[int, int]:
    """Return how many equal tags follow each other with a number each, and their distance in bytes."""
    width = first.start - first.begin
    step = first.end - first.begin
    most = (end - first.begin) // step
    tags = np.ndarray((most, width), np.uint8, data, first.begin, (step, 1))
    at, block = 1, 64
    while at < most:
        # Growing blocks: short runs cost little, or a file of many would cost the square of its size.
        other = (tags[at : at + block] != tags[0]).any(axis=1)
        if other.any():
            return at + int(other.argmax()), step
        at += block
        block = min(2 * block, 1 << 20)
    return most, step
