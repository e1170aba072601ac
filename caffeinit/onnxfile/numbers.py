"""Layers that multiply all that they read by one learned number, and add another, taken as layers with one channel.

PP-LCNet, HGNet and nets with StarReLU have such numbers behind convolutions and activations, where they hand on one scale
for all channels. An ONNX file does not tell them from the numbers of a formula, as of a spelt-out hard sigmoid or of a
picture's range. But a formula has the same numbers wherever it stands, and what was learned differs from place to place. So
numbers count as learned that are stored for three places at least behind one operator, above some layer with weights, if no
two of these places have a number in common.

Only our graph changes: what such a layer reads gets an axis of size 1, where its channel is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.nodes import INSIDE, rewired
from caffeinit.graph.products import PRODUCTS
from caffeinit.graph.units import array_view
from caffeinit.graph.varying import followers

_ONE = f"{INSIDE}/one"  # in the names of values that have one channel for our sake
_FEWEST = 3  # places; with less, numbers that differ may be those of two formulas
_WEIGHTED = ("Conv", "ConvTranspose", *PRODUCTS)


@dataclass(frozen=True)
class _Layer:
    """A Mul by one stored number, and the Add of another that alone reads what it makes."""

    product: onnx.NodeProto
    total: onnx.NodeProto
    bottom: str
    numbers: tuple[float, float]


def one_channel(graph: Graph) -> Graph:
    """Return a graph that computes the same, in which such layers have one channel."""
    layers = {id(node): layer for layer in _learned(graph) for node in (layer.product, layer.total)}
    if not layers:
        return graph
    made = graph.emptied(graph.opset, typed=True)
    for node in graph.nodes:
        layer = layers.get(id(node))
        if layer is None:
            made.append(node)
        elif node is layer.total:
            _append(made, layer)
    return made


def has_one_channel(value: str) -> bool:
    """Tell whether a value has one channel because such a layer reads or makes it."""
    return _ONE in value


def _append(made: Graph, layer: _Layer) -> None:
    """Append a layer with one channel, on axis 1."""
    product, total = layer.product.output[0], layer.total.output[0]
    wide = made.op("Unsqueeze", layer.bottom, [1], name=made.fresh(f"{product}{_ONE}"))
    ends = {layer.bottom: wide}
    for node in (layer.product, layer.total):
        top = node.output[0]
        inner = rewired(node, ends)
        inner.output[:] = [ends.setdefault(top, made.fresh(f"{top}{_ONE}"))]
        made.append(inner)
    made.op("Squeeze", ends[total], [1], name=total)


def _learned(graph: Graph) -> Iterator[_Layer]:
    """Yield the layers whose numbers differ from place to place."""
    places: dict[str, list[_Layer]] = defaultdict(list)
    for layer in _layers(graph):
        below = graph.producer(layer.bottom)
        if below is not None:
            places[below.op_type].append(layer)
    for layers in places.values():
        if len(layers) >= _FEWEST and all(_differ([layer.numbers[i] for layer in layers]) for i in (0, 1)):
            yield from layers


def _differ(numbers: Sequence[float]) -> bool:
    return len({*numbers}) == len(numbers)


def _layers(graph: Graph) -> Iterator[_Layer]:
    """Yield the places above weights where all of a value is multiplied by a stored number, and another is added."""
    moving, readers = graph.moving_values(), graph.consumers()
    above = followers(graph, [n.output[0] for n in graph.nodes if n.op_type in _WEIGHTED and n.output[0] in moving])
    for node in graph.nodes:
        top = node.output[0]
        if node.domain or node.op_type != "Mul" or top in graph.outputs:
            continue
        found, after = _number(graph, node, above), readers.get(top, [])
        if found is None or len(after) != 1 or after[0].domain or after[0].op_type != "Add":
            continue
        added = _number(graph, after[0], [top])
        if added is not None and graph.is_typed(found[0]) and graph.shape(found[0]):
            yield _Layer(node, after[0], found[0], (found[1], added[1]))


def _number(graph: Graph, node: onnx.NodeProto, values: Collection[str]) -> tuple[str, float] | None:
    """Return which of some values a node combines with a single stored number, and that number."""
    for value, other in (node.input, reversed(node.input)):
        view = array_view(graph, other) if value in values else None
        if view is not None and view[1].size == 1 and view[1].ndim <= len(graph.shape(value)):
            return value, float(view[1].item())
    return None
