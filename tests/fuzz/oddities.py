"""What random ONNX models are seldom made of: shapes as arithmetic, operators on places and ranks, weights among values."""

from __future__ import annotations

import math

import numpy as np
from onnx import TensorProto, helper

from tests.fuzz.blocks import add_operator
from tests.fuzz.graphs import Drawing, Value
from tests.fuzz.operators import channel_shape, operator

__all__ = ["add_operator"]


def _i(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


@operator(4, weight=0.7)
def reshaped_by_arithmetic(d: Drawing, x: Value) -> Value:
    """Flattened places, and back, by sizes that the graph computes."""
    shape = d.op("Shape", x)
    first = d.cut(shape, 0, 0, 2)
    flat = d.op("Reshape", x, d.op("Concat", first, _i(-1), axis=0))
    flat = d.op(d.rng.choice(("Relu", "Identity", "Sigmoid", "Neg")), flat)
    return d.made(d.op("Reshape", flat, shape), *x.shape)


@operator(4, weight=0.7)
def as_large_as(d: Drawing, x: Value) -> Value | None:
    """Resized to the size of another value, then added to it or joined with it."""
    some = [v for v in d.values if len(v.shape) == 4 and math.prod(v.shape) < 20000 and v.name != x.name]
    if d.opset < 13 or not some:
        return None
    other = d.rng.choice(some)
    sizes = d.op("Concat", d.cut(d.op("Shape", x), 0, 0, 2), d.cut(d.op("Shape", other), 0, 2, 4), axis=0)
    mode = d.rng.choice(("nearest", "linear"))
    y = d.op("Resize", x, "", "", sizes, mode=mode, coordinate_transformation_mode="asymmetric")
    shape = (*x.shape[:2], *other.shape[2:])
    if x.shape[1] == other.shape[1] and d.chance(0.7):
        return d.made(d.op("Add", y, other), *shape)
    return d.made(d.op("Concat", y, other, axis=1), shape[0], x.shape[1] + other.shape[1], *shape[2:])


@operator(2, 3, 4)
def weights_as_values(d: Drawing, x: Value) -> Value:
    """An array plus or times a value, after something of its own."""
    array = d.learned(channel_shape(x), 1, "factor")
    kind = d.rng.choice(("Relu", "Neg", "Exp", "Sigmoid", "Abs", "Softplus", "Tanh", "Floor"))
    return d.made(d.op(d.rng.choice(("Add", "Mul", "Sub")), x, d.op(kind, array)), *x.shape)


@operator(2, 3, 4, weight=0.7)
def tiled(d: Drawing, x: Value) -> Value:
    """Each channel several times."""
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    repeats = [1] * len(x.shape)
    repeats[axis] = 2
    return d.made(d.op("Tile", x, _i(*repeats)), *(s * r for s, r in zip(x.shape, repeats, strict=True)))


@operator(2, 4, weight=0.7)
def expanded(d: Drawing, x: Value) -> Value | None:
    if d.opset < 8 or x.shape[1] != 1:
        return None
    return d.made(d.op("Expand", x, _i(1, 3, *[1] * (len(x.shape) - 2))), x.shape[0], 3, *x.shape[2:])


@operator(4, weight=0.7)
def einsum_alone(d: Drawing, x: Value) -> Value | None:
    """An Einsum of one value, or of a value with itself."""
    if d.opset < 12:
        return None
    n, c, h, w = x.shape
    way = d.rng.randrange(3)
    if way == 0:
        return d.made(d.op("Einsum", x, equation="nchw->nc"), n, c)
    if way == 1:
        return d.made(d.op("Einsum", x, equation="nchw->ncwh"), n, c, w, h)
    return d.made(d.op("Einsum", x, x, equation="nchw,nchw->nchw"), *x.shape)


@operator(2, 3, 4, weight=0.4)
def told_besides(d: Drawing, x: Value) -> Value | None:
    """Outputs that are places, whether something holds, or a shape, and in what follows nothing of them."""
    way = d.rng.randrange(4)
    if way == 0 and d.opset >= 9:
        d.others[d.op("NonZero", d.op("Relu", x))] = TensorProto.INT64
    elif way == 1:
        d.others[d.op("ArgMax", x, axis=1)] = TensorProto.INT64
    elif way == 2 and d.opset >= 9:
        d.others[d.op("Greater", x, np.float32(0))] = TensorProto.BOOL
    else:
        d.others[d.op("Shape", x)] = TensorProto.INT64
    return x


@operator(2, 3, 4, weight=0.1)
def foreign(d: Drawing, x: Value) -> Value:
    """An operator that nobody has."""
    return d.made(d.op("Unheard", x, domain="nobody"), *x.shape)


@operator(2, 3, weight=0.7)
def best(d: Drawing, x: Value) -> Value | None:
    """The largest channels, or which of them is the largest."""
    if d.opset < 11 or x.shape[-1] < 2:
        return None
    way = d.rng.randrange(3)
    if way == 0:
        values, _ = d.op("TopK", x, _i(2), axis=-1, outputs=2)
        return d.made(values, *x.shape[:-1], 2)
    if way == 1:
        place = d.op("ArgMax", x, axis=len(x.shape) - 1, keepdims=1)
        return d.made(d.op("Cast", place, to=TensorProto.FLOAT), *x.shape[:-1], 1)
    place = d.op("ArgMax", x, axis=len(x.shape) - 1, keepdims=1)
    return d.made(d.op("GatherElements", x, place, axis=len(x.shape) - 1), *x.shape[:-1], 1)


@operator(2, 3, 4, weight=0.7)
def summed_up(d: Drawing, x: Value) -> Value | None:
    if d.opset < 11:
        return None
    return d.made(d.op("CumSum", x, np.asarray(len(x.shape) - 1, np.int64)), *x.shape)


@operator(2, 3, 4)
def several(d: Drawing, x: Value) -> Value | None:
    """A Sum, Mean, Max or Min of three."""
    some = [v for v in d.values if v.shape == x.shape]
    if d.opset < 8:
        return None
    names = [x, d.rng.choice(some), d.rng.choice(some)]
    if d.chance(0.3):
        names[2] = d.learned(channel_shape(x), 1, "bias")
    return d.made(d.op(d.rng.choice(("Sum", "Mean", "Max", "Min")), *names), *x.shape)


@operator(3, weight=0.7)
def product_of_values(d: Drawing, x: Value) -> Value | None:
    """Correlations of tokens, or of channels, or a product with another value."""
    n, t, c = x.shape
    if t * c > 1500 or t > 40:
        return None
    way = d.rng.randrange(3)
    turned = d.op("Transpose", x, perm=[0, 2, 1])
    if way == 0:
        return d.made(d.op("MatMul", x, turned), n, t, t)
    if way == 1:
        return d.made(d.op("MatMul", turned, x), n, c, c)
    return d.made(d.op("Einsum", x, x, equation="ntc,nuc->ntu"), n, t, t) if d.opset >= 12 else None


@operator(2, 3, weight=0.7)
def looped(d: Drawing, x: Value) -> Value | None:
    """A Loop that multiplies by a matrix from outside, twice."""
    if d.opset < 11 or x.shape[-1] > 16:
        return None
    size = x.shape[-1]
    weight = d.learned((size, size), size, "inner")
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["v", weight], ["m"]),
            helper.make_node("Tanh", ["m"], ["w"]),
            helper.make_node("Identity", ["go"], ["on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
        ],
    )
    return d.made(d.op("Loop", np.asarray(2, np.int64), np.asarray(True), x, body=body), *x.shape)


