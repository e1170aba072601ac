"""Graphs whose values belong to one picture each, so that a batch can be cut anywhere."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx

from caffeinit.graph.graph import Graph
from caffeinit.graph.rules import find_rule


def row_pieces(batch: Mapping[str, np.ndarray], size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield a batch in pieces of so many rows, the last of as many as are left."""
    for start in range(0, len(next(iter(batch.values()))), size):
        yield {name: array[start : start + size] for name, array in batch.items()}


def groups(batches: Iterable[Mapping[str, np.ndarray]], most: int) -> Iterator[list[Mapping[str, np.ndarray]]]:
    """Yield consecutive batches of a row-wise graph that can go through it as one, which has at most so many rows."""
    waiting: list[Mapping[str, np.ndarray]] = []
    rows = 0
    for batch in batches:
        count = max(len(array) for array in batch.values())
        if waiting and (rows + count > most or _row_shapes(batch) != _row_shapes(waiting[0])):
            yield waiting
            waiting, rows = [], 0
        waiting.append(batch)
        rows += count
    if waiting:
        yield waiting


def _row_shapes(batch: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape[1:] for name, array in batch.items()}


def most_pictures(graph: Graph, values: Sequence[str], limit: int) -> int | None:
    """Return how many pictures a piece has at most, so that these values fit; None where none may be cut or joined."""
    if not graph.batch_axis_free or joins_rows(graph.part(values)):
        return None
    shapes = [graph.shape(v) for v in values]
    picture = 4 * sum(math.prod(s) for s in shapes if -1 not in s) // graph.batch_size()
    return max(1, limit // max(picture, 1))


def is_rowwise(graph: Graph) -> bool:
    """Tell whether all values of a graph have the batch on axis 0, and each picture's follow from its own alone."""
    common = common_rows(graph)
    if not graph.batch_axis_free or not graph.inputs:
        return False
    moving = graph.moving_values()
    return all(
        _keeps_rows(node, graph, common, moving) for node in graph.nodes if any(o in moving for o in node.output)
    )


def joins_rows(graph: Graph) -> bool:
    """Tell whether a node does something else with several pictures than with each, which no shape need show.

    Of operators that nothing is known of, it is not known; nor is it behind them, where shapes are not.
    """
    fed = set(graph.inputs)
    for node in graph.nodes:
        if node.op_type in ("Shape", "Size") or not any(i in fed for i in node.input):
            continue
        fed.update(o for o in node.output if o)
        rule = find_rule(node)
        if rule is None or not all(map(graph.is_typed, filter(None, node.input))) or rule.joins_rows(node, graph):
            return True
    return False


def rowwise_values(graph: Graph) -> set[str]:
    """Return the values that have the batch on axis 0, and each picture's follow from its own alone."""
    common, moving = common_rows(graph), graph.moving_values()
    found = set(graph.inputs)
    for node in graph.nodes:
        if found.issuperset(i for i in node.input if i in moving) and any(o in moving for o in node.output):
            found.update(o for o in node.output if o and _keeps_rows(node, graph, common, moving))
    return found


def _keeps_rows(node: onnx.NodeProto, graph: Graph, common: int, moving: Collection[str]) -> bool:
    rule = find_rule(node)
    if rule is None or not rule.is_rowwise(node, graph):
        return False
    shapes = [graph.shape(v) for v in (*(i for i in node.input if i in moving), *(o for o in node.output if o))]
    if not all(shapes) or any(-1 in s for s in shapes):
        return False
    return len({s[0] for s in shapes}) == 1 and shapes[0][0] % common == 0


def common_rows(graph: Graph) -> int:
    """Return a number of pictures that the shapes of all inputs are multiples of."""
    return int(np.gcd.reduce([s[0] for s in graph.inputs.values() if s] or [1]))
