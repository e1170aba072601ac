"""Activations: functions of one input, with their kinks where Caffe has them, and softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from caffeinit.graph import Graph, attribute
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import Elementwise, rewritten, single
from caffeinit.ops.building import choose, masked, ratio, total, unbroadcast
from caffeinit.ops.scaling import inverts, passes, takes_root

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


class Unary(OpRule):
    """A function of one input; `slope` is its derivative."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Element by element."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        return [self.pull_back(node, graph, single(dys))]

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """Return the gradient of the input."""
        return graph.op("Mul", dy, self.slope(node, graph))

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """Return the derivative at each element."""
        raise NotImplementedError(self.op_type)


def bends(self: OpRule, node: onnx.NodeProto, graph: Graph) -> bool:
    """A factor passes roughly, whatever the node; see `OpRule.is_nearly_homogeneous`."""
    return True


def _is_positive(node: onnx.NodeProto, graph: Graph) -> str:
    return graph.op("Greater", node.input[0], 0.0)


@op_rule("Relu")
class Relu(Unary):
    """y = max(x, 0); 0 at the kink, as in Caffe. The mask is taken from y, which in-place nets keep anyway."""

    scale = passes

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        return masked(graph, dy, graph.op("Greater", node.output[0], 0.0))


@op_rule("LeakyRelu")
class LeakyRelu(Unary):
    """y = x where positive, else alpha x."""

    scale = passes

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        lower = graph.op("Mul", dy, float(attribute(node, "alpha", 0.01)))
        return choose(graph, _is_positive(node, graph), dy, lower)


@op_rule("PRelu")
class PRelu(Elementwise):
    """y = x where positive, else slope x; the slope is learned and broadcast."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """The output has x's scale; a slope that is computed has none, since what is positive knows nothing of it."""
        scales.constraints.pin(scales.of(node.input[1]))
        passes(self, node, scales)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        x, slope = node.input
        dy = single(dys)
        dx = choose(graph, _is_positive(node, graph), dy, graph.op("Mul", dy, slope))
        return [dx, unbroadcast(graph, graph.op("Mul", dy, graph.op("Min", x, 0.0)), slope)]


@op_rule("Elu")
class Elu(Unary):
    """y = x where positive, else alpha (exp(x) - 1)."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        lower = graph.op("Add", node.output[0], float(attribute(node, "alpha", 1.0)))
        return choose(graph, _is_positive(node, graph), graph.constant(1.0), lower)


@op_rule("Selu")
class Selu(Unary):
    """y = gamma (x where positive, else alpha (exp(x) - 1))."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        alpha = float(attribute(node, "alpha", 1.6732632423543772))
        gamma = float(attribute(node, "gamma", 1.0507009873554805))
        lower = graph.op("Add", node.output[0], gamma * alpha)
        return choose(graph, _is_positive(node, graph), graph.constant(gamma), lower)


@op_rule("Sigmoid")
class Sigmoid(Unary):
    """y = 1 / (1 + exp(-x))."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        y = node.output[0]
        return graph.op("Mul", y, graph.op("Sub", 1.0, y))


@op_rule("Tanh")
class Tanh(Unary):
    """y = tanh(x)."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        y = node.output[0]
        return graph.op("Sub", 1.0, graph.op("Mul", y, y))


@op_rule("Softplus")
class Softplus(Unary):
    """y = log(1 + exp(x))."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        return graph.op("Sigmoid", node.input[0])


@op_rule("HardSigmoid")
class HardSigmoid(Unary):
    """y = alpha x + beta, cut off at 0 and 1."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        y = node.output[0]
        inside = graph.op("And", graph.op("Greater", y, 0.0), graph.op("Less", y, 1.0))
        return masked(graph, graph.op("Mul", dy, float(attribute(node, "alpha", 0.2))), inside)


@op_rule("HardSwish")
class HardSwish(Unary):
    """y = x max(0, min(1, x / 6 + 1 / 2))."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        x = node.input[0]
        middle = graph.op("Add", graph.op("Mul", x, 1 / 3), 0.5)
        upper = choose(graph, graph.op("Greater", x, 3.0), graph.constant(1.0), middle)
        return choose(graph, graph.op("Less", x, -3.0), graph.constant(0.0), upper)


@op_rule("Erf")
class Erf(Unary):
    """The error function."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        x = node.input[0]
        return graph.op("Mul", graph.op("Exp", graph.op("Neg", graph.op("Mul", x, x))), 1.1283791670955126)


