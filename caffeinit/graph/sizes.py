"""How much memory a graph's values take."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import onnx
from onnx.shape_inference import InferenceError

from caffeinit.graph.graph import Graph, Shape

MOST_FED = 1 << 30  # numbers of an input
MOST_NUMBERS = 1 << 40  # of a value: four terabytes


def count_pictures(graph: Graph, feeds: Mapping[str, np.ndarray]) -> int:
    """Return how many pictures are fed to a graph's inputs; others may be fed beside them."""
    name, shape = next((n, s) for n, s in graph.inputs.items() if s and n in feeds)
    return len(feeds[name]) * graph.batch_size() // shape[0]


def numpy_type(graph: Graph, name: str) -> np.dtype:
    """Return the type of arrays that hold a value."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(graph.elem_type(name)))


def value_bytes(graph: Graph, name: str, pictures: int, moving: bool = True) -> int:
    """Return the bytes of a value for so many pictures; 0 where the data decide on its shape.

    Args:
        moving: False if it is the same for any number of pictures.
    """
    try:
        shape = graph.shape(name)
    except KeyError:
        return 0
    if -1 in shape:
        return 0
    size = math.prod(shape) * numpy_type(graph, name).itemsize
    return size * pictures // graph.batch_size() if moving and graph.batch_axis_free else size


def resized(graph: Graph, pictures: int) -> Graph:
    """Return a graph for another number of pictures, if it takes any: what is summed over them keeps its size."""
    rows = graph.batch_size()
    if not graph.batch_axis_free or pictures == rows:
        return graph
    other = graph.emptied(graph.opset)
    for name, shape in graph.inputs.items():
        other.inputs[name] = shape if name in graph.still else scaled_rows(shape, pictures, rows)
        other.set_shape(name, other.inputs[name], graph.elem_type(name))
    for node in graph.nodes:
        other.append(node)
        for name in filter(None, node.output):
            if not _is_inferred(other, name) and graph.is_typed(name):
                other.set_shape(name, scaled_rows(graph.shape(name), pictures, rows), graph.elem_type(name))
    return other


def scaled_rows(shape: Shape, pictures: int, rows: int) -> Shape:
    """Return the shape for so many pictures of a value whose shape for `rows` pictures is given."""
    return (shape[0] * pictures // rows, *shape[1:]) if shape else shape


def _is_inferred(graph: Graph, name: str) -> bool:
    try:
        return graph.is_typed(name) and -1 not in graph.shape(name)
    except InferenceError:
        return False
