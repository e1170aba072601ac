"""Types of the values that one node makes, by onnx's own shape inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from caffeinit.graph.folding import LARGEST, known_value
from caffeinit.graph.rules import find_rule

if TYPE_CHECKING:
    from caffeinit.graph.graph import Graph, Shape

IR_VERSION = 8
_MOST_SIZES = 4096


def infer_types(graph: Graph, node: onnx.NodeProto, types: Mapping[str, onnx.TypeProto]) -> dict[str, onnx.TypeProto]:
    """Return the types of a node's outputs as far as they can be known.

    Args:
        types: of what the node reads.
    Raises:
        onnx.shape_inference.InferenceError: the node does not fit what it reads.
    """
    is_known = onnx.defs.has(node.op_type, graph.opset, node.domain)
    schema = onnx.defs.get_schema(node.op_type, graph.opset, node.domain) if is_known else None
    found = _infer(graph, node, schema, dict(types)) if schema and not schema.deprecated else {}
    if (shape := _known_to_rule(graph, node)) is not None:
        found[node.output[0]] = tensor_type(types[node.input[0]].tensor_type.elem_type, shape)
    return found


def _most(array: np.ndarray) -> int:
    """Return how many numbers an array may have to be looked at: sizes of pieces may be as many as these are."""
    return LARGEST if array.dtype.kind == "f" or array.ndim != 1 else _MOST_SIZES


def tensor_type(elem_type: int, shape: Shape) -> onnx.TypeProto:
    """Return the type of tensors; an extent of -1 is left open."""
    return helper.make_tensor_type_proto(elem_type, [None if d < 0 else d for d in shape])


def _known_to_rule(graph: Graph, node: onnx.NodeProto) -> Shape | None:
    rule = find_rule(node)
    try:
        return rule.known_shape(node, graph) if rule else None
    except KeyError:
        return None


def _infer(
    graph: Graph, node: onnx.NodeProto, schema: onnx.defs.OpSchema, types: dict[str, onnx.TypeProto]
) -> dict[str, onnx.TypeProto]:
    known = {i: known_value(graph, i) for i in types if i in graph.initializers or _is_small(types[i])}
    try:
        return onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            types,
            {i: numpy_helper.from_array(a) for i, a in known.items() if a is not None and a.size <= _most(a)},
            opset_imports=[helper.make_opsetid(node.domain, graph.opset)],
            ir_version=IR_VERSION,
        )
    except (onnx.shape_inference.InferenceError, ValueError) as error:  # ValueError: an attribute names no type
        if all(t.tensor_type.HasField("shape") for t in types.values()):
            raise onnx.shape_inference.InferenceError(str(error)) from None
        return {}  # behind an operator that onnx does not know


def _is_small(value: onnx.TypeProto) -> bool:
    """Tell whether a value may be one of shape arithmetic."""
    tensor = value.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else LARGEST + 1 for d in tensor.shape.dim]
    return tensor.HasField("shape") and len(dims) <= 1 and int(np.prod(dims)) <= LARGEST
