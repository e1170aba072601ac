"""Where kept values lie: in memory as long as there is room, else in a file without a name.

The file is deleted as soon as it is open, so that nothing is left of it however the process ends. It is written and read,
not mapped: what is mapped counts as the process' memory, and a full disk would be a signal instead of an error.
Changes of a value that lies in the file are made to its copy each time that it is read.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from os import PathLike
from typing import IO, Protocol

import numpy as np

from caffeinit.arithmetic.buffers import BufferPool
from caffeinit.errors import OutputError
from caffeinit.graph import Shape


class Change(Protocol):
    """Changes arrays in place."""

    def __call__(self, pieces: Iterable[np.ndarray], /, *, pool: Executor | None = None) -> None:
        """Change these arrays; `pool`: threads to share the work among."""


@dataclass(frozen=True)
class Room:
    """How much memory kept values may take.

    Attributes:
        kept: bytes; what is more goes to the file.
        folder: for the file; None for the system's folder for temporary files.
        workers: pieces of a batch that the rates may be measured on at once.
    """

    kept: int
    folder: str | PathLike[str] | None = None
    workers: int = 1


@dataclass(eq=False)
class Stored:
    """An array in the file, and what is to be done to it when it is read."""

    start: int
    size: int
    shape: Shape
    dtype: np.dtype
    changes: list[Change] = field(default_factory=list)


Piece = np.ndarray | Stored


class ScratchFile:
    """Arrays in a file that has no name.

    Attributes:
        size: bytes that the file has grown to.
    """

    def __init__(self, folder: str | PathLike[str] | None = None) -> None:
        """Prepare; the file is made when the first array comes.

        Args:
            folder: None for the system's folder for temporary files.
        """
        self.size = 0
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._free: list[tuple[int, int]] = []  # places of any earlier array: (size, start)

    def write(self, array: np.ndarray) -> Stored:
        """Put an array into the file.

        Raises:
            OutputError: the disk is full, or the folder cannot be written to.
        """
        fitting = [place for place in self._free if place[0] >= array.nbytes]
        size, start = min(fitting, default=(array.nbytes, self.size))
        if fitting:
            self._free.remove((size, start))
        try:
            self._write_at(start, np.ascontiguousarray(array))
        except OSError as error:
            raise OutputError(
                f"{self._where()}: {(error.strerror or str(error)).lower()}, after {self.size >> 20} MB of values that "
                "--memory-limit has no room for. Give a larger limit, or with --temp-dir a folder with more room"
            ) from None
        self.size = max(self.size, start + size)
        return Stored(start, size, array.shape, array.dtype)

    def read(self, stored: Stored, into: np.ndarray) -> None:
        """Fill a contiguous array of the right shape and type."""
        assert self._file is not None
        left, at = into.reshape(-1).view(np.uint8).data, stored.start
        while len(left):
            count = os.preadv(self._file.fileno(), [left], at)
            if not count:
                raise OutputError(f"{self._where()}: a temporary file was cut off by someone else")
            left, at = left[count:], at + count

    def load(self, stored: Stored) -> np.ndarray:
        """Return a stored array as a new one."""
        array = np.empty(stored.shape, stored.dtype)
        self.read(stored, array)
        return array

    def free(self, stored: Stored) -> None:
        """Let the place of an array be written again."""
        self._free.append((stored.size, stored.start))

    def _write_at(self, start: int, array: np.ndarray) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(buffering=0, dir=self._folder)  # noqa: SIM115
            weakref.finalize(self, self._file.close)
        left = array.reshape(-1).view(np.uint8).data
        while len(left):
            count = os.pwrite(self._file.fileno(), left, start)
            left, start = left[count:], start + count

    def _where(self) -> str:
        return os.fspath(self._folder) if self._folder is not None else tempfile.gettempdir()


class Shelf:
    """Keeps arrays, in memory where there is room.

    Without a limit all arrays stay what they are.
    """

    def __init__(self, pool: BufferPool, room: Room | None) -> None:
        self._pool = pool
        self._room = room
        self._used = 0
        self._file = ScratchFile(room.folder if room else None)

    def put(self, array: np.ndarray) -> Piece:
        """Keep an array; one that goes to the file is given back to the pool."""
        if self._room is None:
            return array
        if self._used + array.nbytes <= self._room.kept:
            self._used += array.nbytes
            return array
        stored = self._file.write(array)
        self._pool.give_back(array)
        return stored

    def get(self, piece: Piece) -> np.ndarray:
        """Return an array in memory, changed as was asked for; `leave` has to follow."""
        if isinstance(piece, np.ndarray):
            return piece
        array = self._pool.take(piece.shape, piece.dtype)
        self._file.read(piece, array)
        for change in piece.changes:
            change([array])
        return array

    def move_out(self, piece: Piece) -> np.ndarray:
        """Return an array in memory that is not kept any more; it is the caller's to give back to the pool."""
        array = self.get(piece)
        if isinstance(piece, Stored):
            self._file.free(piece)
        elif self._room:
            self._used -= piece.nbytes
        return array

    def leave(self, piece: Piece, array: np.ndarray, spent: bool) -> None:
        """Take note that an array that `get` returned is not looked at any more.

        Args:
            spent: nor will it be again.
        """
        if isinstance(piece, Stored):
            self._pool.give_back(array)
        if spent:
            self.drop(piece)

    def drop(self, piece: Piece) -> None:
        """Give up what is kept."""
        if isinstance(piece, Stored):
            self._file.free(piece)
            return
        self._used -= piece.nbytes if self._room else 0
        self._pool.give_back(piece)

    def change_when_read(self, pieces: Sequence[Piece], change: Change) -> None:
        """Have those arrays changed that are in the file, each time that they are read."""
        for piece in pieces:
            if isinstance(piece, Stored):
                piece.changes.append(change)

    def look(self, pieces: Sequence[Piece]) -> Iterable[np.ndarray]:
        """Return arrays, each to be looked at before the next is asked for."""
        return self._read_one_by_one(pieces) if self._room else [self.get(p) for p in pieces]

    def _read_one_by_one(self, pieces: Sequence[Piece]) -> Iterator[np.ndarray]:
        for piece in pieces:
            array = self.get(piece)
            yield array
            self.leave(piece, array, spent=False)
