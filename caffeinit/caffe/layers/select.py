"""Layers that pick, repeat or lay out parts of their bottoms.

Crop, CropCenter, Tile and Im2col cut windows; Embed, BatchReindex and Filter pick rows; Parameter is nothing but an
array.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, canonical_axis, layer_type
from caffeinit.caffe.layers.convolution import Windowed
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

MOST_PLACES = 1 << 12  # the picking kernels hold the square of it, for each channel


@layer_type("Crop")
class Crop(LayerType):
    """top = a window of the first bottom, with the second bottom's extents from `axis` on."""

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the first bottom's extents in front of `axis`, the second's from there on."""
        data, reference = bottoms
        starts = self._starts(layer, data, reference)
        axis = len(data) - len(starts)
        for i, start in enumerate(starts, axis):
            if start + reference[i] > data[i]:
                raise LayerError(f"offset {start} and extent {reference[i]} reach past {data[i]} on axis {i}")
        return [(*data[:axis], *reference[axis : len(data)])]

    @staticmethod
    def _starts(layer: Layer, data: Shape, reference: Shape) -> list[int]:
        """Return the offset of each axis from `axis` on."""
        p = layer.crop_param
        axis = canonical_axis(p.axis, len(data))
        if len(reference) < len(data):
            raise LayerError(f"its second bottom {reference} has fewer axes than its first, {data}")
        given = [int(o) for o in p.offset] or [0]
        if len(given) not in (1, len(data) - axis):
            raise LayerError(f"{len(given)} offsets for {len(data) - axis} axes from axis {axis} on")
        return given * (len(data) - axis) if len(given) == 1 else given

    def holds_batch(self, layer: Layer, bottoms: Sequence[Shape]) -> bool:
        """Where it leaves rows out: which, is spelt out."""
        starts = self._starts(layer, *bottoms)
        return len(starts) == len(bottoms[0]) and bottoms[0][0] != bottoms[1][0]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Slice over the axes that really change."""
        data, reference = (graph.shape(b) for b in bottoms)
        starts = self._starts(layer, data, reference)
        axis = len(data) - len(starts)
        windows = {i: (s, s + reference[i]) for i, s in enumerate(starts, axis)}
        return [cut(graph, bottoms[0], windows)]


