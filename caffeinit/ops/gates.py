"""Smooth gates: x times a function of x between 0 and 1."""

from __future__ import annotations

import math

import onnx

from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import op_rule
from caffeinit.ops.activation import Unary, bends

CUBE = 0.044715  # of the approximation by tanh; Hendrycks & Gimpel, arXiv 1606.08415


@op_rule("Gelu")
class Gelu(Unary):
    """y = x times the normal distribution's share below x, or its approximation by tanh."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        x = node.input[0]
        square = graph.op("Mul", x, x)
        if attribute(node, "approximate", "none") == "tanh":
            return self._slope_of_tanh(graph, x, square)
        below = graph.op("Add", graph.op("Mul", graph.op("Erf", graph.op("Mul", x, math.sqrt(0.5))), 0.5), 0.5)
        density = graph.op("Mul", graph.op("Exp", graph.op("Mul", square, -0.5)), 1 / math.sqrt(2 * math.pi))
        return graph.op("Add", below, graph.op("Mul", x, density))

    @staticmethod
    def _slope_of_tanh(graph: Graph, x: str, square: str) -> str:
        unit = math.sqrt(2 / math.pi)
        cubic = graph.op("Add", graph.op("Mul", square, unit * CUBE), unit)
        inner = graph.op("Tanh", graph.op("Mul", x, cubic))
        inner_slope = graph.op("Add", graph.op("Mul", square, 3 * unit * CUBE), unit)
        steep = graph.op("Mul", graph.op("Sub", 1.0, graph.op("Mul", inner, inner)), inner_slope)
        twice = graph.op("Add", graph.op("Add", inner, 1.0), graph.op("Mul", x, steep))
        return graph.op("Mul", twice, 0.5)


@op_rule("Swish")
class Swish(Unary):
    """y = x / (1 + exp(-alpha x))."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        alpha, x = float(attribute(node, "alpha", 1.0)), node.input[0]
        gate = graph.op("Sigmoid", graph.op("Mul", x, alpha))
        steep = graph.op("Mul", graph.op("Sub", gate, graph.op("Mul", gate, gate)), alpha)
        return graph.op("Add", gate, graph.op("Mul", x, steep))


@op_rule("Mish")
class Mish(Unary):
    """y = x tanh(log(1 + exp(x)))."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        x = node.input[0]
        gate = graph.op("Tanh", graph.op("Softplus", x))
        steep = graph.op("Mul", graph.op("Sub", 1.0, graph.op("Mul", gate, gate)), graph.op("Sigmoid", x))
        return graph.op("Add", gate, graph.op("Mul", x, steep))
