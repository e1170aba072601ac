"""One blob of a binary weights file: its shape, and where and how its numbers lie in the file.

Numbers are packed floats (today), single floats with a tag each (2013), doubles of either kind, or raw bytes in half,
single or double precision (NVCaffe). A blob is read and written in whichever form it has.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeinit import wire
from caffeinit.errors import WeightsError

_DATA, _DOUBLE_DATA, _SHAPE, _RAW_TYPE, _RAW_DATA = 5, 8, 7, 10, 12
_LEGACY_AXES = (1, 2, 3, 4)
_RAW_TYPES: dict[int | None, np.dtype[Any]] = {0: np.dtype("<f8"), 1: np.dtype("<f4"), 2: np.dtype("<f2")}
_FLOAT = np.dtype("<f4")
_MAX_AXES = 32  # Caffe's own limit
_MAX_EXTENT = 2**31 - 1
NAMES = {2: "float16", 4: "float", 8: "double"}


@dataclass
class Chunk:
    """Numbers that follow each other: `step` bytes apart, the first at `start`."""

    start: int
    count: int
    step: int


@dataclass
class Blob:
    """A blob in a buffer.

    Attributes:
        where: names layer and blob in errors.
        shape: as stored; four axes in old files.
        dtype: the type of the stored numbers.
        chunks: where they lie.
    """

    data: wire.Buffer
    where: str
    shape: tuple[int, ...] = ()
    dtype: np.dtype = _FLOAT
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
        """Yield (offset, bytes) for what must be written over the buffer so that the blob holds `array`.

        Numbers that did not change keep their bits, also where the stored type is wider or narrower than float32.

        Raises:
            WeightsError: a changed number is not finite, or not in the range of the stored type.
        """
        # Single precision is only compared, so the usual one chunk need not be copied.
        in_place = len(self.chunks) == 1 and self.dtype == _FLOAT
        new = merged(self._view(self.chunks[0]) if in_place else self.stored(), array, self.where)
        self._release()
        if new is None:
            return
        at = 0
        for chunk in self.chunks:
            yield chunk.start, self._encode(chunk, new[at : at + chunk.count])
            at += chunk.count

    def _release(self) -> None:
        """Let go of the file's pages, or a net that was read would be in memory twice."""
        if self.chunks:
            last = self.chunks[-1]
            wire.release(self.data, self.chunks[0].start, last.start + last.count * last.step)

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
    changed = to_float(old, where).view(np.uint32) != given.view(np.uint32)
    if not changed.any():
        return None
    if not np.isfinite(given).all() and not np.isfinite(given[changed]).all():  # to pick them out costs a copy
        raise WeightsError(f"{where}: a number to be written is not finite")
    if old.dtype == given.dtype:
        return given
    with np.errstate(over="ignore"):
        old[changed] = given[changed].astype(old.dtype)
    if not np.isfinite(old[changed]).all():
        raise WeightsError(
            f"{where}: {np.abs(given[changed]).max():.6g} is too large for {NAMES[old.dtype.itemsize]}, "
            "the type in which the file stores this blob"
        )
    return old


