"""Finds activations that pass a scale on roughly, whether they are one operator or spelt out in several.

Exponential units, softplus, and gates of a value by itself (Swish, GELU, Mish, as exporters write them: x times a function
of x alone) are multiples of x where it is large. So their output's scale follows their input's along a curve. Some
exporters write that down: x itself beyond a number, by Where, and the curve below it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.rules import find_rule
from caffeinit.ops.building import constant_of

_GATES = {"Sigmoid", "HardSigmoid", "Tanh", "Erf", "Clip"}
_BETWEEN = {"Add", "Sub", "Mul", "Div", "Pow", "Neg", "Exp", "Softplus", "Relu", "Min", "Identity"}
_CURVES = {"Exp", "Softplus"} | _GATES
_COMPARISONS = {"Greater", "GreaterOrEqual", "Less", "LessOrEqual"}
_MOST = 16  # operators of one activation


def find_activations(graph: Graph) -> dict[str, str]:
    """Return the outputs of such activations -> what they read; none lies within another."""
    finder = _Finder(graph)
    found = {}
    for node in graph.nodes:
        rule = find_rule(node)
        if rule is not None and rule.is_nearly_homogeneous(node, graph):
            found[node.output[0]] = node.input[0]
        elif x := finder.gated(node) or finder.chosen(node):
            found[node.output[0]] = x
    inside = {id(n) for top, x in found.items() for n in graph.ancestors([top], [x]) if n.output[0] != top}
    return {top: x for top, x in found.items() if x in finder.moving and id(graph.producer(top)) not in inside}


class _Finder:
    """Looks for gates in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.moving = graph.moving_values()
        self._readers = graph.consumers()

    def gated(self, node: onnx.NodeProto) -> str:
        """Return the value that a product has times a function of itself; empty if it is none."""
        if node.op_type != "Mul" or node.domain or not all(i in self.moving for i in node.input):
            return ""
        for factor, gate in (node.input, reversed(node.input)):
            for x, between in self._multiples(factor):
                if x != gate and self._is_function(gate, x, [node, *between], _GATES):
                    return x
        return ""

    def chosen(self, node: onnx.NodeProto) -> str:
        """Return the value that a Where gives a multiple of on one side of a number, and a curve on the other."""
        bound = self.graph.producer(node.input[0]) if node.op_type == "Where" and not node.domain else None
        if bound is None or bound.op_type not in _COMPARISONS:
            return ""
        compared = [i for i in bound.input if i in self.moving]
        if len(compared) != 1 or not all(self._is_number(i) for i in bound.input if i not in compared):
            return ""
        (x,) = compared
        for straight, curve in (node.input[1:], reversed(node.input[1:])):
            for multiple, between in self._multiples(straight):
                if multiple == x != curve and self._is_function(curve, x, [node, bound, *between], _CURVES):
                    return x
        return ""

    def _multiples(self, value: str) -> Iterator[tuple[str, list[onnx.NodeProto]]]:
        """Yield the values that this is a constant times of, itself first, and what multiplies them."""
        between: list[onnx.NodeProto] = []
        yield value, between
        while (node := self.graph.producer(value)) is not None and node.op_type in ("Mul", "Div") and not node.domain:
            number, value = node.input[::-1] if node.op_type == "Div" or node.input[0] in self.moving else node.input
            if value not in self.moving or not self._is_number(number):
                return
            between = [*between, node]
            yield value, between

    def _is_function(self, value: str, x: str, around: list[onnx.NodeProto], wanted: Collection[str]) -> bool:
        """Tell whether a value is a function of x alone, element by element, read by nothing but the nodes around it.

        Args:
            around: the node that reads it, and others that belong to it.
            wanted: operators of which one at least makes it.
        """
        inside = {id(node): node for node in around}
        pending = [value]
        while pending:
            node = self.graph.producer(pending.pop())
            if node is None or node.domain or node.op_type not in _GATES | _BETWEEN or len(inside) > _MOST:
                return False
            if id(node) not in inside:
                inside[id(node)] = node
                pending += [i for i in node.input if i in self.moving and i != x]
        made = [node for node in inside.values() if node is not around[0]]
        fixed = (i for node in made for i in node.input if i and i not in self.moving)
        return (
            any(node.op_type in wanted for node in made)
            and all(map(self._is_number, fixed))
            and not any(node.output[0] in self.graph.outputs for node in made)
            and all(id(r) in inside for node in made for r in self._readers.get(node.output[0], ()))
        )

    def _is_number(self, value: str) -> bool:
        array = constant_of(self.graph, value)
        return array is not None and array.size == 1
