"""Sparse initializers of an ONNX file: the numbers that are not zero, and where they stand in the whole array.

They are read as plain arrays, so that the net can be computed, and stay as they are: which of a weight's numbers are
zero is part of what such a file was made for.
Source: onnx/onnx.proto, SparseTensorProto.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from caffeinit.errors import WeightsError
from caffeinit.onnxfile.tensors import OpenData, Tensor, read_numbers, read_tensor
from caffeinit.storage import wire

_VALUES, _INDICES, _DIMS = 1, 2, 3
_MOST = 1 << 30  # numbers of an array


@dataclass(frozen=True)
class SparseTensor:
    """A sparse initializer; it has the name of its values.

    Attributes:
        values: the numbers that are not zero, (K,).
        indices: their places in the flat array, (K,), or in each axis, (K, rank).
        shape: of the whole array.
    """

    values: Tensor
    indices: Tensor
    shape: tuple[int, ...]

    def filled(self, numbers: np.ndarray) -> np.ndarray:
        """Return the whole array with these numbers at the places of the values.

        Raises:
            WeightsError: places and shape do not go together.
        """
        where = self.indices.exact()
        if where.dtype != np.int64 or where.shape not in ((len(numbers),), (len(numbers), len(self.shape))):
            raise WeightsError(
                f"{self.values.where}: {len(numbers)} numbers of an array {self.shape} have places of type {where.dtype} "
                f"and shape {where.shape}; the file is damaged"
            )
        limits = math.prod(self.shape) if where.ndim == 1 else np.asarray(self.shape, np.int64)
        if where.size and ((where < 0) | (where >= limits)).any():
            raise WeightsError(f"{self.values.where}: a place lies outside of its shape {self.shape}")
        whole = np.zeros(self.shape, numbers.dtype)
        whole[np.unravel_index(where, self.shape) if where.ndim == 1 else tuple(where.T)] = numbers
        return whole


def read_sparse(data: wire.Buffer, frames: list[wire.Field], open_data: OpenData, budget: wire.Budget) -> SparseTensor:
    """Index the sparse tensor in the last of the messages `frames`.

    Raises:
        WireError: the bytes are no message.
        FormatError: its data file is not to be had.
        WeightsError: it is damaged.
    """
    where = "sparse initializer"
    parts: dict[int, Tensor] = {}
    dims: list[int] = []
    for entry in wire.fields(data, frames[-1].start, frames[-1].end, budget):
        if entry.number in (_VALUES, _INDICES) and entry.wire == wire.BYTES:
            parts[entry.number] = read_tensor(data, [*frames, entry], where, open_data, budget)
        elif entry.number == _DIMS:
            dims += read_numbers(data, entry)
    if len(parts) < 2 or len(parts[_VALUES].shape) != 1 or not dims:
        raise WeightsError(f"{where}: it lacks a list of numbers, their places or its shape; the file is damaged")
    if math.prod(d or 1 for d in dims) > _MOST or len(dims) > 64:
        raise WeightsError(f"{parts[_VALUES].where}: its shape {tuple(dims)} is more than is filled up with zeros")
    return SparseTensor(parts[_VALUES], parts[_INDICES], tuple(dims))
