"""Operators on several operands, element by element, with numpy's broadcasting."""

from __future__ import annotations

from collections.abc import Container

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import Elementwise, rewritten, single
from caffeinit.ops.building import choose, constant_of, dtype_of, masked, unbroadcast
from caffeinit.ops.scaling import REACH, adds, casts, chooses, divides, limits, multiplies, passes, raises

_EXACT_ROOTS = 16  # powers by multiples of 1 / 16 are exact for the powers of two that come out as such


class Broadcast(Elementwise):
    """An elementwise operator; `pull_back` gives the gradient of one operand before it is summed to its shape."""

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        dy = single(dys)
        return [unbroadcast(graph, self.pull_back(node, graph, dy, i), operand) for i, operand in enumerate(node.input)]

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """Return the gradient of operand `index`, shaped like dy."""
        raise NotImplementedError(self.op_type)


@op_rule("Add", "Sum")
class Add(Broadcast):
    """The sum of the operands."""

    scale = adds

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        return dy


@op_rule("Sub")
class Sub(Broadcast):
    """a - b."""

    scale = adds

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        return graph.op("Neg", dy) if index else dy


@op_rule("Mean")
class Mean(Broadcast):
    """The mean of the operands."""

    scale = adds

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        return graph.op("Mul", dy, 1 / len(node.input))


@op_rule("Mul")
class Mul(Broadcast):
    """a b."""

    scale = multiplies

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        return graph.op("Mul", dy, node.input[1 - index])


@op_rule("Div")
class Div(Broadcast):
    """a / b."""

    scale = divides

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        quotient = graph.op("Div", dy, node.input[1])
        return graph.op("Neg", graph.op("Mul", quotient, node.output[0])) if index else quotient


@op_rule("Mod")
class Mod(Broadcast):
    """What is left of a when b is taken off as often as it fits: with fmod the rest has a's sign, else b's.

    By the largest number there is, nothing is ever taken off: so is written what passes on but gets no gradient, as an
    indicator in Caffe's recurrent layers.
    """

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        divisor = constant_of(graph, node.input[1])
        is_all_left = divisor is not None and divisor.size == 1 and abs(divisor.item()) == np.finfo(np.float32).max
        return [None, None] if is_all_left else super().gradient(node, graph, dys)

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        if not index:
            return dy
        a, b = node.input
        times = graph.op("Round", graph.op("Div", graph.op("Sub", node.output[0], a), b))
        return graph.op("Mul", dy, times)


