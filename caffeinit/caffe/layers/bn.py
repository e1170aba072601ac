"""BN, the name of two different layers.

SegNet's and ENet's has scale and shift; in mode INFERENCE that is all, in mode LEARN (also in tests) it normalises with
the batch's own statistics first. That of TSN, PSPNet and ICNet has slope, bias, and stored mean and variance. Their
parameters have other names, which tells them apart.
Sources: alexgkendall/caffe-segnet, src/caffe/layers/bn_layer.cpp; yjxiong/caffe, src/caffe/layers/bn_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape
from caffeinit.protos import schema

SEGNET = ("scale_filler", "shift_filler", "bn_mode", "var_eps")
STORED = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine", "icnet")
SEGNET_EPS = 1e-9
_INFERENCE = 1


@layer_type("BN")
class BN(LayerType):
    """Batch normalisation with a factor and a shift per channel, in the form that the parameters' names tell."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        return [bottoms[0]]

    @staticmethod
    def has_stored_statistics(layer: Layer) -> bool:
        """Return whether the layer is TSN's or PSPNet's.

        Raises:
            LayerError: the parameters are of both forks or of none.
        """
        p = layer.bn_param
        segnet = [name for name in SEGNET if p.HasField(name)]
        stored = [name for name in STORED if p.HasField(name)]
        if p.moving_average or p.HasField("decay"):
            raise LayerError("moving_average and decay are of a fork that is not supported")
        if bool(segnet) != bool(stored):
            return bool(stored)
        if not segnet and len(layer.param) in (2, 4):
            return len(layer.param) == 4
        named = f"{', '.join(segnet + stored)} are not of one fork" if segnet else "nothing tells which fork's it is"
        raise LayerError(f"bn_param: {named}; SegNet's has {', '.join(SEGNET)}, PSPNet's {', '.join(STORED)}")

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return scale and bias, and where they are stored mean and variance, all (1, C, 1, 1)."""
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        p, shape = layer.bn_param, (1, bottoms[0][1], 1, 1)
        if not self.has_stored_statistics(layer):
            scale = p.scale_filler if p.HasField("scale_filler") else None
            shift = p.shift_filler if p.HasField("shift_filler") else None
            return [Param(shape, "scale", scale), Param(shape, "bias", shift)]
        slope = p.slope_filler if p.HasField("slope_filler") else None
        bias = p.bias_filler if p.HasField("bias_filler") else None
        one = schema.message("FillerParameter")(value=1)
        return [
            Param(shape, "scale", slope),
            Param(shape, "bias", bias),
            Param(shape, "mean"),
            Param(shape, "variance", one),
        ]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a BatchNormalization, or scale and shift after the batch's own statistics."""
        p, x = layer.bn_param, bottoms[0]
        rank = len(graph.shape(x))
        if self.has_stored_statistics(layer):
            arrays = [graph.op("Reshape", graph.param(layer, i), [-1]) for i in range(4)]
            return [graph.op("BatchNormalization", x, *arrays, epsilon=p.eps)]
        if p.bn_mode != _INFERENCE:
            axes = [0, *range(2, rank)]
            centred = graph.op("Sub", x, graph.op("ReduceMean", x, axes=axes))
            variance = graph.op("ReduceMean", graph.op("Mul", centred, centred), axes=axes)
            eps = float(p.var_eps) if p.HasField("var_eps") else SEGNET_EPS
            x = graph.op("Div", centred, graph.op("Sqrt", graph.op("Add", variance, eps)))
        broadcast = [-1] + [1] * (rank - 2)
        scale, shift = (graph.op("Reshape", graph.param(layer, i), broadcast) for i in range(2))
        return [graph.op("Add", graph.op("Mul", x, scale), shift)]
