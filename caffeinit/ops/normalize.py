"""Normalisation: by stored statistics, by an input's own, and by neighbours."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from caffeinit.errors import CaffeinitError, GradientError
from caffeinit.graph import Graph, Operand, Shape, attribute
from caffeinit.graph.nodes import INSIDE, name_of, node_label
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import along_axis, constant_of, like, ratio, reduced, to_shape, total, unbroadcast
from caffeinit.ops.scaling import normalizes, ties_axis

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


@op_rule("BatchNormalization")
class BatchNormalization(OpRule):
    """y = (x - mean) / sqrt(variance + epsilon) * scale + bias, with stored statistics, or in training x's own."""

    scale = normalizes

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """In training, x is standardised over pictures and places; then come factors and shifts, units as others are."""
        top, mean_top, variance_top = (*node.output, "", "")[:3]
        if not attribute(node, "training_mode", 0):
            return False
        x, scale, bias, *stored = node.input
        rank = len(graph.shape(x))
        dims, axes = [-1] + [1] * (rank - 2), [a for a in range(rank) if a != 1]
        made.scope, scope, start = f"{top}{INSIDE}", made.scope, len(made.nodes)
        mean = _mean(made, x, axes)
        centred = made.op("Sub", x, mean)
        variance = _mean(made, made.op("Mul", centred, centred), axes)
        deviation = made.op("Sqrt", made.op("Add", variance, float(attribute(node, "epsilon", 1e-5))))
        scaled = made.op("Mul", made.op("Div", centred, deviation), to_shape(made, scale, dims))
        momentum = float(attribute(node, "momentum", 0.9))
        readers = graph.consumers()
        for name, old, new in zip((mean_top, variance_top), stored, (mean, variance), strict=True):
            if name in readers or name in graph.outputs:
                new = made.op("Mul", to_shape(made, new, [-1]), 1 - momentum)
                made.op("Add", made.op("Mul", old, momentum), new, name=name)
        made.op("Add", scaled, to_shape(made, bias, dims), name=top)
        made.scope = scope
        for number, inner in enumerate(made.nodes[start:]):
            inner.name = f"{name_of(node)}{INSIDE}{number}"
        return True

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """By stored statistics, element by element."""
        return len(node.output) == 1 and not self.joins_rows(node, graph)

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """In training, by the statistics of what it reads."""
        return bool(attribute(node, "training_mode", 0))

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Statistics per place were a setting up to opset 8; outputs told training from tests up to opset 13."""
        training = attribute(node, "training_mode", int(opset < 14 and any(node.output[1:])))
        if not attribute(node, "spatial", 1):
            if training:
                raise CaffeinitError(f"{node_label(node)}: spatial is 0 in training, which is not read")
            _append_by_places(node, graph)
            return
        today = onnx.NodeProto()
        today.CopyFrom(node)
        del today.output[3:]  # what training had saved for its backward pass: read by no net
        rewritten(today, graph, node.input, without=["spatial"], training_mode=training)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradients of x, scale, bias, mean and variance."""
        if attribute(node, "training_mode", 0):
            raise GradientError("BatchNormalization in training mode")
        x, scale, _, mean, variance = node.input
        rank = len(graph.shape(x))
        dims, axes = [-1] + [1] * (rank - 2), [a for a in range(rank) if a != 1]
        dy = single(dys)
        safe = graph.op("Add", variance, float(attribute(node, "epsilon", 1e-5)))
        inverse = graph.op("Reciprocal", graph.op("Sqrt", safe))
        factor = graph.op("Mul", scale, inverse)
        dx = graph.op("Mul", dy, to_shape(graph, factor, dims) if rank > 2 else factor)
        centred = graph.op("Sub", x, to_shape(graph, mean, dims) if rank > 2 else mean)
        d_bias = total(graph, dy, axes, keepdims=False)
        d_scale = graph.op("Mul", total(graph, graph.op("Mul", dy, centred), axes, keepdims=False), inverse)
        d_mean = graph.op("Neg", graph.op("Mul", d_bias, factor))
        d_variance = graph.op("Mul", graph.op("Div", graph.op("Mul", d_scale, scale), safe), -0.5)
        return [dx, d_scale, d_bias, d_mean, d_variance]


def _append_by_places(node: onnx.NodeProto, graph: Graph) -> None:
    """Append what a normalisation with statistics of its own for each place does, in operators that every opset has."""
    x, scale, bias, mean, variance = node.input
    top, epsilon = node.output[0], float(attribute(node, "epsilon", 1e-5))

    def inner(kind: str, *operands: Operand) -> str:
        return graph.op(kind, *operands, name=graph.fresh(f"{top}{INSIDE}"))

    normal = inner("Div", inner("Sub", x, mean), inner("Sqrt", inner("Add", variance, epsilon)))
    graph.op("Add", inner("Mul", normal, scale), bias, name=top)


