"""Layers that work element by element."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


class Elementwise(LayerType):
    """A layer whose top has its bottom's shape."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape."""
        return [bottoms[0]]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append what `apply` computes."""
        return [self.apply(layer, graph, bottoms[0])]

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Return the value of the layer's function."""
        raise NotImplementedError


def affine(graph: ParamGraph, x: str, scale: float, shift: float) -> str:
    """Return scale * x + shift, leaving out what changes nothing."""
    if scale != 1:
        x = graph.op("Mul", x, float(scale))
    return graph.op("Add", x, float(shift)) if shift != 0 else x


@layer_type("ReLU")
class ReLU(Elementwise):
    """top = max(x, 0) + negative_slope * min(x, 0)."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Relu or LeakyRelu."""
        p = layer.relu_param
        if p.alpha != 1:
            raise LayerError(f"relu_param alpha {p.alpha:g} is not supported")
        if p.relu6:
            return graph.op("Clip", x, 0.0, 6.0)
        if p.negative_slope:
            return graph.op("LeakyRelu", x, alpha=p.negative_slope)
        return graph.op("Relu", x)


@layer_type("ReLU6")
class ReLU6(Elementwise):
    """top = min(max(x, 0), threshold); a fork's."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Clip."""
        p = layer.relu6_param
        if p.negative_slope:
            raise LayerError("relu6_param negative_slope is not supported")
        return graph.op("Clip", x, 0.0, float(p.threshold))


@layer_type("PReLU")
class PReLU(Elementwise):
    """ReLU with a learned slope per channel, or one for all."""

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return slope (C,), or () with channel_shared."""
        p = layer.prelu_param
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        shape = () if p.channel_shared else (bottoms[0][1],)
        return [Param(shape, "slope", p.filler if p.HasField("filler") else None)]

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a PRelu with the slope along the channel axis."""
        rank = len(graph.shape(x))
        channels = 1 if layer.prelu_param.channel_shared else graph.shape(x)[1]
        slope = graph.op("Reshape", graph.param(layer, 0), [channels] + [1] * (rank - 2))
        return graph.op("PRelu", x, slope)


@layer_type("Sigmoid")
class Sigmoid(Elementwise):
    """top = 1 / (1 + exp(-x))."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Sigmoid."""
        return graph.op("Sigmoid", x)


@layer_type("TanH")
class TanH(Elementwise):
    """top = tanh(x)."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Tanh."""
        return graph.op("Tanh", x)


@layer_type("AbsVal")
class AbsVal(Elementwise):
    """top = |x|."""

    takes_in_place = False

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append an Abs."""
        return graph.op("Abs", x)


@layer_type("ELU")
class ELU(Elementwise):
    """top = x where positive, else alpha * (exp(x) - 1)."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append an Elu."""
        return graph.op("Elu", x, alpha=layer.elu_param.alpha)


@layer_type("BNLL")
class BNLL(Elementwise):
    """top = log(1 + exp(x))."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Softplus."""
        return graph.op("Softplus", x)


@layer_type("Swish")
class Swish(Elementwise):
    """top = x * sigmoid(beta * x)."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Sigmoid and a Mul."""
        return graph.op("Mul", x, graph.op("Sigmoid", affine(graph, x, layer.swish_param.beta, 0)))


@layer_type("Power")
class Power(Elementwise):
    """top = (shift + scale * x) ** power."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append Mul, Add and Pow where they change something."""
        p = layer.power_param
        if p.power == 0:
            return graph.op("Add", graph.op("Mul", x, 0.0), 1.0)
        base = affine(graph, x, p.scale, p.shift)
        return base if p.power == 1 else graph.op("Pow", base, float(p.power))


@layer_type("Exp")
class Exp(Elementwise):
    """top = base ** (shift + scale * x); base e by default."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append an Exp."""
        p = layer.exp_param
        if p.base != -1 and p.base <= 0:
            raise LayerError(f"base {p.base} must be positive")
        log = 1.0 if p.base == -1 else float(np.log(p.base))
        return graph.op("Exp", affine(graph, x, p.scale * log, p.shift * log))


@layer_type("Log")
class Log(Elementwise):
    """top = log(shift + scale * x) to the given base; e by default."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Log."""
        p = layer.log_param
        if p.base != -1 and (p.base <= 0 or p.base == 1):
            raise LayerError(f"base {p.base} must be positive and not 1")
        value = graph.op("Log", affine(graph, x, p.scale, p.shift))
        return value if p.base == -1 else affine(graph, value, float(1 / np.log(p.base)), 0)


@layer_type("Threshold")
class Threshold(Elementwise):
    """top = 1 where x is greater than the threshold, else 0."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Greater."""
        return graph.mask(graph.op("Greater", x, float(layer.threshold_param.threshold)))


@layer_type("Clip")
class Clip(Elementwise):
    """top = min(max(x, min), max)."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Clip."""
        p = layer.clip_param
        if not (p.HasField("min") and p.HasField("max")):
            raise LayerError("min and max must be given")
        return graph.op("Clip", x, float(p.min), float(p.max))


@layer_type("Dropout")
class Dropout(Elementwise):
    """Nothing at test time: Caffe scales while it trains. A fork scales at test time instead."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Pass through."""
        p = layer.dropout_param
        return x if p.scale_train else graph.op("Mul", x, 1.0 - p.dropout_ratio)


@layer_type("Softmax")
class Softmax(Elementwise):
    """exp(x) over its sum along an axis."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Softmax."""
        return graph.op("Softmax", x, axis=canonical_axis(layer.softmax_param.axis, len(graph.shape(x))))
