"""Eltwise: sum, product or maximum of several bottoms."""

from __future__ import annotations

from collections.abc import Sequence

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

_PROD, _SUM, _MAX = range(3)


@layer_type("Eltwise")
class Eltwise(LayerType):
    """Sum with coefficients, product, or maximum, element by element."""

    num_bottoms = (2, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the common shape."""
        if any(b != bottoms[0] for b in bottoms):
            raise LayerError(f"its bottoms have different shapes: {', '.join(map(str, bottoms))}")
        return [bottoms[0]]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a chain of two-operand nodes, which onnxruntime fuses where it can."""
        p = layer.eltwise_param
        if p.coeff_blob:
            raise LayerError("coeff_blob is not supported")
        if p.coeff and (len(p.coeff) != len(bottoms) or p.operation == _PROD):
            raise LayerError(f"{len(p.coeff)} coeff for {len(bottoms)} bottoms; they go with SUM, one each")
        coeffs = p.coeff if p.coeff and p.operation == _SUM else [1] * len(bottoms)  # MAX takes no notice of them
        terms = [
            graph.op("Mul", bottom, float(c)) if c != 1 else bottom for bottom, c in zip(bottoms, coeffs, strict=True)
        ]
        op = {_PROD: "Mul", _SUM: "Add", _MAX: "Max"}[p.operation]
        top = terms[0]
        for term in terms[1:]:
            top = graph.op(op, top, term)
        return [top]
