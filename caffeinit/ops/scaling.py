"""How positive factors pass through kinds of operators; each rule names the one that is true of it.

Joined with `scales/walk.py` and `ops/labels.py`, which hold the label arrays these functions work on.
Source: positive homogeneity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx

from caffeinit.graph import attribute
from caffeinit.graph.products import Product, is_matrix
from caffeinit.ops.building import constant_of
from caffeinit.ops.labels import PINNED, ZEROS, compact, of_rank, reshaped

if TYPE_CHECKING:
    from caffeinit.graph.rules import OpRule
    from caffeinit.scales.walk import Scales


REACH = 1e30  # limits beyond it limit nothing


def passes(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """y = f(x) element by element, with f(a x) = a f(x) for a > 0: the output has the input's scale."""
    scales.put(node.output[0], scales.of(node.input[0]))
    for extra in filter(None, node.output[1:]):
        scales.hold(extra)


def adds(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """A sum or a maximum: all operands have one scale; a constant other than 0 has scale 1, a learned one takes it up."""
    moving = [i for i in node.input if scales.is_moving(i)]
    joined = scales.total(node, *moving) if node.op_type in ("Add", "Sub", "Sum") else scales.merge(*moving)
    labels = scales.wide(joined, node.output[0])
    for value in node.input:
        if not scales.is_moving(value):
            labels = scales.shift(node, value, labels, may_learn=node.op_type in ("Add", "Sub", "Sum"))
    scales.put(node.output[0], labels)


def forgets(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The result is the same whatever the input's scale."""
    for output in node.output:
        scales.hold(output)


def compares(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The result is the same where both operands have one scale; 0 has any."""
    scales.merge(*node.input)
    scales.hold(node.output[0])


def chooses(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Values of two operands, which have one scale, by a condition that has none."""
    scales.put(node.output[0], scales.wide(scales.merge(*node.input[1:]), node.output[0]))


def multiplies(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """A product has the product of the scales; a learned factor takes up any."""
    moving = [i for i in node.input if scales.is_moving(i)]
    others = [i for i in node.input if not scales.is_moving(i)]
    if others and scales.source(others[0]):
        labels = scales.factors(node, moving[0], others[0])
    else:
        labels = scales.combine(*((1.0, i) for i in moving))
    scales.put(node.output[0], scales.wide(labels, node.output[0]))


def divides(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """A quotient has the quotient of the scales."""
    terms = [(c, i) for c, i in zip((1.0, -1.0), node.input, strict=True) if scales.is_moving(i)]
    scales.put(node.output[0], scales.wide(scales.combine(*terms), node.output[0]))


def raises(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """A constant power of x has that power of its scale."""
    known = constant_of(scales.graph, node.input[1])
    if known is None or known.size != 1:
        scales.barrier(node)
        return
    labels = scales.combine((float(known.reshape(())), node.input[0]))
    scales.put(node.output[0], scales.wide(labels, node.output[0]))


def inverts(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """1 / x has the inverse scale."""
    scales.put(node.output[0], scales.combine((-1.0, node.input[0])))


def takes_root(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The root of x has the root of its scale."""
    scales.put(node.output[0], scales.combine((0.5, node.input[0])))


def limits(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Bounds at 0 or out of reach let the scale pass; other bounds hold it."""
    for value in node.input[1:]:
        bound = constant_of(scales.graph, value) if value else np.zeros(1)
        if bound is None or np.any((bound != 0) & (np.abs(bound) < REACH)):
            scales.barrier(node)
            return
    scales.put(node.output[0], scales.of(node.input[0]))


def pools(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Linear or largest within a channel: each channel has one scale over all its places."""
    old, new = scales.graph.shape(node.input[0]), scales.graph.shape(node.output[0])
    mixed = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if axis > 1 or a != b]
    scales.put(node.output[0], scales.collapse(node.input[0], mixed))
    for extra in filter(None, node.output[1:]):
        scales.hold(extra)


def unpools(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Each channel has one scale where the places are those of a MaxPool over as large an input; else all have one."""
    shape = scales.graph.shape(node.output[0])
    found = scales.graph.producer(node.input[1])
    by_channel = found is not None and found.op_type == "MaxPool" and scales.graph.shape(found.input[0]) == shape
    scales.put(node.output[0], scales.collapse(node.input[0], range(2 if by_channel else 0, len(shape))))


def reduces(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """A sum, mean or extreme over axes: all that is reduced has one scale."""
    from caffeinit.ops.reduction import reduced_axes

    axes = reduced_axes(node, scales.graph)
    labels = scales.collapse(node.input[0], axes)
    if node.op_type == "ReduceSumSquare":
        labels = scales.constraints.combine((2.0, labels))
    if not attribute(node, "keepdims", 1):
        labels = labels.reshape([n for a, n in enumerate(labels.shape) if a not in axes])
    scales.put(node.output[0], labels)


def ties_axis(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """All along one axis has one scale, the first output's; further outputs are positions."""
    axis = attribute(node, "axis", -1 if node.op_type in ("TopK", "LpNormalization", "Hardmax") else 0)
    if node.op_type == "CumSum":
        known = constant_of(scales.graph, node.input[1])
        if known is None:
            scales.barrier(node)
            return
        axis = int(known.reshape(()))
    labels = scales.collapse(node.input[0], [axis])
    if node.op_type in ("ArgMax", "ArgMin", "Hardmax", "LpNormalization"):
        forgets(self, node, scales)
        return
    scales.put(node.output[0], labels)
    for extra in filter(None, node.output[1:]):
        scales.hold(extra)


def reshapes(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The same numbers in another shape."""
    old, new = scales.graph.shape(node.input[0]), scales.graph.shape(node.output[0])
    scales.put(node.output[0], reshaped(scales.of(node.input[0]), old, new))


def permutes(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The same numbers with axes exchanged."""
    labels = scales.of(node.input[0])
    scales.put(node.output[0], labels.transpose(attribute(node, "perm", list(range(labels.ndim))[::-1])))


def joins(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The operands' scales, one behind the other."""
    axis = attribute(node, "axis") % len(scales.graph.shape(node.output[0]))
    if axis == 0:
        labels = [scales.collapse(i, [0]) for i in node.input]
        scales.put(node.output[0], scales.constraints.merge(*labels))
        return
    pieces = [scales.full(i, [axis]) for i in node.input]
    rest = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in pieces))
    wide = [np.broadcast_to(p, (*rest[:axis], p.shape[axis], *rest[axis + 1 :])) for p in pieces]
    scales.put(node.output[0], compact(np.concatenate(wide, axis)))


def splits(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Pieces of the input's scales."""
    axis = attribute(node, "axis", 0) % len(scales.graph.shape(node.input[0]))
    labels, start = scales.of(node.input[0]), 0
    for output in node.output:
        size = scales.graph.shape(output)[axis]
        piece = labels.take(range(start, start + size), axis) if labels.shape[axis] > 1 else labels
        scales.put(output, compact(piece))
        start += size


def cuts(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Some places of the input."""
    from caffeinit.ops.shape import sliced_places

    labels = scales.of(node.input[0])
    for axis, places in sliced_places(node, scales.graph).items():
        labels = labels.take(places, axis) if labels.shape[axis] > 1 else labels
    scales.put(node.output[0], compact(labels))


def pads(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The input with zeros, other constants or repeated places around it."""
    from caffeinit.ops.shape import padded_places

    labels = scales.of(node.input[0])
    filler = scales.of(node.input[2]) if len(node.input) > 2 and node.input[2] else np.full(1, ZEROS)
    added = int(filler.reshape(-1)[0])
    for axis, places in padded_places(node, scales.graph).items():
        if labels.shape[axis] == 1 and (added == ZEROS or (places >= 0).all()):
            continue
        labels = np.where(
            (places >= 0).reshape([-1 if a == axis else 1 for a in range(labels.ndim)]),
            np.broadcast_to(
                labels,
                [scales.graph.shape(node.input[0])[axis] if a == axis else n for a, n in enumerate(labels.shape)],
            ).take(np.maximum(places, 0), axis),
            added,
        )
    scales.put(node.output[0], compact(labels))


def gathers(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Places by index: by a constant one in a known order, by another any of those along the axis."""
    axis = attribute(node, "axis", 0) % len(scales.graph.shape(node.input[0]))
    indices, labels = constant_of(scales.graph, node.input[1]), scales.of(node.input[0])
    if indices is None:
        labels = scales.constraints.collapse(labels, [axis])
        indices = np.zeros((1,) * len(scales.graph.shape(node.input[1])), int)
    elif labels.shape[axis] == 1:
        indices = np.zeros((1,) * indices.ndim, int)
    scales.put(node.output[0], compact(labels.take(indices, axis)))


def compresses(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Slices of the input: those that a constant names in their order, by another condition any along the axis."""
    from caffeinit.ops.indexing import kept_places

    places, axis = kept_places(node, scales.graph), attribute(node, "axis")
    labels = scales.of(node.input[0])
    if places is None:
        labels = scales.constraints.collapse(labels, range(labels.ndim) if axis is None else [axis])
        scales.put(node.output[0], labels.reshape(-1)[:1] if axis is None else labels)
        return
    if axis is None:
        labels = np.broadcast_to(labels, scales.graph.shape(node.input[0])).reshape(-1)
    elif labels.shape[axis] == 1:
        places = np.zeros(1, int)
    scales.put(node.output[0], compact(labels.take(places, axis or 0)))


def spreads(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """The input repeated along axes, or as a whole."""
    labels = scales.of(node.input[0])
    rank, shape = len(scales.graph.shape(node.output[0])), scales.graph.shape(node.input[0])
    labels = of_rank(labels, rank)
    if node.op_type == "Tile":
        times = [
            new // old if n > 1 else 1
            for new, old, n in zip(scales.graph.shape(node.output[0]), shape, labels.shape, strict=True)
        ]
        labels = np.tile(labels, times)
    scales.put(node.output[0], labels)


def moves_blocks(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Channels moved into blocks of places, or back."""
    block, mode = attribute(node, "blocksize"), attribute(node, "mode", "DCR")
    _, c, h, w = scales.graph.shape(node.input[0])
    labels = np.broadcast_to(scales.collapse(node.input[0], [0]), (1, c, h, w))
    if node.op_type == "SpaceToDepth":
        parts = labels.reshape(c, h // block, block, w // block, block).transpose(2, 4, 0, 1, 3)
        moved = parts.reshape(1, c * block**2, h // block, w // block)
    else:
        depth = c // block**2
        dims = (block, block, depth, h, w) if mode == "DCR" else (depth, block, block, h, w)
        order = (2, 3, 0, 4, 1) if mode == "DCR" else (0, 3, 1, 4, 2)
        moved = labels.reshape(dims).transpose(order).reshape(1, depth, h * block, w * block)
    scales.put(node.output[0], compact(moved))


def scatters(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Values put or found at indices: along the axis all has one scale."""
    axis = attribute(node, "axis", 0)
    values = [node.input[0], *node.input[2:]]
    labels = [scales.collapse(v, [axis]) for v in values]
    others = [a for a in range(labels[0].ndim) if a != axis % labels[0].ndim]
    shapes = {scales.graph.shape(v) for v in (*values, node.output[0])}
    if len({tuple(s[a] for a in others) for s in shapes}) > 1:  # indices reach part of the other axes only
        labels = [scales.constraints.collapse(a, others) for a in labels]
    scales.put(node.output[0], scales.constraints.merge(*labels))


def scatters_anywhere(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Values put at tuples of indices: all have one scale."""
    labels = [
        scales.constraints.collapse(scales.of(v), range(len(scales.graph.shape(v)))).reshape(-1)
        for v in (node.input[0], *node.input[2:])
    ]
    joined = scales.constraints.merge(*labels)
    scales.put(node.output[0], joined.reshape((1,) * len(scales.graph.shape(node.output[0]))))


def gathers_at_tuples(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Slices at tuples of indices: at constant ones in a known order, at others any of those along the axes they name."""
    tuples, labels = constant_of(scales.graph, node.input[1]), scales.of(node.input[0])
    shape, shared = scales.graph.shape(node.input[1]), attribute(node, "batch_dims", 0)
    if tuples is not None and not shared:
        places = (
            place if n > 1 else 0 * place for place, n in zip(np.moveaxis(tuples, -1, 0), labels.shape, strict=False)
        )
        scales.put(node.output[0], compact(labels[tuple(places)]))
        return
    end = shared + shape[-1]
    labels = scales.constraints.collapse(labels, range(shared, end))
    scales.put(
        node.output[0],
        labels.reshape(labels.shape[:shared] + (1,) * (len(shape) - 1 - shared) + labels.shape[end:]),
    )


def casts(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Another element type; rounding to whole numbers is not homogeneous."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    if scales.graph.elem_type(node.input[0]) in floats and scales.graph.elem_type(node.output[0]) not in floats:
        scales.barrier(node)
    else:
        passes(self, node, scales)


def normalizes(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Stored statistics take up any scale of the input, and give the output any."""
    scales.norm(node)


def convolves(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Every output channel sums over the input channels of its group."""
    if scales.is_moving(node.input[1]) or not scales.is_moving(node.input[0]):
        scales.barrier(node)
        return
    axes = (0, 1) if node.op_type == "Conv" else (1, 0)
    outputs = scales.affine(node, axes, attribute(node, "group", 1))
    rank = len(scales.graph.shape(node.output[0]))
    scales.put(node.output[0], outputs.reshape(1, -1, *[1] * (rank - 2)))


def multiplies_matrices(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Every output channel sums over the input's channels; of two moving matrices the inner axes have one scale."""
    a, b = node.input[:2]
    rank, rank_b = len(scales.graph.shape(a)), len(scales.graph.shape(b))
    side = _weight_side(node, scales)
    if side is not None:
        product = Product.of(node, side, rank if side else rank_b)
        outputs = scales.affine(node, product.weight_axes, product=product)
        sizes = [1] * len(scales.graph.shape(node.output[0]))
        sizes[product.output_axis] = -1
        scales.put(node.output[0], outputs.reshape(sizes))
        return
    if node.op_type == "Gemm" or min(rank, rank_b) < 2:
        scales.barrier(node)
        return
    left, right = scales.collapse(a, [-1]), scales.collapse(b, [-2])
    width = max(rank, rank_b)
    left, right = (of_rank(x, width) for x in (left, right))
    scales.put(node.output[0], scales.constraints.combine((1.0, left), (1.0, right)))


def _weight_side(node: onnx.NodeProto, scales: Scales) -> int | None:
    """Return which operand of a product is a matrix that maps channels to channels; None if neither does.

    What is not learned and mixes along another axis than that of the scales (interpolation) lets these pass.
    """
    for side in (1, 0):
        weight, x = node.input[side], node.input[1 - side]
        shape = scales.graph.shape(weight)
        if scales.is_moving(weight) or not scales.is_moving(x) or not is_matrix(shape):
            continue
        labels = scales.of(x)
        is_plain = side == 1 and len(shape) == 2 and not labels.shape[-1] == 1 < labels.size
        if scales.source(weight) or node.op_type == "Gemm" or is_plain:
            return side
    return None


def fills(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Zeros have any scale, another constant has 1."""
    value = attribute(node, "value")
    is_zero = value is None or not np.any(onnx.numpy_helper.to_array(value))
    rank = len(scales.graph.shape(node.output[0]))
    scales.put(node.output[0], np.full((1,) * rank, ZEROS if is_zero else PINNED))


def pools_regions(self: OpRule, node: onnx.NodeProto, scales: Scales) -> None:
    """Each channel has one scale; the places of the regions have none."""
    for value in node.input[1:]:
        scales.constraints.pin(scales.of(value))
    rank = len(scales.graph.shape(node.input[0]))
    scales.put(node.output[0], scales.collapse(node.input[0], range(2, rank)))
