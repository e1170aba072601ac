"""Convolutions and products whose weight the graph computes, as its last step, times a stored gain for each output.

So weight standardisation is written (normalizer-free nets), and weight normalisation. What the weight is computed from
may stand in the file twice, turned, and its scale may do nothing; its gain is a factor per output channel. The
node is taken with gains of 1, and gain and bias come after it, where they are a unit like any other factor and
shift per channel. Only our graph changes: in the file, the gain stays where it is.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from itertools import pairwise

import numpy as np
import onnx

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.graph import Graph, attribute
from caffeinit.graph.products import PRODUCTS, Product
from caffeinit.graph.units import Learned, array_view
from caffeinit.onnxfile.learning import maker_of
from caffeinit.ops.base import rewritten

# Operator -> the operands in which it is linear, so that a gain may come in by them.
_LINEAR = {
    "BatchNormalization": (1,),
    "Mul": (0, 1),
    "Div": (0,),
    **dict.fromkeys(("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Expand"), (0,)),
}
_HELD = "is computed by {} in the graph, not stored, but for its gain"
_SAME = 1e-5  # of the largest number of a weight: what rounding makes of it


def gains_after(graph: Graph) -> tuple[Graph, dict[str, Learned], set[str]]:
    """Return the graph with such gains behind their nodes, what the weights are that it has instead, and the gains."""
    gains = _find_gains(graph)
    weights = _without_gains(graph, gains, moving := graph.moving_values())
    others = {gain for weight, gain in gains.items() if weight not in weights}
    weights = {weight: array for weight, array in weights.items() if gains[weight] not in others}
    if not weights:
        return graph, {}, set()
    made = graph.emptied(graph.opset)
    made.batch_axis_free = graph.batch_axis_free
    fresh = {name: made.add_initializer(made.fresh(name), array) for name, array in weights.items()}
    for node in graph.nodes:
        if _output_axis(graph, node, moving) is not None and node.input[1] in fresh:
            _put(node, made, graph, fresh[node.input[1]], gains[node.input[1]])
        else:
            made.append(node)
    made.drop(0, [*graph.outputs, *moving])
    found = {
        new: Learned(name, 0, frozen=True, held=_HELD.format(maker_of(graph, name))) for name, new in fresh.items()
    }
    return made, found, {gains[name] for name in fresh}


def _put(node: onnx.NodeProto, made: Graph, graph: Graph, weight: str, gain: str) -> None:
    """Append a node with a weight without its gain, then gain and bias."""
    rank, top = len(graph.shape(node.output[0])), node.output[0]
    row = np.asarray([-1] if node.op_type in PRODUCTS else [1, -1, *[1] * (rank - 2)], np.int64)
    bias = (*node.input, "")[2]
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.output[:] = [made.fresh(f"{top}/without_gain")]
    rewritten(plain, made, [node.input[0], weight])
    scaled = made.op("Mul", plain.output[0], made.op("Reshape", gain, row), name=None if bias else top)
    if bias:
        made.op("Add", scaled, bias if node.op_type in PRODUCTS else made.op("Reshape", bias, row), name=top)


def _output_axis(graph: Graph, node: onnx.NodeProto, moving: Container[str]) -> int | None:
    """Return the axis of a node's weight, its second input, along which its outputs lie; None if it has no such weight."""
    if node.domain or node.output[0] not in moving or len(node.input) < 2 or node.input[1] in moving:
        return None
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    if node.op_type in PRODUCTS and graph.is_typed(node.input[1]) and len(graph.shape(node.input[1])) == 2:
        product = Product.of(node, 1, 2)
        return product.weight_axes[0] % 2 if product.beta == 1 else None
    return None


def _find_gains(graph: Graph) -> dict[str, str]:
    """Return computed weights -> their gains, of which nothing else is read."""
    moving, readers = graph.moving_values(), graph.consumers()
    paths: dict[str, list[str]] = {}  # weight -> the values from it up to its gain
    axes: dict[str, int] = {}
    for node in graph.nodes:
        axis = _output_axis(graph, node, moving)
        if axis is None or array_view(graph, weight := node.input[1]) is not None:
            continue
        path = next(_paths(graph, weight, graph.shape(weight)[axis]), None)
        if path is not None:
            paths[weight], axes[weight] = path, axis
    paths = {
        weight: path
        for weight, path in paths.items()
        if not set(path) & {*graph.outputs}
        and all(
            _output_axis(graph, r, moving) == axes[weight] and r.input[1] == weight and list(r.input).count(weight) == 1
            for r in readers[weight]
        )
    }
    return {weight: path[-1] for weight, path in _read_alone(graph, paths, readers).items()}


def _read_alone(
    graph: Graph, paths: Mapping[str, list[str]], readers: Mapping[str, list[onnx.NodeProto]]
) -> Mapping[str, list[str]]:
    """Return the ways whose values nothing reads but other such ways, each at one place: a gain may shift elsewhere."""
    while True:
        nodes = [(graph.producer(a), b) for path in paths.values() for a, b in pairwise(path)]
        known = {(id(n), value) for n, value in nodes if n is not None and list(n.input).count(value) == 1}
        kept = {
            weight: path
            for weight, path in paths.items()
            if all((id(r), value) in known for value in path[1:] for r in readers[value])
        }
        if len(kept) == len(paths):
            return kept
        paths = kept


def _paths(graph: Graph, value: str, num_outputs: int) -> Iterator[list[str]]:
    """Yield the ways on which a weight is linear in stored arrays of one number per output, from it to them."""
    if value in graph.initializers:
        array = graph.initializers[value]
        if array.dtype == np.float32 and array.size == num_outputs == max(array.shape, default=0):
            yield [value]
        return
    node = graph.producer(value)
    if node is None or node.domain or node.output[0] != value:
        return
    for place in _LINEAR.get(node.op_type, ()):
        for path in _paths(graph, node.input[place], num_outputs):
            yield [value, *path]


def _without_gains(graph: Graph, gains: Mapping[str, str], moving: Container[str]) -> dict[str, np.ndarray]:
    """Return the weights at gains of 1, of those that really are these times their gains."""
    if not gains:
        return {}
    names = list(dict.fromkeys(gains.values()))
    shapes = {name: graph.initializers[name].shape for name in names}
    session = compile_graph(graph, list(gains), Settings(threads=1), names)
    ones = session.run({name: np.ones(shape, np.float32) for name, shape in shapes.items()})
    rising = {name: 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in shapes.items()}
    axes = {n.input[1]: axis for n in graph.nodes if (axis := _output_axis(graph, n, moving)) is not None}
    found: dict[str, np.ndarray] = {}
    for weight, other in session.run(rising).items():
        array = np.array(ones[weight], np.float32)
        wanted = array * rising[gains[weight]].reshape(-1, *[1] * (array.ndim - 1 - axes[weight]))
        if np.abs(other - wanted).max(initial=0) <= _SAME * np.abs(wanted).max(initial=0):
            found[weight] = array
    return found
