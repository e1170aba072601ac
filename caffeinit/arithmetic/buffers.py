"""Memory for activations that is written again instead of being freed and faulted in anew.

Arrays of all sizes are cut from slabs, at the lowest place that is free, so that what one stage gives up is what the next
one writes, however differently its values are cut. A slab costs nothing where it has not been written yet.
"""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from collections.abc import Sequence

import numpy as np

SLAB_BYTES = 1 << 26  # of the first slab; each further one is twice as large, up to
MOST_SLAB_BYTES = 1 << 29
_FILLED = 7 / 8  # the part of a slab that an array takes at least, where as little as can be is to be taken
_ALIGNMENT = 64  # bytes: a line of the cache


class BufferPool:
    """Hands out arrays and takes them back.

    Attributes:
        peak: the most bytes that were in memory at once, handed out or not.
    """

    def __init__(self, slab_bytes: int = SLAB_BYTES) -> None:
        """Make an empty pool.

        Args:
            slab_bytes: what is taken from the system at first, at least; 0 where no more may be taken than is asked for.
        """
        self.peak = 0
        self._slab_bytes = slab_bytes
        self._slabs: list[_Slab] = []
        self._taken: dict[int, tuple[_Slab, int, int]] = {}  # address -> slab, and place there

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised contiguous array."""
        size = int(np.prod(shape)) * dtype.itemsize
        rounded = max(_ALIGNMENT, -(-size // _ALIGNMENT) * _ALIGNMENT)
        slab = next((s for s in self._slabs if self._suits(s, rounded)), None) or self._grow(rounded)
        start = slab.take(rounded)
        self.peak = max(self.peak, sum(s.touched for s in self._slabs))
        array = slab.memory[start : start + size].view(dtype).reshape(shape)
        self._taken[array.ctypes.data] = (slab, start, start + rounded)
        return array

    def split(self, array: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
        """Return consecutive views of an array along axis 0; each must be given back."""
        parts = [array[a:b] for a, b in itertools.pairwise(np.cumsum([0, *sizes]))]
        if array.ctypes.data in self._taken:
            slab, start, stop = self._taken.pop(array.ctypes.data)
            at = [start + part.ctypes.data - array.ctypes.data for part in parts]
            for part, first, last in zip(parts, at, [*at[1:], stop], strict=True):
                self._taken[part.ctypes.data] = (slab, first, last)
        return parts

    def give_back(self, array: np.ndarray) -> None:
        """Take back an array; arrays that did not come from here are let go."""
        if array.ctypes.data in self._taken:
            slab, start, stop = self._taken.pop(array.ctypes.data)
            slab.give_back(start, stop)

    def _suits(self, slab: _Slab, size: int) -> bool:
        """Tell whether an array is to lie in a slab.

        Where no more may be taken than is asked for, that is one that it about fills: in a large one it would be in the way
        of the next large array, for which another slab would be taken beside it.
        """
        return slab.has_room(size) and (self._slab_bytes > 0 or size >= _FILLED * len(slab.memory))

    def _grow(self, size: int) -> _Slab:
        """Add a slab, in place of those that nothing lies in: new memory replaces idle memory."""
        self._slabs = [s for s in self._slabs if not s.is_empty]
        slab = _Slab(max(size, self._slab_bytes))
        self._slab_bytes = min(2 * self._slab_bytes, MOST_SLAB_BYTES)
        self._slabs.append(slab)
        return slab


class _Slab:
    """One piece of memory.

    Attributes:
        memory: (bytes,) uint8.
        touched: bytes from its start that arrays have lain in.
    """

    def __init__(self, size: int) -> None:
        self.memory = np.empty(size, np.uint8)
        self.touched = 0
        self._free = [(0, size)]  # places, in order; no two of them touch

    @property
    def is_empty(self) -> bool:
        """Whether all of it is free."""
        return self._free == [(0, len(self.memory))]

    def has_room(self, size: int) -> bool:
        """Tell whether an array of so many bytes can be taken."""
        return any(stop - start >= size for start, stop in self._free)

    def take(self, size: int) -> int:
        """Return the start of the lowest place that is large enough; there has to be one."""
        index = next(i for i, (start, stop) in enumerate(self._free) if stop - start >= size)
        start, stop = self._free[index]
        self._free[index : index + 1] = [(start + size, stop)] if stop - start > size else []
        self.touched = max(self.touched, start + size)
        return start

    def give_back(self, start: int, stop: int) -> None:
        """Let a place be taken again."""
        index = bisect.bisect(self._free, (start, stop))
        if index < len(self._free) and self._free[index][0] == stop:
            stop = self._free.pop(index)[1]
        if index and self._free[index - 1][1] == start:
            index -= 1
            start = self._free.pop(index)[0]
        self._free.insert(index, (start, stop))


class ThreadMemory:
    """Memory of each thread's own for what it makes and looks at, and nobody keeps; it is written again and again."""

    def __init__(self) -> None:
        self._own = threading.local()

    def take(self, arrays: Sequence[tuple[tuple[int, ...], np.dtype]]) -> list[np.ndarray]:
        """Return uninitialised contiguous arrays, which take the place of those of this thread's last call."""
        sizes = [-(-math.prod(shape) * dtype.itemsize // _ALIGNMENT) * _ALIGNMENT for shape, dtype in arrays]
        memory: np.ndarray = getattr(self._own, "memory", np.empty(0, np.uint8))
        if len(memory) < sum(sizes):
            memory = self._own.memory = np.empty(sum(sizes), np.uint8)
        found, at = [], 0
        for (shape, dtype), size in zip(arrays, sizes, strict=True):
            found.append(memory[at : at + math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape))
            at += size
        return found
