"""An ONNX file, indexed where it lies: its structure as a message, its tensors as places in files.

The file is never parsed into messages and serialized again: writing copies its bytes with the changed numbers in their
places, so that whatever else is in it stays, and unchanged numbers give the same file. What lies in data files beside
the model stays there, under the same names where the output goes to another folder that has no files of these names.
"""

from __future__ import annotations

import mmap
import os
import posixpath
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PurePosixPath

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from caffeinit.caffe.foreign import foreign_kind
from caffeinit.errors import CaffeinitError, FormatError, OutputError, WeightsError
from caffeinit.graph.nodes import all_nodes, check_names
from caffeinit.onnxfile.lrn import Alpha, find_alpha
from caffeinit.onnxfile.sparse import SparseTensor, read_sparse
from caffeinit.onnxfile.tensors import DataFile, OpenData, Tensor, read_list, read_tensor
from caffeinit.onnxfile.within import put_in, read_beside, tensors_beside
from caffeinit.patterns import first_of
from caffeinit.storage import wire
from caffeinit.storage.files import check_regular_file, check_target, leads_out, replacing_all
from caffeinit.storage.mapped import release, scratch_copy

MOST_NODES = 100_000
_GRAPH, _NODE, _INITIALIZER, _SPARSE = 7, 1, 5, 15
_SCRATCH_LEAST = 1 << 29  # bytes from which a data file is worked on in a copy on the disk, not in memory
_NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR = 2, 4, 5, 5


@dataclass
class Container:
    """An ONNX file.

    Attributes:
        model: its structure; the graph's initializers are left out.
        initializers: name -> tensor, in the order of the file.
        sparse: name -> sparse initializer.
        constants: output of a Constant node of the graph -> its tensor, or list of real numbers.
        within: other tensors within nodes whose numbers lie in data files; they stay.
        alphas: output of an LRN node of the graph -> where its alpha is.
    """

    path: Path
    data: wire.Buffer
    model: onnx.ModelProto
    initializers: dict[str, Tensor] = field(default_factory=dict)
    sparse: dict[str, SparseTensor] = field(default_factory=dict)
    constants: dict[str, Tensor] = field(default_factory=dict)
    within: list[Tensor] = field(default_factory=list)
    alphas: dict[str, Alpha] = field(default_factory=dict)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors whose numbers can be read."""
        return {**self.constants, **self.initializers}

    @property
    def stored(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Initializer -> its element type and shape."""
        sparse = {name: (tensor.values.elem_type, tensor.shape) for name, tensor in self.sparse.items()}
        return {name: (tensor.elem_type, tensor.shape) for name, tensor in self.initializers.items()} | sparse

    @property
    def data_files(self) -> dict[str, DataFile]:
        """Location -> file beside the model."""
        return {t.place[0]: t.file for t in self._indexed() if t.place and t.file}

    def _indexed(self) -> Iterator[Tensor]:
        """Yield all tensors, parts of sparse ones among them."""
        yield from (*self.tensors.values(), *self.within)
        for tensor in self.sparse.values():
            yield from (tensor.values, tensor.indices)

    def write(
        self,
        path: str | PathLike[str],
        arrays: Mapping[str, np.ndarray],
        force: bool = False,
        alphas: Mapping[str, float] | None = None,
    ) -> None:
        """Write the model, and its data files if it has any, with these numbers.

        Args:
            arrays: tensor -> numbers; those that did not change keep their bits.
            alphas: output of an LRN node -> its new alpha.
        Raises:
            WeightsError: a number cannot be written. OutputError: a target. Nothing is written then.
        """
        target = check_target(path, force)
        edits: dict[str, list[wire.Edit]] = {location: [] for location in self.data_files}
        own: list[wire.Edit] = []
        around: dict[int, wire.Field] = {}
        for name, array in arrays.items():
            tensor = self.tensors[name]
            if tensor.place:
                edits[tensor.place[0]] += tensor.patches(array)
                release(array)
            else:
                own += tensor.patches(array)
                around |= {f.begin: f for f in tensor.frames if tensor.halves}
        for output, value in (alphas or {}).items():
            own.append(self.alphas[output].edit(value))
            around |= {f.begin: f for f in self.alphas[output].frames}
        renamed = self._renamed(target)
        for tensor in self._indexed():
            if tensor.place:
                text, location = tensor.location[-1], tensor.place[0]
                told = bytes(self.data[text.start : text.end]).decode("utf-8", "replace")
                # The folder that a name goes into and out of again need not be there beside the output.
                if renamed[location] != location or ".." in PurePosixPath(told).parts:
                    own.append((text.start, text.end, renamed[location].encode()))
                    around |= {f.begin: f for f in tensor.location}
        own = wire.with_lengths(own, list(around.values()))
        beside = [_made_way(target.parent / renamed[location]) for location in self.data_files]
        with replacing_all([*beside, target], force) as places:
            for place, (location, file) in zip(places, self.data_files.items(), strict=False):
                _write_pieces(place, wire.edited(file.data, edits[location]))
            _write_pieces(places[-1], wire.edited(self.data, own))

    def _renamed(self, target: Path) -> dict[str, str]:
        """Return data file -> its name beside the output: the same in another folder, else named after the output.

        So they are in another folder, too, if files of these names belong to another model than the one to be replaced.
        """
        if not self.data_files:
            return {}
        source = Path(os.path.realpath(self.path.parent))
        if target.parent != source:
            taken = [location for location in self.data_files if (target.parent / location).exists()]
            if not taken or set(taken) <= _data_files_of(target):
                return {location: location for location in self.data_files}
        if target == Path(os.path.realpath(self.path)):
            files = first_of([*self.data_files], 3)
            raise OutputError(
                f"{target}: is the model itself, and has its numbers in files beside it ({files}): "
                "model and files cannot be replaced in one step, and so it cannot be written over itself. "
                "Give it another name or folder"
            )
        names = {}
        for location in self.data_files:
            old = PurePosixPath(location)
            rest = old.name.removeprefix(self.path.name).removeprefix(self.path.stem)
            name = f"{target.name}{rest}" if rest != old.name else f"{target.name}.{old.name}"
            names[location] = str(old.with_name(name))
        return names


