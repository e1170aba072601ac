"""Operators that move values without changing them."""

from __future__ import annotations

import numpy as np
import onnx

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import rewritten, single, with_settings
from caffeinit.ops.building import along_axis, constant_of, dtype_of, like, to_shape, total, unbroadcast, zeros_like
from caffeinit.ops.scaling import cuts, joins, moves_blocks, pads, permutes, reshapes, splits, spreads


def rest_none(node: onnx.NodeProto, first: str | None) -> list[str | None]:
    """Return the gradients of a node whose inputs behind the first are settings."""
    return [first, *[None] * (len(node.input) - 1)]


@op_rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
class Reshape(OpRule):
    """y = x in another shape."""

    scale = reshapes

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """The order of the numbers stays, and the caller has seen that the first axis does."""
        return True

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The axes were an attribute."""
        if opset < 13 and node.op_type in ("Squeeze", "Unsqueeze"):
            with_settings(node, graph, "axes")
        else:
            graph.append(node)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Give dy the input's shape."""
        return rest_none(node, like(graph, single(dys), node.input[0]))


@op_rule("Transpose")
class Transpose(OpRule):
    """y = x with its axes permuted."""

    scale = permutes

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis stays."""
        return bool(attribute(node, "perm", [1])[0] == 0)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Permute back."""
        perm = attribute(node, "perm", list(range(len(graph.shape(node.input[0]))))[::-1])
        return [graph.op("Transpose", single(dys), perm=[int(i) for i in np.argsort(perm)])]


