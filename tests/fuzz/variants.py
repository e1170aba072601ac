"""Other spellings of an ONNX model: the same function of the same arrays, which are to get the same scales.

Each takes a copy that it may change, and a source of chance; arrays keep their names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from random import Random

import numpy as np
import onnx
from onnx import helper, numpy_helper, shape_inference

SWAPPED = ("Add", "Mul", "Sum", "Max", "Min", "Mean")


def swapped(model: onnx.ModelProto, rng: Random) -> None:
    """Exchange what is added or multiplied."""
    for node in model.graph.node:
        if node.op_type in SWAPPED and rng.random() < 0.7:
            node.input[:] = list(node.input)[::-1]


def constants(model: onnx.ModelProto, rng: Random) -> None:
    """Make Constant nodes of some initializers."""
    graph = model.graph
    named = {info.name for info in (*graph.input, *graph.output)}
    moved = [t for t in graph.initializer if t.name not in named and rng.random() < 0.6]
    kept = [t for t in graph.initializer if not any(t is other for other in moved)]
    nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in moved] + list(graph.node)
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)


def initializers(model: onnx.ModelProto, rng: Random) -> None:
    """Make initializers of Constant nodes."""
    graph = model.graph
    if {info.name for info in graph.input} & {array.name for array in graph.initializer}:
        return  # where all arrays are inputs, these would be the only ones that are not
    nodes = []
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            array = onnx.TensorProto()
            array.CopyFrom(node.attribute[0].t)
            array.name = node.output[0]
            graph.initializer.append(array)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def identities(model: onnx.ModelProto, rng: Random) -> None:
    """Put Identity nodes where a node reads the value of another, or a picture."""
    graph = model.graph
    stored = {t.name for t in graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name and name not in stored and rng.random() < 0.25:
                between = f"{name}_as_it_is_{len(nodes)}"
                nodes.append(helper.make_node("Identity", [name], [between]))
                node.input[place] = between
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def reordered(model: onnx.ModelProto, rng: Random) -> None:
    """Write the nodes in another order in which each follows what it reads."""
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    waiting, nodes, known = list(graph.node), [], set()
    while waiting:
        ready = [n for n in waiting if all(name in known or name not in made for name in _read(n))]
        node = rng.choice(ready)
        waiting = [n for n in waiting if n is not node]
        known |= set(node.output)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def arrays_reordered(model: onnx.ModelProto, rng: Random) -> None:
    """Write the arrays in another order."""
    arrays = list(model.graph.initializer)
    rng.shuffle(arrays)
    del model.graph.initializer[:]
    model.graph.initializer.extend(arrays)


def told_shapes(model: onnx.ModelProto, rng: Random) -> None:
    """Write down the shapes of all values."""
    with contextlib.suppress(shape_inference.InferenceError):  # branches state single precision in models of halves
        model.CopyFrom(shape_inference.infer_shapes(model))


def spelt_batch(model: onnx.ModelProto, rng: Random) -> None:
    """Say how many pictures there are."""
    for info in model.graph.input:
        dims = info.type.tensor_type.shape.dim
        if dims and dims[0].dim_param == "N":
            dims[0].dim_value = 8  # NUM_PICTURES


def one_by_one(model: onnx.ModelProto, rng: Random) -> None:
    """Write the numbers of some arrays one by one instead of as bytes."""
    for array in model.graph.initializer:
        if array.data_type == onnx.TensorProto.FLOAT and rng.random() < 0.7:
            numbers = numpy_helper.to_array(array)
            array.ClearField("raw_data")
            array.float_data.extend(numbers.reshape(-1).tolist())


def in_type(model: onnx.ModelProto, kind: int) -> None:
    """Make a model of half or double precision of one of single precision, as converters do."""
    graph, dtype = model.graph, helper.tensor_dtype_to_np_dtype(kind)
    settings = {
        node.input[i]
        for node in graph.node
        if node.op_type in ("Resize", "Upsample")
        for i in (1, 2)[: len(node.input) - 1]
    }
    constants = [n.attribute[0].t for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    named = {id(n.attribute[0].t): n.output[0] for n in graph.node if n.op_type == "Constant"}
    for array in [*graph.initializer, *constants]:
        name = array.name or named.get(id(array), "")
        if array.data_type == onnx.TensorProto.FLOAT and name not in settings:
            numbers = numpy_helper.to_array(array)
            numbers = np.clip(numbers, -6e4, 6e4) if kind == onnx.TensorProto.FLOAT16 else numbers
            array.CopyFrom(numpy_helper.from_array(numbers.astype(dtype), array.name))
    for node in graph.node:
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.i == onnx.TensorProto.FLOAT:
                entry.i = kind
    for info in (*graph.input, *graph.output):
        if info.type.tensor_type.elem_type == onnx.TensorProto.FLOAT and info.name not in settings:
            info.type.tensor_type.elem_type = kind


VARIANTS: list[Callable[[onnx.ModelProto, Random], None]] = [
    *(swapped, constants, initializers, identities, reordered, arrays_reordered, told_shapes, spelt_batch, one_by_one)
]


def _read(node: onnx.NodeProto) -> list[str]:
    inner = [n for entry in node.attribute if entry.HasField("g") for n in entry.g.node]
    return [*node.input, *(name for n in inner for name in _read(n))]


def arrays_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return name -> array, of initializers and Constant nodes alike."""
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found
