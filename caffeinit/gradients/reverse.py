"""Reverse-mode differentiation of a graph: gradients become further nodes of the same graph.

The walk knows no operator; each operator's rule (`ops/`) appends the nodes of its own vector-Jacobian product. Only what
lies on a path from a wanted value to a top stays in the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph
from caffeinit.graph.rules import find_rule
from caffeinit.ops.building import zeros_like


def append_backward(
    graph: Graph,
    top_diffs: Mapping[str, str],
    wrt: Sequence[str],
    apart: dict[tuple[str, str], list[str]] | None = None,
) -> dict[str, str]:
    """Append the nodes that compute gradients.

    Args:
        graph: gets the nodes; only those needed for the results stay.
        top_diffs: value -> the value that holds the gradient of the objective with respect to it, shaped like it.
        wrt: values whose gradients are wanted: initializers, graph inputs, or values in between.
        apart: gets (value, first output of a node that reads it) -> what that node adds to the value's gradient.
    Returns:
        wanted value -> its gradient, shaped like it; zeros where no top depends on it.
    Raises:
        GradientError: an operator on the way has no gradient.
    """
    forward = len(graph.nodes)
    live = _descendants(graph.nodes, wrt)
    parts: dict[str, list[str]] = {value: [diff] for value, diff in top_diffs.items()}
    for node in reversed(graph.nodes[:forward]):
        if not any(o in parts for o in node.output) or not any(i in live for i in node.input):
            continue
        dys = [_collect(graph, parts, o) if o in live else None for o in node.output]
        if any(dys):
            _add_contributions(graph, node, dys, live, parts, apart)
    found = {value: _collect(graph, parts, value) or zeros_like(graph, value) for value in wrt}
    graph.drop(forward, needed=found.values())
    return found


def _descendants(nodes: Iterable[onnx.NodeProto], values: Iterable[str]) -> set[str]:
    reached = set(values)
    for node in nodes:
        if any(i in reached for i in node.input):
            reached.update(o for o in node.output if o)
    return reached


def _add_contributions(
    graph: Graph,
    node: onnx.NodeProto,
    dys: list[str | None],
    live: set[str],
    parts: dict[str, list[str]],
    apart: dict[tuple[str, str], list[str]] | None,
) -> None:
    rule = find_rule(node)
    scope, graph.scope = graph.scope, "grad"
    try:
        if rule is None or rule.refusal is not None:
            raise GradientError(rule.refusal if rule and rule.refusal else "the operator is not known")
        diffs = rule.gradient(node, graph, dys)
    except GradientError as error:
        where = f'{node.op_type} ("{node.name or node.output[0]}")'
        raise GradientError(f"there is no gradient through {where}: {error}", node, str(error)) from None
    finally:
        graph.scope = scope
    for value, diff in zip(node.input, diffs, strict=True):
        if value in live and diff is not None:
            parts.setdefault(value, []).append(diff)
            if apart is not None:
                apart.setdefault((value, node.output[0]), []).append(diff)


def _collect(graph: Graph, parts: dict[str, list[str]], value: str) -> str | None:
    """Return the sum of all contributions to a value's gradient, or None."""
    terms = parts.get(value, [])
    if len(terms) > 1:
        parts[value] = [graph.op("Sum" if len(terms) > 2 else "Add", *terms)]
    return parts[value][0] if terms else None
