"""Layers that summarise axes: Reduction, ArgMax and SPP, and those that normalise by the summary, MVN and Normalize."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.caffe.layers.pooling import Pooling
from caffeinit.errors import LayerError
from caffeinit.graph import Shape
from caffeinit.protos import schema

_ASUM, _SUMSQ, _MEAN = 2, 3, 4


@layer_type("Reduction")
class Reduction(LayerType):
    """top = coeff * sum, sum of magnitudes, sum of squares or mean over an axis and all behind it."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the axes in front of `axis`."""
        return [bottoms[0][: canonical_axis(layer.reduction_param.axis, len(bottoms[0]))]]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the reduction and, with a coefficient, a Mul."""
        p, x = layer.reduction_param, bottoms[0]
        rank = len(graph.shape(x))
        axes = range(canonical_axis(p.axis, rank), rank)
        if p.operation == _ASUM:
            x = graph.op("Abs", x)
        elif p.operation == _SUMSQ:
            x = graph.op("Mul", x, x)
        if p.operation == _MEAN:
            top = graph.op("ReduceMean", x, axes=list(axes), keepdims=0)
        else:
            top = graph.op("ReduceSum", x, np.asarray(axes), keepdims=0)
        return [top if p.coeff == 1 else graph.op("Mul", top, float(p.coeff))]


@layer_type("ArgMax")
class ArgMax(LayerType):
    """Where the top_k largest values are, along an axis or over all but the first, and on demand which they are.

    Of equal values Caffe takes the one behind; ONNX's TopK takes the one in front, so it looks from the end.
    """

    is_verdict = True

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom with top_k on `axis`; without axis (N, 1 or 2, top_k)."""
        p, shape = layer.argmax_param, list(bottoms[0])
        if not shape:
            raise LayerError("needs a bottom of one axis or more")
        axis = canonical_axis(p.axis, len(shape)) if p.HasField("axis") else None
        among = shape[axis] if axis is not None else int(np.prod(shape[1:]))
        if not 1 <= p.top_k <= among:
            raise LayerError(f"top_k {p.top_k} of {among} values")
        if axis is None:
            return [(shape[0], 2 if p.out_max_val else 1, int(p.top_k), *[1] * (len(shape) - 3))]
        return [(*shape[:axis], int(p.top_k), *shape[axis + 1 :])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append an ArgMax or a TopK, indices as floats."""
        p, x = layer.argmax_param, bottoms[0]
        shape = graph.shape(x)
        if p.HasField("axis"):
            values, indices = largest(graph, x, int(p.top_k), canonical_axis(p.axis, len(shape)))
            return [values if p.out_max_val else indices]
        flat = graph.reshape(x, [shape[0], 1, int(np.prod(shape[1:]))])
        values, indices = largest(graph, flat, int(p.top_k), 2)
        top = graph.op("Concat", indices, values, axis=1) if p.out_max_val else indices
        return [graph.reshape(top, self.infer(layer, [shape])[0])]


def largest(graph: ParamGraph, x: str, k: int, axis: int) -> tuple[str, str]:
    """Return the k largest values along an axis, in falling order, and their indices as floats; the last of equals."""
    size = graph.shape(x)[axis]
    backwards = graph.op("Slice", x, [size - 1], [-size - 1], [axis], [-1])
    values, places = graph.ops("TopK", backwards, [k], outputs=2, axis=axis)
    return values, graph.op("Cast", graph.op("Sub", size - 1, places), to=TensorProto.FLOAT)


@layer_type("MVN")
class MVN(LayerType):
    """top = (x - mean) / (standard deviation + eps) of each channel, or of each picture with across_channels."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        if not 2 <= len(bottoms[0]) <= 4:
            raise LayerError(f"needs a bottom of two to four axes, channels on axis 1, got {bottoms[0]}")
        return [bottoms[0]]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the mean's Sub and, with normalize_variance, the deviation's Div."""
        p, x = layer.mvn_param, bottoms[0]
        axes = list(range(1 if p.across_channels else 2, len(graph.shape(x))))
        # A channel of one number is its own mean; ONNX would take no axes for all axes.
        centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=axes) if axes else x)
        if not p.normalize_variance or not axes:
            return [centred]
        variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=axes)
        deviation = graph.op("Add", graph.op("Sqrt", variance), float(p.eps))
        return [graph.op("Div", centred, deviation)]


@layer_type("Normalize")
class Normalize(LayerType):
    """top = scale * x / sqrt(sum of squares + eps), the sum over channels, or over each picture; SSD's.

    Source: weiliu89/caffe, src/caffe/layers/normalize_layer.cpp.
    """

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        return [bottoms[0]]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return scale (C,), or () with channel_shared; it starts at 1 where the net gives no filler."""
        p = layer.norm_param
        filler = p.scale_filler if p.HasField("scale_filler") else schema.message("FillerParameter")(value=1)
        return [Param(() if p.channel_shared else (bottoms[0][1],), "scale", filler)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the norm's Div and the scale's Mul."""
        p, x = layer.norm_param, bottoms[0]
        rank = len(graph.shape(x))
        axes = np.arange(1, rank if p.across_spatial else 2)
        norm = graph.op("Sqrt", graph.op("Add", graph.op("ReduceSum", graph.op("Mul", x, x), axes), float(p.eps)))
        scale = graph.param(layer, 0)
        if not p.channel_shared:
            scale = graph.op("Reshape", scale, [-1] + [1] * (rank - 2))
        return [graph.op("Mul", graph.op("Div", x, norm), scale)]


@layer_type("SPP")
class SPP(LayerType):
    """Spatial pyramid: pooling into 1, 4, 16, ... bins, one vector of all of them.

    A level with 2^l bins a side pools with the smallest kernel that many of which cover the bottom, half of the excess
    as padding. Source: BVLC/caffe, src/caffe/layers/spp_layer.cpp.
    """

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (N, features); with one level the pooled blob itself."""
        tops = [Pooling().infer(level, bottoms)[0] for level in self._levels(layer, bottoms[0])]
        if len(tops) == 1:
            return tops
        return [(bottoms[0][0], sum(int(np.prod(top[1:])) for top in tops))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a pooling per level, flattened and concatenated."""
        levels = self._levels(layer, graph.shape(bottoms[0]))
        pooled = [Pooling().lower(level, graph, bottoms)[0] for level in levels]
        if len(pooled) == 1:
            return pooled
        shapes = [graph.shape(p) for p in pooled]
        flat = [graph.reshape(p, [s[0], int(np.prod(s[1:]))]) for p, s in zip(pooled, shapes, strict=True)]
        return [graph.op("Concat", *flat, axis=1)]

    @staticmethod
    def _levels(layer: Layer, bottom: Shape) -> list[Layer]:
        """Return a Pooling layer for each level."""
        p = layer.spp_param
        if len(bottom) != 4:
            raise LayerError(f"needs a bottom (N, C, H, W), got {bottom}")
        if p.pyramid_height < 1:
            raise LayerError("pyramid_height is not given")
        levels = []
        for bins in (1 << level for level in range(p.pyramid_height)):
            kernel = [-(-size // bins) for size in bottom[2:]]
            pads = [(k * bins - size + 1) // 2 for k, size in zip(kernel, bottom[2:], strict=True)]
            if any(pad >= k for pad, k in zip(pads, kernel, strict=True)):
                raise LayerError(f"{bins} x {bins} bins are too many for {bottom[2:]}: pad {pads}, kernel {kernel}")
            pooling = schema.message("LayerParameter")(name=layer.name, type="Pooling", top=[layer.name])
            pool = pooling.pooling_param
            pool.pool = p.pool
            pool.kernel_h, pool.kernel_w = kernel
            pool.stride_h, pool.stride_w = kernel
            pool.pad_h, pool.pad_w = pads
            levels.append(pooling)
        return levels
