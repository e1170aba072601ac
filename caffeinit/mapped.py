"""Arrays that lie in a mapped working copy of a file, so that more of them than memory holds can be read and changed.

What is written into them goes to the copy, which has no name and is gone with the process. Pages can be given back to the
system at any time, changed or not: they come back from the copy.
"""

from __future__ import annotations

import mmap
import os
import shutil
import tempfile

import numpy as np


class Scratch(mmap.mmap):
    """A mapped working copy of a file."""


def scratch_copy(path: str | os.PathLike[str]) -> Scratch:
    """Return a working copy of a file, in the system's folder for temporary files.

    Raises:
        OSError: there is no room for it, or the file cannot be read.
    """
    with open(path, "rb") as source, tempfile.TemporaryFile() as copy:
        shutil.copyfileobj(source, copy, 1 << 24)
        copy.flush()
        return Scratch(copy.fileno(), 0, access=mmap.ACCESS_WRITE)


def release(array: np.ndarray | memoryview | bytes) -> None:
    """Give the memory of an array back to the system if it lies in a working copy; else do nothing."""
    owner: object = array
    while True:
        below = owner.base if isinstance(owner, np.ndarray) else owner.obj if isinstance(owner, memoryview) else None
        if below is None:
            break
        owner = below
    advice = getattr(mmap, "MADV_DONTNEED", None)  # other systems than Linux have no such thing
    if not isinstance(owner, Scratch) or advice is None:
        return
    low, high = np.lib.array_utils.byte_bounds(np.asarray(array))
    start = low - np.frombuffer(owner, np.uint8).ctypes.data
    begin = start // mmap.PAGESIZE * mmap.PAGESIZE
    owner.madvise(advice, begin, start + high - low - begin)
