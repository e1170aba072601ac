"""Conv and ConvTranspose.

The gradient of a weight is a product over all places of all pictures, and which way to it is fastest depends on the shape.
Milliseconds of processor time, 16 pictures, one thread; the way taken is named first:
  1x1, 512 to 2048 channels of 7x7: all pictures in one product 20, a product per picture 41
  1x1, 256 to 1024 of 14x14: a product per picture 32, one for all 31; 64 to 256 of 56x56: 17 and 38
  3x3, 512 to 512 of 7x7: a product per kernel place 47, dy at several shifts at once 107; 256 of 14x14: 50 and 58
  3x3, 64 to 64 of 56x56: dy at several shifts at once 58, a product per kernel place 97; 256 of 32x32: 280 and 353
  3x3, 32 channels of 112x112, each by itself: products of whole rows 99, of blocks of rows 93 to 123, of shifts 121
Tried and not faster: all places along one axis of a convolution with a kernel as long (3x3, 64 of 56x56: 98).
An input's gradient at stride 1 is a convolution; at other strides ConvTranspose is faster than one that goes over dy
with zeros between (3x3, stride 2, 64 to 128 channels of 56x56: 29 and 108; 64 of 112x112, each by itself: 50 and 116; 1x1,
256 to 512 of 56x56: 62 and 125).
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from operator import lt

import numpy as np
import onnx

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.rules import Diffs, OpRule, PictureGradient, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import swapped_last, to_shape, total, transposed
from caffeinit.ops.correlation import correlated
from caffeinit.ops.scaling import convolves
from caffeinit.ops.windows import Windows, windows_of

FEW_CHANNELS = 4  # per group; from there on one product per kernel place is faster than a convolution over the batch
FEW_PLACES = 128  # of an image; below, the sum of a product per image costs more than bringing the images together
MANY_PLACES = 1024  # of an image; from there on a product per image is not slower than one over the batch
WIDEST_ROW = 256  # products of whole rows multiply each place by all others of its row


@op_rule("Conv")
class Conv(OpRule):
    """y[o] = sum over i of weight[o, i] * x[i] + bias[o]."""

    scale = convolves

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the transposed convolution of dy, the correlation of x with dy, and the sum of dy."""
        x, weight = node.input[:2]
        dy, group = single(dys), attribute(node, "group", 1)
        w = self.windows(node, graph)
        diffs = [input_gradient(graph, dy, weight, w, group), weight_gradient(graph, x, dy, w, group)]
        return [*diffs, *_bias_gradient(graph, node, dy)]

    def picture_gradient(self, node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
        """Correlate x with dy."""
        w, group = self.windows(node, graph), attribute(node, "group", 1)
        return lambda x, dy: correlated(x, dy, w, group)

    @staticmethod
    def windows(node: onnx.NodeProto, graph: Graph) -> Windows:
        """Return the windows on the input."""
        x, weight = node.input[:2]
        return windows_of(node, graph.shape(x)[2:], graph.shape(node.output[0])[2:], graph.shape(weight)[2:])


@op_rule("ConvTranspose")
class ConvTranspose(OpRule):
    """The adjoint of Conv: every input place adds its weighted kernel to the output."""

    scale = convolves

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape | None:
        """Return the extents that output_shape and auto_pad ask for, as onnxruntime reads them: onnx knows none below
        those of the input, and adds output_padding to what auto_pad has settled."""
        batch, _, *counts = graph.shape(node.input[0])
        _, outputs, *kernel = graph.shape(node.input[1])
        given, auto = attribute(node, "output_shape"), attribute(node, "auto_pad", "NOTSET")
        if min(*counts, *kernel) < 0 or not (given or auto.startswith("SAME")):
            return None
        w = windows_of(node, counts, counts, kernel)
        wanted = given[-len(counts) :] if given else [n * s for n, s in zip(counts, w.stride, strict=True)]
        sizes = wanted if given else map(min, wanted, _unpadded(node, w))
        return (batch, outputs * attribute(node, "group", 1), *sizes)

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Picture by picture."""
        return True

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Spell the padding out where onnx would find other extents than onnxruntime, which asks it for them itself."""
        shape, given = self.known_shape(node, graph), attribute(node, "output_shape")
        if shape is None or not (
            any(map(lt, shape[2:], graph.shape(node.input[0])[2:])) if given else _is_longer(node)
        ):
            return False
        w = self.windows(node, graph)
        rewritten(node, made, node.input, without=["auto_pad", "output_shape"], pads=[*w.begin, *w.end])
        return True

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the convolution of dy, the correlation of dy with x, and the sum of dy."""
        x, weight = node.input[:2]
        dy, group = single(dys), attribute(node, "group", 1)
        w = self.windows(node, graph)
        dx = graph.op(
            "Conv",
            dy,
            weight,
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            dilations=list(w.dilation),
            pads=[*w.begin, *(max(0, e) for e in w.end)],
            group=group,
        )
        return [dx, weight_gradient(graph, dy, x, w, group), *_bias_gradient(graph, node, dy)]

    def picture_gradient(self, node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
        """Correlate dy with x."""
        w, group = self.windows(node, graph), attribute(node, "group", 1)
        return lambda x, dy: correlated(dy, x, w, group).swapaxes(1, 2)

    @staticmethod
    def windows(node: onnx.NodeProto, graph: Graph) -> Windows:
        """Return the windows on the output; what output_shape or auto_pad leave open is worked out."""
        counts, sizes = graph.shape(node.input[0])[2:], graph.shape(node.output[0])[2:]
        w = windows_of(node, sizes, counts, graph.shape(node.input[1])[2:])
        auto = attribute(node, "auto_pad", "NOTSET")
        if auto == "NOTSET" and attribute(node, "output_shape") is None:
            return w
        sums = [max(0, full - size) for full, size in zip(_unpadded(node, w), sizes, strict=True)]
        small, large = tuple(p // 2 for p in sums), tuple(p - p // 2 for p in sums)
        begin, end = (small, large) if auto == "SAME_UPPER" else (large, small)
        return Windows(w.sizes, w.counts, w.kernel, w.stride, w.dilation, begin, end)


def _is_longer(node: onnx.NodeProto) -> bool:
    return any(attribute(node, "output_padding", []))


def _unpadded(node: onnx.NodeProto, w: Windows) -> list[int]:
    """Return how far a transposed convolution's windows reach, output_padding included."""
    extra = attribute(node, "output_padding", [0] * len(w.counts))
    return [(n - 1) * s + r + e for n, s, r, e in zip(w.counts, w.stride, w.reach, extra, strict=True)]


def _bias_gradient(graph: Graph, node: onnx.NodeProto, dy: str) -> list[str | None]:
    if len(node.input) < 3:
        return []
    axes = [a for a in range(len(graph.shape(dy))) if a != 1]
    return [total(graph, dy, axes, keepdims=False) if node.input[2] else None]


def input_gradient(graph: Graph, dy: str, weight: str, w: Windows, group: int) -> str:
    """Return a convolution's gradient with respect to its input.

    At stride 1 that is a convolution with the mirrored kernel, several times as fast as ConvTranspose.
    """
    front = [r - 1 - p for r, p in zip(w.reach, w.begin, strict=True)]
    behind = [size + r - 1 - n - f for size, r, n, f in zip(w.sizes, w.reach, w.counts, front, strict=True)]
    if any(s != 1 for s in w.stride) or min(*front, *behind) < 0:
        return graph.op(
            "ConvTranspose",
            dy,
            weight,
            kernel_shape=list(w.kernel),
            strides=list(w.stride),
            dilations=list(w.dilation),
            pads=[*w.begin, *w.end],
            output_padding=list(w.spare),
            group=group,
        )
    return graph.op(
        "Conv",
        dy,
        _mirrored(graph, weight, group),
        kernel_shape=list(w.kernel),
        dilations=list(w.dilation),
        pads=[*front, *behind],
        group=group,
    )


def _mirrored(graph: Graph, weight: str, group: int) -> str:
    """Return the weight (O, I/group, *kernel) as (I, O/group, *kernel) with the kernel turned round."""
    outputs, inputs, *kernel = graph.shape(weight)
    places = int(np.prod(kernel))
    flat = to_shape(graph, weight, [group, outputs // group, inputs, places])
    if places > 1:
        flat = graph.op("Gather", flat, np.arange(places)[::-1].copy(), axis=3)
    turned = graph.op("Transpose", flat, perm=[0, 2, 1, 3])
    return to_shape(graph, turned, [group * inputs, outputs // group, *kernel])


def weight_gradient(graph: Graph, x: str, dy: str, w: Windows, group: int) -> str:
    """Return a convolution's gradient with respect to its weight, (O, I/group, *kernel)."""
    inputs = graph.shape(x)[1] // group
    if inputs == 1 < group and len(w.kernel) == 2 and np.prod(w.kernel) > 1 and w.counts[1] <= WIDEST_ROW:
        return _by_rows(graph, x, dy, w, group)
    if inputs <= FEW_CHANNELS and np.prod(w.kernel) > 1:
        return _by_convolution(graph, x, dy, w, group)
    if np.prod(w.kernel) == 1 and all(s == 1 for s in w.stride) and not any((*w.begin, *w.end)):
        return _by_one_product(graph, x, dy, group)
    if all(s == 1 for s in w.stride) and np.prod(w.counts) >= MANY_PLACES:
        return _by_shifted_products(graph, x, dy, w, group)
    return _by_products(graph, x, dy, w, group)


def _by_convolution(graph: Graph, x: str, dy: str, w: Windows, group: int) -> str:
    """Convolve x with dy, the batch taking the place of the channels."""
    rank = len(w.kernel)
    spatial = list(range(2, 2 + rank))
    inputs, outputs = graph.shape(x)[1] // group, graph.shape(dy)[1]
    split = to_shape(graph, x, [-1, group, inputs, *w.sizes])
    images = graph.op("Transpose", split, perm=[2, 1, 0, *(a + 1 for a in spatial)])
    images = to_shape(graph, images, [inputs, -1, *w.sizes])
    filters = graph.op("Transpose", dy, perm=[1, 0, *spatial])
    product = graph.op(
        "Conv",
        images,
        filters,
        kernel_shape=list(w.counts),
        strides=list(w.dilation),
        dilations=list(w.stride),
        pads=[*w.begin, *(max(0, e) for e in w.end)],
        group=group,
    )
    extents = [spare // d + k for spare, d, k in zip(w.spare, w.dilation, w.kernel, strict=True)]
    graph.set_shape(product, (inputs, outputs, *extents))
    if extents != list(w.kernel):
        product = graph.op("Slice", product, [0] * rank, list(w.kernel), spatial)
    return graph.op("Transpose", product, perm=[1, 0, *spatial])


def _by_one_product(graph: Graph, x: str, dy: str, group: int) -> str:
    """Multiply dy by x for kernels of one place: image by image, or small images all at once."""
    inputs, outputs = graph.shape(x)[1] // group, graph.shape(dy)[1] // group
    places = int(np.prod(graph.shape(x)[2:]))
    columns = to_shape(graph, x, [-1, group, inputs, places])
    rows = to_shape(graph, dy, [-1, group, outputs, places])
    if places < FEW_PLACES:
        columns = to_shape(graph, graph.op("Transpose", columns, perm=[1, 2, 0, 3]), [group, inputs, -1])
        rows = to_shape(graph, graph.op("Transpose", rows, perm=[1, 2, 0, 3]), [group, outputs, -1])
        product = graph.op("MatMul", rows, swapped_last(graph, columns))
    else:
        product = total(graph, graph.op("MatMul", rows, swapped_last(graph, columns)), [0], keepdims=False)
    return to_shape(graph, product, [group * outputs, inputs, *[1] * (len(graph.shape(x)) - 2)])


def _by_products(graph: Graph, x: str, dy: str, w: Windows, group: int) -> str:
    """Multiply dy by one slice of x per kernel place, channels last, so that each is one product over the batch."""
    rank = len(w.kernel)
    inputs, outputs = graph.shape(x)[1] // group, graph.shape(dy)[1] // group
    padded = x
    if any((*w.begin, *w.end)):
        padded = graph.op("Pad", x, np.asarray([0, 0, *w.begin, 0, 0, *(max(0, e) for e in w.end)], np.int64))
    last = [0, *range(2, 2 + rank), 1]
    extents = [size + b + max(0, e) for size, b, e in zip(w.sizes, w.begin, w.end, strict=True)]
    columns = transposed(graph, padded, last)
    if group > 1:
        columns = to_shape(graph, columns, [-1, *extents, group, inputs])
        columns = transposed(graph, columns, [rank + 1, *range(rank + 1), rank + 2])
    lead = int(group > 1)
    rows = to_shape(graph, dy, [-1, group, outputs, int(np.prod(w.counts))])
    rows = to_shape(graph, transposed(graph, rows, [1, 2, 0, 3]), [group, outputs, -1][1 - lead :])
    terms = []
    for place in itertools.product(*(range(k) for k in w.kernel)):
        starts = [p * d for p, d in zip(place, w.dilation, strict=True)]
        ends = [a + (n - 1) * s + 1 for a, n, s in zip(starts, w.counts, w.stride, strict=True)]
        axes = list(range(1 + lead, 1 + lead + rank))
        cut = graph.op("Slice", columns, starts, ends, axes, list(w.stride))
        flat = to_shape(graph, cut, [group, -1, inputs][1 - lead :])
        terms.append(to_shape(graph, graph.op("MatMul", rows, flat), [1, group * outputs * inputs]))
    stacked = graph.op("Concat", *terms, axis=0) if len(terms) > 1 else terms[0]
    turned = graph.op("Transpose", stacked, perm=[1, 0])
    return to_shape(graph, turned, [group * outputs, inputs, *w.kernel])


def _by_shifted_products(graph: Graph, x: str, dy: str, w: Windows, group: int) -> str:
    """Multiply, image by image, dy at all shifts along the first axis by x at one shift along the others.

    A product of few rows is slow: with all shifts below each other it has as many times more. Stride 1 only.
    """
    rank = len(w.kernel)
    inputs, outputs = graph.shape(x)[1] // group, graph.shape(dy)[1] // group
    places = w.sizes[0] * int(np.prod(w.counts[1:]))

    def shifted(value: str, begin: Sequence[int], extra: Sequence[int]) -> str:
        """Move the places back by `begin`, with zeros or without what falls off, to `extra` more of them."""
        pads = [0, 0, *begin, 0, 0, *(e - b for e, b in zip(extra, begin, strict=True))]
        return graph.op("Pad", value, np.asarray(pads, np.int64)) if any(pads) else value

    rows = []
    for k in range(w.kernel[0]):
        begin = [k * w.dilation[0] - w.begin[0]] + [0] * (rank - 1)
        moved = shifted(dy, begin, [w.sizes[0] - w.counts[0]] + [0] * (rank - 1))
        rows.append(to_shape(graph, moved, [-1, group, outputs, places]))
    left = graph.op("Concat", *rows, axis=2) if len(rows) > 1 else rows[0]
    terms = []
    for place in itertools.product(*(range(k) for k in w.kernel[1:])):
        begin = [0, *(b - k * d for b, k, d in zip(w.begin[1:], place, w.dilation[1:], strict=True))]
        extra = [0, *(n - size for n, size in zip(w.counts[1:], w.sizes[1:], strict=True))]
        right = to_shape(graph, shifted(x, begin, extra), [-1, group, inputs, places])
        product = total(graph, graph.op("MatMul", left, swapped_last(graph, right)), [0], keepdims=False)
        terms.append(to_shape(graph, product, [group, w.kernel[0], outputs, inputs, 1]))
    stacked = graph.op("Concat", *terms, axis=4) if len(terms) > 1 else terms[0]
    return to_shape(graph, graph.op("Transpose", stacked, perm=[0, 2, 3, 1, 4]), [group * outputs, inputs, *w.kernel])


def _by_rows(graph: Graph, x: str, dy: str, w: Windows, group: int) -> str:
    """Multiply all columns of a channel of x by all of dy, and add up those that the kernel holds against each other.

    That is for channels that are convolved each with its own kernel, in two dimensions.
    """
    outputs = graph.shape(dy)[1] // group
    padded = x
    if any((*w.begin, *w.end)):
        padded = graph.op("Pad", x, np.asarray([0, 0, *w.begin, 0, 0, *(max(0, e) for e in w.end)], np.int64))
    height, width = (size + b + max(0, e) for size, b, e in zip(w.sizes, w.begin, w.end, strict=True))
    images = graph.op("Transpose", to_shape(graph, padded, [-1, group, 1, height, width]), perm=[1, 2, 0, 3, 4])
    diffs = to_shape(graph, dy, [-1, group, outputs, *w.counts])
    diffs = to_shape(graph, graph.op("Transpose", diffs, perm=[1, 2, 0, 3, 4]), [group, outputs, -1, w.counts[1]])
    columns = np.arange(w.counts[1])
    held = np.zeros((width, w.counts[1], w.kernel[1]), np.float32)
    for k in range(w.kernel[1]):
        held[columns * w.stride[1] + k * w.dilation[1], columns, k] = 1
    pairs = held.reshape(-1, w.kernel[1])
    terms = []
    for k in range(w.kernel[0]):
        start, step = k * w.dilation[0], w.stride[0]
        rows = graph.op("Slice", images, [start], [start + (w.counts[0] - 1) * step + 1], [3], [step])
        product = graph.op("MatMul", swapped_last(graph, to_shape(graph, rows, [group, 1, -1, width])), diffs)
        terms.append(graph.op("MatMul", to_shape(graph, product, [group * outputs, len(pairs)]), pairs))
    return to_shape(graph, graph.op("Concat", *terms, axis=1), [group * outputs, 1, *w.kernel])
