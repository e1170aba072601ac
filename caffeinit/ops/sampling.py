"""GridSample: values between the places of a picture, at coordinates that the net itself computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import single
from caffeinit.ops.building import expand_like, like, scatter_add, to_shape, total
from caffeinit.ops.scaling import pools_regions

_LINEAR, _NEAREST = ("bilinear", "linear"), ("nearest",)


@op_rule("GridSample")
class GridSample(OpRule):
    """y = x at coordinates from -1 to 1, (x, y) for each place of the output, linearly or the nearest value."""

    scale = pools_regions

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add dy to the neighbours by their weights; coordinates get by how much the value changes with them."""
        x, grid = node.input
        mode, shape = attribute(node, "mode", "linear"), graph.shape(x)
        if mode not in (*_LINEAR, *_NEAREST) or len(shape) != 4:
            raise GradientError(f"GridSample of {len(shape) - 2} axes with mode {mode}")
        channels, height, width = shape[1:]
        dy = to_shape(graph, single(dys), [-1, channels, int(np.prod(graph.shape(node.output[0])[2:]))])
        values = to_shape(graph, x, [-1, channels, height * width])
        along = [_Coordinate.of(node, graph, grid, number, size) for number, size in enumerate((width, height))]
        parts: list[str] = []
        places: list[str] = []
        slopes: tuple[list[str], list[str]] = [], []
        for column, row in product(*(axis.neighbours(graph, mode in _LINEAR) for axis in along)):
            place = graph.op("Add", graph.op("Mul", row.index, float(width)), column.index)
            place = expand_like(graph, graph.op("Unsqueeze", graph.op("Cast", place, to=TensorProto.INT64), [1]), dy)
            weight = graph.op("Mul", column.weight, row.weight)
            parts.append(graph.op("Mul", dy, graph.op("Unsqueeze", weight, [1])))
            places.append(place)
            if mode in _LINEAR:
                share = total(
                    graph, graph.op("Mul", dy, graph.op("GatherElements", values, place, axis=2)), [1], keepdims=False
                )
                slopes[0].append(graph.op("Mul", share, graph.op("Mul", column.slope, row.weight)))
                slopes[1].append(graph.op("Mul", share, graph.op("Mul", row.slope, column.weight)))
        dx = scatter_add(graph, values, _joined(graph, places), _joined(graph, parts), 2)
        if mode not in _LINEAR:
            return [like(graph, dx, x), None]
        sums = [graph.op("Mul", graph.op("Sum", *of), axis.slope) for of, axis in zip(slopes, along, strict=True)]
        d_grid = graph.op("Concat", *(graph.op("Unsqueeze", s, [2]) for s in sums), axis=2)
        return [like(graph, dx, x), like(graph, d_grid, grid)]


@dataclass
class _Neighbour:
    """A place on each side of the coordinates along one axis: (N, places), with its weight and the weight's slope."""

    index: str
    weight: str
    slope: str


@dataclass
class _Coordinate:
    """Coordinates along one axis of x, counted in its places.

    Attributes:
        place: (N, places).
        slope: by how much it changes with the grid's numbers.
        size: extent of the axis.
    """

    place: str
    slope: str
    size: int

    @classmethod
    def of(cls, node: onnx.NodeProto, graph: Graph, grid: str, number: int, size: int) -> _Coordinate:
        """Return the coordinates that a grid has as its first or second number."""
        align, padding = attribute(node, "align_corners", 0), attribute(node, "padding_mode", "zeros")
        factor = (size - 1) / 2 if align else size / 2
        flat = to_shape(
            graph, graph.op("Gather", grid, np.asarray(number), axis=3), [-1, int(np.prod(graph.shape(grid)[1:3]))]
        )
        place = graph.op("Add", graph.op("Mul", flat, factor), (size - 1) / 2)
        slope = graph.constant(float(factor))
        if padding == "reflection":
            low, length = (0.0, size - 1.0) if align else (-0.5, float(size))
            place, turn = _reflected(graph, place, low, length)
            slope = graph.op("Mul", turn, slope)
        if padding != "zeros":
            inside = graph.op("And", graph.op("Greater", place, 0.0), graph.op("Less", place, size - 1.0))
            slope = graph.op("Mul", graph.mask(inside), slope)
            place = graph.op("Clip", place, 0.0, size - 1.0)
        return cls(place, slope, size)

    def neighbours(self, graph: Graph, is_linear: bool) -> Iterator[_Neighbour]:
        """Yield the places whose values count; those beyond x weigh nothing."""
        first = graph.op("Floor" if is_linear else "Round", self.place)
        part = graph.op("Sub", self.place, first)
        for step in range(2 if is_linear else 1):
            index = graph.op("Add", first, float(step)) if step else first
            inside = graph.mask(
                graph.op("And", graph.op("Greater", index, -0.5), graph.op("Less", index, self.size - 0.5))
            )
            weight = part if step else graph.op("Sub", 1.0, part)
            yield _Neighbour(
                graph.op("Clip", index, 0.0, self.size - 1.0),
                graph.op("Mul", weight, inside) if is_linear else inside,
                inside if step else graph.op("Neg", inside),
            )


def _reflected(graph: Graph, place: str, low: float, length: float) -> tuple[str, str]:
    """Return coordinates thrown back at both ends, and 1 or -1 as they go on or come back."""
    if length == 0:
        return graph.op("Mul", place, 0.0), graph.constant(0.0)
    far = graph.op("Sub", place, low)
    turns = graph.op("Floor", graph.op("Mul", far, 1 / (2 * length)))
    rest = graph.op("Sub", graph.op("Sub", far, graph.op("Mul", turns, 2 * length)), length)
    return graph.op("Sub", low + length, graph.op("Abs", rest)), graph.op("Neg", graph.op("Sign", rest))


def _joined(graph: Graph, values: list[str]) -> str:
    return values[0] if len(values) == 1 else graph.op("Concat", *values, axis=2)