@layer_type("CropCenter")
class CropCenter(LayerType):
    """top = the bottom without `crop_size` entries at both ends of each axis; waifu2x's."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return what is left on each axis."""
        margins = list(layer.crop_center_param.crop_size)
        if layer.crop_center_param.axis != 2:
            raise LayerError(f"crop_center_param axis {layer.crop_center_param.axis} is not supported")
        if len(margins) != len(bottoms[0]):
            raise LayerError(f"{len(margins)} crop sizes for a bottom with {len(bottoms[0])} axes")
        top = tuple(size - 2 * margin for size, margin in zip(bottoms[0], margins, strict=True))
        if min(top, default=1) < 1 or min(margins, default=0) < 0:
            raise LayerError(f"crop_size {margins} does not fit {bottoms[0]}")
        return [top]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Slice."""
        shape = graph.shape(bottoms[0])
        margins = layer.crop_center_param.crop_size
        return [cut(graph, bottoms[0], {i: (m, shape[i] - m) for i, m in enumerate(margins) if m})]


def cut(graph: ParamGraph, x: str, windows: dict[int, tuple[int, int]]) -> str:
    """Return x between (start, end) on each axis given, untouched where all of it is kept."""
    shape = graph.shape(x)
    kept = {axis: window for axis, window in windows.items() if window != (0, shape[axis])}
    if not kept:
        return x
    starts, ends = zip(*kept.values(), strict=True)
    return graph.op("Slice", x, list(starts), list(ends), list(kept))


@layer_type("Tile")
class Tile(LayerType):
    """top = `tiles` copies of the bottom, one behind the other along an axis."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom with the axis `tiles` times as long."""
        p, shape = layer.tile_param, bottoms[0]
        axis = canonical_axis(p.axis, len(shape))
        if p.tiles < 1:
            raise LayerError(f"tiles is {p.tiles}, must be at least 1")
        return [(*shape[:axis], shape[axis] * p.tiles, *shape[axis + 1 :])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Tile."""
        p = layer.tile_param
        repeats = [1] * len(graph.shape(bottoms[0]))
        repeats[canonical_axis(p.axis, len(repeats))] = p.tiles
        return [graph.op("Tile", bottoms[0], repeats)]


@layer_type("Im2col")
class Im2col(Windowed):
    """Each window of the bottom as a column: channel by channel, row by row of the kernel."""

    num_bottoms = (1, 1)
    num_tops = (1, 1)

    def top(self, layer: Layer, bottom: Shape) -> Shape:
        """Return C * kernel rows and the number of window positions."""
        places = int(np.prod(self.windows(layer, bottom).kernel))
        return (bottom[0], bottom[1] * places, *self.positions(layer, bottom))

    def lower_one(self, layer: Layer, graph: ParamGraph, bottom: str) -> str:
        """Append a depthwise Conv whose kernels each pick one place of the window."""
        shape = graph.shape(bottom)
        w = self.placed(layer, shape)
        places = int(np.prod(w.kernel))
        if places > MOST_PLACES:
            raise LayerError(f"a kernel of {places} places is too large, at most {MOST_PLACES}")
        picks = np.eye(places, dtype=np.float32).reshape(places, 1, *w.kernel)
        return graph.op(
            "Conv",
            bottom,
            np.tile(picks, (shape[1], 1) + (1,) * len(w.kernel)),
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            pads=w.onnx_pads,
            dilations=list(w.dilation),
            group=shape[1],
        )


@layer_type("Embed")
class Embed(LayerType):
    """top = the table's row for each index in the bottom (+ bias)."""

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottom's shape with num_output behind it."""
        return [(*bottoms[0], int(layer.embed_param.num_output))]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return table (input_dim, num_output) and bias (num_output,)."""
        p = layer.embed_param
        if p.num_output < 1 or p.input_dim < 1:
            raise LayerError("num_output and input_dim must both be given")
        table = (int(p.input_dim), int(p.num_output))
        params = [Param(table, "table", p.weight_filler if p.HasField("weight_filler") else None)]
        if p.bias_term:
            params.append(Param(table[1:], "bias", p.bias_filler if p.HasField("bias_filler") else None))
        return params

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Gather and, with a bias, an Add."""
        rows = graph.op("Gather", graph.param(layer, 0), whole_numbers(graph, bottoms[0]), axis=0)
        return [graph.op("Add", rows, graph.param(layer, 1)) if layer.embed_param.bias_term else rows]


@layer_type("BatchReindex")
class BatchReindex(LayerType):
    """top[i] = first bottom[index[i]], with the indices as second bottom."""

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the first bottom's shape with as many entries on axis 0 as there are indices."""
        data, index = bottoms
        if len(index) != 1 or not data:
            raise LayerError(f"indices must be a list and pick from one, got {index} for {data}")
        return [(index[0], *data[1:])]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Gather along axis 0."""
        return [graph.op("Gather", bottoms[0], whole_numbers(graph, bottoms[1]), axis=0)]


@layer_type("Filter")
class Filter(LayerType):
    """Each top holds the entries of its bottom for which the last bottom is not zero.

    How many there are is known only at run time; the shape stated is the one with all of them, as in Caffe's set-up.
    """

    chooses_rows = True
    num_bottoms = (2, None)
    num_tops = (1, None)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the bottoms' shapes."""
        *data, selector = bottoms
        if int(np.prod(selector)) != (selector[0] if selector else 1):
            raise LayerError(f"the selector must hold one number per entry, got {selector}")
        if len(layer.top) != len(data):
            raise LayerError(f"has {len(layer.top)} tops for {len(data)} bottoms to filter")
        for shape in data:
            if not shape or shape[0] != (selector[0] if selector else 1):
                raise LayerError(f"the selector {selector} does not fit {shape}")
        return list(data)

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a Compress per top."""
        *data, selector = bottoms
        flags = graph.op("Cast", graph.op("Reshape", selector, [-1]), to=TensorProto.BOOL)
        return [graph.op("Compress", value, flags, axis=0) for value in data]


@layer_type("Parameter")
class Parameter(LayerType):
    """top = a learned array, whatever the input is."""

    axis_0 = "none"
    num_bottoms = (0, 0)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the shape given; one number where none is."""
        return [tuple(int(d) for d in layer.parameter_param.shape.dim)]

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the array."""
        return [Param(self.infer(layer, bottoms)[0], "table")]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Return the array itself."""
        return [graph.param(layer, 0)]


def whole_numbers(graph: ParamGraph, value: str) -> str:
    """Return a float blob of indices as integers."""
    return graph.op("Cast", value, to=TensorProto.INT64)
