"""Graphs whose values belong to one picture each, so that a batch can be cut anywhere."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx

from caffeinit.model.graph import Graph
from caffeinit.ops import find_rule


def row_pieces(batch: Mapping[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield a batch in pieces of so many rows, the last of as many as are left."""
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: array[start : start + size] for name, array in batch.items()}


def is_rowwise(graph: Graph) -> bool:
    """Tell whether all values of a graph have the batch on axis 0, and each picture's follow from its own alone."""
    made_for = common_rows(graph)
    if not graph.batch_axis_free or not graph.inputs:
        return False
    moving = graph.moving_values()
    return all(
        _keeps_rows(node, graph, made_for, moving) for node in graph.nodes if any(o in moving for o in node.output)
    )


def joins_rows(graph: Graph) -> bool:
    """Tell whether a node is known to do something else with several pictures than with each, which no shape need show."""
    fed = set(graph.inputs)
    for node in graph.nodes:
        if node.op_type in ("Shape", "Size") or not any(i in fed for i in node.input):
            continue
        fed.update(o for o in node.output if o)
        rule = find_rule(node)
        if rule is not None and rule.joins_rows(node, graph):
            return True
    return False


def rowwise_values(graph: Graph) -> set[str]:
    """Return the values that have the batch on axis 0, and each picture's follow from its own alone."""
    made_for, moving = common_rows(graph), graph.moving_values()
    found = set(graph.inputs)
    for node in graph.nodes:
        if found.issuperset(i for i in node.input if i in moving) and any(o in moving for o in node.output):
            found.update(o for o in node.output if o and _keeps_rows(node, graph, made_for, moving))
    return found


def _keeps_rows(node: onnx.NodeProto, graph: Graph, made_for: int, moving: Collection[str]) -> bool:
    rule = find_rule(node)
    if rule is None or not rule.is_rowwise(node, graph):
        return False
    shapes = [graph.shape(v) for v in (*(i for i in node.input if i in moving), *(o for o in node.output if o))]
    if not all(shapes) or any(-1 in s for s in shapes):
        return False
    return len({s[0] for s in shapes}) == 1 and shapes[0][0] % made_for == 0


def common_rows(graph: Graph) -> int:
    """Return a number of pictures that the shapes of all inputs are multiples of."""
    return int(np.gcd.reduce([s[0] for s in graph.inputs.values() if s] or [1]))
