"""Reductions over axes."""

from __future__ import annotations

import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import single, with_settings
from caffeinit.ops.building import choose, constant_of, count, expand_like, masked, ratio, reduced, scatter_add, total
from caffeinit.ops.scaling import reduces


def reduced_axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    """Return the axes a node reduces, counted from 0.

    Raises:
        GradientError: they are computed in the graph.
    """
    axes = _known_axes(node, graph)
    if axes is None:
        raise GradientError(f"{node.op_type} over axes that are computed in the graph")
    return axes


def _known_axes(node: onnx.NodeProto, graph: Graph) -> list[int] | None:
    """Return the axes a node reduces, counted from 0; None where they are computed in the graph."""
    rank = len(graph.shape(node.input[0]))
    axes = attribute(node, "axes")
    if len(node.input) > 1 and node.input[1]:
        given = constant_of(graph, node.input[1])
        if given is None:
            return None
        axes = given.tolist()
    if not axes:
        return [] if attribute(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(int(a) % rank for a in axes)


class Reduction(OpRule):
    """A reduction; subclasses say what one element contributes."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis is not among them."""
        axes = _known_axes(node, graph)
        return axes is not None and 0 not in axes

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis is among them."""
        axes = _known_axes(node, graph)
        return axes is not None and 0 in axes

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Bring dy and y back to the input's rank, then ask the subclass."""
        axes = reduced_axes(node, graph)
        y, dy = node.output[0], single(dys)
        if not attribute(node, "keepdims", 1) and axes:
            y, dy = graph.op("Unsqueeze", y, axes), graph.op("Unsqueeze", dy, axes)
        return [self.spread(graph, node.input[0], y, dy, axes), *[None] * (len(node.input) - 1)]

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return the gradient of x; y and dy have x's rank."""
        raise NotImplementedError(self.op_type)


@op_rule("ReduceSum")
class ReduceSum(Reduction):
    """y = sum of x."""

    scale = reduces

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The axes were an attribute."""
        if opset < 13:
            with_settings(node, graph, "axes")
        else:
            graph.append(node)

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Repeat dy."""
        return expand_like(graph, dy, x)


@op_rule("ReduceMean")
class ReduceMean(Reduction):
    """y = mean of x."""

    scale = reduces

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Share dy evenly."""
        return expand_like(graph, graph.op("Div", dy, count(graph, x, axes)), x)


@op_rule("ReduceSumSquare")
class ReduceSumSquare(Reduction):
    """y = sum of x * x."""

    scale = reduces

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return 2 * x * dy."""
        return graph.op("Mul", x, graph.op("Mul", dy, 2.0))


@op_rule("ReduceL1")
class ReduceL1(Reduction):
    """y = sum of |x|."""

    scale = reduces

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return sign x * dy."""
        return graph.op("Mul", graph.op("Sign", x), dy)


@op_rule("ReduceL2")
class ReduceL2(Reduction):
    """y = root of the sum of x * x; not differentiable where that is 0, and the gradient is 0 there."""

    scale = reduces

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return x / y * dy."""
        return graph.op("Mul", x, ratio(graph, dy, y))


@op_rule("ReduceLogSum")
class ReduceLogSum(Reduction):
    """y = log of the sum of x; the gradient is 0 where that is 0."""

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return dy / sum of x."""
        return expand_like(graph, ratio(graph, dy, graph.op("Exp", y)), x)


@op_rule("ReduceLogSumExp")
class ReduceLogSumExp(Reduction):
    """y = log of the sum of e ** x."""

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return e ** (x - y) * dy."""
        return graph.op("Mul", graph.op("Exp", graph.op("Sub", x, y)), dy)


@op_rule("ReduceProd")
class ReduceProd(Reduction):
    """y = product of x."""

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Return the product of the others, times dy: of a 0 where there is one, and of the others where there is none."""
        is_zero = graph.op("Equal", x, 0.0)
        num_zeros = total(graph, graph.mask(is_zero), axes)
        filled = choose(graph, is_zero, graph.constant(1.0), x)
        product = graph.op("Mul", reduced(graph, "ReduceProd", filled, axes), dy) if axes else dy
        only = masked(graph, product, graph.op("Equal", num_zeros, 1.0))
        none = masked(graph, product, graph.op("Equal", num_zeros, 0.0))
        return choose(graph, is_zero, only, graph.op("Div", none, filled if axes else graph.constant(1.0)))


@op_rule("ReduceMax", "ReduceMin")
class ReduceExtreme(Reduction):
    """y = largest or smallest x; of equal ones along a single axis the first counts, along several they share."""

    scale = reduces

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Put dy where the extreme is."""
        axes, x = reduced_axes(node, graph), node.input[0]
        if len(axes) != 1:
            return super().gradient(node, graph, dys)
        dy = single(dys) if attribute(node, "keepdims", 1) else graph.op("Unsqueeze", single(dys), axes)
        search = "ArgMax" if node.op_type == "ReduceMax" else "ArgMin"
        index = graph.op(search, x, axis=axes[0], keepdims=1)
        return [scatter_add(graph, x, index, dy, axes[0]), *[None] * (len(node.input) - 1)]

    def spread(self, graph: Graph, x: str, y: str, dy: str, axes: list[int]) -> str:
        """Share dy among the equals."""
        equal = graph.op("Equal", x, y)
        share = graph.op("Div", dy, total(graph, graph.mask(equal), axes))
        return masked(graph, expand_like(graph, share, x), equal)