def read_blob(data: wire.Buffer, start: int, end: int, where: str, budget: wire.Budget | None = None) -> Blob:
    """Index the BlobProto that lies from `start` to `end`.

    Raises:
        WireError: the bytes are no message.
        WeightsError: shape and numbers disagree, or the numbers are of a type that is not supported.
    """
    shape: list[int] | None = None
    legacy = dict.fromkeys(_LEGACY_AXES, 0)
    raw_type = None
    chunks: dict[int, list[Chunk]] = {_DATA: [], _DOUBLE_DATA: [], _RAW_DATA: []}
    old_shape = False
    budget = budget or wire.Budget()
    at = start
    while at < end:
        entry = wire.read_field(data, at, end, budget)
        at = entry.end
        if entry.number in _LEGACY_AXES and entry.wire == wire.VARINT:
            legacy[entry.number] = entry.value
            old_shape = True
        elif entry.number == _SHAPE and entry.wire == wire.BYTES:
            shape = (shape or []) + _read_shape(data, entry, budget)
            if len(shape) > _MAX_AXES:
                raise WeightsError(f"{where}: its shape has more than {_MAX_AXES} axes; the file is damaged")
        elif entry.number == _RAW_TYPE and entry.wire == wire.VARINT:
            raw_type = entry.value
        elif entry.number in chunks and entry.wire == wire.BYTES:
            size = {_DATA: 4, _DOUBLE_DATA: 8}.get(entry.number, 1)
            if (entry.end - entry.start) % size:
                raise WeightsError(f"{where}: its numbers are cut off in the middle")
            chunks[entry.number].append(Chunk(entry.start, (entry.end - entry.start) // size, size))
        elif (entry.number, entry.wire) in ((_DATA, wire.FIXED32), (_DOUBLE_DATA, wire.FIXED64)):
            count, step = _run_length(data, entry, end)
            chunks[entry.number].append(Chunk(entry.start, count, step))
            at = entry.begin + count * step
    final = tuple(shape or ()) if shape is not None or not old_shape else tuple(legacy[a] for a in _LEGACY_AXES)
    if shape is None and not old_shape and not any(chunks.values()):
        final = (0,)  # an empty message; of no use, but no reason to refuse the file
    return _checked(Blob(data, where, final), chunks, raw_type)


def _read_shape(data: wire.Buffer, entry: wire.Field, budget: wire.Budget) -> list[int]:
    """Return the axes of a BlobShape; of far too many only the first."""
    dims: list[int] = []
    for inner in wire.fields(data, entry.start, entry.end, budget):
        if inner.number == 1 and inner.wire == wire.VARINT:
            dims.append(inner.value)
        elif inner.number == 1 and inner.wire == wire.BYTES:
            at = inner.start
            while at < inner.end and len(dims) <= _MAX_AXES:
                value, at = wire.read_varint(data, at, inner.end)
                dims.append(value)
        if len(dims) > _MAX_AXES:
            break
    return dims


def _run_length(data: wire.Buffer, first: wire.Field, end: int) -> tuple[int, int]:
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


def _checked(blob: Blob, chunks: dict[int, list[Chunk]], raw_type: int | None) -> Blob:
    if chunks[_RAW_DATA]:
        if raw_type not in _RAW_TYPES:
            raise WeightsError(f"{blob.where}: numbers of raw type {raw_type} (integers) are not supported")
        blob.dtype = _RAW_TYPES[raw_type]
        size = blob.dtype.itemsize
        if any(c.count % size for c in chunks[_RAW_DATA]):
            raise WeightsError(f"{blob.where}: its numbers are cut off in the middle")
        blob.chunks = [Chunk(c.start, c.count // size, size) for c in chunks[_RAW_DATA]]
    elif chunks[_DOUBLE_DATA]:
        blob.dtype, blob.chunks = np.dtype("<f8"), chunks[_DOUBLE_DATA]
    else:
        blob.chunks = chunks[_DATA]
    if any(dim > _MAX_EXTENT for dim in blob.shape) and 0 in blob.shape:
        raise WeightsError(f"{blob.where}: no blob can have its shape {blob.shape}; the file is damaged")
    wanted = math.prod(blob.shape)
    if wanted != blob.count:
        raise WeightsError(
            f"{blob.where}: its shape {blob.shape} asks for {wanted} numbers, {blob.count} are there; "
            "the file is damaged or cut off"
        )
    return blob


def encode_blob(array: np.ndarray) -> bytes:
    """Return a BlobProto in today's form."""
    dims = b"".join(wire.encode_varint(d) for d in array.shape)
    numbers = np.ascontiguousarray(array, "<f4").tobytes()
    return wire.encode_bytes(_SHAPE, wire.encode_bytes(1, dims)) + wire.encode_bytes(_DATA, numbers)


def encode_legacy_blob(array: np.ndarray) -> bytes:
    """Return a BlobProto with the four axes of V0 and V1 files."""
    axes = (1,) * (4 - array.ndim) + array.shape
    if len(axes) != 4:
        raise WeightsError(f"a blob of shape {array.shape} has no form in a V1 file; upgrade the file first")
    numbers = np.ascontiguousarray(array, "<f4").tobytes()
    return b"".join(wire.encode_number(n, d) for n, d in zip(_LEGACY_AXES, axes, strict=True)) + wire.encode_bytes(
        _DATA, numbers
    )
