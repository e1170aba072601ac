"""Local response normalisation that a model spells out in several operators, known as one layer.

Exporters have no operator for the one within channels, and some spell the one across channels out as well: x / (k + alpha *
mean of squares) ** beta, the mean taken by pooling, with padding and changes of shape around it, or k and mean at once by a
convolution that adds neighbours up, as `convert` has it. Nothing but scales depends on its being known, so what is not
known for certain is passed over: a graph runs as it stands in any case.
"""

from __future__ import annotations

import numpy as np
import onnx

from caffeinit.graph import Graph
from caffeinit.graph.folding import known_value

# Between the squares and their mean: of degree one, and never negative of what is not.
_AVERAGING = frozenset({"AveragePool", "Pad", "Reshape", "Squeeze", "Unsqueeze", "Identity"})


def find_spelt(graph: Graph) -> dict[str, str]:
    """Return output -> input of the normalisations that are spelt out, and of which nothing else is read."""
    readers, moving = graph.consumers(), graph.moving_values()
    found = {}
    for node in graph.nodes:
        if not _is(node, "Div") or not _is_divisor(graph, node.input[1], node.input[0]):
            continue
        top, x = node.output[0], node.input[0]
        inside = graph.ancestors([top], [x])
        own = {o for n in inside for o in n.output if o in moving} - {top}
        known = {id(n) for n in inside}
        if own.isdisjoint(graph.outputs) and all(id(r) in known for value in own for r in readers.get(value, [])):
            found[top] = x
    return found


def _is_divisor(graph: Graph, value: str, x: str) -> bool:
    """Tell whether a value is (k + alpha * mean of squares of x) ** beta, with k, alpha and beta positive."""
    total = _base_of_power(graph, value)
    node = graph.producer(total)
    if node is None:
        return False
    if _adds_neighbours(graph, node):
        squares = graph.producer(node.input[0])
        return squares is not None and _is_square(graph, squares, x)
    if not _is(node, "Add"):
        return False
    mean = _besides_a_number(graph, node)
    factor = graph.producer(mean) if mean else None
    if factor is not None and _is(factor, "Mul") and (inner := _besides_a_number(graph, factor)):
        mean = inner
    return bool(mean) and _is_mean_of_squares(graph, mean, x)


def _adds_neighbours(graph: Graph, node: onnx.NodeProto) -> bool:
    """Tell whether a convolution adds a positive number to a multiple of the sum over each channel and its neighbours."""
    if not _is(node, "Conv") or len(node.input) < 3 or graph.shape(node.output[0]) != graph.shape(node.input[0]):
        return False
    kernel, shift = (graph.initializers.get(i) for i in node.input[1:])
    if kernel is None or shift is None or kernel.shape != (len(kernel), len(kernel)) + (1,) * (kernel.ndim - 2):
        return False
    if shift.min() <= 0 or np.ptp(shift):
        return False
    rows, index = kernel.reshape(len(kernel), -1), np.arange(len(kernel))
    band = np.abs(index[:, None] - index) < np.count_nonzero(rows[0])
    return bool(rows[0, 0] > 0 and np.array_equal(rows, np.where(band, rows[0, 0], 0)))


def _base_of_power(graph: Graph, value: str) -> str:
    """Return what a value is a positive power of: by Pow, by a root, or by a root times its own root."""
    node = graph.producer(value)
    if node is None:
        return value
    if _is(node, "Pow") and _is_positive(graph, node.input[1]):
        return node.input[0]
    if _is(node, "Sqrt"):
        return node.input[0]
    if _is(node, "Mul"):
        bases = [(_root_of(graph, a), _root_of(graph, _root_of(graph, b))) for a, b in _both_ways(node)]
        return next((one for one, other in bases if one and one == other), value)
    return value


def _root_of(graph: Graph, value: str) -> str:
    node = graph.producer(value) if value else None
    return node.input[0] if node is not None and _is(node, "Sqrt") else ""


def _both_ways(node: onnx.NodeProto) -> list[tuple[str, str]]:
    return [(node.input[0], node.input[1]), (node.input[1], node.input[0])]


def _besides_a_number(graph: Graph, node: onnx.NodeProto) -> str:
    """Return the operand of a node whose other one is a positive number; empty where there is none."""
    return next((a for a, b in _both_ways(node) if _is_positive(graph, b)), "")


def _is_positive(graph: Graph, value: str) -> bool:
    number = known_value(graph, value)
    return number is not None and number.size == 1 and bool((np.asarray(number) > 0).all())


def _is_mean_of_squares(graph: Graph, value: str, x: str) -> bool:
    node, pooled = graph.producer(value), False
    while node is not None and not node.domain and node.op_type in _AVERAGING:
        pooled |= node.op_type == "AveragePool"
        node = graph.producer(node.input[0])
    return pooled and node is not None and _is_square(graph, node, x)


def _is_square(graph: Graph, node: onnx.NodeProto, x: str) -> bool:
    if _is(node, "Mul"):
        return list(node.input) == [x, x]
    exponent = known_value(graph, node.input[1]) if _is(node, "Pow") and node.input[0] == x else None
    return exponent is not None and exponent.size == 1 and exponent.item() == 2


def _is(node: onnx.NodeProto, operator: str) -> bool:
    return node.op_type == operator and not node.domain
