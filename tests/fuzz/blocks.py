"""More of what random ONNX models are made of: norms, gates, arithmetic, recurrence, graphs within graphs."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from tests.fuzz.graphs import Drawing, Value
from tests.fuzz.operators import add_operator, channel_shape, conv, linear, operator

__all__ = ["add_operator"]


@operator(2, 3, 4, weight=2)
def factor_or_shift(d: Drawing, x: Value) -> Value:
    """A number for each channel, or one for all."""
    kind = d.rng.choice(("Mul", "Mul", "Add", "Add", "Sub", "Div"))
    shape = d.rng.choice((channel_shape(x), channel_shape(x), (1,), ()))
    if kind == "Div":
        return d.made(
            d.op("Div", x, np.abs(d.numbers.standard_normal(shape)).astype(np.float32) + np.float32(0.3)), *x.shape
        )
    array = d.learned(shape, 1, "factor") if shape else np.float32(d.rng.choice((0.5, -2, 3)))
    read = [x, array] if kind == "Sub" and d.chance(0.7) else d.rng.sample([x, array], 2)
    return d.made(d.op(kind, *read), *x.shape)


@operator(2, 3, 4)
def gate(d: Drawing, x: Value) -> Value:
    """Squeeze and excite, or a value times a sigmoid of itself or another."""
    if len(x.shape) == 4 and d.chance(0.6):
        small = Value(d.op("GlobalAveragePool", x), (*x.shape[:2], 1, 1))
        inner = conv(d, small, d.rng.randint(1, 4), plain=True)
        inner = Value(d.op("Relu", inner), inner.shape)
        y = conv(d, inner, x.shape[1], plain=True)
    else:
        y = d.alike(x) or x
    y = d.op(d.rng.choice(("Sigmoid", "Sigmoid", "HardSigmoid", "Tanh", "Relu")), y)
    return d.made(d.op("Mul", *d.rng.sample([x, y], 2)), *x.shape)


@operator(2, 3, 4)
def quotient(d: Drawing, x: Value) -> Value:
    """A value divided by something of itself that is not zero."""
    below = d.with_axes("ReduceL2", x, [1], 18, keepdims=1) if d.chance(0.5) else d.op("Abs", x)
    below = (
        d.op("Add", below, np.float32(1))
        if d.chance(0.5)
        else d.op("Max", below, np.float32(0.1))
        if d.opset >= 8
        else d.op("Add", below, np.float32(0.5))
    )
    return d.made(d.op("Div", x, below), *x.shape)


@operator(2, 3, 4, weight=0.7)
def power(d: Drawing, x: Value) -> Value:
    way = d.rng.randrange(4)
    if way == 0:
        return d.made(d.op("Mul", x, x), *x.shape)
    if way == 1:
        return d.made(d.op("Sqrt", d.op("Abs", x)), *x.shape)
    if way == 2:
        return d.made(d.op("Pow", x, np.float32(2)), *x.shape)
    return d.made(d.op("Pow", d.op("Abs", x), np.float32(d.rng.choice((0.5, 1 / 3, 1.5)))), *x.shape)


@operator(3, 4)
def normalized(d: Drawing, x: Value) -> Value:
    """Instance-, Layer- or GroupNormalization, LRN or Lp, as one operator or spelt out."""
    c = x.shape[1] if len(x.shape) == 4 else x.shape[-1]
    if len(x.shape) == 3:
        if d.opset >= 17 and d.chance(0.6):
            more = [d.learned((c,), 1, "bias")] if d.chance(0.7) else []
            return d.made(d.op("LayerNormalization", x, d.learned((c,), 1, "scale"), *more, axis=-1), *x.shape)
        centred = d.op("Sub", x, d.with_axes("ReduceMean", x, [-1], 18, keepdims=1))
        square = d.op("Mul", centred, centred) if d.chance(0.5) else d.op("Pow", centred, np.float32(2))
        root = d.op("Sqrt", d.op("Add", d.with_axes("ReduceMean", square, [-1], 18, keepdims=1), np.float32(1e-5)))
        y = d.op("Mul", d.op("Div", centred, root), d.learned((c,), 1, "scale"))
        return d.made(d.op("Add", y, d.learned((c,), 1, "bias")), *x.shape)
    way = d.rng.randrange(4)
    if way == 0:
        return d.made(d.op("LRN", x, size=3, alpha=0.1, beta=0.75, bias=1.0), *x.shape)
    if way == 1:
        return d.made(d.op("LpNormalization", x, axis=1, p=2), *x.shape)
    if way == 2 and d.opset >= 21 and c % 2 == 0:
        arrays = [d.learned((c,), 1, kind) for kind in ("scale", "bias")]
        return d.made(d.op("GroupNormalization", x, *arrays, num_groups=2), *x.shape)
    arrays = [d.learned((c,), 1, kind) for kind in ("scale", "bias")]
    return d.made(d.op("InstanceNormalization", x, *arrays), *x.shape)


@operator(2, 3, 4)
def softmax(d: Drawing, x: Value) -> Value | None:
    if d.opset < 13 and len(x.shape) != 2:
        return None
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    return d.made(d.op(d.rng.choice(("Softmax", "Softmax", "LogSoftmax")), x, axis=axis), *x.shape)


@operator(2, 3, 4)
def where(d: Drawing, x: Value) -> Value | None:
    if d.opset < 9:
        return None
    other = d.rng.choice((x, d.alike(x) or x))
    condition = d.op("Greater", other, np.float32(d.rng.choice((0.0, 0.0, 0.5))))
    below = d.rng.choice((d.op("Mul", x, np.float32(0.1)), np.float32(0), np.float32(-1)))
    return d.made(d.op("Where", condition, x, below), *x.shape)


@operator(2, 3, 4, weight=0.3)
def halves(d: Drawing, x: Value) -> Value:
    """To half precision and back."""
    y = d.op("Cast", x, to=TensorProto.FLOAT16)
    return d.made(d.op("Cast", y, to=TensorProto.FLOAT), *x.shape)


@operator(2, 3, 4, weight=0.3)
def quantised(d: Drawing, x: Value) -> Value | None:
    if d.opset < 10:
        return None
    scale, zero = np.float32(0.05), np.int8(0)
    y = d.op("QuantizeLinear", x, scale, zero)
    return d.made(d.op("DequantizeLinear", y, scale, zero), *x.shape)


@operator(2, 3, 4, weight=0.5)
def branches(d: Drawing, x: Value) -> Value | None:
    """An If whose graphs read a value, and a weight at times."""
    if d.opset < 11:
        return None
    size = x.shape[-1]
    if len(x.shape) == 4 or d.chance(0.5):
        read = helper.make_node("Mul", [x.name, d.learned((size,), 1, "inner")], ["z"])
    else:
        read = helper.make_node("MatMul", [x.name, d.learned((size, size), size, "inner")], ["z"])
    end = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    ways = {
        "then_branch": helper.make_graph([read], "then", [], end),
        "else_branch": helper.make_graph([helper.make_node("Relu", [x.name], ["z"])], "else", [], end),
    }
    condition = d.array(np.asarray(d.chance(0.5)))
    if d.batch == 1 and d.chance(0.5):  # one picture at a time: a condition is one for all
        mean = d.with_axes("ReduceMean", x, list(range(len(x.shape))), 18, keepdims=0)
        condition = d.op("Greater", mean, np.float32(0))
    y = d.op("If", condition, **ways)
    d.used.add(x.name)
    return d.made(y, *x.shape)


@operator(4, weight=0.5)
def called(d: Drawing, x: Value) -> Value:
    """A function of the model, whose weights it is given."""
    if not d.functions:
        body = [helper.make_node("Conv", ["X", "W", "B"], ["t"]), helper.make_node("Relu", ["t"], ["Y"])]
        domains = [helper.make_opsetid("", d.opset)]
        d.functions.append(helper.make_function("own", "Block", ["X", "W", "B"], ["Y"], body, domains))
    n, c, h, w = x.shape
    outputs = d.rng.randint(1, 5)
    weight, bias = d.learned((outputs, c, 1, 1), c), d.learned((outputs,), 1, "bias")
    return d.made(d.op("Block", x, weight, bias, domain="own"), n, outputs, h, w)


@operator(3, weight=0.7)
def recurrent(d: Drawing, x: Value) -> Value | None:
    n, t, c = x.shape
    if t > 12:
        return None
    kind, gates = d.rng.choice((("LSTM", 4), ("GRU", 3), ("RNN", 1)))
    size = d.rng.randint(2, 4)
    both = d.chance(0.3)
    arrays = [
        d.learned((1 + both, gates * size, c), c),
        d.learned((1 + both, gates * size, size), size),
        *([d.learned((1 + both, 2 * gates * size), 1, "bias")] if d.chance(0.7) else []),
    ]
    way = {"direction": "bidirectional"} if both else {}
    y = d.op(kind, d.op("Transpose", x, perm=[1, 0, 2]), *arrays, hidden_size=size, **way)
    y = d.op("Reshape", d.op("Transpose", y, perm=[2, 0, 1, 3]), np.asarray([-1, t, size * (1 + both)], np.int64))
    return d.made(y, n, t, size * (1 + both))


@operator(3, weight=0.7)
def attention(d: Drawing, x: Value) -> Value | None:
    _, t, c = x.shape
    if t > 30 or d.opset < 13:
        return None
    query, key, value = (linear(d, x, c) for _ in range(3))
    product = d.op("MatMul", query, d.op("Transpose", key, perm=[0, 2, 1]))
    weights = d.op("Softmax", d.op("Mul", product, np.float32(0.5)), axis=-1)
    y = linear(d, Value(d.op("MatMul", weights, value), x.shape), c)
    return d.made(d.op("Add", x, y), *x.shape)


@operator(4, weight=0.7)
def shuffle(d: Drawing, x: Value) -> Value | None:
    _, c, h, w = x.shape
    if c % 2 or c < 4:
        return None
    d.sized = True
    y = d.op("Reshape", x, np.asarray([-1, 2, c // 2, h, w], np.int64))
    y = d.op("Transpose", y, perm=[0, 2, 1, 3, 4])
    return d.made(d.op("Reshape", y, np.asarray([-1, c, h, w], np.int64)), *x.shape)


@operator(4)
def centred(d: Drawing, x: Value) -> Value:
    """A value less its mean, over places or over channels."""
    mean = d.with_axes("ReduceMean", x, d.rng.choice(([2, 3], [1])), 18, keepdims=1)
    return d.made(d.op("Sub", x, mean), *x.shape)


@operator(2, 4)
def second_input(d: Drawing, x: Value) -> Value | None:
    """What another input gives, times or plus a value: for each picture, each channel, or each place."""
    names = {info.name for info in d.inputs}
    some = [v for v in d.values if v.name in names and v.shape == x.shape]
    return d.made(d.op(d.rng.choice(("Add", "Mul")), x, d.rng.choice(some)), *x.shape) if some else None


@operator(3)
def summary(d: Drawing, x: Value) -> Value:
    """One vector of tokens: their mean, largest, or one of them."""
    way = d.rng.randrange(3)
    if way == 2:
        return d.made(d.op("Gather", x, np.asarray(0, np.int64), axis=1), x.shape[0], x.shape[2])
    y = d.with_axes(("ReduceMean", "ReduceMax")[way], x, [1], 18, keepdims=0)
    return d.made(y, x.shape[0], x.shape[2])
