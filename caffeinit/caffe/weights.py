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
from typing import Protocol

import numpy as np

from caffeinit.arithmetic.factors import is_finite
from caffeinit.caffe.foreign import foreign_kind, other_message
from caffeinit.caffe.upgrade import v0_name, v0_type, v1_number, v1_type
from caffeinit.errors import FormatError, WeightsError
from caffeinit.protos.blobs import encode_blob, encode_legacy_blob, read_blob
from caffeinit.storage import wire
from caffeinit.storage.files import check_regular_file, is_hdf5, is_named_hdf5, replacing
from caffeinit.storage.stored import StoredArray

_V0_BLOBS, _V1_BLOBS, _V2_BLOBS = 50, 6, 7
_ALL_BLOBS: wire.PruneTree = {100: {_V2_BLOBS: None}, 2: {_V1_BLOBS: None, 1: {_V0_BLOBS: None}}}
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

    def round_as_stored(self, array: np.ndarray) -> bool:
        """Round numbers in place to what the file will hold of them; return whether any became another one."""


class WeightsFile(Protocol):
    """A weights file that has been indexed.

    Attributes:
        format: "V0", "V1", "V2" or "HDF5".
        layers: layer -> its blobs, in file order. Of layers with one name it is the last that has any: Caffe copies
            each into the net's layer, over the one before. HDF5 leaves out what a net shares; there None stands.
        types: layer -> type, in today's spelling; empty for HDF5, which does not tell.
    """

    path: Path
    format: str
    notes: list[str]

    @property
    def layers(self) -> Mapping[str, Sequence[StoredBlob | None]]:
        """Layer -> its blobs."""

    @property
    def types(self) -> Mapping[str, str]:
        """Layer -> type."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""

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
    layers: dict[str, list[StoredArray]] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    places: dict[str, _Place] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file."""
        digest = hashlib.sha256()
        for piece in wire.pieces(self.data, 0, len(self.data)):
            digest.update(piece)
        return digest.hexdigest()

    def write(
        self, path: str | PathLike[str], arrays: Mapping[BlobKey, np.ndarray], added: NewLayers, force: bool = False
    ) -> None:
        """Write the file with these numbers, and with layers that it lacked or held without blobs.

        Raises:
            WeightsError: a number cannot be written; OutputError: the target. Nothing is written then.
        """
        edits: list[wire.Edit] = []
        for (layer, index), array in arrays.items():
            blob = self.layers[layer][index]
            edits += [(start, start + len(new), new) for start, new in blob.patches(array)]
        tail: list[wire.Bytes] = []
        for name, (kind, blobs) in added.items():
            if name in self.places:
                edits += self._insert(name, blobs)
            else:
                tail += _new_layer(self.format, name, kind, blobs)
        with replacing(path, force) as temporary, open(temporary, "wb") as file:
            for piece in wire.edited(self.data, edits):
                file.write(piece)
            file.writelines(tail)

    def embedded_net(self) -> bytes:
        """Return the NetParameter in the file without its blobs.

        Raises:
            FormatError: it is damaged where no blobs are.
        """
        try:
            return wire.pruned(self.data, 0, len(self.data), _ALL_BLOBS)
        except wire.WireError as error:
            raise FormatError(f"{self.path}: the net in it is damaged: {error}") from None

    def _insert(self, name: str, arrays: Sequence[np.ndarray]) -> Iterator[tuple[int, int, bytes]]:
        """Yield the edits that give blobs to a layer that stands in the file without any."""
        assert not self.layers[name], f"{name} has blobs already"
        place = self.places[name]
        content = b"".join(_encode_blobs(name, arrays, place.blob_field))
        yield place.messages[-1].end, place.messages[-1].end, content
        grown = len(content)
        for message in reversed(place.messages):
            header = wire.encode_varint(message.number << 3 | wire.BYTES)
            header += wire.encode_varint(message.end - message.start + grown)
            yield message.begin, message.start, header
            grown += len(header) - (message.start - message.begin)


def _encode_blobs(layer: str, arrays: Sequence[np.ndarray], blob_field: int) -> list[wire.Bytes]:
    """Return the blob fields of a layer, in pieces.

    Raises:
        WeightsError: a number is not finite, or V1 has no form for the shape.
    """
    if not all(is_finite(a) for a in arrays):
        raise WeightsError(f'layer "{layer}": a number to be written is not finite')
    encode = encode_blob if blob_field == _V2_BLOBS else encode_legacy_blob
    return [piece for array in arrays for piece in wire.nested(blob_field, encode(array))]


