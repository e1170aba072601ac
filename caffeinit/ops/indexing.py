"""Picking and placing by index, sorting, running sums, and numbers in a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import constant_of, expand_like, like, scatter_add, to_shape, total, zeros_like
from caffeinit.ops.scaling import compresses, gathers, gathers_at_tuples, scatters, scatters_anywhere, ties_axis

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


def is_first(node: onnx.NodeProto, graph: Graph) -> bool:
    """Tell whether a node works along the first axis of what it reads."""
    return not attribute(node, "axis", 0) % max(1, len(graph.shape(node.input[0])))


@op_rule("Gather")
class Gather(OpRule):
    """y = slices of x along an axis."""

    scale = gathers

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Of rows by their numbers, which are others in another batch."""
        return graph.depends_on_input(node.input[0]) and is_first(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add the slices of dy where they came from; a permutation is undone by another."""
        x, indices = node.input
        shape = graph.shape(x)
        axis = attribute(node, "axis", 0) % len(shape)
        known = constant_of(graph, indices)
        if known is not None and known.ndim == 1 and np.array_equal(np.sort(known), np.arange(shape[axis])):
            return [graph.op("Gather", single(dys), np.argsort(known), axis=axis), None]
        flat = self._flat(graph, node, single(dys), axis)
        places = to_shape(graph, indices, [*[1] * axis, -1, *[1] * (len(shape) - axis - 1)])
        return [scatter_add(graph, x, expand_like(graph, places, flat), flat, axis), None]

    @staticmethod
    def _flat(graph: Graph, node: onnx.NodeProto, dy: str, axis: int) -> str:
        """Return dy with all axes of the indices made one."""
        x, indices = node.input
        shape, places = graph.shape(x), graph.shape(indices)
        if len(places) == 1:
            return dy
        lead = [-1 if i == 0 else d for i, d in enumerate(shape[:axis])]
        if axis == 0:
            flat = to_shape(graph, dy, [-1, *shape[1:]])
        else:
            flat = to_shape(graph, dy, [*lead, int(np.prod(places)), *shape[axis + 1 :]])
        graph.set_shape(flat, (*shape[:axis], int(np.prod(places)), *shape[axis + 1 :]))
        return flat


@op_rule("GatherElements")
class GatherElements(OpRule):
    """y = one element of x per index, along an axis."""

    scale = scatters

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Of rows by their numbers, which are others in another batch."""
        return graph.depends_on_input(node.input[0]) and is_first(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add dy where the elements came from."""
        x, indices = node.input
        return [scatter_add(graph, x, indices, single(dys), attribute(node, "axis", 0)), None]


@op_rule("GatherND")
class GatherND(OpRule):
    """y = slices of x at tuples of indices."""

    scale = gathers_at_tuples

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Of rows by their numbers, unless each tuple is for its own row."""
        return graph.depends_on_input(node.input[0]) and not attribute(node, "batch_dims", 0)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Add dy where the slices came from."""
        if attribute(node, "batch_dims", 0):
            raise GradientError("GatherND with batch_dims")
        x, indices = node.input
        result = graph.op("ScatterND", zeros_like(graph, x), indices, single(dys), reduction="add")
        return [result, None]


@op_rule("ScatterElements", "Scatter")
class ScatterElements(OpRule):
    """y = x with elements replaced, or changed by others, at indices along an axis; called Scatter up to opset 10."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """All has one scale, unless it is multiplied: then some of y has the square of it, and some has not."""
        if attribute(node, "reduction", "none") == "mul":
            scales.barrier(node)
        else:
            scatters(self, node, scales)

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """At rows by their numbers, and at constant indices, which are of so many rows."""
        return is_first(node, graph) or not graph.depends_on_input(node.input[1])

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """It has a new name."""
        rewritten(node, graph, node.input, op_type="ScatterElements")

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Take dy out where elements were replaced; the updates get dy at their indices."""
        _, indices, updates = node.input
        axis, mode = attribute(node, "axis", 0), attribute(node, "reduction", "none")
        if mode not in ("none", "add"):
            raise GradientError(f"ScatterElements with reduction {mode}")
        dy = single(dys)
        kept = dy
        if mode == "none":
            kept = graph.op("ScatterElements", dy, indices, zeros_like(graph, updates), axis=axis)
        return [kept, None, graph.op("GatherElements", dy, indices, axis=axis)]


@op_rule("ScatterND")
class ScatterND(OpRule):
    """y = x with slices replaced, or changed by others, at tuples of indices."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """All has one scale, unless it is multiplied: then some of y has the square of it, and some has not."""
        if attribute(node, "reduction", "none") == "mul":
            scales.barrier(node)
        else:
            scatters_anywhere(self, node, scales)

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """At rows by their numbers, which are others in another batch."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Take dy out where slices were replaced; the updates get dy at their indices."""
        _, indices, updates = node.input
        mode = attribute(node, "reduction", "none")
        if mode not in ("none", "add"):
            raise GradientError(f"ScatterND with reduction {mode}")
        dy = single(dys)
        kept = dy if mode == "add" else graph.op("ScatterND", dy, indices, zeros_like(graph, updates))
        return [kept, None, like(graph, graph.op("GatherND", dy, indices), updates)]


@op_rule("Compress")
class Compress(OpRule):
    """y = the slices of x along an axis for which a condition holds; without an axis of x as one row."""

    scale = compresses

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape | None:
        """Where the condition is a constant."""
        places, axis = kept_places(node, graph), attribute(node, "axis")
        if places is None:
            return None
        shape = graph.shape(node.input[0])
        return (len(places),) if axis is None else tuple(with_axis(shape, axis % len(shape), len(places)))

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along another axis than the first, if all pictures keep the same places."""
        axis = attribute(node, "axis")
        is_inside = axis is not None and bool(axis % len(graph.shape(node.input[0])))
        return is_inside and not graph.depends_on_input(node.input[1])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Put dy where the slices came from."""
        (x, condition), axis = node.input, attribute(node, "axis")
        if kept_places(node, graph) is None and -1 not in graph.shape(node.output[0]):
            raise GradientError("how many values it keeps depends on the data, and the net states a number")
        whole = x if axis is not None else to_shape(graph, x, [-1])
        shape = graph.shape(whole)
        axis = (axis or 0) % len(shape)
        # A condition may be longer than the axis.
        within = graph.op("Slice", condition, [0], graph.op("Shape", whole, start=axis, end=axis + 1), [0])
        places = to_shape(graph, graph.op("NonZero", within), with_axis([1] * len(shape), axis, -1))
        dx = scatter_add(graph, whole, expand_like(graph, places, single(dys)), single(dys), axis)
        return [like(graph, dx, x), None]


def kept_places(node: onnx.NodeProto, graph: Graph) -> np.ndarray | None:
    """Return the places that a Compress keeps along its axis, or of x as one row; None where they depend on the data."""
    condition, shape = constant_of(graph, node.input[1]), graph.shape(node.input[0])
    axis = attribute(node, "axis")
    if axis is not None and not -len(shape) <= axis < len(shape):
        return None  # it does not fit what it reads
    extent = math.prod(shape) if axis is None else shape[axis]
    if condition is None or (-1 in shape if axis is None else extent < 0):
        return None
    return np.flatnonzero(condition[:extent])


def with_axis(shape: Sequence[int], axis: int, extent: int) -> list[int]:
    """Return a shape with another extent along one axis."""
    return [*shape[:axis], extent, *shape[axis + 1 :]]


@op_rule("TopK")
class TopK(OpRule):
    """y = the largest or smallest elements along an axis; a gradient flows to the values only."""

    scale = ties_axis

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Their number was an attribute."""
        if opset < 10:
            rewritten(node, graph, [node.input[0], np.asarray([attribute(node, "k")], np.int64)], without=["k"])
        else:
            graph.append(node)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Put dy where the elements came from."""
        if dys[0] is None:
            return [None, None]
        return [scatter_add(graph, node.input[0], node.output[1], dys[0], attribute(node, "axis", -1)), None]


@op_rule("ReverseSequence")
class ReverseSequence(OpRule):
    """y = x with the first places along one axis in reverse, as many for each entry of another axis as are said."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """All along the axis has one scale."""
        scales.put(node.output[0], scales.collapse(node.input[0], [attribute(node, "time_axis", 0)]))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis, or by constant lengths, which are of so many rows."""
        return not attribute(node, "time_axis", 0) or not graph.depends_on_input(node.input[1])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Reverse the same places of dy."""
        axes = {name: attribute(node, name, default) for name, default in (("time_axis", 0), ("batch_axis", 1))}
        return [graph.op("ReverseSequence", single(dys), node.input[1], **axes), None]


@op_rule("CumSum")
class CumSum(OpRule):
    """y = running sum along an axis."""

    scale = ties_axis

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis."""
        axis = constant_of(graph, node.input[1])
        return axis is None or int(axis.item()) % len(graph.shape(node.input[0])) == 0

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Run the other way."""
        turned = 1 - attribute(node, "reverse", 0)
        exclusive = attribute(node, "exclusive", 0)
        return [graph.op("CumSum", single(dys), node.input[1], reverse=turned, exclusive=exclusive), None]


@op_rule("OneHot")
class OneHot(OpRule):
    """y = the second of two values at an index along a new axis, the first elsewhere."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """Both values have one scale, which the output gets; indices and the extent, which may be real, have none."""
        for value in node.input[:2]:
            scales.constraints.pin(scales.of(value))
        labels = scales.collapse(node.input[2], [0])
        scales.put(node.output[0], scales.wide(labels, node.output[0]))

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Each value gets the sum of dy where it stands."""
        indices, depth, values = node.input
        dy, axis = single(dys), attribute(node, "axis", -1)
        hot = graph.op("OneHot", indices, depth, np.asarray([0, 1], np.float32), axis=axis)
        graph.set_shape(hot, graph.shape(dy))
        shares = (graph.op("Mul", dy, share) for share in (graph.op("Sub", 1.0, hot), hot))
        axes = range(len(graph.shape(dy)))
        sums = [to_shape(graph, total(graph, share, axes), [1]) for share in shares]
        return [None, None, like(graph, graph.op("Concat", *sums, axis=0), values)]


@op_rule("Range")
class Range(OpRule):
    """y = start, start + step and so on, below a limit, which tells how many numbers there are: nothing passes."""

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """The start gets the sum of dy, the step that of dy times how many steps led there."""
        dy = single(dys)
        count = graph.op("Squeeze", graph.op("Shape", dy), [0])
        steps = graph.mask(graph.op("Range", np.asarray(0), count, np.asarray(1)))
        sums = (total(graph, value, [0], keepdims=False) for value in (dy, graph.op("Mul", dy, steps)))
        d_start, d_step = (like(graph, s, i) for s, i in zip(sums, (node.input[0], node.input[2]), strict=True))
        return [d_start, None, d_step]
