"""Arrays that lie on a device.

A piece of a larger array is a view: the same memory from a row on. Kernels expect addresses that are multiples of a few
floats, as allocators give them; where a view starts at another, its numbers are moved to a place of their own, on the
device, by a session that does nothing else.

Only `DeviceArray.fetch` brings numbers back to the machine's memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper

from caffeinit.engine.device import Device
from caffeinit.engine.session import Settings, start
from caffeinit.graph import Shape

ALIGNMENT = 256  # bytes; what CUDA's own allocator keeps to


class DeviceArray:
    """Consecutive rows of memory on a device.

    Attributes:
        device: where it lies.
        shape, dtype: as of a numpy array.
    """

    def __init__(self, device: Device, owner: ort.OrtValue, shape: Shape, dtype: np.dtype, offset: int = 0) -> None:
        self.device = device
        self.shape = tuple(shape)
        self.dtype = np.dtype(dtype)
        self._owner = owner
        self._offset = offset

    @classmethod
    def allocate(cls, device: Device, shape: Shape, dtype: np.dtype) -> DeviceArray:
        """Return an array whose numbers are anything yet.

        Raises:
            RuntimeError, MemoryError: there is not so much memory, see `failures.is_out_of_memory`.
        """
        owner = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, device.kind, device.number)
        return cls(device, owner, shape, dtype)

    @classmethod
    def place(cls, device: Device, array: np.ndarray) -> DeviceArray:
        """Return a copy of an array on a device."""
        array = np.asarray(array, order="C")
        owner = ort.OrtValue.ortvalue_from_numpy(array, device.kind, device.number)
        return cls(device, owner, array.shape, array.dtype)

    @classmethod
    def joined(cls, device: Device, arrays: Sequence[np.ndarray]) -> DeviceArray:
        """Return a copy of arrays, one behind the other on axis 0, on a device."""
        if len(arrays) == 1:
            return cls.place(device, arrays[0])
        whole = cls.allocate(device, (sum(map(len, arrays)), *arrays[0].shape[1:]), arrays[0].dtype)
        at = 0
        for array in arrays:
            # On the machine's own memory a copy is a view.
            cls.place(Device(), array).copy_to(whole.rows(at, at + len(array)))
            at += len(array)
        return whole

    @classmethod
    def taken(cls, device: Device, owner: ort.OrtValue) -> DeviceArray:
        """Return what a session has put on a device by itself."""
        kind = helper.tensor_dtype_to_np_dtype(owner.element_type())
        return cls(device, owner, tuple(owner.shape()), kind)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_aligned(self) -> bool:
        """Whether kernels may work on it as it lies."""
        return self._offset % ALIGNMENT == 0

    def rows(self, start: int, stop: int) -> DeviceArray:
        """Return a view of some rows."""
        row = self.nbytes // max(len(self), 1)
        shape = (stop - start, *self.shape[1:])
        return DeviceArray(self.device, self._owner, shape, self.dtype, self._offset + start * row)

    def bind(self, binding: Any, name: str) -> None:
        """Make it the input or output of that name; it must live until the run is over.

        Args:
            binding: `bind_input` or `bind_output` of an onnxruntime IOBinding.
        """
        pointer = self._owner.data_ptr() + self._offset
        binding(name, self.device.kind, self.device.number, self.dtype.type, self.shape, pointer)

    def copy_to(self, target: DeviceArray) -> None:
        """Write the numbers into another array of this shape; errors are onnxruntime's own, for callers to explain."""
        session = _copier(helper.np_dtype_to_tensor_dtype(self.dtype), target.device)
        binding = session.io_binding()
        self.bind(binding.bind_input, "x")
        target.bind(binding.bind_output, "y")
        session.run_with_iobinding(binding)

    def aligned(self) -> DeviceArray:
        """Return the array, or a copy that is aligned."""
        if self.is_aligned:
            return self
        copy = DeviceArray.allocate(self.device, self.shape, self.dtype)
        self.copy_to(copy)
        return copy

    def fetch(self) -> np.ndarray:
        """Return a copy in the machine's memory."""
        flat = self._owner.numpy().reshape(-1)
        first = self._offset // self.dtype.itemsize
        return np.array(flat[first : first + math.prod(self.shape)]).reshape(self.shape)


@functools.lru_cache(maxsize=8)
def _copier(kind: int, device: Device) -> ort.InferenceSession:
    """Return a session that copies from memory to memory: it has no kernel that could mind an address."""
    x, y = (helper.make_tensor_value_info(name, kind, None) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return start(model, Settings(threads=1, device=device))