def _new_layer(generation: str, name: str, kind: str, arrays: Sequence[np.ndarray]) -> list[wire.Bytes]:
    """Return a layer entry as it stands in a net of this generation, in pieces."""
    title = name.encode()
    if generation == "V2":
        head = wire.encode_bytes(1, title) + wire.encode_bytes(2, kind.encode())
        return wire.nested(100, [head, *_encode_blobs(name, arrays, _V2_BLOBS)])
    if generation == "V1":
        head = wire.encode_bytes(4, title) + wire.encode_number(5, v1_number(kind))
        return wire.nested(2, [head, *_encode_blobs(name, arrays, _V1_BLOBS)])
    # In a V0 file Caffe looks only at what is nested; a V1 entry among the others would lose its name.
    head = wire.encode_bytes(1, title) + wire.encode_bytes(2, v0_name(kind).encode())
    return wire.nested(2, wire.nested(1, [head, *_encode_blobs(name, arrays, _V0_BLOBS)]))


def open_weights(path: str | PathLike[str]) -> WeightsFile:
    """Index a weights file, binary or HDF5, by its content.

    Raises:
        FormatError: it is none, and what it seems to be.
        WeightsError: a blob in it is damaged.
    """
    path = check_regular_file(path)
    if path.stat().st_size == 0:
        raise FormatError(f"{path}: is empty")
    try:
        with open(path, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from None
    if is_hdf5(path):
        from caffeinit.caffe.hdf5 import open_hdf5

        return open_hdf5(path)
    foreign = foreign_kind(data[:4096])
    if foreign:
        raise FormatError(f"{path}: is {foreign}, not a caffemodel")
    try:
        return _index(path, data)
    except wire.WireError as error:
        raise FormatError(f"{path}: is no caffemodel, or one that is damaged or cut off: {error}") from None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None


def _index(path: Path, data: wire.Buffer) -> BinaryWeights:
    found = BinaryWeights(path, data)
    generations: set[str] = set()
    kinds: set[tuple[int, int]] = set()
    budget = wire.Budget()
    for entry in wire.fields(data, 0, len(data), budget):
        kinds.add((entry.number, entry.wire))
        if (1, wire.VARINT) in kinds:
            continue  # no net: a net's field 1 is its name; what it is will be told by its other fields
        if entry.number in (2, 100) and entry.wire == wire.BYTES:
            generations.add(_index_layer(found, entry, budget))
    if (1, wire.VARINT) in kinds:
        raise FormatError(f"{path}: {other_message(kinds)}")
    if not generations:
        raise FormatError(f"{path}: there are no layers in it: it is no caffemodel")
    found.format = min(generations)
    if len(generations) > 1:
        found.notes.append(f"layers of several generations in one file: {', '.join(sorted(generations))}")
    return found


def _index_layer(found: BinaryWeights, entry: wire.Field, budget: wire.Budget) -> str:
    """Index one layer and return its generation."""
    data = found.data
    inner = list(wire.fields(data, entry.start, entry.end, budget))
    name, kind = "", ""
    messages, blob_field = [entry], _V2_BLOBS
    generation = "V2" if entry.number == 100 else "V1"
    old = [f for f in inner if f.number == 1 and f.wire == wire.BYTES]
    if generation == "V1" and old:
        generation, blob_field = "V0", _V0_BLOBS
        messages.append(old[0])
        inner = list(wire.fields(data, old[0].start, old[0].end, budget))
    elif generation == "V1":
        blob_field = _V1_BLOBS
    for item in inner:
        if item.number == (4 if generation == "V1" else 1) and item.wire == wire.BYTES:
            name = _text(data, item)
        elif generation == "V1" and item.number == 5 and item.wire == wire.VARINT:
            kind = v1_type(item.value)
        elif generation != "V1" and item.number == 2 and item.wire == wire.BYTES:
            kind = _text(data, item) if generation == "V2" else v0_type(_text(data, item))
    stored = [f for f in inner if f.number == blob_field and f.wire == wire.BYTES]
    blobs = [read_blob(data, f.start, f.end, f'layer "{name}", blob {i}', budget) for i, f in enumerate(stored)]
    if found.layers.get(name) and blobs:
        found.notes.append(f'layer "{name}" is there more than once; its last copy counts, as in Caffe')
    if name not in found.layers or blobs:
        found.layers[name] = blobs
        found.types[name] = kind
        found.places[name] = _Place(messages, blob_field)
    return generation


def _text(data: wire.Buffer, item: wire.Field) -> str:
    return bytes(data[item.start : item.end]).decode("utf-8", "replace")


def write_new(
    path: str | PathLike[str],
    layers: NewLayers,
    net_name: str,
    force: bool = False,
    named: str | PathLike[str] | None = None,
) -> None:
    """Write a caffemodel in today's form from nothing; a name that ends in .h5 or .hdf5 gives Caffe's HDF5 form.

    Args:
        named: the name that tells the form; `path` by default.
    Raises:
        WeightsError: a number is not finite.
        OutputError: the target exists or cannot be written.
    """
    if is_named_hdf5(named or path):
        from caffeinit.caffe.hdf5 import write_new_hdf5

        write_new_hdf5(path, layers, force)
        return
    with replacing(path, force) as temporary, open(temporary, "wb") as file:
        if net_name:
            file.write(wire.encode_bytes(1, net_name.encode()))
        for name, (kind, arrays) in layers.items():
            file.writelines(_new_layer("V2", name, kind, arrays))
