"""Activations and other small layers that single forks have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffeinit.caffe.layers.activation import Elementwise
from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape
from caffeinit.protos import schema

SELU_ALPHA, SELU_SCALE = 1.6732632423543772, 1.0507009873554805


@layer_type("SeLu", "SELU", "Selu")
class SeLu(Elementwise):
    """top = scale * (x where positive, else alpha (exp(x) - 1)), with the constants of Klambauer et al., 2017."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Selu."""
        return graph.op("Selu", x, alpha=SELU_ALPHA, gamma=SELU_SCALE)


@layer_type("SeLuDropout")
class SeLuDropout(Elementwise):
    """Nothing in tests."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Return the bottom."""
        return x


@layer_type("HardSwish", "HSwish")
class HardSwish(Elementwise):
    """top = x * min(max(x + 3, 0), 6) / 6."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a HardSigmoid and a Mul."""
        return graph.op("Mul", x, graph.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))


@layer_type("Mish")
class Mish(Elementwise):
    """top = x * tanh(log(1 + exp(x))); darknet's."""

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Softplus, a Tanh and a Mul."""
        return graph.op("Mul", x, graph.op("Tanh", graph.op("Softplus", x)))


@layer_type("RReLU")
class RReLU(Elementwise):
    """Leaky ReLU with a random slope in training; in tests x * 2 / (lower + upper) where negative.

    The bounds divide: they are above 1, such as 3 and 8. From the winning net of Kaggle's National Data Science Bowl.
    """

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a LeakyRelu."""
        p = layer.rrelu_param
        for lower, upper in (("negative_slope_lower", "negative_slope_upper"), ("lower", "upper")):
            if p.HasField(lower) and p.HasField(upper):
                total = getattr(p, lower) + getattr(p, upper)
                if total <= 2:
                    raise LayerError(f"{lower} and {upper} look like slopes; here they are divisors, above 1")
                return graph.op("LeakyRelu", x, alpha=2 / total)
        raise LayerError("the bounds of the slope are not given")


@layer_type("APL")
class APL(Elementwise):
    """top = max(x, 0) + sum over s of slope_s * max(0, offset_s - x), with arrays per place of the bottom.

    Source: Agostinelli et al., "Learning Activation Functions to Improve Deep Neural Networks", 2014, and their layer.
    """

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return slopes and offsets, both (1, 1, sums, C H W)."""
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        p = layer.apl_param
        shape = (1, 1, int(p.sums), int(np.prod(bottoms[0][1:])))
        default = schema.message("FillerParameter")
        slope = p.slope_filler if p.HasField("slope_filler") else default(type="uniform", min=-0.5, max=0.5)
        offset = p.offset_filler if p.HasField("offset_filler") else default(type="gaussian", std=0.5)
        return [Param(shape, "slope", slope), Param(shape, "offset", offset)]

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append the hinges on a further axis, and their sum."""
        shape = graph.shape(x)
        size = int(np.prod(shape[1:]))
        slope, offset = (graph.op("Reshape", graph.param(layer, i), [1, -1, size]) for i in range(2))
        flat = graph.reshape(x, [shape[0], 1, size])
        hinges = graph.op("Mul", graph.op("Relu", graph.op("Sub", offset, flat)), slope)
        bent = graph.reshape(graph.op("ReduceSum", hinges, [1]), shape)
        return graph.op("Add", graph.op("Relu", x), bent)


@layer_type("EltwiseAffine")
class EltwiseAffine(Elementwise):
    """top = slope * x + bias, per channel or with one number for all."""

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return slope and bias, (C,) or () with channel_shared."""
        p = layer.eltwise_affine_param
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs channels on axis 1, got {bottoms[0]}")
        shape = () if p.channel_shared else (bottoms[0][1],)
        slope = p.slope_filler if p.HasField("slope_filler") else schema.message("FillerParameter")(value=1)
        bias = p.bias_filler if p.HasField("bias_filler") else None
        return [Param(shape, "scale", slope), Param(shape, "bias", bias)]

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append a Mul and an Add."""
        dims = [-1] + [1] * (len(graph.shape(x)) - 2)
        slope, bias = (graph.op("Reshape", graph.param(layer, i), dims) for i in range(2))
        return graph.op("Add", graph.op("Mul", x, slope), bias)


@layer_type("MarginInnerProduct")
class MarginInnerProduct(LayerType):
    """Product with weights of length 1; larger margins shrink the label's angle; SphereFace's.

    Only type SINGLE, which has no margin, is a function of the bottom alone. The second top is the weight of the plain
    product, which falls with the training iteration.
    Source: wy1iu/sphereface, tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp.
    """

    num_bottoms = (2, 2)
    num_tops = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (..., num_output), and (1,) for the second top."""
        p = layer.margin_inner_product_param
        axis = canonical_axis(p.axis, len(bottoms[0]))
        if p.num_output < 1:
            raise LayerError("num_output is not given")
        return [(*bottoms[0][:axis], int(p.num_output)), (1,)][: len(layer.top)]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return weight (num_output, K)."""
        p = layer.margin_inner_product_param
        inputs = int(np.prod(bottoms[0][canonical_axis(p.axis, len(bottoms[0])) :]))
        filler = p.weight_filler if p.HasField("weight_filler") else None
        return [Param((int(p.num_output), inputs), "weight", filler)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the weights' norm, a Div and a MatMul."""
        p: Any = layer.margin_inner_product_param
        if p.type != 0:
            kind = p.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[p.type].name
            raise LayerError(f"type {kind}: its margin depends on the labels and on the training iteration")
        x, shape = bottoms[0], graph.shape(bottoms[0])
        axis = canonical_axis(p.axis, len(shape))
        flat = graph.reshape(x, [*shape[:axis], int(np.prod(shape[axis:]))])
        weight = graph.param(layer, 0)
        norm = graph.op("Sqrt", graph.op("ReduceSum", graph.op("Mul", weight, weight), [1]))
        unit = graph.op("Transpose", graph.op("Div", weight, norm), perm=[1, 0])
        product = graph.op("MatMul", flat, unit)
        if len(layer.top) == 1:
            return [product]
        iteration = p.iteration + 1
        remaining = max(p.base * (1 + p.gamma * iteration) ** -p.power, p.lambda_min)
        return [product, graph.constant(np.asarray([remaining], np.float32))]
