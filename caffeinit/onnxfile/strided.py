"""Views by strides, which exporters write as a Gather from all numbers of a value in one row.

torch.export has as_strided behind pooling in nets whose channels come last. Where the places that are taken are all there
are, in their order, the view is a change of shape, which goes with any batch; the places themselves go with one only.
"""

from __future__ import annotations

import numpy as np
import onnx

from caffeinit.model.folding import known_value
from caffeinit.model.graph import Graph


def ordered_view(node: onnx.NodeProto, made: Graph, graph: Graph, moving: set[str]) -> bool:
    """Append a Reshape in place of such a Gather, and tell whether it was one."""
    if node.op_type != "Gather" or node.domain or node.output[0] not in moving:
        return False
    row = graph.producer(node.input[0])
    if row is None or row.op_type != "Reshape" or len(graph.shape(row.output[0])) != 1:
        return False
    places = known_value(graph, node.input[1])
    if places is None or not places.ndim or not np.array_equal(places.reshape(-1), np.arange(places.size)):
        return False
    source = graph.shape(row.input[0])
    if graph.shape(row.output[0]) != (places.size,):
        return False
    first = 0 if source[:1] == places.shape[:1] else -1
    made.op("Reshape", row.input[0], np.asarray([first, *places.shape[1:]], np.int64), name=node.output[0])
    return True
