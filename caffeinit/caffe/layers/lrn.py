"""Local response normalisation, across channels and within one."""

from __future__ import annotations

import numpy as np

from caffeinit.caffe.layers.activation import Elementwise
from caffeinit.caffe.layers.base import Layer, ParamGraph, layer_type
from caffeinit.errors import LayerError

_WITHIN_CHANNEL = 1


@layer_type("LRN")
class LRN(Elementwise):
    """top = x / (k + alpha / n * sum of squares over n neighbours) ** beta.

    Neighbours are channels, or (within a channel) an n x n window, where Caffe takes k as 1. The sum over channels is a
    1x1 convolution with a banded kernel: onnxruntime's own LRN takes 3 to 7 times as long on a CPU.
    """

    is_nearly_homogeneous = True

    def apply(self, layer: Layer, graph: ParamGraph, x: str) -> str:
        """Append squares, their windowed sum, a power and a division."""
        p = layer.lrn_param
        if p.local_size % 2 == 0:
            raise LayerError(f"local_size {p.local_size} must be odd")
        if len(graph.shape(x)) != 4:
            raise LayerError(f"needs a bottom of 4 axes, got {graph.shape(x)}")
        sums = self._within(layer, graph, x) if p.norm_region == _WITHIN_CHANNEL else self._across(layer, graph, x)
        return graph.op("Div", x, power(graph, sums, p.beta))

    @staticmethod
    def _across(layer: Layer, graph: ParamGraph, x: str) -> str:
        p, channels = layer.lrn_param, graph.shape(x)[1]
        index = np.arange(channels)
        near = np.abs(index[:, None] - index[None, :]) <= (p.local_size - 1) // 2
        kernel = _alpha(layer, graph, (near * (p.alpha / p.local_size)).astype(np.float32)[:, :, None, None])
        return graph.op("Conv", graph.op("Mul", x, x), kernel, np.full(channels, p.k, np.float32), kernel_shape=[1, 1])

    @staticmethod
    def _within(layer: Layer, graph: ParamGraph, x: str) -> str:
        # Caffe averages with its own pooling: windows are clipped at the padded border, and every place counts.
        size = layer.lrn_param.local_size
        pad = (size - 1) // 2
        mean = graph.op(
            "AveragePool",
            graph.op("Mul", x, x),
            kernel_shape=[size, size],
            pads=[pad] * 4,
            strides=[1, 1],
            count_include_pad=1,
        )
        alpha = _alpha(layer, graph, np.asarray(layer.lrn_param.alpha, np.float32))
        return graph.op("Add", graph.op("Mul", mean, alpha), 1.0)


def _alpha(layer: Layer, graph: ParamGraph, array: np.ndarray) -> str:
    """Return the value of an array proportional to alpha; over a ** 2 it makes up for a bottom scaled by a."""
    return graph.number(layer, "lrn_param.alpha", layer.lrn_param.alpha, 2.0, array)


def power(graph: ParamGraph, value: str, exponent: float) -> str:
    """Return value ** exponent, by square roots where they do: they are many times faster than Pow."""
    if exponent == 1:
        return value
    if exponent == 0.5:
        return graph.op("Sqrt", value)
    if exponent == 0.75:
        root = graph.op("Sqrt", value)
        return graph.op("Mul", root, graph.op("Sqrt", root))
    return graph.op("Pow", value, float(exponent))
