"""Weights files: what layers and blobs they hold, and writing them back with nothing but the numbers changed.

A binary caffemodel is never parsed into messages and serialized again: it is indexed where it lies, and writing copies
its bytes with the changed numbers in their places. Whatever else is in the file survives by construction.
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from caffeinit.caffe import wire
from caffeinit.caffe.blobs import Blob, encode_blob, encode_legacy_blob, read_blob
from caffeinit.caffe.upgrade import v1_number, v1_type
from caffeinit.errors import FormatError, WeightsError
from caffeinit.files import check_regular_file, replacing

BlobKey = tuple[str, int]
NewLayers = Mapping[str, tuple[str, Sequence[np.ndarray]]]


class StoredBlob(Protocol):
    """What both formats' blobs can tell."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As stored."""

    @property
    def encoding(self) -> str:
        """ "float", "double" or "float16"."""

    def array(self) -> np.ndarray:
        """Return a new float32 array in the stored shape."""


class WeightsFile(Protocol):
    """A weights file that has been indexed.

    Attributes:
        format: "V0", "V1", "V2" or "HDF5".
        layers: layer -> its blobs, in file order; of layers with one name the first, as Caffe takes it.
        types: layer -> type, in today's spelling; empty for HDF5, which does not tell.
    """

    path: Path
    format: str
    notes: list[str]

    @property
    def layers(self) -> Mapping[str, Sequence[StoredBlob]]:
        """Layer -> its blobs."""

    @property
    def types(self) -> Mapping[str, str]:
        """Layer -> type."""

    def write(
        self, path: str | PathLike[str], arrays: Mapping[BlobKey, np.ndarray], added: NewLayers, force: bool = False
    ) -> None:
        """Write the file with these numbers; numbers that did not change keep their bits."""


@dataclass
class _Place:
    """Where a layer's message lies, outermost first, and which field holds its blobs."""

    messages: list[wire.Field]
    blob_field: int


@dataclass
class BinaryWeights:
    """A caffemodel in protobuf's form."""

    path: Path
    data: wire.Buffer
    format: str = "V2"
    layers: dict[str, list[Blob]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    places: dict[str, _Place] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    def write(
        self, path: str | PathLike[str], arrays: Mapping[BlobKey, np.ndarray], added: NewLayers, force: bool = False
    ) -> None:
        """Write the file with these numbers, and with layers that it lacked or held without blobs.

        Raises:
            WeightsError: a number cannot be written; OutputError: the target. Nothing is written then.
        """
        edits: list[tuple[int, int, Any]] = []
        for (layer, index), array in arrays.items():
            blob = self.layers[layer][index]
            edits += [(start, start + len(new), new) for start, new in blob.patches(array)]
        for name, (kind, blobs) in added.items():
            edits += self._insert(name, kind, blobs)
        edits.sort(key=lambda e: e[:2])
        with replacing(path, force) as temporary, open(temporary, "wb") as file:
            for piece in _pieces(self.data, edits):
                file.write(piece)

    def _insert(self, name: str, kind: str, arrays: Sequence[np.ndarray]) -> Iterator[tuple[int, int, bytes]]:
        """Yield the edits that add blobs to a layer without any, or a layer at the end of the file."""
        for array in arrays:
            if not np.isfinite(array).all():
                raise WeightsError(f'layer "{name}": a number to be written is not finite')
        encode = encode_blob if self.format == "V2" else encode_legacy_blob
        if name not in self.places:
            end = len(self.data)
            yield end, end, _new_layer(self.format, name, kind, [encode(a) for a in arrays])
            return
        place = self.places[name]
        content = b"".join(wire.encode_bytes(place.blob_field, encode(a)) for a in arrays)
        yield place.messages[-1].end, place.messages[-1].end, content
        grown = len(content)
        for message in reversed(place.messages):
            header = wire.encode_varint(message.number << 3 | wire.BYTES)
            header += wire.encode_varint(message.end - message.start + grown)
            yield message.begin, message.start, header
            grown += len(header) - (message.start - message.begin)


def _pieces(data: wire.Buffer, edits: Sequence[tuple[int, int, Any]]) -> Iterator[Any]:
    """Yield the buffer with each (start, end) replaced by its edit."""
    at = 0
    view = memoryview(data)
    for start, end, new in edits:
        yield view[at:start]
        yield new
        at = end
    yield view[at:]


def _new_layer(generation: str, name: str, kind: str, blobs: Sequence[bytes]) -> bytes:
    title = name.encode()
    if generation == "V2":
        body = wire.encode_bytes(1, title) + wire.encode_bytes(2, kind.encode())
        return wire.encode_bytes(100, body + b"".join(wire.encode_bytes(7, b) for b in blobs))
    body = wire.encode_bytes(4, title) + wire.encode_number(5, v1_number(kind))
    return wire.encode_bytes(2, body + b"".join(wire.encode_bytes(6, b) for b in blobs))


def open_weights(path: str | PathLike[str]) -> WeightsFile:
    """Index a weights file, binary or HDF5, by its content.

    Raises:
        FormatError: it is none, and what it seems to be.
        WeightsError: a blob in it is damaged.
    """
    path = check_regular_file(path)
    if path.stat().st_size == 0:
        raise FormatError(f"{path}: is empty")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if data[:8] == b"\x89HDF\r\n\x1a\n":
        from caffeinit.caffe.hdf5 import open_hdf5

        return open_hdf5(path)
    foreign = _foreign(data[:4096])
    if foreign:
        raise FormatError(f"{path}: is {foreign}, not a caffemodel")
    try:
        return _index(path, data)
    except wire.WireError as error:
        raise FormatError(f"{path}: is no caffemodel, or one that is damaged or cut off: {error}") from None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _foreign(head: bytes) -> str:
    """Return what a file that begins like this is, if it is something well known."""
    if head.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer; the file itself was never downloaded (git lfs pull)"
    if head.lstrip()[:1] == b"<":
        return "a web page; the download went wrong"
    if head.startswith(b"PK\x03\x04"):
        return "a zip archive (or a PyTorch checkpoint)"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04"):
        return "a Python pickle"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip archive; unpack it first"
    if all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in head):
        return "a text file; are net and weights in the right order?"
    return ""


