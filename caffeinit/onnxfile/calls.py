"""What nodes read, also from within their subgraphs, and such nodes as calls of functions.

The graph of an If, a Loop or a Scan may read any value around it without naming it as an input. Wrapped into a function
that takes these values, the node can be cut out, staged and run like any other; onnxruntime unwraps it again.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper

from caffeinit.graph.nodes import SUBGRAPHS, captured, nodes_within, subgraphs


def needed_nodes(graph: onnx.GraphProto) -> set[int]:
    """Return the numbers of the nodes that outputs depend on; all of them in a graph without outputs."""
    if not graph.output:
        return set(range(len(graph.node)))
    wanted = {v.name for v in graph.output}
    found = set()
    for number in reversed(range(len(graph.node))):
        node = graph.node[number]
        if wanted & {*filter(None, node.output)}:
            found.add(number)
            wanted.update((*node.input, *captured(node)))
    return found


def inlined_size(model: onnx.ModelProto) -> int:
    """Return how many nodes a model has with its functions in place of their calls; functions in a circle count once."""
    bodies = {(f.domain, f.name): [n for node in f.node for n in nodes_within(node)] for f in model.functions}
    sizes: dict[tuple[str, str], int] = {}
    begun: set[tuple[str, str]] = set()
    pending = list(bodies)
    while pending:
        key = pending[-1]
        first = [] if key in begun else [(n.domain, n.op_type) for n in bodies[key]]
        begun.add(key)
        if below := [k for k in dict.fromkeys(first) if k in bodies and k not in begun]:
            pending += below
            continue
        sizes[pending.pop()] = sum(sizes.get((n.domain, n.op_type), 1) for n in bodies[key])
    return sum(sizes.get((n.domain, n.op_type), 1) for node in model.graph.node for n in nodes_within(node))


def as_call(
    node: onnx.NodeProto, number: int, versions: Mapping[str, int]
) -> tuple[onnx.NodeProto, onnx.FunctionProto]:
    """Return a node that calls a function, and the function, which does what `node` does.

    Args:
        number: makes the function's name unique.
        versions: of the operator sets.
    """
    inputs = list(dict.fromkeys([*(i for i in node.input if i), *captured(node)]))
    outputs = [o for o in node.output if o]
    name = f"{node.op_type}_{number}"
    imports = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    function = helper.make_function(SUBGRAPHS, name, inputs, outputs, [node], imports)
    return helper.make_node(name, inputs, outputs, node.name, domain=SUBGRAPHS), function


def renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    """Return a node that reads other values, also within its subgraphs, where `names` says so."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    _rename(copy, names)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(i, i) for i in node.input]
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {o for inner in graph.node for o in inner.output}
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in graph.node:
            _rename(inner, outer)
        for value in graph.output:
            value.name = outer.get(value.name, value.name)
