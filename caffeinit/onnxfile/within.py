"""Tensors within nodes whose numbers lie in files beside the model: in their graphs, in functions, in attributes.

They stay as they are. What is computed with has their numbers in it, for onnx seeks none beside a model that is in memory;
and what is written names the files that go along with it.
Source: onnx/onnx.proto, GraphProto, NodeProto, AttributeProto, FunctionProto and SparseTensorProto.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx
from onnx import TensorProto

from caffeinit.errors import WeightsError
from caffeinit.graph.nodes import all_nodes, subgraphs
from caffeinit.onnxfile.tensors import OpenData, Tensor, is_beside, read_tensor
from caffeinit.storage import wire

_MOST = 1 << 30  # bytes of numbers that are put into nodes
_TENSOR = "tensor"
_PARTS = {
    "model": {7: "outermost graph", 25: "function"},
    "outermost graph": {1: "node"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse tensor", 23: "sparse tensor"},
    "sparse tensor": {1: _TENSOR, 2: _TENSOR},
}  # message -> number of a field -> what it holds


def tensors_beside(model: onnx.ModelProto) -> list[TensorProto]:
    """Return the tensors within nodes whose numbers lie in data files."""
    found: list[TensorProto] = []
    for node in all_nodes(model):
        sparse = [s for graph in subgraphs(node) for s in graph.sparse_initializer]
        for entry in node.attribute:
            found += [entry.t] if entry.HasField("t") else []
            found += entry.tensors
            sparse += [entry.sparse_tensor] if entry.HasField("sparse_tensor") else []
            sparse += entry.sparse_tensors
        found += [t for graph in subgraphs(node) for t in graph.initializer]
        found += [part for whole in sparse for part in (whole.values, whole.indices)]
    return [t for t in found if t.data_location == TensorProto.EXTERNAL]


def put_in(model: onnx.ModelProto, apart: Collection[str], open_data: OpenData) -> None:
    """Put the numbers of tensors within nodes into the model.

    Args:
        apart: outputs of Constant nodes of the outermost graph whose numbers are had without that; they get none.
    Raises:
        FormatError: a data file is not to be had.
        WeightsError: the numbers do not fit it, or are too many.
    """
    for node in model.graph.node:
        for entry in node.attribute if node.op_type == "Constant" and node.output[0] in apart else ():
            if entry.t.data_location == TensorProto.EXTERNAL:
                entry.t.CopyFrom(TensorProto(data_type=entry.t.data_type, dims=[0]))
    size = 0
    for tensor in tensors_beside(model):
        message = tensor.SerializeToString()
        frame = wire.Field(0, wire.BYTES, 0, 0, len(message), 0)
        tensor.CopyFrom(read_tensor(message, [frame], _where(tensor.name), open_data, wire.Budget()).whole())
        size += len(tensor.raw_data)
        if size > _MOST:
            raise WeightsError(f"more than {_MOST >> 20} MB of numbers stand within nodes, in data files")


def read_beside(data: wire.Buffer, known: Collection[int], open_data: OpenData) -> list[Tensor]:
    """Index, in a file, the tensors within nodes whose numbers lie in data files.

    Args:
        known: where those begin that need not be looked for.
    Raises:
        WireError, FormatError, WeightsError: as for `read_tensor`.
    """
    budget = wire.Budget()
    found = _walk(data, [wire.Field(0, wire.BYTES, 0, 0, len(data), 0)], "model", budget)
    places = [frames[1:] for frames in found if frames[-1].begin not in known]
    return [read_tensor(data, frames, _where(), open_data, budget) for frames in places]


def _where(name: str = "") -> str:
    return f'tensor "{name}" within a node' if name else "tensor within a node"


def _walk(data: wire.Buffer, frames: list[wire.Field], kind: str, budget: wire.Budget) -> Iterator[list[wire.Field]]:
    """Yield, for each tensor in a message whose numbers lie elsewhere, the messages around it and itself."""
    if kind == _TENSOR:
        if is_beside(data, frames[-1], budget):
            yield frames
        return
    for item in wire.fields(data, frames[-1].start, frames[-1].end, budget):
        if item.wire == wire.BYTES and item.number in _PARTS[kind]:
            yield from _walk(data, [*frames, item], _PARTS[kind][item.number], budget)
