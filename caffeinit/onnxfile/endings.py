"""Normalisations whose factors and shifts are operators of their own, as older files spell them.

LayerNormalization and its kin standardise what they read, whatever its scale would be, and end with a learned factor and
shift per channel. These give their output any scale. In our graph they are a Mul and an Add behind the operator, known
like any others (`graph/units.py`); in the file the node stays as it is.
"""

from __future__ import annotations

import numpy as np
import onnx

from caffeinit.graph import Graph
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.rules import find_rule
from caffeinit.graph.units import array_view
from caffeinit.ops.base import rewritten
from caffeinit.ops.building import to_shape


def endings_apart(graph: Graph) -> Graph:
    """Return a graph that computes the same, in which no such operator has stored factors of its own."""
    other = graph.copy()
    nodes, other.nodes = other.nodes, []
    moving = graph.moving_values()
    for node in nodes:
        behind = _axes_behind(node, graph) if node.output[0] in moving else None
        if behind is None:
            other.nodes.append(node)
        else:
            _append_apart(other, node, behind)
    return other


def _axes_behind(node: onnx.NodeProto, graph: Graph) -> int | None:
    """Return how many axes follow the one that a node's stored factors lie along; None where it has none."""
    rule = find_rule(node)
    behind = rule.axes_behind_factors(node, graph) if rule else None
    if behind is None or any(node.output[1:]) or array_view(graph, node.input[1]) is None:
        return None
    return behind if len(graph.shape(node.input[1])) == 1 else None


def _append_apart(graph: Graph, node: onnx.NodeProto, behind: int) -> None:
    """Append a node that only standardises, and what its factors and shifts do."""
    x, scale, bias = (*node.input, "")[:3]
    top, like = node.output[0], graph.initializers[_array(graph, scale)]
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.output[:] = [graph.fresh(f"{top}{INSIDE}")]
    ones = np.ones(graph.shape(scale), like.dtype)
    rewritten(plain, graph, [x, ones, *([np.zeros_like(ones)] if bias else [])])
    factors = _along(graph, scale, behind)
    if not bias:
        graph.op("Mul", plain.output[0], factors, name=top)
        return
    scaled = graph.op("Mul", plain.output[0], factors, name=graph.fresh(f"{top}{INSIDE}"))
    graph.op("Add", scaled, _along(graph, bias, behind), name=top)


def _array(graph: Graph, value: str) -> str:
    found = array_view(graph, value)
    assert found is not None
    return found[0]


def _along(graph: Graph, value: str, behind: int) -> str:
    """Return an array (C,) with axes of size 1 behind its own."""
    return to_shape(graph, value, [-1] + [1] * behind) if behind else value
