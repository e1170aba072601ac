"""Layers that pick, repeat or lay out parts of their bottoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.caffe.layers.convolution import Convolution
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


@layer_type("Tile")
class Tile(LayerType):
    """Copies of the bottom side by side along an axis."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Multiply the extent along the axis."""
        p = layer.tile_param
        axis = canonical_axis(p.axis, len(bottoms[0]))
        if p.tiles < 1:
            raise LayerError("tiles is not given")
        return [tuple(d * p.tiles if i == axis else d for i, d in enumerate(bottoms[0]))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Tile."""
        p, rank = layer.tile_param, len(graph.shape(bottoms[0]))
        axis = canonical_axis(p.axis, rank)
        return [graph.op("Tile", bottoms[0], [p.tiles if i == axis else 1 for i in range(rank)])]


@layer_type("Crop")
class Crop(LayerType):
    """The first bottom cut to the second's extents from an axis on, at given offsets."""

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Take the second bottom's extents from the axis on."""
        axis, _ = self._offsets(layer, bottoms)
        return [(*bottoms[0][:axis], *bottoms[1][axis:])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Slice."""
        shapes = [graph.shape(b) for b in bottoms]
        axis, offsets = self._offsets(layer, shapes)
        ends = [a + d for a, d in zip(offsets, shapes[1][axis:], strict=True)]
        return [graph.op("Slice", bottoms[0], offsets, ends, list(range(axis, len(shapes[0]))))]

    @staticmethod
    def _offsets(layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, list[int]]:
        p, (data, like) = layer.crop_param, bottoms
        if len(data) != len(like):
            raise LayerError(f"its bottoms have different numbers of axes: {data}, {like}")
        axis = canonical_axis(p.axis, len(data))
        count = len(data) - axis
        if len(p.offset) not in (0, 1, count):
            raise LayerError(f"{len(p.offset)} offsets for {count} axes")
        offsets = list(p.offset) * (count if len(p.offset) == 1 else 1) or [0] * count
        for i, offset in enumerate(offsets):
            if offset + like[axis + i] > data[axis + i]:
                raise LayerError(f"offset {offset} and extent {like[axis + i]} reach past {data} on axis {axis + i}")
        return axis, [int(o) for o in offsets]


@layer_type("Im2col")
class Im2col(Convolution):
    """The windows of a convolution laid out as channels."""

    num_bottoms = (1, 1)
    num_tops = (1, 1)

    def checked_group(self, layer: Layer, channels: int) -> tuple[int, int]:
        """Return one output per place in a window."""
        kernel = self.windows(layer, (1, channels, 1, 1)).kernel
        return channels, channels * int(np.prod(kernel))

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return nothing: the kernels are fixed."""
        return []

    def arrays(self, layer: Layer, graph: ParamGraph) -> list[str]:
        """Return kernels that each pick one place."""
        raise AssertionError("Im2col has no arrays of the net")

    def lower_one(self, layer: Layer, graph: ParamGraph, bottom: str) -> str:
        """Append a grouped Conv whose kernels each pick one place of the window."""
        shape = graph.shape(bottom)
        w = self.windows(layer, shape)
        places = int(np.prod(w.kernel))
        kernels = np.tile(np.eye(places, dtype=np.float32).reshape(places, 1, *w.kernel), (shape[1], 1, 1, 1))
        return graph.op(
            "Conv",
            bottom,
            kernels,
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            pads=w.onnx_pads,
            dilations=list(w.dilation),
            group=shape[1],
        )

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return 0: nothing is multiplied."""
        return 0


@layer_type("BatchReindex")
class BatchReindex(LayerType):
    """Pictures picked by index, in another order or several times."""

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return as many pictures as there are indices."""
        return [(bottoms[1][0], *bottoms[0][1:])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Gather along the batch."""
        return [graph.op("Gather", bottoms[0], graph.op("Cast", bottoms[1], to=7), axis=0)]


@layer_type("Embed")
class Embed(LayerType):
    """A learned row per index."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Append num_output to the bottom's shape."""
        return [(*bottoms[0], layer.embed_param.num_output)]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return table (input_dim, num_output) and bias (num_output,)."""
        p = layer.embed_param
        if not p.num_output or not p.input_dim:
            raise LayerError("num_output and input_dim must be given")
        filler = p.weight_filler if p.HasField("weight_filler") else None
        params = [Param((p.input_dim, p.num_output), "table", filler)]
        if p.bias_term:
            params.append(Param((p.num_output,), "bias", p.bias_filler if p.HasField("bias_filler") else None))
        return params

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Gather and an Add."""
        rows = graph.op("Gather", graph.param(layer, 0), graph.op("Cast", bottoms[0], to=7), axis=0)
        return [graph.op("Add", rows, graph.param(layer, 1)) if layer.embed_param.bias_term else rows]


@layer_type("Parameter")
class Parameter(LayerType):
    """A learned array as a top."""

    num_bottoms = (0, 0)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shape given."""
        return [tuple(int(d) for d in layer.parameter_param.shape.dim)]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the array."""
        return [Param(self.infer(layer, bottoms)[0], "table")]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Pass the array on."""
        return [graph.op("Identity", graph.param(layer, 0))]


@layer_type("Filter")
class Filter(LayerType):
    """Pictures whose selector (the last bottom) is not 0; how many that are depends on the data."""

    num_bottoms = (2, None)
    num_tops = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Refuse: the shapes of what follows could not be known."""
        raise LayerError("how many pictures pass depends on the data, so nothing after it has a shape")

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Refuse."""
        raise LayerError("how many pictures pass depends on the data")
