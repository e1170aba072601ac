"""InnerProduct: a matrix product over all axes from `axis` on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("InnerProduct")
class InnerProduct(LayerType):
    """top = W x + b, where x is the bottom flattened from `axis` on."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Keep the axes before `axis`, then num_output."""
        axis = self._axis(layer, bottoms[0])
        return [(*bottoms[0][:axis], self._outputs(layer))]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return weight (O, K), or (K, O) with `transpose`, and bias (O,)."""
        p = layer.inner_product_param
        outputs = self._outputs(layer)
        inputs = int(np.prod(bottoms[0][self._axis(layer, bottoms[0]) :]))
        shape = (inputs, outputs) if p.transpose else (outputs, inputs)
        params = [Param(shape, "weight", p.weight_filler if p.HasField("weight_filler") else None)]
        if p.bias_term:
            params.append(Param((outputs,), "bias", p.bias_filler if p.HasField("bias_filler") else None))
        return params

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Gemm on the bottom as a matrix."""
        p = layer.inner_product_param
        shape = graph.shape(bottoms[0])
        axis = self._axis(layer, shape)
        rows, inputs = int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))
        matrix = graph.reshape(bottoms[0], [rows, inputs])
        arrays = [graph.param(layer, i) for i in range(2 if p.bias_term else 1)]
        product = graph.op("Gemm", matrix, *arrays, transB=0 if p.transpose else 1)
        return [graph.reshape(product, [*shape[:axis], self._outputs(layer)])]

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return one product per weight and row."""
        return int(np.prod(bottoms[0])) * self._outputs(layer)

    @staticmethod
    def _axis(layer: Layer, bottom: Shape) -> int:
        return canonical_axis(layer.inner_product_param.axis, len(bottom))

    @staticmethod
    def _outputs(layer: Layer) -> int:
        if layer.inner_product_param.normalize:
            raise LayerError("normalize: true is not supported")
        outputs = int(layer.inner_product_param.num_output)
        if outputs < 1:
            raise LayerError("num_output is not given")
        return outputs
