"""What random ONNX models are made of: functions that append one operator, or a block of some, to a `Drawing`.

Each takes a value whose shape it can read and makes one or more; None says that it cannot.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tests.fuzz.graphs import Drawing, Value

Operator = Callable[[Drawing, Value], "Value | None"]
OPERATORS: dict[int, list[tuple[float, Operator]]] = {2: [], 3: [], 4: []}


def operator(*ranks: int, weight: float = 1.0) -> Callable[[Operator], Operator]:
    """Register a function for values of these ranks."""

    def register(function: Operator) -> Operator:
        for rank in ranks:
            OPERATORS[rank].append((weight, function))
        return function

    return register


def add_operator(drawing: Drawing) -> None:
    """Append one operator or block."""
    for _ in range(20):
        x = drawing.pick()
        shares, functions = zip(*OPERATORS[len(x.shape)], strict=True)
        function = drawing.rng.choices(functions, shares)[0]
        if math.prod(x.shape) < 40000 and function(drawing, x) is not None:
            drawing.words.append(function.__name__)
            return


def _f(*numbers: float) -> np.ndarray:
    return np.asarray(numbers if len(numbers) > 1 else numbers[0], np.float32)


def _i(*numbers: int) -> np.ndarray:
    return np.asarray(numbers, np.int64)


def channel_shape(x: Value) -> tuple[int, ...]:
    """Return the shape in which an array has one number for each channel of a value."""
    return {2: (x.shape[-1],), 3: (x.shape[-1],), 4: (x.shape[1], 1, 1)}[len(x.shape)]


@operator(4, weight=5)
def conv(d: Drawing, x: Value, outputs: int = 0, plain: bool = False) -> Value:
    n, c, h, w = x.shape
    group = d.rng.choice([g for g in (1, 1, 1, 2, c) if c % g == 0])
    outputs = outputs or group * d.rng.randint(1, 8)
    group = group if outputs % group == 0 else 1
    kernel = d.rng.choice([k for k in ((1, 1), (3, 3), (3, 1), (2, 2)) if k[0] <= h and k[1] <= w])
    if plain:
        kernel = d.rng.choice(((1, 1), (3, 3) if h > 2 and w > 2 else (1, 1)))
    pads = [k // 2 for k in kernel] * 2 if plain or d.chance(0.7) else [0] * 4
    strides = [1, 1] if plain else d.rng.choice(([1, 1], [1, 1], [2, 2], [2, 1]))
    weight = d.learned((outputs, c // group, *kernel), c // group * math.prod(kernel))
    more = [d.learned((outputs,), 1, "bias")] if d.chance(0.7) else []
    settings = {"kernel_shape": kernel, "strides": strides, "group": group}
    if d.chance(0.1) and d.opset >= 11:
        y = d.op("Conv", x, weight, *more, **settings, auto_pad=d.rng.choice(("SAME_UPPER", "SAME_LOWER")))
        return d.made(y, n, outputs, *(-(-s // by) for s, by in zip((h, w), strides, strict=True)))
    y = d.op("Conv", x, weight, *more, **settings, pads=pads)
    h, w = ((s + pads[i] + pads[i + 2] - kernel[i]) // strides[i] + 1 for i, s in enumerate((h, w)))
    return d.made(y, n, outputs, h, w)


@operator(4)
def conv_transpose(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    if h * w > 200:
        return None
    group = 2 if c % 2 == 0 and d.chance(0.3) else 1
    each, kernel, stride = d.rng.randint(1, 4), d.rng.choice((1, 2, 3)), d.rng.choice((1, 2))
    weight = d.learned((c, each, kernel, kernel), c * kernel)
    more = [d.learned((each * group,), 1, "bias")] if d.chance(0.5) else []
    y = d.op("ConvTranspose", x, weight, *more, strides=[stride] * 2, group=group, kernel_shape=[kernel] * 2)
    return d.made(y, n, each * group, (h - 1) * stride + kernel, (w - 1) * stride + kernel)


@operator(2, 4, weight=2)
def batch_norm(d: Drawing, x: Value) -> Value:
    c = x.shape[1]
    arrays = [d.learned((c,), 1, kind) for kind in ("scale", "bias", "mean")]
    variance = d.learned((c,), 1, "var", positive=True)
    y = d.op("BatchNormalization", x, *arrays, variance, epsilon=d.rng.choice((1e-5, 1e-3)))
    return d.made(y, *x.shape)


@operator(2, weight=4)
def gemm(d: Drawing, x: Value) -> Value:
    n, c = x.shape
    outputs, turned = d.rng.randint(1, 8), d.chance(0.5)
    settings = {"transB": 1} if turned else {}
    if d.chance(0.2):
        settings |= {"alpha": d.rng.choice((0.5, -2.0)), "beta": d.rng.choice((0.3, 1.0, -1.0))}
    left = x if d.chance(0.8) else d.op("Transpose", x)
    if not isinstance(left, Value):
        settings["transA"] = 1
    weight = d.learned((outputs, c) if turned else (c, outputs), c)
    more = [d.learned((outputs,), 1, "bias")] if d.chance(0.8) or d.opset < 11 else []
    return d.made(d.op("Gemm", left, weight, *more, **settings), n, outputs)


@operator(2, 3, weight=3)
def linear(d: Drawing, x: Value, outputs: int = 0) -> Value:
    c, outputs = x.shape[-1], outputs or d.rng.randint(1, 8)
    y = d.op("MatMul", x, d.learned((c, outputs), c))
    if d.chance(0.8):
        bias = d.learned((outputs,), 1, "bias")
        y = d.op("Sub", y, bias) if d.chance(0.1) else d.op("Add", *d.rng.sample([y, bias], 2))
    return d.made(y, *x.shape[:-1], outputs)


@operator(3)
def left_product(d: Drawing, x: Value) -> Value:
    n, t, c = x.shape
    outputs = d.rng.randint(1, 6)
    y = d.op("MatMul", d.learned((outputs, t), t), x)
    if d.chance(0.5):
        y = d.op("Add", y, d.learned((outputs, 1), 1, "bias"))
    return d.made(y, n, outputs, c)


@operator(2, 3, 4, weight=0.5)
def einsum(d: Drawing, x: Value) -> Value | None:
    if d.opset < 12:
        return None
    outputs = d.rng.randint(1, 6)
    if len(x.shape) == 4:
        y = d.op("Einsum", x, d.learned((outputs, x.shape[1]), x.shape[1]), equation="nchw,oc->nohw")
        return d.made(y, x.shape[0], outputs, *x.shape[2:])
    letters = "ntc"[: len(x.shape) - 1]
    y = d.op("Einsum", x, d.learned((x.shape[-1], outputs), 4), equation=f"{letters}i,io->{letters}o")
    return d.made(y, *x.shape[:-1], outputs)


_PLAIN = ("Relu",) * 8 + (
    *("LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Softplus", "Abs", "Neg", "HardSigmoid", "Softsign", "Identity"),
    *("ThresholdedRelu", "Dropout", "Exp", "Erf", "Sign", "Floor"),
)
_SINCE = {"Erf": 9, "Sign": 9, "ThresholdedRelu": 10}
_NEW = {"HardSwish": 14, "Gelu": 20, "Mish": 18, "Celu": 12, "Shrink": 9, "Round": 11, "Swish": 24}


@operator(2, 3, 4, weight=6)
def activation(d: Drawing, x: Value) -> Value:
    kind = d.rng.choice([*_PLAIN, *_NEW])
    if d.opset < (_SINCE | _NEW).get(kind, 0):
        kind = "Relu"
    if kind == "Exp":
        x = Value(d.op("Tanh", x), x.shape)
    return d.made(d.op(kind, x), *x.shape)


@operator(2, 3, 4)
def clip(d: Drawing, x: Value) -> Value:
    low, high = d.rng.choice(((0.0, 6.0), (-1.0, 1.0), (0.0, 3e38), (-3e38, 2.0)))
    if d.opset < 11:
        return d.made(d.op("Clip", x, min=low, max=high), *x.shape)
    return d.made(d.op("Clip", x, _f(low), _f(high)), *x.shape)


@operator(2, 3, 4)
def prelu(d: Drawing, x: Value) -> Value:
    return d.made(d.op("PRelu", x, d.learned(channel_shape(x), 1, "slope")), *x.shape)


@operator(2, 3, 4, weight=2)
def residual(d: Drawing, x: Value) -> Value:
    y = x
    for _ in range(d.rng.randint(1, 2)):
        c = x.shape[1] if len(x.shape) == 4 else x.shape[-1]
        y = conv(d, y, c, plain=True) if len(x.shape) == 4 else linear(d, y, c)
        if d.chance(0.4):
            y = activation(d, y)
        elif d.chance(0.4) and len(x.shape) == 4:
            y = batch_norm(d, y)
    kind = d.rng.choice(("Add", "Add", "Add", "Sub", "Max", "Min", "Sum", "Mean", "Mul"))
    kind = "Add" if d.opset < 8 and kind not in ("Add", "Sub", "Mul") else kind
    return d.made(d.op(kind, *d.rng.sample([x, y], 2)), *x.shape)


@operator(2, 3, 4)
def joined(d: Drawing, x: Value) -> Value | None:
    """Two values of one shape, in one sum or product."""
    y = d.alike(x)
    kind = d.rng.choice(("Add", "Sub", "Mul", "Max"))
    return y and d.made(d.op("Add" if d.opset < 8 and kind == "Max" else kind, x, y), *x.shape)


@operator(2, 3, 4)
def concat(d: Drawing, x: Value) -> Value | None:
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    cut = [s for i, s in enumerate(x.shape) if i != axis]
    some = [v for v in d.values if len(v.shape) == len(x.shape)]
    some = [v for v in some if [s for i, s in enumerate(v.shape) if i != axis] == cut]
    parts = [x, *(d.rng.choice(some) for _ in range(d.rng.randint(1, 2)))]
    shape = list(x.shape)
    shape[axis] = sum(v.shape[axis] for v in parts)
    d.sized = True
    return d.made(d.op("Concat", *parts, axis=axis), *shape)


@operator(2, 3, 4)
def split(d: Drawing, x: Value) -> Value | None:
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    if x.shape[axis] < 2:
        return None
    first = d.rng.randint(1, x.shape[axis] - 1)
    sizes = [first, x.shape[axis] - first]
    if d.opset < 13:
        names = d.op("Split", x, axis=axis, split=sizes, outputs=2)
    else:
        names = d.op("Split", x, _i(*sizes), axis=axis, outputs=2)
    parts = [d.made(n, *x.shape[:axis], s, *x.shape[axis + 1 :]) for n, s in zip(names, sizes, strict=True)]
    if d.chance(0.4):
        name = d.op("Concat", parts[1], parts[0], axis=axis)
        return d.made(name, *x.shape)
    return parts[0]


@operator(2, 3, 4)
def choose(d: Drawing, x: Value) -> Value | None:
    """Some channels, by Slice or Gather."""
    axis = 1 if len(x.shape) == 4 else len(x.shape) - 1
    size = x.shape[axis]
    if d.chance(0.5) and size > 1:
        start = d.rng.randrange(size - 1)
        y, size = d.cut(x, axis, start, size), size - start
    else:
        places = [d.rng.randrange(size) for _ in range(d.rng.randint(1, size + 1))]
        y, size = d.op("Gather", x, _i(*places), axis=axis), len(places)
    return d.made(y, *x.shape[:axis], size, *x.shape[axis + 1 :])


@operator(4, weight=2)
def pool(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    kind = d.rng.choice(("MaxPool", "MaxPool", "AveragePool", "AveragePool", "LpPool"))
    kernel = d.rng.choice((2, 3))
    if h <= kernel or w <= kernel:
        return None
    pads = d.rng.choice((0, 0, 1)) if kernel == 3 else 0
    more = {"count_include_pad": 1} if kind == "AveragePool" and d.chance(0.3) else {}
    y = d.op(kind, x, kernel_shape=[kernel] * 2, strides=[2, 2], pads=[pads] * 4, **more)
    return d.made(y, n, c, *((s + 2 * pads - kernel) // 2 + 1 for s in (h, w)))


@operator(4)
def whole_pool(d: Drawing, x: Value) -> Value:
    kind = d.rng.choice(("GlobalAveragePool", "GlobalMaxPool"))
    y = Value(d.op(kind, x), (*x.shape[:2], 1, 1))
    if d.chance(0.2):
        return d.made(y.name, *y.shape)
    return d.made(d.op("Flatten", y, axis=1), *x.shape[:2])


@operator(4)
def reduce(d: Drawing, x: Value) -> Value:
    kind = d.rng.choice(("ReduceMean", "ReduceMax", "ReduceL2", "ReduceSum"))
    since = 13 if kind == "ReduceSum" else 18
    axes, kept = d.rng.choice(([2, 3], [1], [3])), 1
    y = d.with_axes(kind, x, axes, since, keepdims=kept)
    return d.made(y, *(1 if i in axes else s for i, s in enumerate(x.shape)))


@operator(4)
def resize(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    if h * w > 200:
        return None
    factors, mode = _f(1, 1, 2, 2), d.rng.choice(("nearest", "linear"))
    if d.opset < 9:
        y = d.op("Upsample", x, scales=factors.tolist(), mode=mode)
    elif d.opset < 11:
        y = d.op("Upsample" if d.opset == 9 else "Resize", x, factors, mode=mode)
    else:
        y = d.op("Resize", x, np.zeros(0, np.float32), factors, mode=mode)
    return d.made(y, n, c, 2 * h, 2 * w)


@operator(4)
def pad(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    mode, pads = d.rng.choice(("constant", "reflect", "edge")), [0, 0, 1, 0, 0, 0, 0, 1]
    if h < 3 or w < 3:
        return None
    number = d.rng.choice((0.0, 0.0, 1.5)) if mode == "constant" else 0.0
    if d.opset < 11:
        y = d.op("Pad", x, pads=pads, mode=mode, value=number)
    else:
        y = d.op("Pad", x, _i(*pads), *([_f(number)] if number else []), mode=mode)
    return d.made(y, n, c, h + 1, w + 1)


@operator(4)
def depth_and_space(d: Drawing, x: Value) -> Value | None:
    n, c, h, w = x.shape
    if c % 4 == 0:
        mode = {"mode": "CRD"} if d.opset >= 11 and d.chance(0.5) else {}
        return d.made(d.op("DepthToSpace", x, blocksize=2, **mode), n, c // 4, 2 * h, 2 * w)
    if h % 2 or w % 2:
        return None
    d.sized = True
    return d.made(d.op("SpaceToDepth", x, blocksize=2), n, 4 * c, h // 2, w // 2)


@operator(4)
def to_tokens(d: Drawing, x: Value) -> Value:
    n, c, h, w = x.shape
    d.sized = True
    y = d.op("Transpose", d.op("Reshape", x, _i(0, c, h * w)), perm=[0, 2, 1])
    return d.made(y, n, h * w, c)


@operator(3)
def from_tokens(d: Drawing, x: Value) -> Value:
    n, t, c = x.shape
    y = d.op("Reshape", d.op("Transpose", x, perm=[0, 2, 1]), _i(0, c, t, 1))
    return d.made(y, n, c, t, 1)


@operator(4)
def flatten(d: Drawing, x: Value) -> Value | None:
    size = math.prod(x.shape[1:])
    if size > 400:
        return None
    d.sized = True
    y = d.op("Flatten", x) if d.chance(0.5) else d.op("Reshape", x, _i(0, -1))
    return d.made(y, x.shape[0], size)


@operator(2)
def unsqueeze(d: Drawing, x: Value) -> Value:
    y = d.with_axes("Unsqueeze", x, [2, 3], 13)
    return d.made(y, *x.shape, 1, 1)


@operator(4)
def squeeze(d: Drawing, x: Value) -> Value | None:
    if x.shape[2:] != (1, 1):
        return None
    return d.made(d.with_axes("Squeeze", x, [2, 3], 13), *x.shape[:2])


@operator(4)
def channels_last(d: Drawing, x: Value) -> Value:
    """A product over channels that come last for its sake."""
    n, c, h, w = x.shape
    outputs = d.rng.randint(1, 6)
    y = d.op("MatMul", d.op("Transpose", x, perm=[0, 2, 3, 1]), d.learned((c, outputs), c))
    if d.chance(0.7):
        y = d.op("Add", y, d.learned((outputs,), 1, "bias"))
    if d.chance(0.5):
        y = d.op("Relu", y)
    return d.made(d.op("Transpose", y, perm=[0, 3, 1, 2]), n, outputs, h, w)
