"""How Gemm and MatMul multiply by an array: which operand it is, and on which axes the channels of the two others lie.

The array may stand on either side, and Gemm may turn either matrix and has a factor for the product and one for what is
added to it. Of an array (1, ..., 1, C, D) the last two axes are the matrix. Several matrices in one array are none: the
channels of their output lie on two axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx

from caffeinit.graph.graph import Graph, Shape, attribute
from caffeinit.graph.rules import find_rule

PRODUCTS = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Product:
    """y = alpha * (x times array) + beta * bias.

    Attributes:
        side: which operand the array is, 0 for the left one.
        is_turned: the array is (I, O) as the node reads it, else (O, I).
        input_axis, output_axis: of the channels of x and y, counted from the end.
        alpha, beta: factors of the product and of what is added; beta is 1 where nothing is.
        bias: what is added; empty where nothing is, or its factor is 0.
    """

    side: int
    is_turned: bool
    input_axis: int
    output_axis: int
    alpha: float = 1.0
    beta: float = 1.0
    bias: str = ""

    @classmethod
    def of(cls, node: onnx.NodeProto, side: int, rank: int = 2) -> Product:
        """Return how a node multiplies by its operand number `side`.

        Args:
            rank: how many axes the other operand has; of one the only axis has the channels.
        """
        # x is (rows, I) times (I, O), or (O, I) times (I, rows).
        input_axis = -1 if side == 1 or rank == 1 else -2
        output_axis = input_axis
        is_turned = side == 1
        if node.op_type != "Gemm":
            return cls(side, is_turned, input_axis, output_axis)
        turns = (attribute(node, "transA", 0), attribute(node, "transB", 0))
        if turns[1 - side]:
            input_axis = -3 - input_axis
        alpha, beta = attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)
        bias = (*node.input, "")[2] if beta != 0 else ""
        return cls(side, is_turned != bool(turns[side]), input_axis, output_axis, alpha, beta if bias else 1.0, bias)

    def grouped(self, array: np.ndarray) -> np.ndarray | None:
        """Return a view (1, O, I) of the array, or of a gradient of its shape; None if it holds no or several matrices."""
        if not is_matrix(array.shape):
            return None
        matrix: np.ndarray = array[(0,) * (array.ndim - 2)]
        return (matrix.T if self.is_turned else matrix)[None]

    @property
    def weight_axes(self) -> tuple[int, int]:
        """Axes of the array with the output channels and with the input channels, counted from the end."""
        return (-1, -2) if self.is_turned else (-2, -1)


def is_matrix(shape: Shape) -> bool:
    """Tell whether an array is one matrix, axes of size 1 before it left aside."""
    return len(shape) >= 2 and all(n == 1 for n in shape[:-2])


class PictureAxes:
    """Along which axes of a graph's values pictures lie, as far as that can be told; found when it is first asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._found: dict[str, int] | None = None

    def of(self, value: str) -> int | None:
        """Return the axis with the pictures of a value; None where that cannot be told."""
        if self._found is None:
            self._found = _picture_axes(self._graph)
        return self._found.get(value)


def why_no_weight(graph: Graph, node: onnx.NodeProto, side: int, pictures: PictureAxes) -> str:
    """Return why operand number `side` of a product is no weight with channels in and out; empty if it is one."""
    shape, x = graph.shape(node.input[side]), node.input[1 - side]
    if len(shape) < 2:
        return "its weight is a vector, so that its output has no channels"
    if not is_matrix(shape):
        return f"its weight {shape} is several matrices, whose channels lie on more than one axis"
    if not graph.is_typed(x) or not graph.is_typed(node.output[0]):
        return "how many axes its input has cannot be told"
    rank = len(graph.shape(x))
    product = Product.of(node, side, rank)
    if product.alpha == 0:
        return "its alpha is 0, so that its weight has no effect"
    before = graph.producer(x)
    # Where the net takes any number of pictures, no weight can be as long as they are many.
    if graph.batch_axis_free or (product.input_axis == -1 and not (before and before.op_type == "Transpose")):
        return ""
    axis = product.input_axis + rank
    return f"it sums over the pictures, which are axis {axis} of its input" if pictures.of(x) == axis else ""


def _picture_axes(graph: Graph) -> dict[str, int]:
    """Return value -> the axis of its pictures; inputs have it first."""
    found = {name: 0 for name, shape in graph.inputs.items() if shape}
    moving = graph.moving_values()
    for node in graph.nodes:
        sources = [i for i in node.input if i in moving]
        axes = {found.get(i) for i in sources}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is None or not all(graph.is_typed(v) for v in (*sources, *node.output) if v):
            continue
        rule = find_rule(node)
        if node.op_type == "Transpose":
            found[node.output[0]] = attribute(node, "perm", list(range(len(graph.shape(sources[0]))))[::-1]).index(axis)
        elif node.op_type in PRODUCTS and len(sources) == 1:
            found |= _behind_product(node, graph, sources[0], axis)
        elif axis == 0 and rule is not None and rule.is_rowwise(node, graph):
            found.update((o, 0) for o in node.output if o and graph.shape(o)[:1] == graph.shape(sources[0])[:1])
    return found


def _behind_product(node: onnx.NodeProto, graph: Graph, x: str, axis: int) -> dict[str, int]:
    """Return the product's output -> the axis of its pictures, unless they are summed over or its rank grows."""
    rank, result = len(graph.shape(x)), len(graph.shape(node.output[0]))
    product = Product.of(node, 0 if node.input[1] == x else 1, rank)
    if rank != result or rank == 1 or axis == product.input_axis + rank:
        return {}
    return {node.output[0]: axis if axis < rank - 2 else rank - 3 - product.output_axis}


def has_product(nodes: Iterable[onnx.NodeProto]) -> bool:
    """Tell whether there is a product of matrices among nodes."""
    return any(node.op_type in PRODUCTS for node in nodes)
