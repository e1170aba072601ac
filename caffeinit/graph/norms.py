"""Where a BatchNormalization's stored statistics come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from caffeinit.graph.graph import Graph
from caffeinit.graph.nodes import VIEWS


@dataclass(frozen=True)
class Statistic:
    """Where a BatchNormalization's stored mean or variance comes from.

    Attributes:
        reader: the node that reads it.
        factor: the value it is multiplied by (Caffe stores sums), or None.
    """

    initializer: str
    reader: onnx.NodeProto
    factor: str | None


def find_statistic(graph: Graph, norm: onnx.NodeProto, value: str) -> Statistic | None:
    """Return the initializer behind a statistic that a node reads: itself, or a row of them times one number."""
    node = graph.producer(value)
    while node is not None and node.op_type in VIEWS:
        value = node.input[0]
        node = graph.producer(value)
    if value in graph.initializers:
        array = graph.initializers[value]
        return Statistic(value, norm, None) if array.shape[-1:] == (array.size,) else None
    if node is None or node.op_type != "Mul":
        return None
    stored = [i for i in node.input if i in graph.initializers]
    others = [i for i in node.input if i not in stored]
    if len(stored) != 1 or len(others) != 1 or int(np.prod(graph.shape(others[0]))) != 1:
        return None
    return Statistic(stored[0], node, others[0])


def stored_factor(graph: Graph, node: onnx.NodeProto) -> float | None:
    """Return what a BatchNormalization's stored statistics are multiplied by; None if that cannot be told."""
    found = [find_statistic(graph, node, v) for v in node.input[3:5]]
    factors = {s.factor for s in found if s}
    if None in found or len(factors) != 1:
        return None
    factor = factors.pop()
    if factor is None:
        return 1.0
    if graph.depends_on_input(factor):
        return None
    value = ReferenceEvaluator(graph.part([factor]).to_model()).run([factor], {})
    return float(np.asarray(next(iter(value))).reshape(()))
