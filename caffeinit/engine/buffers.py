"""Memory for activations that is written again instead of being freed and faulted in anew."""

from __future__ import annotations

import itertools

import numpy as np

from caffeinit.graph import Shape

MOST_WASTE = 4


class BufferPool:
    """Hands out arrays and takes them back.

    Attributes:
        peak: the most bytes that were held at once, handed out or not.
    """

    def __init__(self, most_waste: float = MOST_WASTE) -> None:
        """Make an empty pool; a buffer is used for arrays of at least 1/`most_waste` of its size."""
        self.peak = 0
        self._most_waste = most_waste
        self._held = 0
        self._free: list[np.ndarray] = []
        self._users: dict[int, tuple[np.ndarray, int]] = {}

    def take(self, shape: Shape, dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised contiguous array."""
        size = int(np.prod(shape)) * dtype.itemsize
        fitting = [b for b in self._free if size <= b.nbytes <= self._most_waste * size]
        if fitting:
            buffer = min(fitting, key=lambda b: b.nbytes)
            self._free = [b for b in self._free if b is not buffer]
        else:
            self._trim(size)
            buffer = np.empty(size, np.uint8)
            self._held += size
            self.peak = max(self.peak, self._held)
        self._users[id(buffer)] = (buffer, 1)
        return buffer[:size].view(dtype).reshape(shape)

    def split(self, array: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
        """Return consecutive views of an array along axis 0; each must be given back."""
        bounds = np.cumsum([0, *sizes])
        owner = array.base
        if id(owner) in self._users:
            buffer, users = self._users[id(owner)]
            self._users[id(owner)] = (buffer, users + len(sizes) - 1)
        return [array[a:b] for a, b in itertools.pairwise(bounds)]

    def give_back(self, array: np.ndarray) -> None:
        """Take back an array; arrays that did not come from here are let go."""
        owner = array.base
        if id(owner) not in self._users:
            return
        buffer, users = self._users.pop(id(owner))
        if users > 1:
            self._users[id(owner)] = (buffer, users - 1)
        else:
            self._free.append(buffer)

    def _trim(self, needed: int) -> None:
        """Let go of free buffers, largest first, so that new memory replaces idle memory."""
        for buffer in sorted(self._free, key=lambda b: b.nbytes, reverse=True):
            if needed <= 0:
                break
            needed -= buffer.nbytes
            self._held -= buffer.nbytes
            self._free = [b for b in self._free if b is not buffer]
