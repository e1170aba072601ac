"""One blob of a binary weights file: its shape, and where and how its numbers lie in the file.

Numbers are packed floats (today), single floats with a tag each (2013), doubles of either kind, or raw bytes in half,
single or double precision (NVCaffe). A blob is read and written in whichever form it has.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from caffeinit.errors import WeightsError
from caffeinit.storage import wire
from caffeinit.storage.stored import Chunk, StoredArray, run_length

_DATA, _DOUBLE_DATA, _SHAPE, _RAW_TYPE, _RAW_DATA = 5, 8, 7, 10, 12
_LEGACY_AXES = (1, 2, 3, 4)
_RAW_TYPES: dict[int | None, np.dtype[Any]] = {0: np.dtype("<f8"), 1: np.dtype("<f4"), 2: np.dtype("<f2")}
_MAX_AXES = 32  # Caffe's own limit
_MAX_EXTENT = 2**31 - 1


def read_blob(data: wire.Buffer, start: int, end: int, where: str, budget: wire.Budget | None = None) -> StoredArray:
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
            count, step = run_length(data, entry, end)
            chunks[entry.number].append(Chunk(entry.start, count, step))
            at = entry.begin + count * step
    final = tuple(shape or ()) if shape is not None or not old_shape else tuple(legacy[a] for a in _LEGACY_AXES)
    if shape is None and not old_shape and not any(chunks.values()):
        final = (0,)  # an empty message; of no use, but no reason to refuse the file
    return _checked(StoredArray(data, where, final), chunks, raw_type)


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


def _checked(blob: StoredArray, chunks: dict[int, list[Chunk]], raw_type: int | None) -> StoredArray:
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
    # Nothing has any shape with a 0 in it, but for numpy, which counts as if there were none.
    if 0 in blob.shape and (max(blob.shape) > _MAX_EXTENT or math.prod(dim or 1 for dim in blob.shape) >= 1 << 59):
        raise WeightsError(f"{blob.where}: no blob can have its shape {blob.shape}; the file is damaged")
    wanted = math.prod(blob.shape)
    if wanted != blob.count:
        raise WeightsError(
            f"{blob.where}: its shape {blob.shape} asks for {wanted} numbers, {blob.count} are there; "
            "the file is damaged or cut off"
        )
    return blob


def encode_blob(array: np.ndarray) -> list[wire.Bytes]:
    """Return a BlobProto in today's form, in pieces; the numbers are the array's own where they can be."""
    dims = b"".join(wire.encode_varint(d) for d in array.shape)
    return [wire.encode_bytes(_SHAPE, wire.encode_bytes(1, dims)), *wire.nested(_DATA, [_little_endian(array)])]


def encode_legacy_blob(array: np.ndarray) -> list[wire.Bytes]:
    """Return a BlobProto with the four axes of V0 and V1 files, in pieces."""
    axes = (1,) * (4 - array.ndim) + array.shape
    if len(axes) != 4:
        raise WeightsError(f"a blob of shape {array.shape} has no form in a V1 file; upgrade the file first")
    head = b"".join(wire.encode_number(n, d) for n, d in zip(_LEGACY_AXES, axes, strict=True))
    return [head, *wire.nested(_DATA, [_little_endian(array)])]


def _little_endian(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array, "<f4").reshape(-1).view(np.uint8).data
