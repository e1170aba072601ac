"""Small good ONNX models of all kinds that are read, and what can be wrong with one beyond damaged bytes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

DATA = "data.bin"  # lies beside the model
DATA_BYTES = np.linspace(-1, 1, 256, dtype="<f4").tobytes()
_NUMBERS = (-(1 << 63), -5, -1, 0, 1, 2, 3, 4, 5, 1 << 31, 1 << 40, (1 << 63) - 1)
_TEXTS = ("", "x", "y", "w", "..", "../net.onnx", "/etc/hostname", "a\0b", "caf\u00e9", "/dev/zero", DATA)
_OPERATORS = (
    *(
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "Reshape",
        "Expand",
        "Tile",
        "Pad",
        "Resize",
        "Range",
        "Concat",
        "Gather",
    ),
    *(
        "ConstantOfShape",
        "Slice",
        "Split",
        "Transpose",
        "Squeeze",
        "If",
        "Loop",
        "Scan",
        "BatchNormalization",
        "Einsum",
        "ReduceSum",
        "ReduceMean",
        "MaxPool",
        "MaxUnpool",
        "ScatterND",
        "LSTM",
    ),
)


def _model(nodes, arrays, shape=(1, 2, 4, 4), opset=17, functions=()) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", None)))
    graph = helper.make_graph(nodes, "net", [x], [y], arrays)
    domains = [helper.make_opsetid("", opset), *(helper.make_opsetid(f.domain, 1) for f in functions)]
    return helper.make_model(graph, opset_imports=domains, ir_version=8, functions=functions)


def _array(name: str, *shape: int, dtype=np.float32) -> TensorProto:
    return numpy_helper.from_array(np.linspace(-1, 1, int(np.prod(shape)), dtype=dtype).reshape(shape), name)


def _beside(name: str, offset: int, *shape: int) -> TensorProto:
    array = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", DATA), ("offset", offset), ("length", 4 * int(np.prod(shape)))):
        array.external_data.add(key=key, value=str(value))
    return array


def convolutions() -> onnx.ModelProto:
    """Conv, BatchNormalization, Relu, Conv; weights within the model, in both forms."""
    node = helper.make_node
    loose = helper.make_tensor("v", TensorProto.FLOAT, (2, 3, 1, 1), np.linspace(-1, 1, 6).tolist())
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1] * 4),
        node("BatchNormalization", ["c", "s", "b", "b", "s"], ["n"], "norm"),
        node("Relu", ["n"], ["r"]),
        node("Conv", ["r", "v"], ["y"], "last"),
    ]
    return _model(
        nodes, [_array("w", 3, 2, 3, 3), _array("b", 3), numpy_helper.from_array(np.ones(3, "f4"), "s"), loose]
    )


def beside() -> onnx.ModelProto:
    """Products whose weights lie in a data file."""
    node = helper.make_node
    nodes = [
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "b"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "v"], ["y"], transB=1),
    ]
    return _model(nodes, [_beside("w", 0, 4, 5), _beside("b", 80, 5), _beside("v", 100, 3, 5)], (2, 4))


def arithmetic() -> onnx.ModelProto:
    """Shapes spelled out as arithmetic, a Constant node, weights of other types."""
    node = helper.make_node
    nodes = [
        node("Constant", [], ["k"], value=_array("", 3, 2, 1, 1, dtype=np.float16)),
        node("Cast", ["k"], ["w"], to=TensorProto.FLOAT),
        node("Conv", ["x", "w"], ["c"]),
        node("Shape", ["c"], ["shape"]),
        node("Gather", ["shape", "zero"], ["first"]),
        node("Concat", ["first", "rest"], ["target"], axis=0),
        node("Reshape", ["c", "target"], ["flat"]),
        node("Gemm", ["flat", "v"], ["y"]),
    ]
    whole = [numpy_helper.from_array(np.asarray([n], np.int64), k) for k, n in (("zero", 0), ("rest", -1))]
    return _model(nodes, [*whole, _array("v", 48, 2)])


def nested() -> onnx.ModelProto:
    """A function, and an If whose graphs read what is around them."""
    node = helper.make_node
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    end = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    ways = {
        name: helper.make_graph([node(kind, ["c"], ["z"])], name, [], end)
        for name, kind in (("then_branch", "Relu"), ("else_branch", "Neg"))
    }
    nodes = [
        node("Twice", ["x"], ["t"], domain="own"),
        node("Conv", ["t", "w"], ["c"]),
        node("If", ["choice"], ["i"], **ways),
        node("Conv", ["i", "v"], ["y"]),
    ]
    choice = numpy_helper.from_array(np.asarray(True), "choice")
    return _model(nodes, [_array("w", 3, 2, 1, 1), _array("v", 2, 3, 1, 1), choice], functions=[twice])


def whole_numbers() -> onnx.ModelProto:
    """Bytes as input, and a weight in 8 bits that is worked out in the graph."""
    node = helper.make_node
    nodes = [
        node("DequantizeLinear", ["q", "scale"], ["w"]),
        node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        node("Conv", ["real", "w"], ["y"]),
    ]
    model = _model(nodes, [_array("q", 3, 2, 1, 1, dtype=np.int8), numpy_helper.from_array(np.float32(0.1), "scale")])
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    return model


def sparse() -> onnx.ModelProto:
    """A product with a weight of which most numbers are 0."""
    model = _model([helper.make_node("MatMul", ["x", "w"], ["y"])], [], shape=(2, 4))
    places = numpy_helper.from_array(np.array([1, 5, 11], np.int64), "")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(_array("w", 3), places, [4, 3]))
    return model


MODELS = [convolutions, beside, arithmetic, nested]
MORE_MODELS = [whole_numbers, sparse]  # not for `hurt`, whose seeds would mean other models then


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found = list(model.graph.node)
    for node in model.graph.node:
        found += [inner for entry in node.attribute for inner in entry.g.node]
    return found + [inner for function in model.functions for inner in function.node]


def _names(model: onnx.ModelProto) -> list[str]:
    return [n for node in _nodes(model) for n in (*node.input, *node.output)] + ["nowhere", ""]


def rewire(model: onnx.ModelProto, rng: Random) -> None:
    """Let a node read or make another value: cycles, values that nothing makes, values made twice."""
    node = rng.choice(_nodes(model))
    place = node.output if node.output and rng.random() < 0.4 else node.input
    if place:
        place[rng.randrange(len(place))] = rng.choice(_names(model))


def more_or_fewer(model: onnx.ModelProto, rng: Random) -> None:
    """Give a node one input more, or one less; or move it elsewhere."""
    kind, node = rng.randrange(3), rng.choice(_nodes(model))
    if kind == 0:
        node.input.append(rng.choice(_names(model)))
    elif kind == 1 and node.input:
        del node.input[rng.randrange(len(node.input))]
    else:
        taken = model.graph.node.pop(rng.randrange(len(model.graph.node)))
        model.graph.node.insert(rng.randint(0, len(model.graph.node)), taken)


def other_operator(model: onnx.ModelProto, rng: Random) -> None:
    """Make another operator of a node."""
    rng.choice(_nodes(model)).op_type = rng.choice(_OPERATORS)


def attributes(model: onnx.ModelProto, rng: Random) -> None:
    """Give a node another number for a setting."""
    node = rng.choice(_nodes(model))
    names = [entry.name for entry in node.attribute] + ["group", "axis", "pads", "to", "transB", "kernel_shape"]
    name = rng.choice(names)
    kept = [entry for entry in node.attribute if entry.name != name]
    number = rng.choice(_NUMBERS)
    value = rng.choice([number, [number] * rng.randint(1, 4), 1e30])
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def shapes(model: onnx.ModelProto, rng: Random) -> None:
    """Give an array or an input another shape."""
    number = rng.choice(_NUMBERS)
    if rng.random() < 0.3:
        dims = model.graph.input[0].type.tensor_type.shape.dim
        if dims:
            dims[rng.randrange(len(dims))].dim_value = number
        return
    if not model.graph.initializer:
        return
    dims = rng.choice(model.graph.initializer).dims
    if dims and rng.random() < 0.7:
        dims[rng.randrange(len(dims))] = number
    else:
        dims.append(number)


def numbers(model: onnx.ModelProto, rng: Random) -> None:
    """Give an array more or fewer numbers, other ones, or another type."""
    if not model.graph.initializer:
        return
    array = rng.choice(model.graph.initializer)
    kind = rng.randrange(4)
    if kind == 0:
        array.data_type = rng.randint(-1, 26)
    elif kind == 1:
        array.raw_data = array.raw_data[: rng.randint(0, 8)] * rng.randint(0, 9)
    elif kind == 2:
        array.CopyFrom(
            numpy_helper.from_array(np.asarray([rng.choice(_NUMBERS)] * rng.randint(0, 3), np.int64), array.name)
        )
    else:
        array.float_data.append(1.0)


def places(model: onnx.ModelProto, rng: Random) -> None:
    """Say that an array lies elsewhere."""
    if not model.graph.initializer:
        return
    array = rng.choice(model.graph.initializer)
    array.data_location = TensorProto.EXTERNAL
    value = rng.choice([rng.choice(_TEXTS), str(rng.choice(_NUMBERS)), "1" * 5000])
    key = rng.choice(["location", "offset", "length", "checksum"])
    entry = next((e for e in array.external_data if e.key == key), None) or array.external_data.add(key=key)
    entry.value = value


def versions(model: onnx.ModelProto, rng: Random) -> None:
    """Claim another version of the operators, or another domain of a node."""
    if rng.random() < 0.5 and model.opset_import:
        model.opset_import[0].version = rng.choice([*_NUMBERS, 7, 9, 12, 20])
    else:
        rng.choice(_nodes(model)).domain = rng.choice(["", "ai.onnx", "own", "com.microsoft", "\u2603"])


HURTS: list[Callable[[onnx.ModelProto, Random], None]] = [
    *(rewire, more_or_fewer, other_operator, attributes, shapes, numbers, places, versions)
]


def hurt(seed: int) -> bytes:
    """Return a model with some things wrong."""
    rng = Random(seed)
    model = rng.choice(MODELS)()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(HURTS)(model, rng)
    return model.SerializeToString()