def _data_files_of(path: Path) -> set[str]:
    """Return the data files that a model has, if there is one."""
    try:
        return set(open_onnx(path).data_files) if path.exists() else set()
    except CaffeinitError:
        return set()


def _made_way(path: Path) -> Path:
    """Return the path, with the folder made that it lies in."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {(error.strerror or str(error)).lower()}") from None
    return path


def _write_pieces(path: Path, pieces: Iterator[memoryview | bytes]) -> None:
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
            release(piece)


def open_onnx(path: str | PathLike[str]) -> Container:
    """Index an ONNX file.

    Raises:
        FormatError: it is none, or is damaged, or a data file is not to be had.
        WeightsError: a tensor in it is damaged.
    """
    path = check_regular_file(path)
    if path.stat().st_size == 0:
        raise FormatError(f"{path}: is empty")
    data = _mapped(path)
    kind = foreign_kind(data[:4096])
    if kind:
        raise FormatError(f"{path}: is {'a text file' if kind.startswith('a text') else kind}, not an ONNX model")
    try:
        found = Container(path, data, _structure(path, data))
        opened: dict[str, DataFile] = {}

        def open_data(told: str, where: str) -> DataFile:
            location = _location(path, told, where)
            if location not in opened:
                opened[location] = _open_data(path, location)
            return opened[location]

        _index(found, open_data)
        if tensors_beside(found.model):
            known = {tensor.frames[-1].begin for tensor in found.constants.values()}
            found.within = read_beside(data, known, open_data)
            put_in(found.model, found.constants, open_data)
    except wire.WireError as error:
        raise FormatError(f"{path}: is no ONNX model, or one that is damaged or cut off: {error}") from None
    except (FormatError, WeightsError) as error:
        raise type(error)(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    return found


def _mapped(path: Path) -> mmap.mmap:
    try:
        with open(path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read: {error}") from None


def _structure(path: Path, data: wire.Buffer) -> onnx.ModelProto:
    """Return the model without its graph's initializers, dense and sparse."""
    model = onnx.ModelProto()
    try:
        model.ParseFromString(wire.pruned(data, 0, len(data), {_GRAPH: {_INITIALIZER: None, _SPARSE: None}}))
    except DecodeError as error:
        raise FormatError(f"{path}: is no ONNX model, or one that is damaged or cut off: {error}") from None
    if not model.graph.node:
        raise FormatError(f"{path}: is no ONNX model: it holds no graph of any nodes")
    if (count := sum(1 for _ in all_nodes(model))) > MOST_NODES:
        raise FormatError(f"{path}: {count} nodes are more than any real net has")
    check_names(model, str(path))
    return model