def _index(path: Path, data: wire.Buffer) -> BinaryWeights:
    found = BinaryWeights(path, data)
    generations: set[str] = set()
    numbers: set[tuple[int, int]] = set()
    for entry in wire.fields(data, 0, len(data)):
        numbers.add((entry.number, entry.wire))
        if entry.number in (2, 100) and entry.wire == wire.BYTES and (1, wire.VARINT) not in numbers:
            generations.add(_index_layer(found, entry))
    if (1, wire.VARINT) in numbers:
        raise FormatError(f"{path}: {_not_a_net(numbers)}")
    if not generations:
        raise FormatError(f"{path}: there are no layers in it: it is no caffemodel")
    found.format = min(generations)
    if len(generations) > 1:
        found.notes.append(f"layers of several generations in one file: {', '.join(sorted(generations))}")
    return found


def _not_a_net(numbers: set[tuple[int, int]]) -> str:
    if (7, wire.BYTES) in numbers:
        return "is an ONNX model, not a caffemodel"
    return "is a solverstate: it holds the solver's history, not weights. The caffemodel of the same iteration has them"


def _index_layer(found: BinaryWeights, entry: wire.Field) -> str:
    """Index one layer and return its generation."""
    data = found.data
    inner = list(wire.fields(data, entry.start, entry.end))
    name, kind = "", ""
    messages, blob_field = [entry], 7
    generation = "V2" if entry.number == 100 else "V1"
    old = [f for f in inner if f.number == 1 and f.wire == wire.BYTES]
    if generation == "V1" and old:
        generation, blob_field = "V0", 50
        messages.append(old[0])
        inner = list(wire.fields(data, old[0].start, old[0].end))
    elif generation == "V1":
        blob_field = 6
    for item in inner:
        if item.number == (4 if generation == "V1" else 1) and item.wire == wire.BYTES:
            name = bytes(data[item.start : item.end]).decode("utf-8", "replace")
        elif generation == "V1" and item.number == 5 and item.wire == wire.VARINT:
            kind = v1_type(item.value)
        elif generation != "V1" and item.number == 2 and item.wire == wire.BYTES:
            kind = bytes(data[item.start : item.end]).decode("utf-8", "replace")
    stored = [f for f in inner if f.number == blob_field and f.wire == wire.BYTES]
    blobs = [read_blob(data, f.start, f.end, f'layer "{name}", blob {i}') for i, f in enumerate(stored)]
    if name in found.layers:
        if blobs:
            found.notes.append(f'layer "{name}" is there again; its first copy counts')
        return generation
    found.layers[name] = blobs
    found.types[name] = kind
    found.places[name] = _Place(messages, blob_field)
    return generation


def write_new(path: str | PathLike[str], layers: NewLayers, net_name: str, force: bool = False) -> None:
    """Write a caffemodel in today's form from nothing; a name that ends in .h5 or .hdf5 gives Caffe's HDF5 form.

    Raises:
        WeightsError: a number is not finite.
        OutputError: the target exists or cannot be written.
    """
    if str(path).endswith((".h5", ".hdf5")):
        from caffeinit.caffe.hdf5 import write_new_hdf5

        write_new_hdf5(path, layers, force)
        return
    for name, (_, arrays) in layers.items():
        if not all(np.isfinite(a).all() for a in arrays):
            raise WeightsError(f'layer "{name}": a number to be written is not finite')
    with replacing(path, force) as temporary, open(temporary, "wb") as file:
        if net_name:
            file.write(wire.encode_bytes(1, net_name.encode()))
        for name, (kind, arrays) in layers.items():
            file.write(_new_layer("V2", name, kind, [encode_blob(a) for a in arrays]))
