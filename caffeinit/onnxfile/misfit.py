"""What onnx's own inference does not look at: whether a node fits what it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx

from caffeinit.graph import Graph, Shape, attribute

_FLAGS = ("keepdims", "transA", "transB", "allowzero")


def misfit(node: onnx.NodeProto, graph: Graph) -> str:
    """Return why a node does not fit what it reads; empty if it does, as far as shapes are known."""
    if node.domain:
        return ""
    odd = next((a for a in node.attribute if a.name in _FLAGS and a.i not in (0, 1)), None)
    if odd is not None:
        return f"its {odd.name} is {odd.i}, but should be 0 or 1"
    check = _CHECKS.get(node.op_type)
    if check is None or not all(graph.is_typed(v) for v in (*node.input, *node.output) if v):
        return ""
    return check(node, graph, [graph.shape(v) for v in node.input if v])


def _channels(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold the channels that arrays are for against those that there are."""
    x, weight, *rest = shapes
    group = attribute(node, "group", 1)
    if len(x) < 2 or not weight or group < 1 or (node.op_type != "BatchNormalization" and len(weight) != len(x)):
        return f"its input is {x}, its weight {weight}" + (f", its group {group}" if group < 1 else "")
    if 0 in weight:
        return f"its weight {weight} has no numbers"
    by_kind = {
        "Conv": (weight[1] * group, weight[0]) if len(weight) > 1 else (0, 0),
        "ConvTranspose": (weight[0], weight[1] * group) if len(weight) > 1 else (0, 0),
        "BatchNormalization": (weight[0], weight[0]),
    }
    wanted, made = by_kind[node.op_type]
    if x[1] not in (-1, wanted):
        return f"its weight {weight} is for {wanted} channels, but its input is {x}"
    odd = next((s for s in rest if s != (made,)), None)
    return f"an array of it is {odd}, but should be ({made},)" if odd is not None else ""


def _bias(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold what is added to a product of matrices against it."""
    product = graph.shape(node.output[0])
    odd = next((s for s in shapes[2:] if not _spreads(s, product)), None)
    return f"an array of {odd} cannot be added to a product of {product}" if odd is not None else ""


def _slope(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    x, slope = shapes
    return "" if _spreads(slope, x) else f"its slopes are {slope}, its input is {x}"


def _spreads(shape: Shape, whole: Shape) -> bool:
    """Tell whether an array can be repeated to a shape, sizes that are not known aside."""
    ends = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(n in (1, -1, m) or m == -1 for n, m in ends)


def _blocks(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """See whether channels or places can be cut into blocks."""
    x, size = shapes[0], attribute(node, "blocksize", 1)
    if len(x) != 4 or size < 1:
        return f"its input is {x}, its blocksize {size}"
    parts, what = (
        ((size, x[2:]), "height and width") if node.op_type == "SpaceToDepth" else ((size**2, x[1:2]), "channels")
    )
    odd = any(n != -1 and n % parts[0] for n in parts[1])
    return f"{what} of its input {x} cannot be cut by {parts[0]}" if odd else ""


def _count(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold how many numbers there are against how many the new shape has."""
    x, made = shapes[0], graph.shape(node.output[0])
    differs = -1 not in (*x, *made) and math.prod(x) != math.prod(made)
    return f"{math.prod(x)} numbers, {x}, cannot take the shape {made}" if differs else ""


_CHECKS: dict[str, Callable[[onnx.NodeProto, Graph, Sequence[Shape]], str]] = {
    "Conv": _channels,
    "ConvTranspose": _channels,
    "BatchNormalization": _channels,
    "Gemm": _bias,
    "PRelu": _slope,
    "SpaceToDepth": _blocks,
    "DepthToSpace": _blocks,
    "Reshape": _count,
}
