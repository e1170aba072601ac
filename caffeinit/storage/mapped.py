"""Arrays that lie in a mapped file, so that more of them than memory holds can be read and changed.

The file is a working copy of another, or a new one. What is written goes to it alone; it has no name and is gone with the
process. Pages can be given back to the system at any time, changed or not: they come back from the file.
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import tempfile

import numpy as np

from caffeinit.errors import OutputError
from caffeinit.storage.paging import mapping_of

_BLOCK = 1 << 24  # bytes that are written at a time
_FILE = 1 << 26  # bytes of a file for several arrays: each takes one of the files that a process may have open


class Scratch(mmap.mmap):
    """A mapped file without a name."""


def scratch_copy(path: str | os.PathLike[str]) -> Scratch:
    """Return a working copy of a file, in the system's folder for temporary files.

    Raises:
        OSError: there is no room for it, or the file cannot be read.
    """
    with open(path, "rb") as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, _BLOCK)
        copy.flush()
        return Scratch(copy.fileno(), 0, access=mmap.ACCESS_WRITE)


class ScratchArrays:
    """Makes arrays in new files, many in one, in the system's folder for temporary files."""

    def __init__(self) -> None:
        """Begin without a file."""
        self._data: Scratch | None = None
        self._used = 0

    def zeros(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return zeros of single precision.

        Raises:
            OutputError: there is no room for them.
        """
        size = -(-4 * math.prod(shape) // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._data is None or self._used + size > len(self._data):
            self._data, self._used = _new_file(max(size, _FILE)), 0
        array = np.ndarray(shape, np.float32, self._data, self._used)
        self._used += size
        return array

    def copy(self, array: np.ndarray) -> np.ndarray:
        """Return a copy of an array of single precision; see `zeros`."""
        copied = self.zeros(array.shape)
        copied[...] = array
        release(copied)
        return copied


def _new_file(size: int) -> Scratch:
    try:
        with tempfile.TemporaryFile() as file:
            for start in range(0, size, _BLOCK):  # a hole that the disk has no room for would end the process
                file.write(bytes(min(_BLOCK, size - start)))
            file.flush()
            return Scratch(file.fileno(), 0, access=mmap.ACCESS_WRITE)
    except OSError as error:
        raise OutputError(
            f"{tempfile.gettempdir()} (TMPDIR): {(error.strerror or str(error)).lower()}: {size >> 20} MB of sums were to "
            "go there that memory is not to hold"
        ) from None


class Pages(mmap.mmap):
    """Memory without a file: what is given back of it is zero afterwards."""


def empty_pages(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array whose memory can be given back while it lives, where the system can do that."""
    if not hasattr(mmap, "MADV_DONTNEED"):
        return np.empty(shape, dtype)
    size = max(1, math.prod(shape) * dtype.itemsize)
    return np.ndarray(shape, dtype, Pages(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def release(array: np.ndarray | memoryview | bytes) -> None:
    """Give the memory of an array back to the system if it lies in a file of these, or in pages; else do nothing."""
    owner, start, stop = mapping_of(array)
    advice = getattr(mmap, "MADV_DONTNEED", None)  # other systems than Linux have no such thing
    if isinstance(owner, Scratch | Pages) and advice is not None:
        begin = start // mmap.PAGESIZE * mmap.PAGESIZE
        owner.madvise(advice, begin, stop - begin)