def _index(found: Container, open_data: OpenData) -> None:
    """Find all tensors of the graph."""
    data, budget = found.data, wire.Budget()
    graphs = [f for f in wire.fields(data, 0, len(data), budget) if f.number == _GRAPH and f.wire == wire.BYTES]
    if len(graphs) != 1:
        raise FormatError("it holds more than one graph: it is damaged")
    for item in wire.fields(data, graphs[0].start, graphs[0].end, budget):
        if item.wire != wire.BYTES:
            continue
        if item.number == _INITIALIZER:
            tensor = read_tensor(data, [graphs[0], item], "initializer", open_data, budget)
            _check_new(found, tensor.name)
            found.initializers[tensor.name] = tensor
        elif item.number == _SPARSE:
            sparse = read_sparse(data, [graphs[0], item], open_data, budget)
            _check_new(found, sparse.values.name)
            found.sparse[sparse.values.name] = sparse
        elif item.number == _NODE:
            _index_constant(found, graphs[0], item, open_data, budget)
            if alpha := find_alpha(data, graphs[0], item, budget):
                found.alphas[alpha[0]] = alpha[1]


def _check_new(found: Container, name: str) -> None:
    if name in found.initializers or name in found.sparse:
        raise FormatError(f'two initializers are named "{name}"')


def _index_constant(
    found: Container, graph: wire.Field, node: wire.Field, open_data: OpenData, budget: wire.Budget
) -> None:
    """Find the tensor of a Constant node, or its list of real numbers."""
    data = found.data
    inner = list(wire.fields(data, node.start, node.end, budget))
    if not any(f.number == _NODE_TYPE and bytes(data[f.start : f.end]) == b"Constant" for f in inner):
        return
    outputs = [bytes(data[f.start : f.end]).decode("utf-8", "replace") for f in inner if f.number == _NODE_OUTPUT]
    for entry in inner if outputs else ():
        if entry.number != _NODE_ATTRIBUTE or entry.wire != wire.BYTES:
            continue
        where, frames = f'constant "{outputs[0]}"', [graph, node, entry]
        if numbers := read_list(data, frames, where, budget):
            found.constants[outputs[0]] = numbers
            continue
        for value in wire.fields(data, entry.start, entry.end, budget):
            if value.number == _ATTRIBUTE_TENSOR and value.wire == wire.BYTES:
                found.constants[outputs[0]] = read_tensor(data, [*frames, value], where, open_data, budget)


def _location(model: Path, told: str, where: str) -> str:
    """Return the name of a data file, which must lie in the model's folder or below it, as short as it can be.

    Raises:
        FormatError: it does not.
    """
    location = posixpath.normpath(told) if told else ""
    if not PurePosixPath(location).name or "\0" in told or leads_out(location):
        raise FormatError(f"{where}: its numbers are said to lie in {told!r}: only the model's own folder is read")
    folder = os.path.realpath(model.parent)
    place = os.path.realpath(os.path.join(folder, told))
    if os.path.commonpath([folder, place]) != folder or place != os.path.realpath(os.path.join(folder, location)):
        raise FormatError(f"{where}: its numbers are said to lie in {told!r}, a link that leaves the model's folder")
    return location


def _open_data(model: Path, location: str) -> DataFile:
    """Open a data file.

    Raises:
        FormatError: it cannot be read.
    """
    folder = os.path.realpath(model.parent)
    file = check_regular_file(os.path.join(folder, location))
    if file.stat().st_size == 0:
        raise FormatError(f"{file}: is empty")
    try:
        data = _mapped(file)
        if len(data) > _SCRATCH_LEAST:
            return DataFile(location, str(file), data, scratch_copy(file))
        with open(file, "rb") as stream:
            return DataFile(location, str(file), data, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY))
    except OSError as error:
        folder = tempfile.gettempdir()
        raise FormatError(f"{file}: no working copy of it can be made in {folder} (TMPDIR): {error}") from None
