"""Max and average pooling."""

from __future__ import annotations

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.ops.base import Diffs, OpRule, op_rule, single
from caffeinit.ops.building import along_axis, count, expand_like, like, scatter_add, to_shape
from caffeinit.ops.scaling import pools
from caffeinit.ops.windows import windows_of


@op_rule("MaxPool")
class MaxPool(OpRule):
    """y = largest value of each window; of equal ones the first counts."""

    scale = pools

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add dy where the maxima were; they are found again, since the node may not tell."""
        x = node.input[0]
        if dys[0] is None:
            return [None]
        if attribute(node, "storage_order", 0):
            raise GradientError("MaxPool with storage_order 1")
        found = onnx.NodeProto()
        found.CopyFrom(node)
        found.name = ""
        del found.output[:]
        found.output.extend([graph.fresh("max"), graph.fresh("indices")])
        graph.append(found)
        flat = to_shape(graph, x, [-1])
        indices, values = to_shape(graph, found.output[1], [-1]), to_shape(graph, dys[0], [-1])
        return [like(graph, scatter_add(graph, flat, indices, values, axis=0), x)]


@op_rule("GlobalMaxPool")
class GlobalMaxPool(OpRule):
    """y = largest value of each channel; of equal ones the first counts."""

    scale = pools

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Put dy where the maximum is."""
        x = node.input[0]
        shape = graph.shape(x)
        places = int(np.prod(shape[2:]))
        flat = to_shape(graph, x, [-1, shape[1], places])
        index = graph.op("ArgMax", flat, axis=2, keepdims=1)
        values = to_shape(graph, single(dys), [-1, shape[1], 1])
        return [like(graph, scatter_add(graph, flat, index, values, axis=2), x)]


@op_rule("AveragePool")
class AveragePool(OpRule):
    """y = mean of each window, which is a product of one matrix per axis."""

    scale = pools

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Multiply dy by the transposed matrices."""
        sizes, counts = graph.shape(node.input[0])[2:], graph.shape(node.output[0])[2:]
        dx = single(dys)
        for axis, matrix in enumerate(averaging_matrices(node, sizes, counts), 2):
            dx = along_axis(graph, dx, axis, matrix)
        return [dx]


def averaging_matrices(node: onnx.NodeProto, sizes: tuple[int, ...], counts: tuple[int, ...]) -> list[np.ndarray]:
    """Return per spatial axis the matrix (windows, places) of an AveragePool's weights."""
    kernel = attribute(node, "kernel_shape")
    w = windows_of(node, sizes, counts, kernel)
    padded = attribute(node, "count_include_pad", 0)
    matrices = []
    for size, n, k, s, d, begin, end in zip(sizes, counts, kernel, w.stride, w.dilation, w.begin, w.end, strict=True):
        places = np.arange(n)[:, None] * s - begin + np.arange(k)[None, :] * d
        inside = (places >= 0) & (places < size)
        counted = (places >= -begin) & (places < size + end) if padded else inside
        matrix = np.zeros((n, size))
        rows = np.broadcast_to(np.arange(n)[:, None], places.shape)
        np.add.at(matrix, (rows[inside], places[inside]), 1.0)
        matrices.append(matrix / counted.sum(1, keepdims=True))
    return matrices


@op_rule("GlobalAveragePool")
class GlobalAveragePool(OpRule):
    """y = mean of each channel."""

    scale = pools

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Spread dy evenly."""
        x = node.input[0]
        share = graph.op("Div", single(dys), count(graph, x, range(2, len(graph.shape(x)))))
        return [expand_like(graph, share, x)]
