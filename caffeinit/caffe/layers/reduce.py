"""Reduction, ArgMax, MVN and SPP: layers that summarise axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.activation import Elementwise, affine
from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, canonical_axis, layer_type
from caffeinit.caffe.layers.pooling import pooled_size
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

_SUM, _ASUM, _SUMSQ, _MEAN = 1, 2, 3, 4


@layer_type("Reduction")
class Reduction(LayerType):
    """Sum, sum of magnitudes, sum of squares, or mean of everything from an axis on."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Keep the axes before `axis`."""
        return [bottoms[0][: canonical_axis(layer.reduction_param.axis, len(bottoms[0]))]]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Reduce node and the coefficient."""
        p = layer.reduction_param
        rank = len(graph.shape(bottoms[0]))
        axes = list(range(canonical_axis(p.axis, rank), rank))
        x = bottoms[0]
        if p.operation == _MEAN:
            value = graph.op("ReduceMean", x, axes=axes, keepdims=0)
        else:
            x = {_SUM: lambda: x, _ASUM: lambda: graph.op("Abs", x), _SUMSQ: lambda: graph.op("Mul", x, x)}[
                p.operation
            ]()
            value = graph.op("ReduceSum", x, np.asarray(axes, np.int64), keepdims=0)
        return [affine(graph, value, p.coeff, 0)]


@layer_type("ArgMax")
class ArgMax(LayerType):
    """Where the top_k largest values lie, along an axis or over everything after the first; with their values."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return top_k along the axis, or (N, 1 or 2, top_k)."""
        p, bottom = layer.argmax_param, bottoms[0]
        if p.HasField("axis"):
            axis = canonical_axis(p.axis, len(bottom))
            return [(*bottom[:axis], p.top_k, *bottom[axis + 1 :])]
        middle = [2 if p.out_max_val else 1] if len(bottom) > 1 or p.out_max_val else []
        shape = [bottom[0], *middle, p.top_k]
        # Caffe's top has at least three axes, or as many as the bottom.
        return [(*shape, *[1] * (max(len(bottom), 3) - len(shape)))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a TopK."""
        p, shape = layer.argmax_param, graph.shape(bottoms[0])
        count = np.asarray([p.top_k], np.int64)
        if p.HasField("axis"):
            axis = canonical_axis(p.axis, len(shape))
            values, places = graph.ops("TopK", bottoms[0], count, outputs=2, axis=axis)
            return [values if p.out_max_val else graph.op("Cast", places, to=1)]
        flat = graph.reshape(bottoms[0], [shape[0], 1, int(np.prod(shape[1:]))])
        values, places = graph.ops("TopK", flat, count, outputs=2, axis=2)
        found = graph.op("Cast", places, to=1)
        if p.out_max_val:
            found = graph.op("Concat", found, values, axis=1)
        return [graph.reshape(found, self.infer(layer, [shape])[0])]


@layer_type("MVN")
class MVN(Elementwise):
    """Each channel (or each picture) shifted to mean 0 and, by default, scaled to deviation 1."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append the mean's removal and a division by deviation + eps."""
        p, rank = layer.mvn_param, len(graph.shape(x))
        if rank != 4:
            raise LayerError(f"needs a bottom of 4 axes, got {graph.shape(x)}")
        axes = [1, 2, 3] if p.across_channels else [2, 3]
        centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=axes))
        if not p.normalize_variance:
            return centred
        variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=axes)
        return graph.op("Div", centred, graph.op("Add", graph.op("Sqrt", variance), float(p.eps)))


@layer_type("SPP")
class SPP(LayerType):
    """Spatial pyramid: pooled to 1, 2, 4, ... windows a side, all flattened into one vector."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (N, channels times windows)."""
        n, channels = bottoms[0][:2]
        height = layer.spp_param.pyramid_height
        if height == 1:
            return [(n, channels, 1, 1)]
        return [(n, channels * sum(int(np.prod(self._sizes(bottoms[0], level)[0])) for level in range(height)))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append one pooling per level."""
        p, shape = layer.spp_param, graph.shape(bottoms[0])
        if p.pool > 1:
            raise LayerError("pool STOCHASTIC is not supported")
        levels = []
        for level in range(p.pyramid_height):
            sizes, kernel, pads, reach = self._sizes(shape, level)
            attributes = {"kernel_shape": kernel, "strides": kernel, "pads": [*pads, *reach]}
            if p.pool == 1:
                pooled = graph.op("AveragePool", bottoms[0], count_include_pad=1, **attributes)
            else:
                pooled = graph.op("MaxPool", bottoms[0], **attributes)
            if p.pyramid_height == 1:
                return [pooled]
            levels.append(graph.reshape(pooled, [shape[0], int(shape[1] * np.prod(sizes))]))
        return [graph.op("Concat", *levels, axis=1)]

    @staticmethod
    def _sizes(bottom: Shape, level: int) -> tuple[list[int], list[int], list[int], list[int]]:
        """Return windows, kernel, pads in front and behind per axis, as Caffe sets its pooling layers up."""
        bins = 2**level
        kernel = [-(-size // bins) for size in bottom[2:]]
        pads = [(k * bins - size + 1) // 2 for k, size in zip(kernel, bottom[2:], strict=True)]
        if any(a >= k for a, k in zip(pads, kernel, strict=True)):
            raise LayerError(f"a pyramid of {bins} windows a side does not fit into {bottom[2:]}")
        sizes = [pooled_size(s, k, k, a, a) for s, k, a in zip(bottom[2:], kernel, pads, strict=True)]
        reach = [max(0, (n - 1) * k + k - s - a) for n, k, s, a in zip(sizes, kernel, bottom[2:], pads, strict=True)]
        return sizes, kernel, pads, reach
