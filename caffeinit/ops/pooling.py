"""Max and average pooling.

onnxruntime finds where maxima are one number at a time: 3x3 windows take it 13 times as long as without. Windows that
start at every place are gone through axis by axis instead, by comparisons. Milliseconds of processor time for the
gradient, 4 pictures, one thread, 3x3 with stride 1: 192 channels of 28x28 39 by positions and 26 by axes, 512 of 14x14 28
and 18, 832 of 7x7 12 and 12; 5x5, 512 of 13x13: 43 and 35. With stride 2 there is no gain (64 of 112x112: 61 and 59).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace
from operator import gt, lt

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import along_axis, count, expand_like, like, masked, ratio, scatter_add, to_shape
from caffeinit.ops.scaling import pools, unpools
from caffeinit.ops.windows import Windows, windows_of


class Pool(OpRule):
    """Something of each window."""

    scale = pools

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape | None:
        """Return the extents that ceil_mode and auto_pad lead to in onnxruntime.

        Before opset 22, onnx counts a last window that starts in the padding; and it takes auto_pad to heed dilations.
        """
        batch, channels, *sizes = graph.shape(node.input[0])
        is_plain = not _rounds_up(node) and not _is_same(node)
        if is_plain or attribute(node, "kernel_shape") is None or min(sizes) < 0:
            return None
        w = pool_windows(node, sizes, sizes)
        counts = (
            n - 1 if _rounds_up(node) and (n - 1) * stride >= size + begin else n
            for n, size, begin, stride in zip(_counts(node, w), sizes, w.begin, w.stride, strict=True)
        )
        return (batch, channels, *counts)

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Spell the padding out where onnx would find other extents than onnxruntime, which asks it for them itself."""
        shape = self.known_shape(node, graph)
        if shape is None:
            return False
        w = pool_windows(node, graph.shape(node.input[0])[2:], shape[2:])
        is_known = not _rounds_up(node) and w.counts == tuple(
            -(-n // s) for n, s in zip(w.sizes, w.stride, strict=True)
        )
        if is_known if _is_same(node) else w.counts == tuple(_counts(node, w)):
            return False
        # Where windows hang over, their places there do not count in a mean; in padding they may.
        end = tuple(max(0, e - spare) for e, spare in zip(w.end, w.spare, strict=True))
        is_longer = bool(attribute(node, "count_include_pad", 0)) and any(map(gt, end, w.end))
        fits = min(w.begin) >= 0 and all(map(lt, replace(w, end=end).spare, w.stride))
        if is_longer or not fits or not all(map(lt, (*w.begin, *end), w.kernel * 2)):
            return False
        rewritten(node, made, node.input, without=["auto_pad", "ceil_mode"], pads=[*w.begin, *end])
        return True


def _rounds_up(node: onnx.NodeProto) -> bool:
    return bool(attribute(node, "ceil_mode", 0))


def _is_same(node: onnx.NodeProto) -> bool:
    return bool(attribute(node, "auto_pad", "NOTSET").startswith("SAME"))


def _counts(node: onnx.NodeProto, w: Windows) -> list[int]:
    """Return how many windows have a place in the padded extents, whether or not the last starts in the padding."""
    spans = [size + begin + end - r for size, begin, end, r in zip(w.sizes, w.begin, w.end, w.reach, strict=True)]
    return [(-(-n // s) if _rounds_up(node) else n // s) + 1 for n, s in zip(spans, w.stride, strict=True)]


def pool_windows(node: onnx.NodeProto, sizes: Sequence[int], counts: Sequence[int]) -> Windows:
    """Return the windows of a pooling node; for auto_pad, onnxruntime takes windows for as long as without dilations.

    Where they are shorter than their stride, fewer places than there are count, and windows start behind the first.
    """
    w = windows_of(node, sizes, counts, attribute(node, "kernel_shape"))
    if not _is_same(node):
        return w
    sums = [(-(-n // s) - 1) * s + k - n for n, s, k in zip(sizes, w.stride, w.kernel, strict=True)]
    begin = tuple(
        int((total + (attribute(node, "auto_pad") == "SAME_LOWER")) / 2) for total in sums
    )  # towards 0, as C++ divides
    end = tuple(total - b for total, b in zip(sums, begin, strict=True))
    return replace(w, begin=begin, end=end)


@op_rule("MaxPool")
class MaxPool(Pool):
    """y = largest value of each window; of equal ones the first counts."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture, but for the places of the largest values, which are counted over the whole batch."""
        return len([o for o in node.output if o]) == 1

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where anything but a MaxUnpool, which counts alike, reads these places."""
        places = "".join(node.output[1:])
        readers = graph.consumers().get(places, ())
        return bool(places) and (places in graph.outputs or any(r.op_type != "MaxUnpool" for r in readers))

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add dy where the maxima were; they are found again, since the node may not tell."""
        x = node.input[0]
        if dys[0] is None:
            return [None]
        w = pool_windows(node, graph.shape(x)[2:], graph.shape(node.output[0])[2:])
        if all(s == 1 for s in w.stride):
            return [_through_axes(graph, node, dys[0], w)]
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


def _through_axes(graph: Graph, node: onnx.NodeProto, dy: str, w: Windows) -> str:
    """Return the gradient of a MaxPool's input where windows start at every place.

    The largest of a window is the largest of its rows' largest, and the first of equal ones is the first in the first row.
    """
    rank = len(w.kernel)
    values = [node.input[0]]  # pooled along no axis, the last, the last two, and so on
    for axis in range(rank - 1, 0, -1):
        ones, none = [1] * rank, [0] * rank
        kernel, dilations, begin, end = ones.copy(), ones.copy(), none.copy(), none.copy()
        kernel[axis], dilations[axis], begin[axis], end[axis] = (
            v[axis] for v in (w.kernel, w.dilation, w.begin, w.end)
        )
        pads = [*begin, *end]
        values.append(graph.op("MaxPool", values[-1], kernel_shape=kernel, dilations=dilations, pads=pads))
    values.append(node.output[0])
    for axis in range(rank):
        dy = _through_axis(graph, values[-2 - axis], values[-1 - axis], dy, axis, w)
    graph.set_shape(dy, graph.shape(node.input[0]))  # so that none of the many nodes' has to be inferred
    return dy


def _through_axis(graph: Graph, x: str, y: str, dy: str, axis: int, w: Windows) -> str:
    """Return the gradient of x, of which y is the largest of windows along one axis."""
    size, count, kernel, dilation, begin = (v[axis] for v in (w.sizes, w.counts, w.kernel, w.dilation, w.begin))
    end = count + (kernel - 1) * dilation - size - begin
    along = np.arange(2 + len(w.kernel)) == 2 + axis
    padded = _padded(graph, x, along, begin, end, -math.inf)
    parts, rest = [], dy
    for place in range(0, kernel * dilation, dilation):
        part = rest
        if place < (kernel - 1) * dilation:
            seen = graph.op("Slice", padded, [place], [place + count], [2 + axis])
            part = masked(graph, rest, graph.op("Equal", seen, y))
            rest = graph.op("Sub", rest, part)
        parts.append(_padded(graph, part, along, place - begin, size - count - place + begin))
    return graph.op("Sum", *parts) if len(parts) > 1 else parts[0]


def _padded(graph: Graph, value: str, along: np.ndarray, begin: int, end: int, filler: float = 0.0) -> str:
    """Return the value with so many more places, or fewer, along the axis that `along` is true of."""
    pads = np.concatenate([begin * along, end * along])
    return graph.op("Pad", value, pads, filler) if begin or end else value


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
class AveragePool(Pool):
    """y = mean of each window, which is a product of one matrix per axis."""

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
    matrices = []
    for inside, counted, matrix in _windows_by_axis(node, sizes, counts):
        seen = counted if attribute(node, "count_include_pad", 0) else inside
        matrices.append(matrix / seen.sum(1, keepdims=True))
    return matrices


def _windows_by_axis(
    node: onnx.NodeProto, sizes: tuple[int, ...], counts: tuple[int, ...]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each spatial axis which places (windows, kernel) lie inside, which in the padding, too, and a matrix
    (windows, places) that adds up those inside."""
    w = pool_windows(node, sizes, counts)
    for size, n, k, s, d, begin, end in zip(sizes, counts, w.kernel, w.stride, w.dilation, w.begin, w.end, strict=True):
        places = np.arange(n)[:, None] * s - begin + np.arange(k)[None, :] * d
        inside = (places >= 0) & (places < size)
        matrix = np.zeros((n, size))
        rows = np.broadcast_to(np.arange(n)[:, None], places.shape)
        np.add.at(matrix, (rows[inside], places[inside]), 1.0)
        yield inside, (places >= -begin) & (places < size + end), matrix


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


@op_rule("LpPool", "GlobalLpPool")
class LpPool(Pool):
    """y = root of the sum of |x| ** p in each window, or channel; not differentiable where that is 0, and 0 there."""

    def is_exact(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """The p-th root is a power by 1 / p, which is rounded where p is no power of two."""
        order = int(attribute(node, "p", 2))
        return order & (order - 1) == 0

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return sign x * |x| ** (p - 1) * (sum over windows of dy / y ** (p - 1))."""
        x, y, share, order = node.input[0], node.output[0], single(dys), attribute(node, "p", 2)
        size = graph.op("Abs", x)
        for _ in range(order - 1):
            share = ratio(graph, share, y)
        if node.op_type == "GlobalLpPool":
            share = expand_like(graph, share, x)
        else:
            windows = _windows_by_axis(node, graph.shape(x)[2:], graph.shape(y)[2:])
            for axis, (_, _, matrix) in enumerate(windows, 2):
                share = along_axis(graph, share, axis, matrix)
        for _ in range(order - 1):
            share = graph.op("Mul", share, size)
        return [graph.op("Mul", share, graph.op("Sign", x))]


@op_rule("MaxUnpool")
class MaxUnpool(OpRule):
    """y = zeros, with the numbers of x where a MaxPool found them; its places are counted over the whole batch."""

    scale = unpools

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Take dy at these places."""
        places = to_shape(graph, node.input[1], [-1])
        taken = graph.op("Gather", to_shape(graph, single(dys), [-1]), places, axis=0)
        return [like(graph, taken, node.input[0]), *[None] * (len(node.input) - 1)]
