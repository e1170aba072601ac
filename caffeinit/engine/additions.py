"""What is added to a part of a graph that runs on a device, so that few numbers have to leave it.

Moments of a value: for each picture and channel the mean, the sum of squared deviations from it, the least and the largest
number, in single precision and two passes as in `arithmetic/moments.py`, which merges them. Products: how channels go
together. Vectors: those of a few places, out of a whole value. (Corrections of inputs are added by `affine.py`.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnx import TensorProto

from caffeinit.graph import Graph, Shape

_AXES_ARE_INPUTS = {"ReduceSum": 13}  # the opset since when a reduction takes them so; 18 for the others


def add_moments(graph: Graph, value: str, axis: int, extremes: bool = True) -> list[str]:
    """Return the values mean, squares, least and largest, (n, C) each up to axes of size 1, of n pictures.

    Where channels are the last axis, all rows count as positions of one picture.

    Args:
        extremes: False leaves least and largest out.
    """
    stacked, over = _stacked(graph, value, axis % len(graph.shape(value)))
    mean = _reduce(graph, "ReduceMean", stacked, over)
    squares = _reduce(graph, "ReduceSumSquare", graph.op("Sub", stacked, mean), over, "ReduceSum")
    ends = ("ReduceMin", "ReduceMax") if extremes else ()
    return [mean, squares, *(_reduce(graph, op_type, stacked, over) for op_type in ends)]


def _stacked(graph: Graph, value: str, axis: int) -> tuple[str, list[int]]:
    """Return the value with pictures and channels on axes 0 and 1, and which axes are positions.

    The batch is never spelt out: it is copied, or follows from the rest.
    """
    shape = graph.shape(value)
    if axis == len(shape) - 1 > 0:
        return graph.op("Reshape", value, [-1, shape[axis]]), [0]
    trailing = shape[axis + 1 :]
    if axis > 1:
        return graph.op("Reshape", value, [-1, shape[axis], math.prod(trailing)]), [2]
    lead = 0 if axis == 1 else 1
    if len(trailing) > 1 and trailing[0] > 0:
        return graph.op("Reshape", value, [lead, shape[axis], trailing[0], -1]), [3, 2]
    return graph.op("Reshape", value, [lead, shape[axis], -1]), [2]


def _reduce(graph: Graph, op_type: str, value: str, axes: Sequence[int], then: str = "") -> str:
    """Return the reduction over one axis after the other: single precision loses digits in one long sum."""
    for axis in axes:
        if graph.opset < _AXES_ARE_INPUTS.get(op_type, 18):
            value = graph.op(op_type, value, axes=[axis], keepdims=1)
        else:
            value = graph.op(op_type, value, [axis], keepdims=1)
        op_type = then or op_type
    return value


def vector_graph(shape: Shape, axis: int, index: Sequence[int]) -> Graph:
    """Return a graph from a value "x" and places "index", of these shapes, to the vectors along `axis` at the places.

    Places are numbered over all axes but that one.
    """
    graph = Graph()
    graph.batch_axis_free = True
    axis %= len(shape)
    x = graph.add_input("x", shape)
    graph.add_input("index", tuple(index), TensorProto.INT32)
    if axis != len(shape) - 1:
        x = graph.op("Transpose", x, perm=[a for a in range(len(shape)) if a != axis] + [axis])
    rows = graph.op("Reshape", x, [-1, shape[axis]])
    graph.outputs = [graph.op("Gather", rows, "index", axis=0, name="vectors")]
    return graph


def product_graph(shape: Shape, axis: int, groups: int, most: int) -> Graph:
    """Return a graph to (groups, most + 1, most + 1): sums of products of the first `most` channels of each group.

    It takes a value "x" of this shape, channels on `axis`, and what is taken from these channels first, "centre", (groups,
    most, 1). The last row and column are of a channel of ones: sums, and the number of values.
    """
    graph = Graph()
    graph.batch_axis_free = True
    axis %= len(shape)
    x = graph.add_input("x", shape)
    graph.add_input("centre", (groups, most, 1))
    if axis == len(shape) - 1 > 0:
        x = graph.op("Transpose", graph.op("Reshape", x, [-1, shape[axis]]), perm=[1, 0])
        x = graph.op("Reshape", x, [1, groups, shape[axis] // groups, -1])
    else:
        x = graph.op("Reshape", _stacked(graph, x, axis)[0], [0, groups, shape[axis] // groups, -1])
    x = graph.op("Sub", graph.op("Slice", x, [0], [most], [2]), "centre")
    x = graph.op("Pad", x, [0, 0, 0, 0, 0, 0, 1, 0], 1.0)
    products = graph.op("MatMul", x, graph.op("Transpose", x, perm=[0, 1, 3, 2]))
    graph.outputs = [graph.op("ReduceSum", products, [0], keepdims=0, name="products")]
    return graph


def whole_graph(shape: Shape) -> Graph:
    """Return a graph that gives a value "x" of this shape as it is."""
    graph = Graph()
    graph.batch_axis_free = True
    graph.outputs = [graph.op("Identity", graph.add_input("x", shape), name="whole")]
    return graph
