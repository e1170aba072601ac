"""Rows from arrays: NumPy's .npy and .npz, MNIST's idx files (also .gz), and arrays in memory.

| array | taken as |
|---|---|
| uint8 (N, C, H, W) | pictures, channels in the net's order |
| uint8 (N, H, W, C), C 1 or 3 | pictures, RGB, as Pillow, imageio and scikit-image give them |
| uint8 (N, H, W), idx files | grey pictures |
| other numbers | values in the net's own shape and order, already preprocessed unless told |

Rows of uint8 that are no pictures, such as (N, D) for an input (N, D), are values too. What reads as both (N, C, H, W)
and (N, H, W, C) is the first.
"""

from __future__ import annotations

import gzip
import lzma
import math
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np

from caffeinit.errors import ImagesError
from caffeinit.images.files import Skipped, open_regular
from caffeinit.images.means import HEADER_ERRORS, load_npy
from caffeinit.images.preprocess import Preprocessing, Sample
from caffeinit.printing import printable
from caffeinit.storage.files import HDF5_ENDINGS
from caffeinit.storage.paging import let_go_of

MAX_UNPACKED = 1 << 32  # bytes that a compressed array may take in memory
MAX_NUMBERS = 1 << 28  # in one row
_ARCHIVE_ERRORS = (*HEADER_ERRORS, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


class Source(ABC):
    """Rows for one input that can be read in any order and from several threads.

    Attributes:
        origin: what the user called it.
        skipped: names that were found but cannot be rows, with the reason.
        holds_pictures: whether preprocessing concerns its rows at all.
        holds_files: whether these are picture files, or some are: no rows that were brought to a training's size.
        most_pixels: of the pictures that were looked at; 0 where rows need no decoding.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.skipped: list[Skipped] = []
        self.holds_pictures = True
        self.holds_files = False
        self.most_pixels = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what to call a row in messages."""

    def check(self, index: int) -> None:
        """Look at a row without decoding it; ImagesError, with the reason alone, where it cannot be read."""

    @abstractmethod
    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        """Return (C, H, W) of a row as it is, told without decoding it.

        Args:
            channels: of the input, where they are known; an array can be told better then.
        Raises:
            ImagesError: with the reason alone: it cannot be read, or is no picture.
        """

    @abstractmethod
    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        """Return a row for an input of shape (C, H, W); ImagesError, with the reason alone, where it cannot be read."""


class ArraySource(Source):
    """The rows of one array, which may lie in a mapped file."""

    def __init__(self, array: np.ndarray, origin: str = "the array") -> None:
        super().__init__(origin)
        if array.dtype.kind not in "buif":
            raise ImagesError(f"{printable(origin)}: holds {array.dtype}: numbers are needed.")
        if not array.ndim:
            raise ImagesError(f"{printable(origin)}: a single number: an array of rows, (N, ...), is needed.")
        check_row(origin, array.shape[1:])
        self.array = array
        self.holds_pictures = array.dtype == np.uint8 and array.ndim > 2

    def __len__(self) -> int:
        return len(self.array)

    def name(self, index: int) -> str:
        return f"{self.origin}[{index}]"

    def shape(self, index: int, channels: int = 0) -> tuple[int, int, int]:
        channels_first = values_shape(self.array.shape[1:])
        c, h, w = channels_first
        turned = self.array.dtype == np.uint8 and c not in (1, channels or 3) and w in (1, 3)  # as `read` has it
        return (w, c, h) if turned else channels_first

    def read(self, index: int, shape: Sequence[int], preprocessing: Preprocessing) -> Sample:
        row = self._row(index)
        if row.dtype != np.uint8 or len(shape) != 3 or row.ndim not in (2, 3):
            row = row[None] if row.ndim == 2 and len(shape) == 3 and shape[0] == 1 else row
            return Sample(row.astype(np.float32), stored=True)
        if row.ndim == 2:
            if shape[0] != 1:
                raise ImagesError(
                    f"the array is {self.array.shape}, which is (N, H, W), grey, but the net's input has {shape[0]} "
                    f"channels: give (N, 1, H, W) for grey pictures, (1, C, H, W) for one picture"
                )
            return Sample(row[..., None], "net", stored=True)
        if row.shape[0] in (1, shape[0]) or row.shape[2] not in (1, 3):
            return Sample(row.transpose(1, 2, 0), "net", stored=True)
        return Sample(row, "rgb", stored=True)

    def _row(self, index: int) -> np.ndarray:
        """Return a row; of a mapped file a copy, so that the file does not come to lie in memory row by row."""
        row = np.asarray(self.array[index])
        if not isinstance(self.array, np.memmap):
            return row
        copy = row.copy()
        let_go_of(row)
        return copy


def check_row(origin: str, row: Sequence[int]) -> None:
    """Refuse rows that a few bytes of a file with holes may claim, and no memory holds."""
    if math.prod(row) > MAX_NUMBERS:
        raise ImagesError(f"{printable(origin)}: {' x '.join(map(str, row))} numbers are more than any picture holds.")


def values_shape(row: Sequence[int]) -> tuple[int, int, int]:
    """Return (C, H, W) of rows of an array, which are (C, H, W) or (H, W); ImagesError for others."""
    if len(row) not in (2, 3):
        raise ImagesError(f"rows of shape {tuple(row)} are no pictures")
    height, width = row[-2:]
    return (int(row[0]) if len(row) == 3 else 1, int(height), int(width))


def open_npy(path: str) -> ArraySource:
    """Map a .npy file."""
    return ArraySource(load_npy(path), path)


def npz_names(path: str) -> list[str]:
    """Return the names of the arrays in a .npz file."""
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            return [n[:-4] for n in archive.namelist() if n.endswith(".npy")]
    except _ARCHIVE_ERRORS as error:
        raise ImagesError(f"{printable(path)}: no usable .npz file: {printable(error)}") from error


def open_npz(path: str, input_name: str) -> ArraySource:
    """Read from a .npz file the array named like the input, else its only array, else the one that names pictures."""
    chosen = choose_named(npz_names(path), input_name, path)
    try:
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            with archive.open(chosen + ".npy") as member:
                _refuse_large(member, path)
            with archive.open(chosen + ".npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
    except _ARCHIVE_ERRORS as error:
        raise ImagesError(f"{printable(path)}: array {printable(chosen)}: {printable(error)}") from error
    return ArraySource(array, path)


def choose_named(names: Sequence[str], input_name: str, path: str) -> str:
    """Return which of several named arrays is meant for an input.

    Raises:
        ImagesError: none or several could be.
    """
    for wanted in (input_name, "data", "images", "x", "X", "arr_0"):
        if wanted in names:
            return wanted
    if len(names) == 1:
        return names[0]
    listed = ", ".join(map(printable, names)) or "none"
    raise ImagesError(
        f'{printable(path)}: no array is named like the input "{printable(input_name)}"; found: {listed}.'
    )


def _refuse_large(member: object, path: str) -> None:
    version = np.lib.format.read_magic(member)  # type: ignore[arg-type]
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(member)  # type: ignore[arg-type]
    if math.prod(shape) * dtype.itemsize > MAX_UNPACKED:
        raise ImagesError(f"{printable(path)}: an array of {shape} is too large packed: save it as .npy.")


def is_idx(head: bytes) -> bool:
    """Return whether a file starts like an idx file."""
    return len(head) >= 4 and head[:2] == b"\0\0" and head[2] in _IDX_TYPES and 1 <= head[3] <= 4


def open_idx(path: str) -> ArraySource:
    """Read MNIST's format, plain or compressed with gzip.

    Raises:
        ImagesError: truncated, labels instead of pictures, or another format.
    Source: Y. LeCun, C. Cortes, C. Burges, the MNIST database: "The IDX file format".
    """
    try:
        with open_regular(path) as stream:
            packed = stream.read(2) == b"\x1f\x8b"
            stream.seek(0)
            array = _read_idx(gzip.GzipFile(fileobj=stream) if packed else stream, path)
    except (OSError, EOFError, zlib.error) as error:
        raise ImagesError(f"{printable(path)}: {printable(error)}") from error
    if array.ndim == 1:
        raise ImagesError(
            f"{printable(path)}: holds {len(array)} single numbers, labels probably: give the file of pictures."
        )
    return ArraySource(array[:, None] if array.ndim == 3 else array, path)


def _read_idx(stream: BinaryIO | gzip.GzipFile, path: str) -> np.ndarray:
    head = stream.read(4)
    if not is_idx(head):
        raise ImagesError(f"{printable(path)}: not an idx file (the only kind read with gzip).")
    raw = stream.read(4 * head[3])
    if len(raw) != 4 * head[3]:
        raise ImagesError(f"{printable(path)}: cut off in its header.")
    dims = [int(d) for d in np.frombuffer(raw, ">u4")]
    dtype = np.dtype(_IDX_TYPES[head[2]])
    if 0 in dims:
        raise ImagesError(f"{printable(path)}: holds no numbers: its header says {' x '.join(map(str, dims))}.")
    size = math.prod(dims) * dtype.itemsize
    if size > MAX_UNPACKED:
        raise ImagesError(f"{printable(path)}: claims to hold {size} bytes: not an idx file, or too large.")
    data = bytearray()
    # Piece by piece: the header of a foreign file may claim gigabytes.
    while len(data) < size and (piece := stream.read(min(size - len(data), 1 << 24))):
        data += piece
    if len(data) < size:
        raise ImagesError(f"{printable(path)}: cut off: {len(data)} of {size} bytes of pictures.")
    return np.frombuffer(bytes(data), dtype).reshape(dims)


def looks_packed(path: str | os.PathLike[str]) -> bool:
    """Return whether a name in a folder without pictures looks like a file that holds many."""
    name = os.fspath(path).lower()
    return name.endswith((".npy", ".npz", ".txt", ".mdb", *HDF5_ENDINGS)) or ("idx" in name and "label" not in name)
