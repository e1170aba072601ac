"""Stored factors that a model multiplies by a computed number before the value itself, taken as applied to the value.

x * (r * factors) is what normalisations of JAX and TensorFlow end with, r being one over the deviation. As
(x * r) * factors it is the same function, and the factors are a unit like any other, with the shift that comes behind them.
Only our graph changes: in the file, they stay where they are.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.units import array_view
from caffeinit.ops.base import rewritten


def factors_last(graph: Graph) -> Graph:
    """Return a graph that computes the same, in which such factors are multiplied by last."""
    moving, readers = graph.moving_values(), graph.consumers()
    inner = {
        node.output[0]: parts
        for node in graph.nodes
        if (parts := _parts(graph, node, moving)) and _is_read_by_a_product(graph, node.output[0], readers, moving)
    }
    if not inner:
        return graph
    made = graph.emptied(graph.opset, typed=True)
    for node in graph.nodes:
        early = [i for i in node.input if i in inner]
        if node.output[0] in inner:
            continue
        if early:
            top = node.output[0]
            computed, factors = inner[early[0]]
            (value,) = (i for i in node.input if i != early[0])
            product = made.op("Mul", value, computed, name=made.fresh(f"{top}{INSIDE}"))
            rewritten(node, made, [product, factors])
        else:
            made.append(node)
    return made


def _parts(graph: Graph, node: onnx.NodeProto, moving: Container[str]) -> tuple[str, str] | None:
    """Return what a node multiplies, if that is a computed value and several stored factors."""
    if node.op_type != "Mul" or node.domain or node.output[0] in graph.outputs:
        return None
    for computed, factors in (node.input, reversed(node.input)):
        view = array_view(graph, factors) if computed in moving else None
        if view is not None and view[1].size > 1:
            return computed, factors
    return None


def _is_read_by_a_product(
    graph: Graph, value: str, readers: Mapping[str, Sequence[onnx.NodeProto]], moving: Container[str]
) -> bool:
    """Tell whether a value is read once, by a product with another value that moves and is none of the same kind."""
    found = readers.get(value, [])
    if len(found) != 1 or found[0].op_type != "Mul" or found[0].domain:
        return False
    others = [i for i in found[0].input if i != value]
    return len(others) == 1 and others[0] in moving and not _parts_of(graph, others[0], moving)


def _parts_of(graph: Graph, value: str, moving: Container[str]) -> bool:
    node = graph.producer(value)
    return node is not None and _parts(graph, node, moving) is not None
