"""Softmax that a model spells out in several operators, known as a verdict on what it reads.

Exports of JAX and TensorFlow have no operator for it: exp(z - max z) / sum of these, with changes of shape in between; its
logarithm is z - max z - log of that sum. Rates are taken on what stands before a softmax (`graph/heads.py`).
"""

from __future__ import annotations

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.folding import known_value
from caffeinit.graph.nodes import VIEWS

_FORMS = {*VIEWS, "Expand"}


def find_softmax(graph: Graph) -> dict[str, list[str]]:
    """Return output -> what it is the softmax of, or the logarithm of that, where these are spelt out."""
    found = {}
    for node in graph.nodes:
        scores = _scores(graph, node)
        if scores:
            found[node.output[0]] = [_unshifted(graph, scores)]
    return found


def _scores(graph: Graph, node: onnx.NodeProto) -> str:
    """Return what a node that ends a softmax, or its logarithm, has made powers of; empty for any other node."""
    if _is(node, "Div"):
        return _power(graph, node.input[0], node.input[1])
    if _is(node, "Mul"):
        for one, other in (node.input, reversed(node.input)):
            inverse = _made_by(graph, other, "Reciprocal")
            if inverse is not None and (scores := _power(graph, one, inverse.input[0])):
                return scores
    log = _made_by(graph, node.input[1], "Log") if _is(node, "Sub") else None
    total = _made_by(graph, log.input[0], "ReduceSum") if log is not None else None
    if total is None or _power(graph, total.input[0], total.output[0]) != node.input[0]:
        return ""
    return str(node.input[0])


def _power(graph: Graph, value: str, divisor: str) -> str:
    """Return what a value is the exponential of, if the divisor is its sum; empty if it is not."""
    power, total = _made_by(graph, value, "Exp"), _made_by(graph, divisor, "ReduceSum")
    return str(power.input[0]) if power is not None and total is not None and total.input[0] == value else ""


def _unshifted(graph: Graph, value: str) -> str:
    """Return what a value is, less its own maximum; the value itself if it is no such."""
    node = graph.producer(value)
    if node is None or not _is(node, "Sub"):
        return value
    bound = _made_by(graph, node.input[1], "Max")
    top = next((i for i in bound.input if known_value(graph, i) is None), "") if bound is not None else node.input[1]
    largest = _made_by(graph, top, "ReduceMax")
    return str(node.input[0]) if largest is not None and largest.input[0] == node.input[0] else value


def _made_by(graph: Graph, value: str, operator: str) -> onnx.NodeProto | None:
    """Return the node of such an operator that makes a value, looking through changes of form; None where it is another."""
    node = graph.producer(value) if value else None
    while node is not None and not node.domain and node.op_type in _FORMS:
        node = graph.producer(node.input[0])
    return node if node is not None and _is(node, operator) else None


def _is(node: onnx.NodeProto, operator: str) -> bool:
    return node.op_type == operator and not node.domain
