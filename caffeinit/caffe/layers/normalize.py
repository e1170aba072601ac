"""BatchNorm, Scale and Bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("BatchNorm")
class BatchNorm(LayerType):
    """top = (x - mean) / sqrt(variance + eps), with stored statistics or, if the net says so, those of the batch.

    The file stores sums: both statistics are to be divided by the third blob, and count as 0 where that is 0. Forks
    fold a Scale into the layer (scale_bias, use_weight_bias).
    """

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        if any(spec.lr_mult for spec in layer.param[:3]):
            raise LayerError("its statistics are no parameters that are trained: lr_mult must be 0")
        return [bottoms[0]]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return mean (C,), variance (C,) and factor (1,); in forks also scale (C,) and bias (C,)."""
        p = layer.batch_norm_param
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        params = [Param((channels,), "mean"), Param((channels,), "variance"), Param((1,), "factor")]
        if p.use_weight_bias or p.scale_bias:
            if p.HasField("bias_term") and not p.bias_term:
                raise LayerError("a scale without a bias (bias_term: false) is not supported")
            scale = next((getattr(p, n) for n in ("scale_filler", "filler") if p.HasField(n)), None)
            bias = p.bias_filler if p.HasField("bias_filler") else None
            params += [Param((channels,), "scale", scale), Param((channels,), "bias", bias)]
        return params

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a BatchNormalization on the stored statistics, or the statistics of the batch as nodes."""
        p, x = layer.batch_norm_param, bottoms[0]
        shape = graph.shape(x)
        if len(shape) < 2:
            raise LayerError(f"needs channels on axis 1, got {shape}")
        folded = p.use_weight_bias or p.scale_bias
        scale: str | np.ndarray = graph.param(layer, 3) if folded else np.ones(shape[1], np.float32)
        bias: str | np.ndarray = graph.param(layer, 4) if folded else np.zeros(shape[1], np.float32)
        if p.HasField("use_global_stats") and not p.use_global_stats:
            return [self._batch_statistics(graph, x, p.eps, scale, bias)]
        factor = graph.param(layer, 2)
        # 1 / factor, and 0 where the factor is 0: an Abs(Sign) keeps the division finite.
        present = graph.op("Abs", graph.op("Sign", factor))
        safe = graph.op("Add", factor, graph.op("Sub", 1.0, present))
        inverse = graph.op("Div", present, safe)
        mean = graph.op("Mul", graph.param(layer, 0), inverse)
        variance = graph.op("Mul", graph.param(layer, 1), inverse)
        return [graph.op("BatchNormalization", x, scale, bias, mean, variance, epsilon=p.eps)]

    @staticmethod
    def _batch_statistics(
        graph: ParamGraph, x: str, eps: float, scale: str | np.ndarray, bias: str | np.ndarray
    ) -> str:
        rank = len(graph.shape(x))
        axes = [0, *range(2, rank)]
        centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=axes))
        variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=axes)
        normal = graph.op("Div", centred, graph.op("Sqrt", graph.op("Add", variance, float(eps))))
        if isinstance(scale, np.ndarray):
            return normal
        broadcast = [-1] + [1] * (rank - 2)
        scaled = graph.op("Mul", normal, graph.op("Reshape", scale, broadcast))
        return graph.op("Add", scaled, graph.op("Reshape", bias, broadcast))


class Broadcast(LayerType):
    """A layer that combines its bottom with an array along some axes: learned, or a second bottom."""

    num_bottoms = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the first bottom's shape."""
        self.span(layer, bottoms)
        return [bottoms[0]]

    def settings(self, layer: Layer) -> Any:
        """Return the layer's parameters."""
        raise NotImplementedError

    def span(self, layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, Shape]:
        """Return the first axis and the extents along which the array lies."""
        p = self.settings(layer)
        first, num_axes = canonical_axis(p.axis, len(bottoms[0])), p.num_axes
        if len(bottoms) > 1:
            operand = bottoms[1]
            first = 0 if not operand else first
            if bottoms[0][first : first + len(operand)] != operand:
                raise LayerError(f"second bottom {operand} does not fit {bottoms[0]} from axis {first} on")
            return first, operand
        if num_axes < -1:
            raise LayerError(f"num_axes is {num_axes}, must be at least -1")
        if num_axes == -1:
            return first, bottoms[0][first:]
        if first + num_axes > len(bottoms[0]):
            raise LayerError(f"num_axes {num_axes} from axis {first} reaches past {bottoms[0]}")
        return first, bottoms[0][first : first + num_axes]

    @staticmethod
    def aligned(graph: ParamGraph, array: str, first: int, operand: Shape, rank: int, learned: bool) -> str:
        """Return the array with axes of size 1 where it does not reach, so that it broadcasts over the bottom."""
        dims = [1] * first + list(operand) + [1] * (rank - first - len(operand))
        if learned:
            return graph.op("Reshape", array, dims)
        return array if tuple(dims) == graph.shape(array) else graph.reshape(array, dims)


@layer_type("Scale")
class Scale(Broadcast):
    """top = scale * x (+ bias), along one or more axes."""

    def settings(self, layer: Layer) -> Any:
        """Return the layer's parameters."""
        return layer.scale_param

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return scale, unless it is the second bottom, and bias if there is one."""
        p = layer.scale_param
        _, operand = self.span(layer, bottoms)
        params = []
        if len(bottoms) == 1:
            params.append(Param(operand, "scale", p.filler if p.HasField("filler") else None))
        if p.bias_term:
            params.append(Param(operand, "bias", p.bias_filler if p.HasField("bias_filler") else None))
        return params

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Mul and, with a bias, an Add."""
        p = layer.scale_param
        if p.HasField("min_value") or p.HasField("max_value"):
            raise LayerError("min_value and max_value are not supported")
        shapes = [graph.shape(b) for b in bottoms]
        first, operand = self.span(layer, shapes)
        learned = len(bottoms) == 1
        factor = graph.param(layer, 0) if learned else bottoms[1]
        rank = len(shapes[0])
        top = graph.op("Mul", bottoms[0], self.aligned(graph, factor, first, operand, rank, learned))
        if p.bias_term:
            bias = graph.param(layer, 1 if learned else 0)
            top = graph.op("Add", top, self.aligned(graph, bias, first, operand, rank, learned=True))
        return [top]


@layer_type("Bias")
class Bias(Broadcast):
    """top = x + bias, along one or more axes."""

    def settings(self, layer: Layer) -> Any:
        """Return the layer's parameters."""
        return layer.bias_param

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return bias, unless it is the second bottom."""
        p = layer.bias_param
        if len(bottoms) > 1:
            return []
        _, operand = self.span(layer, bottoms)
        return [Param(operand, "bias", p.filler if p.HasField("filler") else None)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append an Add."""
        shapes = [graph.shape(b) for b in bottoms]
        first, operand = self.span(layer, shapes)
        learned = len(bottoms) == 1
        bias = graph.param(layer, 0) if learned else bottoms[1]
        return [graph.op("Add", bottoms[0], self.aligned(graph, bias, first, operand, len(shapes[0]), learned))]
