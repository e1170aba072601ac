"""Random streams that depend on nothing but the seed and what is drawn.

Each unit, use and picture has a generator of its own, so neither the order of work, nor threads, nor which other units
are drawn, nor the cut into batches changes a number.
"""

from __future__ import annotations

import hashlib

import numpy as np

from caffeinit.arithmetic.workers import each, row_slices


def unit_rng(seed: int, name: str, *indices: int) -> np.random.Generator:
    """Return the generator of a unit, or of one part of it (group, use, picture) when `indices` tell which.

    The name enters through SHA-256, since Python's own `hash` differs from one process to the next.
    """
    digest = hashlib.sha256(name.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.default_rng(np.random.SeedSequence([seed, *words, *indices]))


def fill_normal(rows: np.ndarray, rng: np.random.Generator, threads: int | None = None, std: float = 1.0) -> np.ndarray:
    """Fill float32 rows (k, d), contiguous, with normal values of mean 0, in place; return them.

    Blocks of rows have streams of their own, so several threads can draw.
    """
    blocks = row_slices(len(rows), 256)

    def fill(job: tuple[np.random.Generator, slice]) -> None:
        block = rows[job[1]]
        job[0].standard_normal(out=block, dtype=np.float32)
        block *= np.float32(std)

    each(fill, zip(rng.spawn(len(blocks)), blocks, strict=True), threads)
    return rows
