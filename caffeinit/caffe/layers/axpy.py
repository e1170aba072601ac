"""Layers of forks that combine bottoms: Axpy and Mul."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("Axpy")
class Axpy(LayerType):
    """top = a x + y, with a number per channel in the first bottom, (N, C) or (N, C, 1, 1); SENet's."""

    num_bottoms = (3, 3)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the second bottom's shape."""
        a, x, y = bottoms
        if a[:2] != x[:2] or int(np.prod(a)) != int(np.prod(x[:2])) or x != y:
            raise LayerError(f"bottoms {a}, {x} and {y} do not fit each other")
        return [x]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Mul and an Add."""
        a, x, y = bottoms
        shape = graph.shape(x)
        factor = graph.reshape(a, [*shape[:2], *[1] * (len(shape) - 2)])
        return [graph.op("Add", graph.op("Mul", factor, x), y)]


@layer_type("Mul")
class Mul(LayerType):
    """top = the product of all bottoms, broadcast as in numpy; in nets converted from TensorFlow."""

    num_bottoms = (2, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the broadcast shape."""
        try:
            return [np.broadcast_shapes(*bottoms)]
        except ValueError:
            raise LayerError(f"bottoms {', '.join(map(str, bottoms))} do not broadcast") from None

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Mul per further bottom."""
        top = bottoms[0]
        for bottom in bottoms[1:]:
            top = graph.op("Mul", top, bottom)
        return [top]
