"""Models of half or double precision as models of single precision, for computing; the file keeps its types.

All that names a type is changed: inputs, constants, Cast and its like, also within subgraphs. Initializers come as single
precision from their tensors.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

from caffeinit.errors import WeightsError
from caffeinit.graph import attribute
from caffeinit.graph.nodes import name_of
from caffeinit.patterns import first_of

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_datatype")


def types_to_change(graph: onnx.GraphProto) -> set[int]:
    """Return the element types that are computed in single precision: halves, and doubles where the net takes them."""
    doubles = [v for v in graph.input if v.type.tensor_type.elem_type == TensorProto.DOUBLE]
    return {*HALVES, *([TensorProto.DOUBLE] if doubles else [])}


def rounding_notes(graph: onnx.GraphProto) -> list[str]:
    """Return that a graph of single precision rounds values to halves, which is not computed; ask before it is changed."""
    if any(v.type.tensor_type.elem_type in HALVES for v in graph.input):
        return []
    casts = [n for n in graph.node if n.op_type == "Cast" and attribute(n, "to") in HALVES]
    if not casts:
        return []
    names = first_of([name_of(n) for n in casts], 3)
    return [
        f"values are rounded to half precision inside the model, by {names}, and are not rounded here: its own outputs can "
        "move by more than is told, by about 1e-3 of their largest value"
    ]


def to_single(graph: onnx.GraphProto, types: Collection[int]) -> None:
    """Change a graph, and those within it, in place.

    Raises:
        WeightsError: a tensor in a node is damaged.
    """
    for value in (*graph.input, *graph.output, *graph.value_info):
        _change_type(value.type, types)
    for tensor in graph.initializer:
        _change_tensor(tensor, types)
    for node in graph.node:
        for entry in node.attribute:
            if entry.type == AttributeProto.INT and entry.name in _TYPE_ATTRIBUTES and entry.i in types:
                entry.i = TensorProto.FLOAT
            elif entry.type == AttributeProto.TENSOR:
                _change_tensor(entry.t, types)
            for inner in (*([entry.g] if entry.HasField("g") else []), *entry.graphs):
                to_single(inner, types)


def _change_type(kind: onnx.TypeProto, types: Collection[int]) -> None:
    if kind.HasField("tensor_type") and kind.tensor_type.elem_type in types:
        kind.tensor_type.elem_type = TensorProto.FLOAT
    elif kind.HasField("sequence_type"):
        _change_type(kind.sequence_type.elem_type, types)
    elif kind.HasField("optional_type"):
        _change_type(kind.optional_type.elem_type, types)


def _change_tensor(tensor: TensorProto, types: Collection[int]) -> None:
    if tensor.data_type in types:
        try:
            array = numpy_helper.to_array(tensor).astype("float32")
        except (ValueError, TypeError) as error:
            raise WeightsError(f'tensor "{tensor.name}" of a node cannot be read: {error}') from None
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
