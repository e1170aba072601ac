"""Finds what is divided by its own deviation, or norm, where that is spelt out in several operators.

Older opsets and Caffe's MVN and Normalize have no operator for it: (x - mean) / sqrt(mean of squares + epsilon). What comes
out does not depend on the scale of x, but for epsilon.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.ops.building import constant_of
from caffeinit.ops.reduction import reduced_axes

_SMALL = 1e-3  # what is added to squares, or to their root, is no more than this
_MEANS = {"ReduceMean", "ReduceSum"}


@dataclass(frozen=True)
class Standardised:
    """What is standardised.

    Attributes:
        bottom: the value.
        axes: over which it is.
    """

    bottom: str
    axes: tuple[int, ...]


def find_standardised(graph: Graph) -> dict[str, Standardised]:
    """Return the outputs of such layers -> what they read; nothing else reads what lies between."""
    finder = _Finder(graph)
    return {node.output[0]: found for node in graph.nodes if (found := finder.made_by(node))}


class _Finder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._readers = graph.consumers()

    def made_by(self, node: onnx.NodeProto) -> Standardised | None:
        """Return what a node divides by its deviation, if it does."""
        for value, divisor in self._quotients(node):
            squares = self._is_root_of(divisor)
            axes = self._squared(squares, value) if squares else None
            if axes is None:
                continue
            bottom = self._centred(value, axes)
            if self._is_closed(node, bottom):
                return Standardised(bottom, axes)
        return None

    def _quotients(self, node: onnx.NodeProto) -> list[tuple[str, str]]:
        """Return dividend and divisor of a node, however it is written."""
        if self._is(node, "Div"):
            return [(node.input[0], node.input[1])]
        if not self._is(node, "Mul"):
            return []
        pairs = [(node.input[0], node.input[1]), (node.input[1], node.input[0])]
        return [(value, one.input[0]) for value, other in pairs if (one := self._maker(other, "Reciprocal"))]

    def _is_root_of(self, value: str) -> str:
        """Return the sum of squares of which a value is the root, whatever small number is added; empty if it is none."""
        value = self._without_small(value)
        if root := self._maker(value, "Sqrt"):
            return self._without_small(root.input[0])
        power = self._maker(value, "Pow")
        return self._without_small(power.input[0]) if power and self._number(power.input[1]) == 0.5 else ""

    def _without_small(self, value: str) -> str:
        node = self._maker(value, "Add")
        if node is None:
            return value
        for one, other in (node.input, reversed(node.input)):
            number = self._number(other)
            if number is not None and 0 <= number <= _SMALL:
                return one
        return value

    def _squared(self, value: str, of: str) -> tuple[int, ...] | None:
        """Return the axes over which a value is the mean, or the sum, of another's squares; None if it is neither."""
        node = self._reduction(value)
        squares = self.graph.producer(node.input[0]) if node else None
        if node is None or squares is None:
            return None
        is_square = (self._is(squares, "Mul") and [*squares.input] == [of, of]) or (
            self._is(squares, "Pow") and squares.input[0] == of and self._number(squares.input[1]) == 2
        )
        return self._axes(node) if is_square else None

    def _centred(self, value: str, axes: tuple[int, ...]) -> str:
        """Return what a value is, less its mean over the axes; the value itself if it is no such."""
        node = self._maker(value, "Sub")
        mean = self._reduction(node.input[1]) if node else None
        is_mean = node and mean and mean.op_type == "ReduceMean" and mean.input[0] == node.input[0]
        return node.input[0] if node and mean and is_mean and self._axes(mean) == axes else value

    def _reduction(self, value: str) -> onnx.NodeProto | None:
        """Return the node that makes a mean or sum with axes of size 1 left."""
        node = self.graph.producer(value)
        is_one = node is not None and not node.domain and node.op_type in _MEANS and attribute(node, "keepdims", 1)
        return node if is_one else None

    def _axes(self, node: onnx.NodeProto) -> tuple[int, ...] | None:
        try:
            return tuple(reduced_axes(node, self.graph))
        except (GradientError, KeyError):  # computed in the graph, or of what has no known rank
            return None

    def _is_closed(self, node: onnx.NodeProto, bottom: str) -> bool:
        """Tell whether nothing between a value and a node is read by others."""
        inside = self.graph.ancestors([node.output[0]], [bottom])
        known = {id(n) for n in inside}
        between = [o for n in inside if n is not node for o in n.output]
        return not {*between} & {*self.graph.outputs} and all(
            id(reader) in known for value in between for reader in self._readers.get(value, [])
        )

    def _number(self, value: str) -> float | None:
        array = constant_of(self.graph, value)
        return float(np.asarray(array).reshape(())) if array is not None and array.size == 1 else None

    def _maker(self, value: str, operator: str) -> onnx.NodeProto | None:
        node = self.graph.producer(value)
        return node if node is not None and self._is(node, operator) else None

    @staticmethod
    def _is(node: onnx.NodeProto, operator: str) -> bool:
        return node.op_type == operator and not node.domain
