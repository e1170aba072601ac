"""Views by strides, which exporters write as a Gather from all numbers of a value in one row.

torch.export has as_strided behind pooling in nets whose channels come last. Where the places that are taken are all there
are, in their order, the view is a change of shape, which goes with any batch. The places are stored for one batch, or are
worked out from its size by a Range: then they have to be in order at two sizes.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.graph import Graph
from caffeinit.graph.folding import known_value
from caffeinit.graph.varying import followers


def ordered_view(node: onnx.NodeProto, made: Graph, graph: Graph, moving: set[str], twin: Graph | None = None) -> bool:
    """Append a Reshape in place of such a Gather, and tell whether it was one.

    Args:
        twin: the graph at another batch, where places that are worked out are asked for; else stored ones are.
    """
    if node.op_type != "Gather" or node.domain or node.output[0] not in moving:
        return False
    row = graph.producer(node.input[0])
    if row is None or row.op_type != "Reshape" or len(graph.shape(row.output[0])) != 1:
        return False
    if twin is None and node.input[1] in moving:
        return False
    graphs = [graph] if twin is None else [graph, twin]
    if not all(_takes_all(node, row, g) for g in graphs):
        return False
    source, whole = graph.shape(row.input[0]), graph.shape(node.output[0])
    first = 0 if source[:1] == whole[:1] else -1
    made.op("Reshape", row.input[0], np.asarray([first, *whole[1:]], np.int64), name=node.output[0])
    return True


def _takes_all(node: onnx.NodeProto, row: onnx.NodeProto, graph: Graph) -> bool:
    """Tell whether a Gather takes all numbers of a row in their order."""
    places = _places(graph, node.input[1])
    if places is None or not places.ndim or graph.shape(row.output[0]) != (places.size,):
        return False
    return np.array_equal(places.reshape(-1), np.arange(places.size))


def _places(graph: Graph, value: str) -> np.ndarray | None:
    """Return places that are stored, or follow from shapes alone; None for others."""
    known = known_value(graph, value)
    if known is not None or value in followers(graph, graph.inputs):
        return known
    session = compile_graph(graph, [value], Settings(threads=1))
    feeds = {
        n: np.zeros(graph.inputs[n], helper.tensor_dtype_to_np_dtype(graph.input_types[n])) for n in session.inputs
    }
    return np.asarray(session.run(feeds)[value])
