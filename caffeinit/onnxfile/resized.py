"""Resize to sizes that spell the batch out, by words that mean the same for any batch."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.folding import known_value
from caffeinit.ops.base import rewritten

_AXES_SINCE = 18  # opset in which Resize can be told of some axes alone


def resized_freely(
    node: onnx.NodeProto, made: Graph, graph: Graph, moving: Collection[str], twin: Graph | None = None
) -> bool:
    """Append a Resize without the batch in place of one whose sizes have it, and tell whether it was one.

    Args:
        twin: the graph at another batch, where sizes that are computed from it are asked for; else constant ones are.
    """
    if node.op_type != "Resize" or node.domain or len(node.input) < 4 or not node.input[3]:
        return False
    if node.input[0] not in moving or (twin is None and node.input[3] in moving):
        return False
    graphs = [graph] if twin is None else [graph, twin]
    sizes = [known_value(g, node.input[3]) for g in graphs]
    known = [s for s in sizes if s is not None]
    shapes = [g.shape(node.input[0]) for g in graphs]
    is_changed = twin is None or (len(known) == 2 and not np.array_equal(known[0], known[1]))
    is_whole = all(len(s) == len(shape) for s, shape in zip(known, shapes, strict=False))
    if len(known) < len(graphs) or not is_changed or not is_whole:
        return False
    if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    return _by_factors(node, made, known, shapes) or _by_axes(node, made, known, shapes)


def _by_factors(node: onnx.NodeProto, made: Graph, sizes: list[np.ndarray], shapes: list[Shape]) -> bool:
    """Append it with factors, where these give the same sizes."""
    scales = np.asarray(sizes[0] / np.asarray(shapes[0]), np.float32)
    for size, shape in zip(sizes, shapes, strict=True):
        if not np.array_equal(np.floor(np.asarray(shape) * scales.astype(np.float64)), size):
            return False
    rewritten(node, made, [node.input[0], node.input[1], scales])
    return True


def _by_axes(node: onnx.NodeProto, made: Graph, sizes: list[np.ndarray], shapes: list[Shape]) -> bool:
    """Append it with the sizes of the other axes alone: a factor of 7 / 3, rounded, gives 6 of 3."""
    rest = [tuple(size[1:]) for size in sizes]
    keeps_pictures = all(size[0] == shape[0] for size, shape in zip(sizes, shapes, strict=True))
    if made.opset < _AXES_SINCE or node.input[1] or not keeps_pictures or len(set(rest)) > 1:
        return False
    axes = list(range(1, len(shapes[0])))
    rewritten(node, made, [node.input[0], "", "", np.asarray(rest[0], np.int64)], axes=axes)
    return True
