"""Values of a graph that follow from constants and from shapes alone.

Exporters spell shapes out as arithmetic: Shape, Gather, Concat and the like, down to the target of a Reshape. Shape
inference and operators' rules need the numbers; the nodes stay as they are, so that the graph still runs with other
batch sizes. Only small values are worked out, node by node, with onnx's reference implementation. That takes longer than it
takes to see that a node is like one before: nets that compute their padding hold the same formula once for each layer.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

if TYPE_CHECKING:
    from caffeinit.graph.graph import Graph

LARGEST = 64  # elements; shapes, axes and bounds have fewer
_ARITHMETIC = frozenset(
    "Abs Add And Cast Ceil Clip Concat ConstantOfShape Div Equal Expand Flatten Floor Gather Greater GreaterOrEqual "
    "Identity Less LessOrEqual Max Min Mod Mul Neg Not Or Pad Pow Range Reciprocal ReduceMax ReduceMin ReduceProd "
    "ReduceSum Reshape Round ScatterElements ScatterND Size Slice Split Sqrt Squeeze Sub Tile Transpose Unsqueeze "
    "Where".split()
)


def constant_node(node: onnx.NodeProto) -> np.ndarray | None:
    """Return the array of a Constant node, in whichever attribute it is; None for texts and sparse tensors."""
    for entry in node.attribute:
        value = helper.get_attribute_value(entry)
        if entry.name == "value" and entry.type == onnx.AttributeProto.TENSOR:
            return np.asarray(numpy_helper.to_array(value))
        if entry.name in ("value_float", "value_floats"):
            return np.asarray(value, np.float32)
        if entry.name in ("value_int", "value_ints"):
            return np.asarray(value, np.int64)
    return None


def known_value(graph: Graph, value: str) -> np.ndarray | None:
    """Return a value that does not depend on what the graph is fed; None where it does, or is large.

    What follows from shapes is that of the batch size which the graph was made for. What follows from arrays of real
    numbers is worked out anew each time: they may have been changed.
    """
    return _known(graph, value, {})


def _known(graph: Graph, value: str, anew: dict[str, np.ndarray | None]) -> np.ndarray | None:
    """Return what `known_value` does; `anew`: what has been worked out for this question alone."""
    if value in graph.initializers:
        return graph.initializers[value]
    for known in (graph.folded, anew):
        if value in known:
            return known[value]
    node, found = graph.producer(value), None
    # Of what has several outputs only the first is looked at.
    if node is not None and node.output[0] == value and node.domain in ("", "ai.onnx"):
        found = _fold(graph, node, anew)
    is_settled = found is None or node is None or all(_is_settled(graph, i) for i in node.input)
    (graph.folded if is_settled else anew)[value] = found
    return found


def _is_settled(graph: Graph, value: str) -> bool:
    """Tell whether a known value cannot change."""
    if value in graph.initializers:
        return graph.initializers[value].dtype.kind != "f"
    return not value or value in graph.folded or value in graph.inputs or graph.producer(value) is None


def _fold(graph: Graph, node: onnx.NodeProto, anew: dict[str, np.ndarray | None]) -> np.ndarray | None:
    if node.op_type == "Constant":
        return constant_node(node)
    try:
        if node.op_type in ("Shape", "Size"):
            return _shape(graph, node)
        sizes = graph.shape(node.output[0])
        if node.op_type == "CastLike":  # of what it is like, only the type counts
            node = helper.make_node("Cast", node.input[:1], node.output, to=graph.elem_type(node.input[1]))
    except KeyError:
        return None
    if node.op_type not in _ARITHMETIC or -1 in sizes or math.prod(sizes) > LARGEST:
        return None
    feeds = {i: _known(graph, i, anew) for i in dict.fromkeys(node.input) if i}
    if any(a is None for a in feeds.values()):
        return None
    return _run(graph, node, {i: a for i, a in feeds.items() if a is not None})


def _shape(graph: Graph, node: onnx.NodeProto) -> np.ndarray | None:
    shape = graph.shape(node.input[0])
    bounds = {a.name: a.i for a in node.attribute}
    wanted = shape[bounds.get("start", 0) : bounds.get("end", len(shape))]
    if -1 in wanted:
        return None
    return np.asarray(np.prod(shape) if node.op_type == "Size" else wanted, np.int64)


def _run(graph: Graph, node: onnx.NodeProto, feeds: dict[str, np.ndarray]) -> np.ndarray | None:
    """Return a node's first output, given what it reads; nodes that differ in names alone are run once."""
    names = {name: str(number) for number, name in enumerate(feeds)}
    outputs = [f"y{number}" if name else "" for number, name in enumerate(node.output)]
    plain = helper.make_node(node.op_type, [names.get(i, "") for i in node.input], outputs)
    plain.attribute.extend(node.attribute)
    if any(a.size > LARGEST or a.dtype.hasobject for a in feeds.values()):
        return _result(plain, graph.opset, {names[i]: a for i, a in feeds.items()})
    numbers = tuple((a.dtype, a.shape, a.tobytes()) for a in feeds.values())
    found = _known_result(plain.SerializeToString(deterministic=True), graph.opset, numbers)
    return None if found is None else found.copy()


@lru_cache(maxsize=4096)
def _known_result(
    node: bytes, opset: int, numbers: tuple[tuple[np.dtype[Any], tuple[int, ...], bytes], ...]
) -> np.ndarray | None:
    feeds: dict[str, np.ndarray] = {
        str(number): np.ndarray(shape, dtype, array) for number, (dtype, shape, array) in enumerate(numbers)
    }
    return _result(onnx.NodeProto.FromString(node), opset, feeds)


def _result(node: onnx.NodeProto, opset: int, feeds: dict[str, np.ndarray]) -> np.ndarray | None:
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feeds.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(o) for o in node.output[:1]]
    model = helper.make_model(
        helper.make_graph([node], "fold", inputs, outputs), opset_imports=[helper.make_opsetid("", opset)]
    )
    try:
        with np.errstate(all="ignore"):  # where a number is to be judged, onnxruntime computes it
            (result, *_) = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # whatever numpy raises where a node does not fit what it reads: onnxruntime will say so
        return None
    return np.asarray(result)
