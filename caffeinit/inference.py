"""Types of the values that one node makes, by onnx's own shape inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from caffeinit.folding import LARGEST, known_value

if TYPE_CHECKING:
    from caffeinit.graph import Graph

IR_VERSION = 8
# Functions, which onnx does not look into; all of them keep the shape of what they read.
_KEEP_SHAPE = ("MeanVarianceNormalization", "GroupNormalization")


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
    if node.op_type in _KEEP_SHAPE:
        found[node.output[0]] = types[node.input[0]]
    return found


def _infer(
    graph: Graph, node: onnx.NodeProto, schema: onnx.defs.OpSchema, types: dict[str, onnx.TypeProto]
) -> dict[str, onnx.TypeProto]:
    known = {i: known_value(graph, i) for i in types if i in graph.initializers or _is_small(types[i])}
    try:
        return onnx.shape_inference.infer_node_outputs(
            schema,
            node,
            types,
            {i: numpy_helper.from_array(a) for i, a in known.items() if a is not None and a.size <= LARGEST},
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