@op_rule("Concat")
class Concat(OpRule):
    """y = the operands, one behind the other along an axis."""

    scale = joins

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along another axis than the first."""
        return bool(attribute(node, "axis") % len(graph.shape(node.output[0])))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis, all rows of one operand before those of the next."""
        return len(node.input) > 1 and not self.is_rowwise(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Split dy."""
        dy, axis = single(dys), attribute(node, "axis") % len(graph.shape(node.output[0]))
        if len(node.input) == 1:
            return [dy]
        if axis == 0:
            lengths = [graph.op("Shape", i, start=0, end=1) for i in node.input]
            sizes: str | list[int] = graph.op("Concat", *lengths, axis=0)
        else:
            sizes = [graph.shape(i)[axis] for i in node.input]
        pieces = graph.ops("Split", dy, sizes, outputs=len(node.input), axis=axis)
        for piece, operand in zip(pieces, node.input, strict=True):
            graph.set_shape(piece, graph.shape(operand))
        return list(pieces)


@op_rule("Split")
class Split(OpRule):
    """y = pieces of x along an axis."""

    scale = splits

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The sizes were an attribute."""
        if opset < 13:
            with_settings(node, graph, "split")
        else:
            graph.append(node)

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along another axis than the first."""
        return bool(attribute(node, "axis", 0) % len(graph.shape(node.input[0])))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis: which rows a piece has depends on how many there are."""
        return not self.is_rowwise(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Put the pieces together; those that nothing depends on are zeros."""
        pieces = [dy or zeros_like(graph, o) for dy, o in zip(dys, node.output, strict=True)]
        return rest_none(node, graph.op("Concat", *pieces, axis=attribute(node, "axis", 0)))


def sliced_places(node: onnx.NodeProto, graph: Graph) -> dict[int, np.ndarray]:
    """Return axis -> the places a Slice keeps, in order.

    Raises:
        GradientError: they are computed in the graph.
    """
    shape = graph.shape(node.input[0])
    settings = [constant_of(graph, i) if i else None for i in node.input[1:]]
    if any(i and s is None for i, s in zip(node.input[1:], settings, strict=True)):
        raise GradientError("Slice whose bounds are computed in the graph")
    starts, ends, axes, steps = [*settings, None, None][:4]
    assert starts is not None
    assert ends is not None
    axes = np.arange(len(starts)) if axes is None else axes
    steps = np.ones(len(starts), np.int64) if steps is None else steps
    places = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[int(axis)]
        before_first = step < 0 and end < -size  # Python would read a plain -1 as the last place
        bounds = slice(int(start), None if before_first else int(end), int(step))
        places[int(axis) % len(shape)] = np.arange(size)[bounds]
    return places


@op_rule("Slice")
class Slice(OpRule):
    """y = every so manyth place of x between bounds."""

    scale = cuts

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The bounds were attributes."""
        if opset < 10:
            with_settings(node, graph, "starts", "ends", "axes")
        else:
            graph.append(node)

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where all of the first axis is kept, for any number of rows."""
        try:
            return 0 not in sliced_places(node, graph)
        except GradientError:
            return False

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where it may turn the order of the rows round."""
        return len(node.input) > 4 and not self.is_rowwise(node, graph)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Pad dy with zeros, or spread it where the step is not 1."""
        shape, dx = graph.shape(node.input[0]), single(dys)
        front, behind = [0] * len(shape), [0] * len(shape)
        for axis, places in sliced_places(node, graph).items():
            if len(places) and np.array_equal(places, np.arange(places[0], places[0] + len(places))):
                front[axis], behind[axis] = int(places[0]), int(shape[axis] - places[-1] - 1)
            else:
                dx = along_axis(graph, dx, axis, np.eye(shape[axis])[places])
        if any(front) or any(behind):
            dx = graph.op("Pad", dx, np.asarray([*front, *behind], np.int64))
        return rest_none(node, dx)


@op_rule("Pad")
class Pad(OpRule):
    """y = x with places added, or taken away, at the edges."""

    scale = pads

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where rows are added or taken away."""
        try:
            return 0 in padded_places(node, graph)
        except GradientError:
            return True

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """The extents and the constant were attributes."""
        if opset >= 11:
            graph.append(node)
            return
        kind = dtype_of(graph, node.input[0])
        extents = np.asarray(attribute(node, "pads"), np.int64)
        filler = np.asarray(attribute(node, "value", 0.0), kind)
        rewritten(node, graph, [node.input[0], extents, filler], without=["pads", "value"])

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Cut the padding off, or add it to the places that it copied."""
        shape, dx = graph.shape(node.input[0]), single(dys)
        for axis, source in padded_places(node, graph).items():
            if (source >= 0).sum() != shape[axis] or np.any(np.diff(source[source >= 0]) != 1):
                spread = np.zeros((len(source), shape[axis]))
                spread[np.flatnonzero(source >= 0), source[source >= 0]] = 1
                dx = along_axis(graph, dx, axis, spread)
            else:
                start = int(np.flatnonzero(source >= 0)[0])
                dx = graph.op("Slice", dx, [start], [start + shape[axis]], [axis])
        return rest_none(node, dx)


def padded_places(node: onnx.NodeProto, graph: Graph) -> dict[int, np.ndarray]:
    """Return axis -> per output place the input place it shows, -1 for the constant; axes without padding are left out.

    Raises:
        GradientError: the padding is computed in the graph, or there is no such mode.
    """
    shape = graph.shape(node.input[0])
    pads = constant_of(graph, node.input[1])
    named = node.input[3] if len(node.input) > 3 else ""
    axes = constant_of(graph, named) if named else np.arange(len(shape))
    if pads is None or axes is None:
        raise GradientError("Pad whose extents or axes are computed in the graph")
    mode = attribute(node, "mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise GradientError(f"Pad in mode {mode}")
    found = {}
    around = zip(axes.tolist(), pads[: len(axes)].tolist(), pads[len(axes) :].tolist(), strict=True)
    for axis, front, behind in sorted((a % len(shape), f, b) for a, f, b in around):
        if not front and not behind:
            continue
        source = np.arange(shape[axis])[max(0, -front) : shape[axis] - max(0, -behind)]
        added = (max(0, front), max(0, behind))
        extra = {"constant_values": -1} if mode == "constant" else {}
        found[axis] = np.pad(source, added, mode=mode, **extra)
    return found


@op_rule("Expand")
class Expand(OpRule):
    """y = x repeated along its axes of size 1."""

    scale = spreads

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Sum dy over the repeats."""
        return rest_none(node, unbroadcast(graph, single(dys), node.input[0]))


@op_rule("Tile")
class Tile(OpRule):
    """y = x, repeated as a whole along each axis."""

    scale = spreads

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Along the first axis, all rows before their copies."""
        repeats = constant_of(graph, node.input[1])
        return repeats is None or repeats[0] > 1

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Sum dy over the repeats."""
        repeats = constant_of(graph, node.input[1])
        if repeats is None:
            raise GradientError("Tile whose repeats are computed in the graph")
        dims: list[int] = []
        axes = []
        for axis, (size, times) in enumerate(zip(graph.shape(node.input[0]), repeats.tolist(), strict=True)):
            if times > 1:
                axes.append(len(dims))
                dims.append(times)
            dims.append(size if axis else -1)
        if not axes:
            return rest_none(node, single(dys))
        dy = total(graph, to_shape(graph, single(dys), dims), axes, keepdims=False)
        return rest_none(node, like(graph, dy, node.input[0]))


@op_rule("DepthToSpace")
class DepthToSpace(OpRule):
    """y = channels moved into blocks of places."""

    scale = moves_blocks

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Move the blocks back into channels."""
        block = attribute(node, "blocksize")
        if attribute(node, "mode", "DCR") == "DCR":
            return [graph.op("SpaceToDepth", single(dys), blocksize=block)]
        _, c, h, w = graph.shape(node.input[0])
        split = to_shape(graph, single(dys), [-1, c // block**2, h, block, w, block])
        return [to_shape(graph, graph.op("Transpose", split, perm=[0, 1, 3, 5, 2, 4]), [-1, c, h, w])]


@op_rule("SpaceToDepth")
class SpaceToDepth(OpRule):
    """y = blocks of places moved into channels."""

    scale = moves_blocks

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Move the channels back into blocks."""
        return [graph.op("DepthToSpace", single(dys), blocksize=attribute(node, "blocksize"), mode="DCR")]
