"""What is the same for every picture, such as the class token of a transformer, without the number of pictures in it.

Exporters repeat a learned array as often as there are pictures (Expand, Tile and ConstantOfShape, to a size that is
computed from Shape), or, in a file for a batch of 1, join it to the one picture as it is. Here it is repeated by what
follows the batch: Where chooses between the array and itself by a condition that has one entry a picture. No bit of the
numbers changes, and the scale of the pictures does not matter to it.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.folding import known_value
from caffeinit.ops.base import rewritten

_TARGETS = {"Expand": 1, "Tile": 1, "ConstantOfShape": 0}  # operator -> which input tells how often it repeats
_TYPES = (TensorProto.FLOAT, TensorProto.INT64)


def spread_joined(node: onnx.NodeProto, made: Graph, graph: Graph, moving: set[str]) -> bool:
    """Append a Concat of pictures, whose batch is 1, with arrays repeated for each picture; tell whether it was one."""
    if node.op_type != "Concat" or node.domain or node.output[0] not in moving:
        return False
    shape = graph.shape(node.output[0])
    fixed = [i for i in node.input if i not in moving]
    if not fixed or shape[:1] != (1,) or attribute(node, "axis") % len(shape) == 0:
        return False
    if any(graph.elem_type(i) not in _TYPES for i in fixed):
        return False
    rewritten(node, made, [i if i in moving else _for_each(made, i, len(shape)) for i in node.input])
    return True


def spread_repeated(node: onnx.NodeProto, made: Graph, graph: Graph, moving: set[str], twin: Graph) -> bool:
    """Append an array once for each picture in place of a node that repeats it as often as there are pictures.

    Args:
        twin: the graph at another batch.
    Returns:
        Whether it was such a node.
    """
    if node.op_type not in _TARGETS or node.domain or node.output[0] not in moving:
        return False
    place = _TARGETS[node.op_type]
    if place and node.input[0] in moving:
        return False
    counts = [known_value(g, node.input[place]) for g in (graph, twin)]
    if not all(g.is_typed(node.output[0]) for g in (graph, twin)) or graph.elem_type(node.output[0]) not in _TYPES:
        return False
    one, two = (g.shape(node.output[0]) for g in (graph, twin))
    if counts[0] is None or counts[1] is None or not _follows(one, two, graph, twin):
        return False
    count = np.array(counts[0], np.int64)
    before = (1,) * (len(one) - len(graph.shape(node.input[0]))) + graph.shape(node.input[0]) if place else ()
    if len(count) != len(one) or (place and before[0] != 1):
        return False
    count[0] = 1
    row = made.fresh(node.output[0])
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [row]
    rewritten(copy, made, [*node.input[:place], count])
    made.append(_chosen(made, row, len(one), node.output[0]))
    return True


def _follows(one: Shape, two: Shape, graph: Graph, twin: Graph) -> bool:
    """Tell whether shapes at two batch sizes have the batch as axis 0, and differ in nothing else."""
    sizes = [{s[0] for s in g.inputs.values()} for g in (graph, twin)]
    return bool(one) and sizes == [{one[0]}, {two[0]}] and one[1:] == two[1:] and -1 not in one


def _for_each(made: Graph, value: str, rank: int) -> str:
    """Return an array (1, ...) once for each picture."""
    name = made.fresh(value)
    made.append(_chosen(made, value, rank, name))
    return name


def _chosen(made: Graph, value: str, rank: int, output: str) -> onnx.NodeProto:
    """Return the node that makes (N, ...) of an array (1, ...)."""
    each = next(iter(made.inputs))
    flat = made.op("Reshape", each, np.asarray([0, -1], np.int64))
    # Whichever number it is: what it chooses between is the same.
    condition = made.op("IsNaN", made.op("Slice", flat, [0], [1], [1]))
    if rank != 2:
        condition = made.op("Reshape", condition, np.asarray([-1] + [1] * (rank - 1), np.int64))
    return onnx.helper.make_node("Where", [condition, value, value], [output])