@op_rule("Pow")
class Pow(Broadcast):
    """a ** b. The gradient of the exponent is 0 where a is not positive, that of a base of 0 where b is below 1."""

    scale = raises

    def is_exact(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Exponents such as 1 / 3 are rounded themselves."""
        known = constant_of(graph, node.input[1])
        return known is not None and not np.any(known.astype(np.float64) * _EXACT_ROOTS % 1)

    def pull_back(self, node: onnx.NodeProto, graph: Graph, dy: str, index: int) -> str:
        """See Broadcast."""
        base, exponent = node.input
        if index:
            positive = graph.op("Greater", base, 0.0)
            log = graph.op("Log", choose(graph, positive, base, 1.0))
            return graph.op("Mul", graph.op("Mul", dy, node.output[0]), log)
        known = constant_of(graph, exponent)
        if graph.elem_type(exponent) != TensorProto.FLOAT:  # it may be a whole number
            exponent = (
                graph.constant(float(known.item())) if known is not None and known.size == 1 else graph.mask(exponent)
            )
        if known is None or known.size != 1:
            below = graph.op("Pow", base, graph.op("Sub", exponent, 1.0))
        elif known.item() == 1:
            return dy
        else:
            # Spelling x ** 1 as a power would cost as much as any other power.
            below = base if known.item() == 2 else graph.op("Pow", base, float(known.item() - 1))
        if known is None or (known < 1).any():
            steep = graph.op("And", graph.op("Equal", base, 0.0), graph.op("Less", exponent, 1.0))
            below = choose(graph, steep, graph.constant(0.0), below)
        return graph.op("Mul", dy, graph.op("Mul", below, exponent))


class Extreme(Broadcast):
    """The largest or smallest operand; of equal ones the last takes the gradient, as in Caffe's Eltwise of two bottoms."""

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        dy, found = single(dys), []
        for operand in reversed(node.input[1:]):
            wins = graph.op("Equal", operand, node.output[0])
            found.append(unbroadcast(graph, masked(graph, dy, wins), operand))
            dy = masked(graph, dy, graph.op("Not", wins))
        return [unbroadcast(graph, dy, node.input[0]), *reversed(found)]


@op_rule("Max")
class Max(Extreme):
    """The largest operand."""

    scale = adds


@op_rule("Min")
class Min(Extreme):
    """The smallest operand."""

    scale = adds


@op_rule("Clip")
class Clip(OpRule):
    """x limited to [low, high]; at the limits the gradient passes, as in Caffe."""

    scale = limits

    def is_nearly_homogeneous(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """So it is between 0 and another limit (ReLU6): small values pass as through a ReLU."""
        bounds = [constant_of(graph, value) for value in node.input[1:3] if value]
        if len(bounds) < 2 or any(bound is None or bound.size != 1 for bound in bounds):
            return False
        low, high = (bound.item() for bound in bounds if bound is not None)
        return bool(low == 0 < high < REACH)

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Element by element."""
        return True

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The limits were attributes."""
        if opset >= 11:
            graph.append(node)
            return
        kind = dtype_of(graph, node.input[0])
        limits = (attribute(node, "min"), attribute(node, "max"))
        bounds = ["" if v is None else np.asarray(v, kind) for v in limits]
        rewritten(node, graph, [node.input[0], *bounds], without=["min", "max"])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        dx = single(dys)
        for bound, inside in zip(node.input[1:], ("GreaterOrEqual", "LessOrEqual"), strict=False):
            if bound:
                dx = masked(graph, dx, graph.op(inside, node.input[0], bound))
        return [dx, *[None] * (len(node.input) - 1)]


@op_rule("Where")
class Where(Elementwise):
    """a where the condition holds, else b."""

    scale = chooses

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        condition, a, b = node.input
        dy, zero = single(dys), graph.constant(0.0)
        da = unbroadcast(graph, choose(graph, condition, dy, zero), a)
        db = unbroadcast(graph, choose(graph, condition, zero, dy), b)
        return [None, da, db]


@op_rule("Identity", "Dropout")
class Identity(OpRule):
    """The input as it is. Nothing is dropped: not in training mode either, whose pictures would differ from run to run."""

    scale = passes

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Element by element."""
        return True

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Dropout in training mode passes everything on, as it does in tests."""
        training = constant_of(graph, node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if training is None or not training.any() or any(node.output[1:]):
            return False
        rewritten(node, made, node.input[:1], "Identity", without=["seed"])
        return True

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The ratio was an attribute, which tests do not heed."""
        if opset < 12:
            rewritten(node, graph, node.input, without=["ratio"])
        else:
            graph.append(node)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        return [single(dys), *[None] * (len(node.input) - 1)]


@op_rule("Trilu")
class Trilu(OpRule):
    """x above or below a diagonal of its last two axes, zeros elsewhere."""

    scale = passes

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis is one of the two."""
        return len(graph.shape(node.input[0])) == 2

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Keep the same triangle of dy."""
        kept = graph.op("Trilu", single(dys), *node.input[1:], upper=attribute(node, "upper", 1))
        return [kept, *[None] * (len(node.input) - 1)]


@op_rule("Cast", "CastLike")
class Cast(OpRule):
    """Another element type; between floating-point types the gradient is cast back, elsewhere none flows."""

    scale = casts

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """See OpRule."""
        floats = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
        kinds = graph.elem_type(node.input[0]), graph.elem_type(node.output[0])
        if not all(kind in floats for kind in kinds):
            return [None] * len(node.input)
        dx = single(dys) if kinds[0] == kinds[1] else graph.op("Cast", single(dys), to=kinds[0])
        return [dx, *[None] * (len(node.input) - 1)]
