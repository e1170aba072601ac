"""One TensorProto of an ONNX file: its name, type and shape, and where and how its numbers lie; or an attribute's list.

Real numbers are raw bytes, packed or single floats and doubles, halves as whole numbers (`int32_data`), or bytes of a
file beside the model. They are read as single precision and written back in the type that they have; in place, but for
halves as whole numbers, whose field is written anew.
Source: onnx/onnx.proto, TensorProto and AttributeProto.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from caffeinit.errors import FormatError, WeightsError
from caffeinit.storage import wire
from caffeinit.storage.stored import Chunk, StoredArray, merged, round_as_stored, run_length

_DIMS, _TYPE, _FLOATS, _INTS, _NAME, _RAW, _DOUBLES, _EXTERNAL, _LOCATION = 1, 2, 4, 5, 8, 9, 10, 13, 14
REAL: dict[int, np.dtype] = {
    TensorProto.FLOAT: np.dtype("<f4"),
    TensorProto.DOUBLE: np.dtype("<f8"),
    TensorProto.FLOAT16: np.dtype("<f2"),
}
_ATTRIBUTE_NAME, _ATTRIBUTE_FLOAT, _ATTRIBUTE_FLOATS = 1, 2, 7
_PARSED_MOST = 1 << 31  # bytes that protobuf takes
_SHARED_LEAST = 1 << 20  # bytes from which an array in a data file is read where it lies


@dataclass(frozen=True)
class DataFile:
    """A file beside the model that holds numbers: `data` to compare with, `scratch` whose changes stay in memory.

    Attributes:
        location: its name from the model's folder on, the same in however many ways the model spells it.
    """

    location: str
    path: str
    data: mmap.mmap
    scratch: mmap.mmap


OpenData = Callable[[str, str], DataFile]


@dataclass
class Tensor:
    """A tensor in a file.

    Attributes:
        where: names it in errors.
        frames: the messages it lies in, outermost first, itself last.
        place: (location, offset) where its numbers lie in a data file; None where they are in the model.
        location: extent of the entry's text that names the data file, and the messages around it.
        stored: its real numbers; None for other types, and for halves as whole numbers, which are in `halves`.
    """

    data: wire.Buffer
    where: str
    frames: list[wire.Field]
    name: str = ""
    elem_type: int = 0
    shape: tuple[int, ...] = ()
    place: tuple[str, int] | None = None
    location: list[wire.Field] = field(default_factory=list)
    stored: StoredArray | None = None
    halves: list[wire.Field] = field(default_factory=list)
    file: DataFile | None = None

    @property
    def is_real(self) -> bool:
        """Whether it holds real numbers that can be changed."""
        return self.stored is not None or bool(self.halves)

    @property
    def num_bytes(self) -> int:
        """How many bytes its numbers take, in its own type."""
        dtype = helper.tensor_dtype_to_np_dtype(self.elem_type)
        return -(-math.prod(self.shape) * _bits(self.elem_type, dtype) // 8)

    def array(self) -> np.ndarray:
        """Return its numbers: real ones in single precision, to be written into; others in their own type.

        Raises:
            WeightsError: numbers and shape disagree, or a number does not fit.
        """
        if self.stored is not None:
            shared = self._in_data_file()
            return self.stored.array() if shared is None else shared
        array = self.exact()
        return array.astype(np.float32) if self.elem_type in (*REAL, TensorProto.BFLOAT16) else array

    def patches(self, array: np.ndarray) -> Iterator[wire.Edit]:
        """Yield what must be written over the file that holds the numbers, so that it holds `array`.

        Raises:
            WeightsError: a changed number is not finite, or too large for the stored type.
        """
        if self.stored is not None:
            for start, new in self.stored.patches(array):
                yield start, start + len(new), new
            return
        changed = merged(self.exact().reshape(-1), array, self.where)
        if changed is None:
            return
        words = b"".join(wire.encode_varint(int(word)) for word in changed.view(np.uint16))
        first, *others = self.halves
        yield first.begin, first.end, wire.encode_bytes(_INTS, words)
        for other in others:
            yield other.begin, other.end, b""

    def round_as_stored(self, array: np.ndarray) -> bool:
        """Round numbers in place to what the file will hold of them; return whether any became another one.

        Raises:
            WeightsError: as for `patches`.
        """
        if self.stored is not None:
            return self.stored.round_as_stored(array)
        return self.is_real and round_as_stored(self.exact(), array, self.where)

    def _in_data_file(self) -> np.ndarray | None:
        """Return the numbers where they lie in a data file; what is written into them stays in memory."""
        stored = self.stored
        if self.file is None or stored is None or stored.dtype != np.dtype("=f4") or not stored.chunks:
            return None
        start = stored.chunks[0].start
        if start % 4 or 4 * stored.count < _SHARED_LEAST:
            return None
        return np.ndarray(self.shape, np.float32, self.file.scratch, start)

    def exact(self) -> np.ndarray:
        """Return a copy of the numbers in their own type.

        Raises:
            WeightsError: they cannot be read.
        """
        if self.stored is not None and self.elem_type == TensorProto.FLOAT:
            return self.stored.array()
        try:
            return np.array(numpy_helper.to_array(self.whole()))
        except (DecodeError, ValueError, TypeError, KeyError, NotImplementedError) as error:
            raise WeightsError(f"{self.where}: cannot be read: {' '.join(str(error).split())}") from None

    def whole(self) -> TensorProto:
        """Return the message with its numbers in it, also where they lie in a data file.

        Raises:
            WeightsError: they are too many.
            DecodeError: it is no message.
        """
        frame = self.frames[-1]
        if frame.end - frame.start >= _PARSED_MOST:
            raise WeightsError(f"{self.where}: is too large for its type")
        message = TensorProto()
        message.ParseFromString(bytes(self.data[frame.start : frame.end]))
        if self.file is not None and self.place is not None:
            message.raw_data = self.file.data[self.place[1] : self.place[1] + self.num_bytes]
            message.ClearField("data_location")
            message.ClearField("external_data")
        return message


def is_beside(data: wire.Buffer, frame: wire.Field, budget: wire.Budget) -> bool:
    """Tell whether the numbers of a tensor lie in a data file."""
    told = [f.value for f in wire.fields(data, frame.start, frame.end, budget) if f.number == _LOCATION]
    return told[-1:] == [TensorProto.EXTERNAL]


def _bits(elem_type: int, dtype: np.dtype) -> int:
    name = TensorProto.DataType.Name(elem_type)  # type: ignore[arg-type]
    return (
        4 if name.endswith("INT4") or name.startswith("FLOAT4") else 2 if name.endswith("INT2") else 8 * dtype.itemsize
    )


def read_tensor(
    data: wire.Buffer, frames: list[wire.Field], where: str, open_data: OpenData, budget: wire.Budget
) -> Tensor:
    """Index the tensor in the last of the messages `frames`.

    Raises:
        WireError: the bytes are no message.
        FormatError: its data file is not to be had.
        WeightsError: shape and numbers disagree.
    """
    found = Tensor(data, where, frames)
    at, end = frames[-1].start, frames[-1].end
    dims: list[int] = []
    chunks: dict[int, list[Chunk]] = {_FLOATS: [], _DOUBLES: [], _RAW: []}
    told: dict[str, str] = {}
    is_external = False
    while at < end:
        entry = wire.read_field(data, at, end, budget)
        at = entry.end
        if entry.number == _DIMS:
            dims += read_numbers(data, entry)
        elif entry.number == _TYPE and entry.wire == wire.VARINT:
            found.elem_type = entry.value
        elif entry.number == _NAME and entry.wire == wire.BYTES:
            found.name = bytes(data[entry.start : entry.end]).decode("utf-8", "replace")
            found.where = f'{where} "{found.name}"' if found.name else where
        elif entry.number == _INTS:
            found.halves.append(entry)
        elif entry.number in chunks and entry.wire == wire.BYTES:
            size = {_FLOATS: 4, _DOUBLES: 8}.get(entry.number, 1)
            chunks[entry.number].append(Chunk(entry.start, (entry.end - entry.start) // size, size))
        elif (entry.number, entry.wire) in ((_FLOATS, wire.FIXED32), (_DOUBLES, wire.FIXED64)):
            count, step = run_length(data, entry, end)
            chunks[entry.number].append(Chunk(entry.start, count, step))
            at = entry.begin + count * step
        elif entry.number == _EXTERNAL and entry.wire == wire.BYTES:
            _read_told(found, data, entry, told, budget)
        elif entry.number == _LOCATION:
            is_external = entry.value == TensorProto.EXTERNAL
    # What numpy can hold, in bytes of its widest type; axes of size 0 do not help.
    if math.prod(d or 1 for d in dims) >= 1 << 59 or len(dims) > 64:
        raise WeightsError(f"{found.where}: no tensor can have its shape; the file is damaged")
    found.shape = tuple(dims)
    if found.elem_type not in TensorProto.DataType.values() or found.elem_type == TensorProto.UNDEFINED:
        raise WeightsError(f"{found.where}: is of type {found.elem_type}, which does not exist; the file is damaged")
    if is_external:
        _connect(found, told, open_data)
    else:
        _settle(found, chunks)
    return found


def read_list(data: wire.Buffer, frames: list[wire.Field], where: str, budget: wire.Budget) -> Tensor | None:
    """Index the real numbers of a Constant's attribute, the last of the messages `frames`; None where it has none."""
    at, end = frames[-1].start, frames[-1].end
    chunks: dict[int, list[Chunk]] = {_ATTRIBUTE_FLOAT: [], _ATTRIBUTE_FLOATS: []}
    name = b""
    while at < end:
        entry = wire.read_field(data, at, end, budget)
        at = entry.end
        if entry.number == _ATTRIBUTE_NAME and entry.wire == wire.BYTES:
            name = bytes(data[entry.start : entry.end])
        elif entry.number in chunks and entry.wire == wire.FIXED32:
            count, step = run_length(data, entry, end)
            chunks[entry.number].append(Chunk(entry.start, count, step))
            at = entry.begin + count * step
        elif entry.number == _ATTRIBUTE_FLOATS and entry.wire == wire.BYTES:
            chunks[entry.number].append(Chunk(entry.start, (entry.end - entry.start) // 4, 4))
    own = chunks[_ATTRIBUTE_FLOATS] if name == b"value_floats" else chunks[_ATTRIBUTE_FLOAT]
    count = sum(chunk.count for chunk in own)
    if not count or name not in (b"value_float", b"value_floats") or (name == b"value_float" and count != 1):
        return None
    shape = (count,) if name == b"value_floats" else ()
    stored = StoredArray(data, where, shape, REAL[TensorProto.FLOAT], own)
    return Tensor(data, where, frames, elem_type=TensorProto.FLOAT, shape=shape, stored=stored)


def read_numbers(data: wire.Buffer, entry: wire.Field) -> list[int]:
    """Return the whole numbers of a field, one or packed; no more than 64 and a few."""
    if entry.wire == wire.VARINT:
        return [entry.value]
    numbers: list[int] = []
    at = entry.start
    while at < entry.end and len(numbers) <= 64:
        number, at = wire.read_varint(data, at, entry.end)
        numbers.append(number)
    return numbers


def _read_told(found: Tensor, data: wire.Buffer, entry: wire.Field, told: dict[str, str], budget: wire.Budget) -> None:
    """Read one key and value of what is told of the data file."""
    inner = {f.number: f for f in wire.fields(data, entry.start, entry.end, budget) if f.wire == wire.BYTES}
    texts = {n: bytes(data[f.start : f.end]).decode("utf-8", "replace") for n, f in inner.items()}
    told[texts.get(1, "")] = texts.get(2, "")
    if texts.get(1) == "location" and 2 in inner:
        found.location = [*found.frames, entry, inner[2]]


def _connect(found: Tensor, told: dict[str, str], open_data: OpenData) -> None:
    """Find the numbers of a tensor that lie in a data file."""
    found.halves = []
    if "location" not in told:
        raise FormatError(f"{found.where}: its numbers are said to lie in another file, but not in which")
    try:
        offset = int(told.get("offset", "0") or 0)
        length = int(told["length"]) if told.get("length") else None
    except ValueError:
        raise FormatError(f"{found.where}: offset or length of its numbers is no number") from None
    found.file = open_data(told["location"], found.where)
    found.place = (found.file.location, offset)
    size = found.num_bytes
    if length is not None and length != size:
        raise WeightsError(
            f"{found.where}: its shape {found.shape} asks for {size} bytes, {length} are said to be in {told['location']}"
        )
    if offset < 0 or offset + size > len(found.file.data):
        raise WeightsError(
            f"{found.where}: {told['location']} has {len(found.file.data)} bytes, but its numbers are said to be the "
            f"{size} from {offset} on; the file is cut off, or another model's"
        )
    if found.elem_type in REAL:
        own = REAL[found.elem_type]
        chunk = [Chunk(offset, size // own.itemsize, own.itemsize)] if size else []
        found.stored = StoredArray(found.file.data, found.where, found.shape, own, chunk)


def _settle(found: Tensor, chunks: dict[int, list[Chunk]]) -> None:
    """Find the numbers of a tensor that lie in the model."""
    dtype = REAL.get(found.elem_type)
    if dtype is None:
        found.halves = []
        return
    raw = [c for c in chunks[_RAW] if c.count]
    if raw:
        if any(c.count % dtype.itemsize for c in raw):
            raise WeightsError(f"{found.where}: its numbers are cut off in the middle")
        own = [Chunk(c.start, c.count // dtype.itemsize, dtype.itemsize) for c in raw]
    elif found.elem_type == TensorProto.FLOAT16 and found.halves:
        return  # numpy_helper holds them against the shape
    else:
        own = chunks[_FLOATS if found.elem_type == TensorProto.FLOAT else _DOUBLES]
    found.halves = []
    found.stored = StoredArray(found.data, found.where, found.shape, dtype, own)
    if found.stored.count != math.prod(found.shape):
        raise WeightsError(
            f"{found.where}: its shape {found.shape} asks for {math.prod(found.shape)} numbers, "
            f"{found.stored.count} are there; the file is damaged or cut off"
        )