def _last_axes(node: onnx.NodeProto, graph: Graph) -> list[int]:
    rank = len(graph.shape(node.input[0]))
    return list(range(attribute(node, "axis", -1) % rank, rank))


def _mean(graph: Graph, value: str, axes: Sequence[int]) -> str:
    return reduced(graph, "ReduceMean", value, axes)


def _standardised(graph: Graph, x: str, axes: Sequence[int], epsilon: float) -> tuple[str, str]:
    """Return x with mean 0 and deviation 1 over the axes, and one over the deviation."""
    centred = graph.op("Sub", x, _mean(graph, x, axes))
    variance = _mean(graph, graph.op("Mul", centred, centred), axes)
    inverse = graph.op("Reciprocal", graph.op("Sqrt", graph.op("Add", variance, epsilon)))
    return graph.op("Mul", centred, inverse), inverse


def _standardised_gradient(graph: Graph, normal: str, inverse: str, diff: str, axes: Sequence[int]) -> str:
    """Return the gradient of x from that of the standardised x."""
    shared = graph.op("Mul", normal, _mean(graph, graph.op("Mul", diff, normal), axes))
    rest = graph.op("Sub", graph.op("Sub", diff, _mean(graph, diff, axes)), shared)
    return graph.op("Mul", rest, inverse)


