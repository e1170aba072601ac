"""Pooling over regions of interest: ROIPooling and PSROIPooling, of the R-CNN family."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from caffeinit.caffe.layers.base import Layer, LayerType, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape


def check_regions(regions: Shape) -> None:
    """Raise LayerError unless each region has five numbers: picture, x1, y1, x2, y2."""
    if not regions or int(np.prod(regions[1:])) != 5:
        raise LayerError(f"regions must hold 5 numbers each, got {regions}")


@layer_type("ROIPooling")
class ROIPooling(LayerType):
    """Largest number in each of pooled_h x pooled_w bins of each region; the second bottom has the regions."""

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (regions, C, pooled_h, pooled_w)."""
        p, (data, regions) = layer.roi_pooling_param, bottoms
        check_regions(regions)
        if len(data) != 4 or p.pooled_h < 1 or p.pooled_w < 1:
            raise LayerError(f"needs a bottom (N, C, H, W) and pooled_h and pooled_w, got {data}")
        return [(regions[0], data[1], int(p.pooled_h), int(p.pooled_w))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append a MaxRoiPool."""
        p, regions = layer.roi_pooling_param, bottoms[1]
        if len(graph.shape(regions)) != 2:
            regions = graph.op("Reshape", regions, [-1, 5])
        size = [int(p.pooled_h), int(p.pooled_w)]
        return [graph.op("MaxRoiPool", bottoms[0], regions, pooled_shape=size, spatial_scale=p.spatial_scale)]


@layer_type("PSROIPooling")
class PSROIPooling(LayerType):
    """Mean over each bin of each region, every bin from channels of its own; R-FCN's.

    Sums over rectangles are differences of sums from the corner, which are kept in double precision.
    Source: daijifeng001/caffe-rfcn, src/caffe/layers/psroi_pooling_layer.cu.
    """

    num_bottoms = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (regions, output_dim, group_size, group_size)."""
        p, (data, regions) = layer.psroi_pooling_param, bottoms
        check_regions(regions)
        if p.output_dim < 1 or p.group_size < 1 or len(data) != 4 or data[1] != p.output_dim * p.group_size**2:
            raise LayerError(f"{data} has not output_dim {p.output_dim} x group_size {p.group_size} squared channels")
        return [(regions[0], int(p.output_dim), int(p.group_size), int(p.group_size))]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append sums from the corner, each bin's four corners in them, and the division by its area."""
        p, (_, c, h, w) = layer.psroi_pooling_param, graph.shape(bottoms[0])
        size = int(p.group_size)
        regions = graph.op("Reshape", bottoms[1], [-1, 5, 1, 1])
        picture, left, top, right, bottom = graph.ops("Split", regions, [1] * 5, outputs=5, axis=1)
        rows = bin_edges(graph, top, bottom, p.spatial_scale, np.arange(size).reshape(1, 1, size, 1), size, h)
        columns = bin_edges(graph, left, right, p.spatial_scale, np.arange(size).reshape(1, 1, 1, size), size, w)
        channel = np.arange(c).reshape(1, int(p.output_dim), size, size)
        plane = graph.op("Add", graph.op("Mul", graph.op("Cast", picture, to=TensorProto.INT64), c), channel)
        sums = graph.op("Reshape", corner_sums(graph, bottoms[0]), [-1])
        (above, below), (before, behind) = rows, columns
        found = [
            graph.op("Gather", sums, place(graph, plane, row, column, h + 1, w + 1))
            for row, column in ((below, behind), (above, behind), (below, before), (above, before))
        ]
        total = graph.op("Sub", graph.op("Sub", found[0], found[1]), graph.op("Sub", found[2], found[3]))
        area = graph.op("Mul", graph.op("Sub", below, above), graph.op("Sub", behind, before))
        filled = graph.op("Greater", area, 0)
        area = graph.op("Cast", graph.op("Max", area, 1), to=TensorProto.DOUBLE)
        mean = graph.op("Cast", graph.op("Div", total, area), to=TensorProto.FLOAT)
        return [graph.op("Where", filled, mean, 0.0)]


def bin_edges(
    graph: ParamGraph, first: str, last: str, scale: float, index: np.ndarray, bins: int, size: int
) -> tuple[str, str]:
    """Return where each bin begins and ends along an axis, as whole numbers from 0 to `size`."""
    start = graph.op("Mul", graph.op("Floor", graph.op("Add", first, 0.5)), float(scale))
    end = graph.op("Mul", graph.op("Add", graph.op("Floor", graph.op("Add", last, 0.5)), 1.0), float(scale))
    step = graph.op("Div", graph.op("Max", graph.op("Sub", end, start), 0.1), float(bins))
    edges = []
    for rounding, position in (("Floor", index), ("Ceil", index + 1)):
        edge = graph.op("Add", graph.op("Mul", step, position.astype(np.float32)), start)
        whole = graph.op("Clip", graph.op(rounding, edge), 0.0, float(size))
        edges.append(graph.op("Cast", whole, to=TensorProto.INT64))
    return edges[0], graph.op("Max", *edges)


def corner_sums(graph: ParamGraph, x: str) -> str:
    """Return for each place the sum of all above and before it, (N, C, H + 1, W + 1) in double precision."""
    sums = graph.op("Cast", x, to=TensorProto.DOUBLE)
    for axis in (2, 3):
        sums = graph.op("CumSum", sums, np.asarray(axis, np.int64))
    return graph.op("Pad", sums, [0, 0, 1, 1, 0, 0, 0, 0])


def place(graph: ParamGraph, plane: str, row: str, column: str, height: int, width: int) -> str:
    """Return flat indices into planes of height x width."""
    line = graph.op("Add", graph.op("Mul", plane, height), row)
    return graph.op("Add", graph.op("Mul", line, width), column)