@operator(4, weight=0.5)
def unpooled(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    if h % 2 or w % 2 or d.opset < 9:
        return None
    pooled, places = d.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    if d.chance(0.5):
        pooled = d.op("Mul", pooled, d.learned((c, 1, 1), 1, "factor"))
    return d.made(d.op("MaxUnpool", pooled, places, kernel_shape=[2, 2], strides=[2, 2]), n, c, h, w)


@operator(4, weight=0.5)
def parametric(d: Drawing, x: Value) -> Value | None:
    """A convolution whose weight is the sum of two, or of low rank."""
    n, c, h, w = x.shape
    outputs = d.rng.randint(1, 5)
    first = d.learned((outputs, c, 1, 1), c)
    if d.chance(0.5):
        second = d.learned((outputs, c, 1, 1), c)
    else:
        product = d.op("MatMul", d.learned((outputs, 2), 2), d.learned((2, c), c))
        second = d.op("Reshape", product, _i(outputs, c, 1, 1))
    return d.made(d.op("Conv", x, d.op("Add", first, second)), n, outputs, h, w)


@operator(3, weight=0.7)
def newest(d: Drawing, x: Value) -> Value | None:
    """Operators of opset 23 and on."""
    _, t, c = x.shape
    if d.opset < 23:
        return None
    if d.chance(0.5):
        return d.made(d.op("RMSNormalization", x, d.learned((c,), 1, "scale"), axis=-1), *x.shape)
    if t > 40:
        return None
    parts = [d.op("MatMul", x, d.learned((c, 4), c)) for _ in range(3)]
    return d.made(d.op("Attention", *parts, q_num_heads=2, kv_num_heads=2), *x.shape[:2], 4)


@operator(3, weight=0.7)
def along_tokens(d: Drawing, x: Value) -> Value | None:
    """A convolution over tokens, one axis long."""
    n, t, c = x.shape
    outputs = d.rng.randint(1, 5)
    y = d.op("Conv", d.op("Transpose", x, perm=[0, 2, 1]), d.learned((outputs, c, 3), 3 * c), pads=[1, 1])
    return d.made(d.op("Transpose", y, perm=[0, 2, 1]), n, t, outputs)


@operator(4, weight=0.7)
def normalized_by_places(d: Drawing, x: Value) -> Value:
    """A softmax over places, as weights of a mean."""
    n, c, h, w = x.shape
    d.sized = True
    flat = d.op("Reshape", x, _i(-1, c, h * w))
    weights = d.op("Softmax", flat, axis=2)
    total = d.with_axes("ReduceSum", d.op("Mul", flat, weights), [2], 13, keepdims=0)
    return d.made(total, n, c)