@op_rule("InstanceNormalization")
class InstanceNormalization(OpRule):
    """y = x standardised over places, image by image, times a scale per channel, plus a bias."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """Each channel's deviation takes up its own scale."""
        scales.standardise(node, range(2, len(scales.graph.shape(node.input[0]))))

    def axes_behind_factors(self, node: onnx.NodeProto, graph: Graph) -> int | None:
        """Channels are on the second axis. Ones and zeros stand for none, as where it is over groups, in the file."""
        scale, bias = (constant_of(graph, v) for v in node.input[1:])
        if scale is not None and bias is not None and (scale == 1).all() and not bias.any():
            return None
        return len(graph.shape(node.input[0])) - 2

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradients of x, scale and bias."""
        x, scale, _ = node.input
        rank = len(graph.shape(x))
        axes, others = list(range(2, rank)), [0, *range(2, rank)]
        dy = single(dys)
        normal, inverse = _standardised(graph, x, axes, float(attribute(node, "epsilon", 1e-5)))
        diff = graph.op("Mul", dy, to_shape(graph, scale, [-1] + [1] * (rank - 2)))
        dx = _standardised_gradient(graph, normal, inverse, diff, axes)
        d_scale = total(graph, graph.op("Mul", dy, normal), others, keepdims=False)
        return [dx, d_scale, total(graph, dy, others, keepdims=False)]


@op_rule("GroupNormalization")
class GroupNormalization(OpRule):
    """y = x standardised over each group of channels, times a scale, plus a bias: per group up to opset 20, then per
    channel."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """The deviation of a group takes up the scale that its channels share."""
        scales.standardise(node, range(2, len(scales.graph.shape(node.input[0]))), attribute(node, "num_groups"))

    def axes_behind_factors(self, node: onnx.NodeProto, graph: Graph) -> int | None:
        """Channels are on the second axis; up to opset 20 there is a factor for each group."""
        shape = graph.shape(node.input[0])
        return len(shape) - 2 if graph.shape(node.input[1]) == shape[1:2] else None

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape:
        """It is a function, which onnx does not look into, and keeps the shape."""
        return graph.shape(node.input[0])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradients of x, scale and bias."""
        x, scale, _ = node.input
        groups, (rows,) = attribute(node, "num_groups"), graph.shape(scale)
        size = int(np.prod(graph.shape(x)[1:]))
        dy = to_shape(graph, single(dys), [-1, rows, size // rows])
        grouped = to_shape(graph, x, [-1, groups, size // groups])
        normal, inverse = _standardised(graph, grouped, [2], float(attribute(node, "epsilon", 1e-5)))
        diff = graph.op("Mul", dy, to_shape(graph, scale, [rows, 1]))
        dx = _standardised_gradient(graph, normal, inverse, to_shape(graph, diff, [-1, groups, size // groups]), [2])
        by_row = graph.op("Mul", dy, to_shape(graph, normal, [-1, rows, size // rows]))
        sums = [total(graph, value, [0, 2], keepdims=False) for value in (by_row, dy)]
        return [like(graph, dx, x), *sums]


@op_rule("LayerNormalization")
class LayerNormalization(OpRule):
    """y = x standardised over its last axes, times a scale, plus a bias."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """The deviation takes up the scale that all along these axes share."""
        scales.standardise(node, _last_axes(node, scales.graph))

    def axes_behind_factors(self, node: onnx.NodeProto, graph: Graph) -> int:
        """Channels are on the last axis."""
        return 0

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Over all axes."""
        return 0 in _last_axes(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradients of x, scale and bias."""
        x, scale = node.input[:2]
        axes, dy = _last_axes(node, graph), single(dys)
        normal, inverse = _standardised(graph, x, axes, float(attribute(node, "epsilon", 1e-5)))
        dx = _standardised_gradient(graph, normal, inverse, graph.op("Mul", dy, scale), axes)
        diffs: list[str | None] = [dx, unbroadcast(graph, graph.op("Mul", dy, normal), scale)]
        if len(node.input) > 2:
            diffs.append(unbroadcast(graph, dy, node.input[2]) if node.input[2] else None)
        return diffs


@op_rule("RMSNormalization")
class RMSNormalization(OpRule):
    """y = x / root of (mean of x * x + epsilon) over its last axes, times a scale."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """The root takes up the scale that all along these axes share."""
        scales.standardise(node, _last_axes(node, scales.graph))

    def axes_behind_factors(self, node: onnx.NodeProto, graph: Graph) -> int:
        """Channels are on the last axis."""
        return 0

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Over all axes."""
        return 0 in _last_axes(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradients of x and scale."""
        x, scale = node.input
        axes, dy = _last_axes(node, graph), single(dys)
        power = graph.op("Add", _mean(graph, graph.op("Mul", x, x), axes), float(attribute(node, "epsilon", 1e-5)))
        inverse = graph.op("Reciprocal", graph.op("Sqrt", power))
        normal, diff = graph.op("Mul", x, inverse), graph.op("Mul", dy, scale)
        shared = graph.op("Mul", normal, _mean(graph, graph.op("Mul", diff, normal), axes))
        dx = graph.op("Mul", graph.op("Sub", diff, shared), inverse)
        return [dx, unbroadcast(graph, graph.op("Mul", dy, normal), scale)]


@op_rule("MeanVarianceNormalization")
class MeanVarianceNormalization(OpRule):
    """y = (x - mean) / (deviation + 1e-9) over axes."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """The deviation takes up the scale that all along these axes share."""
        scales.standardise(node, attribute(node, "axes", [0, 2, 3]))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis is among them."""
        rank = len(graph.shape(node.input[0]))
        return 0 in [a % rank for a in attribute(node, "axes", [0, 2, 3])]

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape:
        """It is a function, which onnx does not look into, and keeps the shape."""
        return graph.shape(node.input[0])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the gradient of x; where the deviation is 0 the result is not finite."""
        axes = attribute(node, "axes", [0, 2, 3])
        normal, inverse = _standardised(graph, node.input[0], axes, 0.0)
        return [_standardised_gradient(graph, normal, inverse, single(dys), axes)]


@op_rule("LpNormalization")
class LpNormalization(OpRule):
    """y = x / norm of x along an axis; the gradient is 0 where that is 0."""

    scale = ties_axis

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis."""
        return not attribute(node, "axis", -1) % len(graph.shape(node.input[0]))

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return (dy - direction * sum(dy * y)) / norm, the direction being y, or sign x for the sum of |x|."""
        x, y, dy = node.input[0], node.output[0], single(dys)
        axis, order = attribute(node, "axis", -1), attribute(node, "p", 2)
        norm = reduced(graph, "ReduceL2" if order == 2 else "ReduceL1", x, [axis])
        direction = y if order == 2 else graph.op("Sign", x)
        shared = graph.op("Mul", direction, total(graph, graph.op("Mul", dy, y), [axis]))
        return [ratio(graph, graph.op("Sub", dy, shared), norm)]


def band_of(node: onnx.NodeProto, channels: int) -> np.ndarray:
    """Return what an LRN node averages squares by, but for alpha: (C, C), output channels first."""
    size = attribute(node, "size")
    ahead = np.arange(channels) - np.arange(channels)[:, None]
    return np.asarray(((ahead >= -((size - 1) // 2)) & (ahead <= size // 2)) / size)


@op_rule("LRN")
class LRN(OpRule):
    """y = x / (bias + alpha / size * sum of squares over neighbouring channels) ** beta."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return dy / s ** beta - 2 * beta * alpha / size * x * (sum over neighbours of dy * y / s)."""
        x, y, dy = node.input[0], node.output[0], single(dys)
        alpha = attribute(node, "alpha", 1e-4)
        beta, bias = float(attribute(node, "beta", 0.75)), float(attribute(node, "bias", 1.0))
        band = band_of(node, graph.shape(x)[1]).T * alpha
        sums = graph.op("Add", along_axis(graph, graph.op("Mul", x, x), 1, band), bias)
        back = along_axis(graph, graph.op("Div", graph.op("Mul", dy, y), sums), 1, band.T)
        direct = graph.op("Mul", dy, graph.op("Pow", sums, -beta))
        return [graph.op("Sub", direct, graph.op("Mul", graph.op("Mul", x, back), 2 * beta))]
