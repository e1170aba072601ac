"""Values that are positive whatever the net is fed: where a slope has no pole, its gradient needs no guard."""

from __future__ import annotations

import numpy as np

from caffeinit.folding import known_value
from caffeinit.graph import Graph

_NEVER_NEGATIVE = {"Abs", "Exp", "Relu", "Sigmoid", "Sqrt", "ReduceSumSquare", "ReduceL2", "ReduceL1"}
_KEEPING = {"AveragePool", "GlobalAveragePool", "Identity", "MaxPool", "ReduceSum", "Reshape", "Transpose"}
_LEAST = float(np.finfo(np.float32).tiny)


def is_positive(graph: Graph, value: str) -> bool:
    """Tell whether all numbers of a value are above 0, from how it is made; NaN and overflow are not looked at."""
    known = known_value(graph, value)
    if known is not None:
        return bool(np.all(known >= _LEAST))
    node = graph.producer(value)
    if node is None:
        return False
    if node.op_type in ("Sqrt", "Identity", "Reshape"):
        return is_positive(graph, node.input[0])
    if node.op_type == "Mul":
        return all(is_positive(graph, i) for i in node.input)
    if node.op_type in ("Add", "Sum"):
        return any(is_positive(graph, i) for i in node.input) and all(is_never_negative(graph, i) for i in node.input)
    if node.op_type == "Conv" and len(node.input) > 2:
        return is_positive(graph, node.input[2]) and all(is_never_negative(graph, i) for i in node.input[:2])
    return False


def is_never_negative(graph: Graph, value: str) -> bool:
    """Tell whether no number of a value is below 0, from how it is made."""
    known = known_value(graph, value)
    if known is not None:
        return bool(np.all(known >= 0))
    node = graph.producer(value)
    if node is None:
        return False
    if node.op_type == "Mul" and node.input[0] == node.input[1]:
        return True
    if node.op_type in ("Add", "Sum", "Mul", "Div", "Conv"):
        return all(is_never_negative(graph, i) for i in node.input if i)
    if node.op_type in _KEEPING:
        return is_never_negative(graph, node.input[0])
    return node.op_type in _NEVER_NEGATIVE