@op_rule("Abs")
class Abs(Unary):
    """y = |x|; 0 at the kink."""

    scale = passes

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        return graph.op("Sign", node.input[0])


@op_rule("Exp")
class Exp(Unary):
    """y = exp(x)."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        return node.output[0]


@op_rule("Log")
class Log(Unary):
    """y = log(x); the gradient is 0 at 0."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        return ratio(graph, dy, node.input[0])


@op_rule("Sqrt")
class Sqrt(Unary):
    """y = sqrt(x); the gradient is 0 at 0, as that of a norm of zeros is."""

    scale = takes_root

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        return ratio(graph, graph.op("Mul", dy, 0.5), node.output[0])


@op_rule("Reciprocal")
class Reciprocal(Unary):
    """y = 1 / x."""

    scale = inverts

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        y = node.output[0]
        return graph.op("Neg", graph.op("Mul", y, y))


@op_rule("Neg")
class Neg(Unary):
    """y = -x."""

    scale = passes

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        return graph.op("Neg", dy)


@op_rule("ThresholdedRelu")
class ThresholdedRelu(Unary):
    """y = x above alpha, else 0."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        return masked(graph, dy, graph.op("Greater", node.input[0], float(attribute(node, "alpha", 1.0))))


@op_rule("Shrink")
class Shrink(Unary):
    """y = x nearer to 0 by a bias where it is farther from 0 than lambd, else 0."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        size = graph.op("Abs", node.input[0])
        return masked(graph, dy, graph.op("Greater", size, float(attribute(node, "lambd", 0.5))))


@op_rule("Celu")
class Celu(Unary):
    """y = x where positive, else alpha (exp(x / alpha) - 1)."""

    is_nearly_homogeneous = bends

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        lower = graph.op("Add", graph.op("Mul", node.output[0], 1 / float(attribute(node, "alpha", 1.0))), 1.0)
        return choose(graph, _is_positive(node, graph), graph.constant(1.0), lower)


@op_rule("Softsign")
class Softsign(Unary):
    """y = x / (1 + |x|)."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        below = graph.op("Add", graph.op("Abs", node.input[0]), 1.0)
        return graph.op("Div", dy, graph.op("Mul", below, below))


@op_rule("Sin")
class Sin(Unary):
    """y = sin(x)."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        return graph.op("Cos", node.input[0])


@op_rule("Cos")
class Cos(Unary):
    """y = cos(x)."""

    def slope(self, node: onnx.NodeProto, graph: Graph) -> str:
        """See Unary."""
        return graph.op("Neg", graph.op("Sin", node.input[0]))


class AlongAxis(Unary):
    """Softmax and its kin, along one axis; up to opset 12 along all axes from the given one on."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along another axis than the first."""
        return not self.joins_rows(node, graph)

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis."""
        return not attribute(node, "axis", -1) % len(graph.shape(node.output[0]))

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Make the axes one where they are several."""
        x = node.input[0]
        axis = attribute(node, "axis", 1 if opset < 13 else -1)
        # Of what a Loop makes, the rank may not be known.
        if opset >= 13 or (graph.is_typed(x) and axis in (-1, len(graph.shape(x)) - 1)):
            rewritten(node, graph, [x], axis=axis)
            return
        flat = graph.op("Flatten", x, axis=axis, name=graph.fresh(f"{x}{INSIDE}"))
        found = graph.fresh(f"{node.output[0]}{INSIDE}")
        rewritten(node, graph, [flat], axis=-1)
        graph.rename(node.output[0], found, len(graph.nodes) - 1)
        graph.op("Reshape", found, graph.op("Shape", x), name=node.output[0])


@op_rule("Softmax")
class Softmax(AlongAxis):
    """y = exp(x) / sum of exp(x) along an axis."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        y = node.output[0]
        mean = total(graph, graph.op("Mul", dy, y), [attribute(node, "axis", -1)])
        return graph.op("Mul", y, graph.op("Sub", dy, mean))


@op_rule("LogSoftmax")
class LogSoftmax(AlongAxis):
    """y = log of softmax along an axis."""

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str) -> str:
        """See Unary."""
        sums = total(graph, dy, [attribute(node, "axis", -1)])
        return graph.op("Sub", dy, graph.op("Mul", graph.op("Exp", node.output[0]), sums))
