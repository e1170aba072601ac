"""What onnx's own inference does not look at: whether a node fits what it reads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.rules import find_rule
from caffeinit.ops.recurrent import Recurrent

_FLAGS = ("keepdims", "transA", "transB", "allowzero")
# Operators with windows, and what their settings are to be at least. onnx looks at them only where extents are known, and
# onnxruntime may end the process.
_WINDOWS = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_LEAST = {"strides": 1, "dilations": 1, "kernel_shape": 1}
# Operator -> the first input from which on all are lists of numbers, where there are any.
_LISTS = {"Reshape": 1, "Slice": 1, "Expand": 1, "Tile": 1, "Resize": 1}


def misfit(node: onnx.NodeProto, graph: Graph) -> str:
    """Return why a node does not fit what it reads; empty if it does, as far as shapes are known."""
    if node.domain:
        return ""
    for entry in node.attribute:
        if entry.name in _FLAGS and entry.i not in (0, 1):
            return f"its {entry.name} is {entry.i}, but should be 0 or 1"
        least = _LEAST.get(entry.name, 0) if node.op_type in _WINDOWS else None
        if least is not None and any(n < least for n in entry.ints):
            return f"its {entry.name} are {list(entry.ints)}, but should be at least {least}"
        if entry.name == "epsilon" and not math.isfinite(entry.f):
            return f"its epsilon is {entry.f}"
        if entry.type == onnx.AttributeProto.STRING and not _is_text(entry.s):
            return f"its {entry.name} is no text"
    if node.op_type == "Einsum" and "" in node.input:  # onnxruntime ends the process
        return f"its operand number {list(node.input).index('') + 1} is left out"
    group, weight = attribute(node, "group", 1), graph.initializers.get(node.input[1]) if len(node.input) > 1 else None
    if weight is not None and weight.ndim and group > 0 and weight.shape[0] % group:
        return f"its weight {weight.shape} cannot be cut into {group} groups"
    if not all(graph.is_typed(v) for v in (*node.input, *node.output) if v):
        return ""
    for value in filter(None, node.input[_LISTS.get(node.op_type, len(node.input)) :]):
        if len(graph.shape(value)) != 1:
            return f'"{value}" is to be a list of numbers, and is {graph.shape(value)}'
    for value in filter(None, node.output):
        if min(graph.shape(value), default=0) < -1:
            return f"it would make {graph.shape(value)}"
    check = _CHECKS.get(node.op_type)
    return check(node, graph, [graph.shape(v) for v in node.input if v]) if check else ""


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _channels(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold the channels that arrays are for against those that there are."""
    x, weight, *rest = shapes
    group = attribute(node, "group", 1)
    if len(x) < 2 or not weight or group < 1 or (node.op_type != "BatchNormalization" and len(weight) != len(x)):
        return f"its input is {x}, its weight {weight}" + (f", its group {group}" if group < 1 else "")
    if 0 in weight:
        return f"its weight {weight} has no numbers"
    kernel = attribute(node, "kernel_shape", list(weight[2:]))
    if node.op_type != "BatchNormalization" and tuple(kernel) != weight[2:]:
        return f"its weight is {weight}, but its kernel_shape {kernel}"
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


def _is_of(shape: Shape, wanted: Shape) -> bool:
    """Tell whether a shape is the wanted one, sizes that are not known aside."""
    return len(shape) == len(wanted) and all(n == m or -1 in (n, m) for n, m in zip(shape, wanted, strict=True))


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


def _groups(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """See whether channels can be cut into groups."""
    groups, x = attribute(node, "num_groups", 1), shapes[0]
    is_odd = groups < 1 or (len(x) > 1 and x[1] != -1 and x[1] % groups)
    return f"channels of its input {x} cannot be cut into {groups} groups" if is_odd else ""


def _axis(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    axis, rank = attribute(node, "axis", 0), len(shapes[0])
    return "" if -rank <= axis < rank or not rank else f"its axis is {axis}, its input {shapes[0]}"


def _order(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    perm = attribute(node, "perm", list(range(len(shapes[0]))))
    return "" if sorted(perm) == list(range(len(shapes[0]))) else f"its perm is {perm}, its input {shapes[0]}"


def _deviation(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """See whether a deviation is positive: onnxruntime ends the process where it is not."""
    scale = attribute(node, "scale", 1.0)
    return "" if scale > 0 else f"its scale is {scale}, but should be above 0"


def _count(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold how many numbers there are against how many the new shape has."""
    x, made = shapes[0], graph.shape(node.output[0])
    differs = -1 not in (*x, *made) and math.prod(x) != math.prod(made)
    return f"{math.prod(x)} numbers, {x}, cannot take the shape {made}" if differs else ""


def _steps(node: onnx.NodeProto, graph: Graph, shapes: Sequence[Shape]) -> str:
    """Hold the arrays of a recurrent operator against each other, and against what it reads."""
    x, weight, states = shapes[:3]
    if (len(x), len(weight), len(states)) != (3, 3, 3):
        return f"its input is {x}, its weights {weight} and {states}, but all should have 3 axes"
    rule, ways = find_rule(node), 2 if attribute(node, "direction", "forward") == "bidirectional" else 1
    assert isinstance(rule, Recurrent)
    hidden = states[2]
    rows = rule.gates * hidden
    wanted = [(ways, rows, x[2]), (ways, rows, hidden), (ways, 2 * rows)]
    for name, shape in zip(node.input[1:4], wanted, strict=False):
        if name and not _is_of(graph.shape(name), shape):
            return f'"{name}" is {graph.shape(name)}, but should be {shape}'
    return ""


_CHECKS: dict[str, Callable[[onnx.NodeProto, Graph, Sequence[Shape]], str]] = {
    "Conv": _channels,
    "ConvTranspose": _channels,
    "BatchNormalization": _channels,
    "Gemm": _bias,
    "GroupNormalization": _groups,
    "Compress": _axis,
    "Transpose": _order,
    "RandomNormal": _deviation,
    "RandomNormalLike": _deviation,
    "PRelu": _slope,
    "SpaceToDepth": _blocks,
    "DepthToSpace": _blocks,
    "Reshape": _count,
    "RNN": _steps,
    "LSTM": _steps,
    "GRU": _steps,
}
