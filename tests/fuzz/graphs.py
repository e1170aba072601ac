"""Random ONNX models that onnxruntime can run, with pictures for their inputs; the same seed gives the same model.

Operators are those of `tests/fuzz/operators.py`. Arrays are stored in every way that a file can have them: as they are, as
Constant nodes, turned, reshaped, cut out of others, cast, and used at several places.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NUM_PICTURES = 8
NEWEST_OPSET = 25  # of those that onnxruntime has throughout
OPSETS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 22, 23, NEWEST_OPSET)
_ODD_NAMES = ("a/b:0", "x.y[1]", "na me", "ü", "%d", "*", "-o", "weight?", "{0}", "<w>")


@dataclass
class Value:
    """What a node puts out: its name, and its shape with the pictures in front, in one batch of `Drawing.batch`."""

    name: str
    shape: tuple[int, ...]


@dataclass
class Drawn:
    """A model, and what to feed it.

    Attributes:
        model: with its arrays inside.
        pictures: input -> (NUM_PICTURES, ...), what is drawn for it.
        open_sizes: input -> (C, H, W) that the file leaves open.
        batch: pictures that the file wants at a time; 0 if it takes any number.
        operators: what was drawn, one word each.
        shares: arrays are used at several places.
    """

    model: onnx.ModelProto
    pictures: dict[str, np.ndarray]
    open_sizes: dict[str, tuple[int, ...]]
    batch: int
    operators: list[str]
    shares: bool


@dataclass
class Drawing:
    """A graph that is being drawn."""

    rng: Random
    opset: int
    batch: int
    share: float
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    others: dict[str, int] = field(default_factory=dict)  # outputs that are no real numbers -> their type
    sized: bool = False
    odd: bool = False

    def __post_init__(self) -> None:
        self.numbers = np.random.default_rng(self.rng.getrandbits(32))

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def name(self, kind: str) -> str:
        number = len(self.nodes) + len(self.arrays)
        return f"{self.rng.choice(_ODD_NAMES)}{number}" if self.odd and self.chance(0.3) else f"{kind}_{number}"

    def op(self, kind: str, *inputs: Value | str | np.ndarray, outputs: int = 1, **attributes):
        """Append a node; return the name that it makes, or the names."""
        read = [self._read(one) for one in inputs]
        names = [self.name(kind.lower()) + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, read, names, self.name(kind), **attributes))
        self.used.update(read)
        return names[0] if outputs == 1 else names

    def _read(self, one: Value | str | np.ndarray) -> str:
        if isinstance(one, Value):
            return one.name
        return one if isinstance(one, str) else self.array(np.asarray(one))

    def array(self, values: np.ndarray, kind: str = "array") -> str:
        """Store an array under a new name: among the initializers, or as a Constant node."""
        name = self.name(kind)
        if self.chance(0.1):
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values)))
        else:
            self.arrays[name] = values
        return name

    def with_axes(self, kind: str, x: Value | str, axes: list[int], since: int, **attributes) -> str:
        """Append a node whose axes are an attribute before opset `since`, an input from then on."""
        if self.opset < since:
            return self.op(kind, x, axes=axes, **attributes)
        return self.op(kind, x, np.asarray(axes, np.int64), **attributes)

    # Arrays that were learned

    def learned(self, shape: tuple[int, ...], fan_in: int = 1, kind: str = "weight", positive: bool = False) -> str:
        """Return the name of an array as training leaves it, in one of the ways in which files hold it."""
        if not positive and self.chance(self.share):
            shared = self._again(shape)
            if shared:
                return shared
        numbers = self._draw(shape, fan_in, positive)
        way = self.rng.random()
        if way < 0.04:
            turned = self._weight(np.ascontiguousarray(numbers.T), kind)
            return self.op("Transpose", turned)
        if way < 0.08:
            return self.op("Reshape", self._weight(numbers.reshape(-1), kind), np.asarray(shape, np.int64))
        if way < 0.1:
            return self.op("Identity", self._weight(numbers, kind))
        if way < 0.12:
            half = self._weight(np.clip(numbers, -6e4, 6e4).astype(np.float16), kind)
            return self.op("Cast", half, to=TensorProto.FLOAT)
        if way < 0.14:
            gain = self._weight(self._draw((shape[0], *[1] * (len(shape) - 1)), 1, positive), "gain")
            return self.op("Mul", *self.rng.sample([self._weight(numbers, kind), gain], 2))
        if way < 0.15 and self.opset >= 10:
            whole = self.array(np.clip(np.rint(numbers * 30), -127, 127).astype(np.int8), kind)
            return self.op("DequantizeLinear", whole, np.float32(1 / 30))
        if way < 0.17:
            return self.op("Constant", value=numpy_helper.from_array(numbers))
        return self._weight(numbers, kind)

    def _weight(self, numbers: np.ndarray, kind: str) -> str:
        name = self.array(numbers, kind)
        if name in self.arrays:
            self.weights.append(name)
        return name

    def _draw(self, shape: tuple[int, ...], fan_in: int, positive: bool) -> np.ndarray:
        rows = np.exp(self.numbers.uniform(-1.5, 1.5, (shape[0],) + (1,) * (len(shape) - 1)))
        numbers = self.numbers.standard_normal(shape) * rows / math.sqrt(fan_in)
        if positive:
            return (np.abs(numbers) + 0.1).astype(np.float32)
        if self.chance(0.04) and shape[0] > 1:
            numbers[self.rng.randrange(shape[0])] = 0
        if self.chance(0.03):
            numbers *= 0
        if self.chance(0.03):
            numbers[self.rng.randrange(shape[0])] *= self.rng.choice((1e-30, 1e-12, 1e12))
        return numbers.astype(np.float32)

    def _again(self, shape: tuple[int, ...]) -> str | None:
        """Return an array that is in use already, as it is or made to fit."""
        found = []
        for name in self.weights:
            array = self.arrays[name]
            if array.dtype != np.float32 or self.chance(0.5):
                continue
            if array.shape == shape:
                found += [lambda n=name: n] * 3
                found += [lambda n=name: self.op("Mul", n, np.float32(2)), lambda n=name: self.op("Neg", n)]
                found.append(lambda n=name: self.op("Add", n, self._weight(self._draw(shape, 1, False), "more")))
            elif array.size == math.prod(shape):
                found.append(lambda n=name: self.op("Reshape", n, np.asarray(shape, np.int64)))
            if array.shape == shape[::-1] and len(shape) > 1:
                found.append(lambda n=name: self.op("Transpose", n))
            if array.shape[1:] == shape[1:] and array.shape[0] > shape[0]:
                found.append(lambda n=name: self.cut(n, 0, 0, shape[0]))
            if array.shape[1:] == shape[1:]:
                rows = [self.rng.randrange(array.shape[0]) for _ in range(shape[0])]
                found.append(lambda n=name, r=rows: self.op("Gather", n, np.asarray(r, np.int64), axis=0))
            if array.shape[1:] == shape[1:] and array.shape[0] * 2 == shape[0]:
                found.append(lambda n=name: self.op("Concat", n, n, axis=0))
        return self.rng.choice(found)() if found else None

    def cut(self, x: Value | str, axis: int, start: int, end: int) -> str:
        """Append a Slice along one axis."""
        if self.opset < 10:
            return self.op("Slice", x, axes=[axis], starts=[start], ends=[end])
        return self.op("Slice", x, *(np.asarray([n], np.int64) for n in (start, end, axis)))

    # Values

    def made(self, name: str, *shape: int) -> Value:
        value = Value(name, tuple(shape))
        self.values.append(value)
        return value

    def pick(self, rank: int | None = None) -> Value | None:
        """Return a value, mostly one of the last."""
        some = [v for v in self.values if rank is None or len(v.shape) == rank]
        if not some:
            return None
        return some[-1] if self.chance(0.6) else self.rng.choice(some[-4:] if self.chance(0.7) else some)

    def alike(self, x: Value) -> Value | None:
        """Return another value of the same shape."""
        some = [v for v in self.values if v.shape == x.shape and v.name != x.name]
        return self.rng.choice(some) if some else None

    def input(self, name: str, *shape: int, kind: int = TensorProto.FLOAT) -> Value:
        self.inputs.append(helper.make_tensor_value_info(name, kind, [self.batch or "N", *shape[1:]]))
        return self.made(name, *shape)


def _outputs(drawing: Drawing) -> list[str]:
    """Return what the net puts out: the last value, some that nothing reads, some from its middle, at times a weight."""
    rng, made = drawing.rng, drawing.values
    inputs = {info.name for info in drawing.inputs}
    names = [made[-1].name]
    loose = [v.name for v in made[:-1] if v.name not in drawing.used and v.name not in inputs]
    names += [name for name in loose if rng.random() < 0.6]
    if rng.random() < 0.2:
        names.append(rng.choice([v.name for v in made if v.name not in inputs] or names))
    if drawing.weights and rng.random() < 0.03:
        names.append(rng.choice(drawing.weights))
    return list(dict.fromkeys(names))


def _finish(drawing: Drawing) -> onnx.ModelProto:
    rng = drawing.rng
    outputs = [onnx.ValueInfoProto(name=name) for name in [*_outputs(drawing), *drawing.others]]
    arrays = [numpy_helper.from_array(array, name) for name, array in drawing.arrays.items()]
    inputs = list(drawing.inputs)
    version = 8 if drawing.opset < 21 else 10
    if drawing.opset < 9 and rng.random() < 0.5:
        version = 3
    if version == 3 or rng.random() < 0.05:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in arrays]
    elif rng.random() < 0.05:
        inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in arrays if rng.random() < 0.2]
    graph = helper.make_graph(drawing.nodes, "net", inputs, outputs, arrays)
    for info in graph.output:
        info.type.tensor_type.elem_type = drawing.others.get(info.name, TensorProto.FLOAT)
    domains = [helper.make_opsetid("", drawing.opset)]
    if drawing.functions:
        domains.append(helper.make_opsetid("own", 1))
    if any(node.domain == "nobody" for node in drawing.nodes):
        domains.append(helper.make_opsetid("nobody", 1))
    return helper.make_model(graph, opset_imports=domains, ir_version=version, functions=drawing.functions)


def draw(seed: int, most_operators: int = 12) -> Drawn:
    """Return the random model of a seed."""
    from tests.fuzz.oddities import add_operator  # which imports this module

    rng = Random(seed)
    batch = rng.choice((0, 0, 0, 0, 0, 1, 2, 4))
    drawing = Drawing(rng, rng.choice(OPSETS), batch, rng.choice((0, 0, 0.1, 0.3, 0.6)), odd=rng.random() < 0.1)
    channels, size = rng.choice((1, 3, 3, 4, 8)), (rng.choice((6, 8, 9, 12)), rng.choice((6, 8, 10)))
    rows = batch or NUM_PICTURES
    shapes = {"x": rng.choice([(channels, *size)] * 4 + [(channels * 4,), (5, 6)])}
    if rng.random() < 0.2:
        shapes["second"] = rng.choice([shapes["x"], (channels,), (2 * channels, *size)])
    for name, shape in shapes.items():
        drawing.input(name, rows, *shape)
    pictures = {
        name: drawing.numbers.standard_normal((NUM_PICTURES, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }
    if rng.random() < 0.05 and drawing.opset >= 11:
        words = drawing.numbers.integers(0, 7, (NUM_PICTURES, 5))
        drawing.inputs.append(helper.make_tensor_value_info("ids", TensorProto.INT64, [batch or "N", 5]))
        pictures["ids"] = words.astype(np.float32)
        drawing.made(drawing.op("Gather", drawing.learned((7, 6)), "ids"), rows, 5, 6)
    for _ in range(rng.randint(3, most_operators)):
        add_operator(drawing)
    open_sizes = {}
    if not drawing.sized and not batch and rng.random() < 0.3:
        for info in drawing.inputs:
            dims = info.type.tensor_type.shape.dim
            if len(dims) == 4:
                open_sizes[info.name] = tuple(shapes[info.name])
                dims[2].dim_param, dims[3].dim_param = "H", "W"
    return Drawn(_finish(drawing), pictures, open_sizes, batch, drawing.words, drawing.share > 0)
