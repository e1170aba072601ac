"""Graphs of older opsets in the form of the opset that gradients are written in.

Between opsets operators' settings move from attributes to inputs, and a few operators change their names. Each rule knows
the older forms of its own operator; the values keep their names, so that what is found on the raised graph holds for the
file's graph too. Newer opsets stay as they are: rules read both forms.
"""

from __future__ import annotations

from caffeinit.errors import CaffeinitError
from caffeinit.graph.graph import OPSET, Graph
from caffeinit.graph.rules import find_rule

OLDEST = 7  # before it, broadcasting was spelt out in attributes


def raised(graph: Graph) -> Graph:
    """Return the graph with nodes of opset 17, or the graph itself if it is of that opset or a later one.

    Raises:
        CaffeinitError: the opset is below 7, or a node has a setting that later opsets have no word for.
    """
    if graph.opset >= OPSET:
        return graph
    check_opset(graph.opset, "the graph")
    target = graph.emptied(OPSET)
    for node in graph.nodes:
        rule = find_rule(node)
        if rule is None:
            target.append(node)
        else:
            rule.modernize(node, target, graph.opset)
    return target


def check_opset(opset: int, what: str) -> None:
    """Refuse opsets that are too old.

    Raises:
        CaffeinitError: it is below 7, with the way out.
    """
    if opset < OLDEST:
        raise CaffeinitError(
            f"{what} is of opset {opset}, and the oldest that is read is {OLDEST}.\n"
            f"Convert it first: onnx.version_converter.convert_version(model, {OPSET})"
        )
