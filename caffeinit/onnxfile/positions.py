"""Factors and shifts that run along places in the picture instead of channels, where a net makes its verdict.

Detectors multiply the boxes of each place by its stride. What stands behind the last weights and runs along an axis on
which nothing but positions of convolutions lie was not learned; axes are followed through views, and through operators
that leave them where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.nodes import VIEWS
from caffeinit.graph.products import PRODUCTS, Product

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_SAME = frozenset(
    (
        "Abs Add AveragePool BatchNormalization Cast Ceil Clip Concat Div Dropout Elu Erf Exp Floor Gelu HardSigmoid "
        "HardSwish Identity InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax LRN Max MaxPool Min Mish Mul "
        "Neg Pad Pow PRelu Reciprocal Relu Resize Round Selu Sigmoid Slice Softmax Softplus Split Sqrt Sub Sum Tanh "
        "Upsample Where"
    ).split()
)

Axes = frozenset[int]
_NONE: Axes = frozenset()


def along_positions(graph: Graph) -> set[str]:
    """Return the arrays, as nodes read them, that a verdict multiplies by or adds along positions alone."""
    moving, positions = graph.moving_values(), _position_axes(graph)
    weighing = [n for n in graph.nodes if n.op_type in (*_CONVOLUTIONS, *PRODUCTS)]
    before = {id(n) for n in graph.ancestors([i for n in weighing for i in n.input if i in moving])}
    found = set()
    for node in graph.nodes:
        if node.op_type not in ("Add", "Sub", "Mul") or node.domain or id(node) in before:
            continue
        for x, array in (node.input, node.input[::-1]):
            axes = positions.get(x)
            if axes and array not in moving and graph.is_typed(array):
                rank, shape = len(graph.shape(x)), graph.shape(array)
                along = {axis + rank - len(shape) for axis, extent in enumerate(shape) if extent != 1}
                if along and along <= axes:
                    found.add(array)
    return found


def _position_axes(graph: Graph) -> dict[str, Axes]:
    """Return value -> the axes along which positions of convolutions lie, and nothing else; of those that have any."""
    moving = graph.moving_values()
    found: dict[str, Axes] = {}
    for node in graph.nodes:
        sources = [i for i in node.input if i in moving]
        outputs = [o for o in node.output if o]
        if sources and not node.domain and all(graph.is_typed(v) for v in (*sources, *outputs)):
            axes = _axes_behind(node, graph, sources, found)
            found.update({o: axes for o in outputs if axes})
    return found


def _axes_behind(node: onnx.NodeProto, graph: Graph, sources: Sequence[str], known: Mapping[str, Axes]) -> Axes:
    """Return the axes of a node's outputs with positions alone."""
    rank = len(graph.shape(node.output[0]))
    first = known.get(sources[0], _NONE)
    if node.op_type in _CONVOLUTIONS:
        return frozenset(range(2, rank))
    if node.op_type == "Transpose":
        order = attribute(node, "perm", list(range(rank))[::-1])
        return frozenset(new for new, old in enumerate(order) if old in first)
    if node.op_type in VIEWS:
        return _viewed(graph.shape(sources[0]), graph.shape(node.output[0]), first)
    if node.op_type in PRODUCTS and len(sources) == 1:
        side = 0 if node.input[1] == sources[0] else 1
        product = Product.of(node, side, len(graph.shape(sources[0])))
        is_plain = rank == len(graph.shape(sources[0])) and product.input_axis == product.output_axis
        return first - {product.input_axis + rank} if is_plain else _NONE
    if node.op_type not in _SAME:
        return _NONE
    return frozenset(a for a in range(rank) if all(_is_there(a - rank, graph.shape(s), known.get(s)) for s in sources))


def _is_there(axis: int, shape: Shape, known: Axes | None) -> bool:
    """Tell whether an axis, counted from the end, has positions alone in an operand, or a single number."""
    return -axis > len(shape) or shape[axis] == 1 or axis + len(shape) in (known or _NONE)


def _viewed(before: Shape, after: Shape, axes: Axes) -> Axes:
    """Return which axes of a view are made of axes with positions alone; none where extents are not known."""
    if -1 in (*before, *after):
        return _NONE
    found: set[int] = set()
    old = new = 0
    while old < len(before) and new < len(after):
        starts, sizes = (old, new), [before[old], after[new]]
        old, new = old + 1, new + 1
        while sizes[0] != sizes[1]:
            if sizes[0] < sizes[1] and old < len(before):
                sizes[0], old = sizes[0] * before[old], old + 1
            elif sizes[0] > sizes[1] and new < len(after):
                sizes[1], new = sizes[1] * after[new], new + 1
            else:
                return _NONE
        read = [axis for axis in range(starts[0], old) if before[axis] != 1]
        if read and all(axis in axes for axis in read):
            found.update(axis for axis in range(starts[1], new) if after[axis] != 1)
    return frozenset(found)
