"""Operators that multiply by weights among other things, spelt so that their units are known as all others are.

An Einsum with an array may be a product with a matrix or a convolution; a Gemm may add what another layer has made. So are
windows whose padding is left open, where onnx and onnxruntime do not agree on it. An Identity would part what belongs
together, such as a product from what is added to it. Only what is computed with changes.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.rules import find_rule
from caffeinit.graph.units import array_view
from caffeinit.ops.building import to_shape


def spelt_plainly(graph: Graph) -> Graph:
    """Return a graph that computes the same, with plainer nodes in place of such ones."""
    graph = _without_identities(graph)
    made = graph.copy()
    nodes, made.nodes = made.nodes, []
    moving, readers = graph.moving_values(), graph.consumers()
    apart: set[str] = set()  # what new nodes make of several axes that were one
    moved: list[onnx.NodeProto] = []
    for node in nodes:
        rule = find_rule(node) if any(o in moving for o in node.output) else None
        if rule is not None and rule.spell_plainly(node, graph, made, moving):
            last = made.producer(node.output[0])
            is_read_once = len(readers.get(node.output[0], [])) == 1 and node.output[0] not in graph.outputs
            apart.update([node.output[0]] if is_read_once and last is not None and last.op_type == "Reshape" else [])
        elif (view := _shifted_view(node, made, apart)) is not None:
            moved.append(view)
        else:
            made.nodes.append(node)
    made = made.without(moved, {}) if moved else made
    if made.outputs:
        made.drop(0, made.outputs)  # what nodes read that others stand for now, such as first states of zeros
    return made


def _without_identities(graph: Graph) -> Graph:
    """Return a graph in which what reads an Identity of a value reads the value; those that name an output stay."""
    moving = graph.moving_values()
    same: dict[str, str] = {}
    for node in graph.nodes:
        if node.op_type == "Identity" and not node.domain and node.output[0] in moving:
            same[node.output[0]] = same.get(node.input[0], node.input[0])
    removed = [n for n in graph.nodes if n.output[0] in same and n.output[0] not in graph.outputs]
    outputs = graph.outputs
    made = graph.without(removed, same) if same else graph
    made.outputs = outputs
    return made


def _shifted_view(node: onnx.NodeProto, made: Graph, apart: Collection[str]) -> onnx.NodeProto | None:
    """Append an array that is added to axes that were one before they are taken apart, where it is a bias.

    Returns:
        The node that takes them apart so far; None where there is nothing of the kind.
    """
    views = [i for i in node.input if i in apart] if node.op_type == "Add" and not node.domain else []
    others = [i for i in node.input if i not in apart]
    if len(views) != 1 or len(others) != 1 or array_view(made, others[0]) is None:
        return None
    view = made.producer(views[0])
    assert view is not None
    source, target = view.input
    whole, shape = made.shape(views[0]), made.shape(others[0])
    own = shape[next((a for a, n in enumerate(shape) if n != 1), len(shape)) :]
    if own != whole[len(made.shape(source)) - 1 :]:
        return None
    top = node.output[0]
    total = made.op("Add", source, to_shape(made, others[0], [-1]), name=made.fresh(f"{top}{INSIDE}"))
    made.op("Reshape", total, target, name=top)
    return view
