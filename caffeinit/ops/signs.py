"""Values that are positive whatever the net is fed: where a slope has no pole, its gradient needs no guard.

Only a few nodes are looked at, each once: what an LRN or a norm divides by is not far below its root.
"""

from __future__ import annotations

import numpy as np

from caffeinit.graph import Graph
from caffeinit.graph.folding import constant_node

_NEVER_NEGATIVE = {"Abs", "Exp", "Relu", "Sigmoid", "Sqrt", "ReduceSumSquare", "ReduceL2", "ReduceL1"}
_KEEPING = {"AveragePool", "GlobalAveragePool", "Identity", "MaxPool", "ReduceSum", "Reshape", "Transpose"}
_LEAST = float(np.finfo(np.float32).tiny)
_MOST_NODES = 32


def is_positive(graph: Graph, value: str) -> bool:
    """Tell whether all numbers of a value are above 0, from how it is made; NaN and overflow are not looked at."""
    return _Signs(graph).is_positive(value)


def is_never_negative(graph: Graph, value: str) -> bool:
    """Tell whether no number of a value is below 0, from how it is made."""
    return _Signs(graph).is_never_negative(value)


class _Signs:
    """What is known of the values of one graph; nothing of those that are too far below."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._positive: dict[str, bool] = {}
        self._never_negative: dict[str, bool] = {}

    def is_positive(self, value: str) -> bool:
        if value not in self._positive:
            self._positive[value] = False  # until it is known
            self._positive[value] = len(self._positive) <= _MOST_NODES and self._find_positive(value)
        return self._positive[value]

    def is_never_negative(self, value: str) -> bool:
        if value not in self._never_negative:
            self._never_negative[value] = False
            self._never_negative[value] = len(self._never_negative) <= _MOST_NODES and self._find_never_negative(value)
        return self._never_negative[value]

    def _constant(self, value: str) -> np.ndarray | None:
        node = self._graph.producer(value)
        if node is not None and node.op_type == "Constant":
            return constant_node(node)
        return self._graph.initializers.get(value)

    def _find_positive(self, value: str) -> bool:
        known = self._constant(value)
        if known is not None:
            return bool(np.all(known >= _LEAST))
        node = self._graph.producer(value)
        if node is None:
            return False
        if node.op_type in ("Sqrt", "Identity", "Reshape"):
            return self.is_positive(node.input[0])
        if node.op_type == "Mul":
            return all(map(self.is_positive, node.input))
        if node.op_type in ("Add", "Sum"):
            return any(map(self.is_positive, node.input)) and all(map(self.is_never_negative, node.input))
        if node.op_type == "Conv" and len(node.input) > 2:
            return self.is_positive(node.input[2]) and all(map(self.is_never_negative, node.input[:2]))
        return False

    def _find_never_negative(self, value: str) -> bool:
        known = self._constant(value)
        if known is not None:
            return bool(np.all(known >= 0))
        node = self._graph.producer(value)
        if node is None:
            return False
        if node.op_type == "Mul" and node.input[0] == node.input[1]:
            return True
        if node.op_type in ("Add", "Sum", "Mul", "Div", "Conv"):
            return all(map(self.is_never_negative, filter(None, node.input)))
        if node.op_type in _KEEPING:
            return self.is_never_negative(node.input[0])
        return node.op_type in _NEVER_NEGATIVE
