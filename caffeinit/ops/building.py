"""Pieces that gradients of several operators are made of. None spells out the batch size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from caffeinit.graph import Graph, Operand
from caffeinit.graph.folding import known_value
from caffeinit.ops.signs import is_positive


def like(graph: Graph, value: str, model: str) -> str:
    """Return the value reshaped to the shape of `model`."""
    if graph.shape(value) == graph.shape(model) and -1 not in graph.shape(model):
        return value
    result = graph.op("Reshape", value, graph.op("Shape", model))
    graph.set_shape(result, graph.shape(model), graph.elem_type(value))
    return result


def expand_like(graph: Graph, value: str, model: str) -> str:
    """Return the value repeated along its axes of size 1 to the shape of `model`."""
    result = graph.op("Expand", value, graph.op("Shape", model))
    graph.set_shape(result, graph.shape(model), graph.elem_type(value))
    return result


def zeros_like(graph: Graph, model: str) -> str:
    """Return zeros shaped like `model`, of its type."""
    kind = graph.elem_type(model)
    zero = None if kind == onnx.TensorProto.FLOAT else onnx.helper.make_tensor("zero", kind, [1], [0])
    result = graph.op("ConstantOfShape", graph.op("Shape", model), value=zero)
    graph.set_shape(result, graph.shape(model), kind)
    return result


def dtype_of(graph: Graph, value: str) -> np.dtype:
    """Return numpy's type of a value: single precision where it is not known, as of what a Loop makes."""
    kind = graph.elem_type(value) or onnx.TensorProto.FLOAT
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


def to_shape(graph: Graph, value: str, dims: Sequence[int]) -> str:
    """Return the value reshaped; one of `dims` may be -1."""
    return graph.op("Reshape", value, np.asarray(dims, np.int64))


def choose(graph: Graph, condition: str, value: str, otherwise: Operand) -> str:
    """Return `value` where the condition holds, and `otherwise` elsewhere."""
    return graph.op("Where", condition, value, otherwise)


def masked(graph: Graph, dy: str, condition: str) -> str:
    """Return dy where the condition holds, and 0 elsewhere."""
    return graph.op("Mul", dy, graph.mask(condition))


def ratio(graph: Graph, value: str, divisor: str) -> str:
    """Return value / divisor, and 0 where the divisor is 0: there the slope is not finite, or any number will do."""
    if is_positive(graph, divisor):
        return graph.op("Div", value, divisor)
    is_zero = graph.op("Equal", divisor, 0.0)
    quotient = graph.op("Div", value, choose(graph, is_zero, graph.constant(1.0), divisor))
    return choose(graph, is_zero, graph.constant(0.0), quotient)


def total(graph: Graph, value: str, axes: Sequence[int], keepdims: bool = True) -> str:
    """Return the sum over axes.

    The batch and the axes behind it are summed one after the other: single precision loses digits in one long sum.
    """
    axes = sorted(a % len(graph.shape(value)) for a in axes)
    if not axes:
        return value
    if axes[0] == 0 and len(axes) > 1:
        value = graph.op("ReduceSum", value, axes[1:], keepdims=int(keepdims))
        axes = [0]
    return graph.op("ReduceSum", value, axes, keepdims=int(keepdims))


def unbroadcast(graph: Graph, dy: str, operand: str) -> str:
    """Return dy summed over the axes along which `operand` was repeated, shaped like it."""
    wide, narrow = graph.shape(dy), graph.shape(operand)
    padded = (1,) * (len(wide) - len(narrow)) + narrow
    axes = [i for i, (n, w) in enumerate(zip(padded, wide, strict=True)) if n == 1 and w != 1]
    # A batch of one image looks like no batch: an array that no input feeds has none.
    one = bool(wide) and padded[0] == 1 and wide[0] == 1
    if one and (len(narrow) < len(wide) or not graph.depends_on_input(operand)):
        axes = [0, *axes]
    return like(graph, total(graph, dy, axes), operand)


def along_axis(graph: Graph, value: str, axis: int, matrix: np.ndarray) -> str:
    """Return the value with one axis multiplied by a constant matrix (old extent, new extent)."""
    shape = list(graph.shape(value))
    axis %= len(shape)
    if axis == len(shape) - 1:
        return graph.op("MatMul", value, matrix.astype(np.float32))
    rest = int(np.prod(shape[axis + 1 :]))
    flat = value
    if axis != len(shape) - 2:
        flat = graph.reshape(value, [*shape[:axis], shape[axis], rest])
    product = graph.op("MatMul", matrix.T.astype(np.float32), flat)
    return graph.reshape(product, [*shape[:axis], matrix.shape[1], *shape[axis + 1 :]])


def count(graph: Graph, value: str, axes: Sequence[int]) -> Operand:
    """Return the number of elements along axes as a float operand; it is computed where the batch is among them."""
    shape = graph.shape(value)
    axes = [a % len(shape) for a in axes]
    if 0 not in axes and all(shape[a] >= 0 for a in axes):
        return float(np.prod([shape[a] for a in axes]))
    sizes = graph.op("Gather", graph.op("Shape", value), axes)
    return graph.mask(graph.op("ReduceProd", sizes, keepdims=0))


def transposed(graph: Graph, value: str, perm: Sequence[int]) -> str:
    """Return the value with its axes permuted; nothing is appended where they stay."""
    return value if list(perm) == list(range(len(perm))) else graph.op("Transpose", value, perm=list(perm))


def swapped_last(graph: Graph, value: str) -> str:
    """Return the value with its last two axes exchanged."""
    rank = len(graph.shape(value))
    return transposed(graph, value, [*range(rank - 2), rank - 1, rank - 2])


def constant_of(graph: Graph, value: str) -> np.ndarray | None:
    """Return the array of an initializer, or what follows from constants and shapes; None for any other value."""
    return known_value(graph, value)


def reduced(graph: Graph, op_type: str, value: str, axes: Sequence[int]) -> str:
    """Return a reduction over axes, which keep size 1; the axes are an input from opset 18 on (ReduceSum: 13)."""
    if graph.opset >= 18 or op_type == "ReduceSum":
        return graph.op(op_type, value, list(axes))
    return graph.op(op_type, value, axes=list(axes))


def scatter_add(graph: Graph, model: str, indices: str, values: str, axis: int) -> str:
    """Return zeros shaped like `model` with the values added at their indices along an axis."""
    zeros = zeros_like(graph, model)
    result = graph.op("ScatterElements", zeros, indices, values, axis=axis, reduction="add")
    graph.set_shape(result, graph.shape(model), graph.elem_type(model))
    return result
