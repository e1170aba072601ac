"""Files that are mapped to be read, and are not to fill the memory."""

from __future__ import annotations

import mmap


def let_go(data: object, start: int, end: int) -> None:
    """Tell the system that these bytes of a mapped file are not needed for now; of anything else, do nothing.

    They stay readable, and come back when they are read again.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)  # other systems than Linux have no such thing
    begin = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    if advice is not None and isinstance(data, mmap.mmap) and end - begin >= mmap.PAGESIZE:
        data.madvise(advice, begin, end - begin)
