"""Matrix products."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from caffeinit.graph import Graph, attribute
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.products import Product
from caffeinit.graph.rules import Diffs, OpRule, PictureGradient, op_rule
from caffeinit.ops.base import rewritten, single
from caffeinit.ops.building import like, swapped_last, to_shape, unbroadcast
from caffeinit.ops.scaling import multiplies_matrices

if TYPE_CHECKING:
    pass


@op_rule("Gemm")
class Gemm(OpRule):
    """y = alpha * a @ b + beta * c, either matrix possibly transposed."""

    scale = multiplies_matrices

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Add what depends on an input, as the shortcut of a residual net, behind the product."""
        top, beta = node.output[0], float(attribute(node, "beta", 1.0))
        if (
            len(node.input) < 3
            or node.input[2] not in moving
            or beta == 0
            or (node.input[0] in moving) == (node.input[1] in moving)
        ):
            return False
        product = onnx.NodeProto()
        product.CopyFrom(node)
        product.output[:] = [made.fresh(f"{top}{INSIDE}")]
        rewritten(product, made, node.input[:2], without=["beta"])
        shift = node.input[2] if beta == 1 else made.op("Mul", node.input[2], beta, name=made.fresh(f"{top}{INSIDE}"))
        made.op("Add", product.output[0], shift, name=top)
        return True

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the rows of a are those of y, and b is a weight."""
        return not attribute(node, "transA", 0) and not graph.depends_on_input(node.input[1])

    def picture_gradient(self, node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
        """See `_of_rows`."""
        return _of_rows(node, graph, side)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return the products of dy with the other matrix, and beta * dy."""
        a, b = node.input[:2]
        dy, turned_a, turned_b = single(dys), attribute(node, "transA", 0), attribute(node, "transB", 0)
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)

        def product(left: str, right: str, trans_left: int, trans_right: int) -> str:
            flags: dict[str, Any] = {"transA": trans_left or None, "transB": trans_right or None}
            return graph.op("Gemm", left, right, alpha=alpha if alpha != 1 else None, **flags)

        da = product(b, dy, turned_b, 1) if turned_a else product(dy, b, 0, 1 - turned_b)
        db = product(dy, a, 1, turned_a) if turned_b else product(a, dy, 1 - turned_a, 0)
        if len(node.input) < 3 or not node.input[2]:
            return [da, db, *[None] * (len(node.input) - 2)]
        shift = dy if beta == 1 else graph.op("Mul", dy, float(beta))
        return [da, db, unbroadcast(graph, shift, node.input[2])]


@op_rule("MatMul")
class MatMul(OpRule):
    """y = a @ b, as numpy does it."""

    scale = multiplies_matrices

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where b is a matrix of weights, or the first axis of all that move is one of many matrices."""
        a, b = node.input
        ranks = [len(graph.shape(i)) for i in node.input]
        if not graph.depends_on_input(b):
            return ranks[0] > 1 and ranks[1] <= 2
        return ranks[1] > 2 and (ranks[0] == ranks[1] if graph.depends_on_input(a) else ranks[0] <= 2)

    def picture_gradient(self, node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
        """See `_of_rows`."""
        return _of_rows(node, graph, side)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return dy @ b.T and a.T @ dy, summed where an operand was repeated."""
        a, b = node.input
        rank_a, rank_b = len(graph.shape(a)), len(graph.shape(b))
        dy = single(dys)
        if rank_b == 2 and rank_a > 2:
            inner, outer = graph.shape(b)
            rows = to_shape(graph, a, [-1, inner])
            diffs = to_shape(graph, dy, [-1, outer])
            da = like(graph, graph.op("Gemm", diffs, b, transB=1), a)
            return [da, graph.op("Gemm", rows, diffs, transA=1)]
        wide_a = graph.op("Unsqueeze", a, [0]) if rank_a == 1 else a
        wide_b = graph.op("Unsqueeze", b, [1]) if rank_b == 1 else b
        if rank_b == 1:
            dy = graph.op("Unsqueeze", dy, [-1])
        if rank_a == 1:
            dy = graph.op("Unsqueeze", dy, [-2])
        da = unbroadcast(graph, graph.op("MatMul", dy, swapped_last(graph, wide_b)), wide_a)
        db = unbroadcast(graph, graph.op("MatMul", swapped_last(graph, wide_a), dy), wide_b)
        return [like(graph, da, a), like(graph, db, b)]


def _of_rows(node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
    """Return what multiplies all rows of dy by those of x, whichever operand the weight is."""
    product = Product.of(node, side, len(graph.shape(node.input[1 - side])))

    def rows(value: np.ndarray, axis: int) -> np.ndarray:
        moved = np.moveaxis(value, axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def gradient(x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        found = rows(dy, product.output_axis).T @ rows(x, product.input_axis)
        return np.asarray(found if product.alpha == 1 else found * np.float32(product.alpha))[None]

    return gradient
