"""Memory that is given back: of files that are mapped to be read, and of what C's allocator holds free."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

_M_MMAP_THRESHOLD = -3  # from malloc.h
_LARGE_BLOCK = 1 << 18


def let_go(data: object, start: int, end: int) -> None:
    """Tell the system that these bytes of a mapped file are not needed for now; of anything else, do nothing.

    They stay readable, and come back when they are read again.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)  # other systems than Linux have no such thing
    begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if advice is not None and isinstance(data, mmap.mmap) and end - begin >= mmap.PAGESIZE:
        data.madvise(advice, begin, end - begin)


def let_go_of(array: np.ndarray) -> None:
    """Do so with an array that is a part of a mapped file; with nothing that can be written to, which would be lost."""
    if array.flags.writeable:
        return
    let_go(*mapping_of(array))


def mapping_of(array: np.ndarray | memoryview | bytes) -> tuple[object, int, int]:
    """Return what an array is a part of in the end, and if that is a mapping, from which byte of it to which."""
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        below = owner.base if isinstance(owner, np.ndarray) else owner.obj
        if below is None:
            break
        owner = below
    if not isinstance(owner, mmap.mmap):
        return owner, 0, 0
    low, high = np.lib.array_utils.byte_bounds(np.asarray(array))
    start = low - np.frombuffer(owner, np.uint8).ctypes.data
    return owner, start, start + high - low


def return_large_blocks() -> None:
    """Have C's allocator give large blocks back to the system as soon as they are free, as long as the process lives.

    By itself it raises the size that counts as large to that of the blocks that were freed, and then keeps them, holes
    between them.
    """
    mallopt = _of_c_library("mallopt")  # glibc's
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def trim_heap() -> None:
    """Have C's allocator give back what it holds free between small blocks; glibc's does that when it is told to."""
    trim = _of_c_library("malloc_trim")
    if trim is not None:
        trim(0)


def _of_c_library(name: str) -> Any:
    """Return a function of C's library; None where there is none of the name, or as on Windows no such library."""
    return None if sys.platform == "win32" else getattr(ctypes.CDLL(None), name, None)
