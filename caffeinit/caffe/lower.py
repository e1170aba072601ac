"""From a Caffe net to an ONNX graph: shapes first, then nodes.

`infer_net` walks the layers once for shapes and for the arrays that the weights file must hold; `lower_net` appends
each layer's nodes. A layer that cannot run (unknown type, or something that cannot be done faithfully) is *blocked*,
and so is all that depends on it; the rest is lowered as if it were not there, and every reason is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from caffeinit.caffe.chosen import open_rows
from caffeinit.caffe.layers import (
    MAX_COUNT,
    Layer,
    LayerType,
    Param,
    ParamGraph,
    check_ends,
    check_extents,
    find_type,
    unknown_type_message,
)
from caffeinit.caffe.layers.data import OutsideData
from caffeinit.caffe.naming import NamedLayer
from caffeinit.caffe.net import Net
from caffeinit.caffe.sharing import ParamKey, Sharing, check_specs
from caffeinit.errors import LayerError
from caffeinit.graph import Graph, Shape
from caffeinit.graph.netnumbers import NetNumber
from caffeinit.graph.units import Learned
from caffeinit.model.network import BEHIND


@dataclass
class Inference:
    """What is known of a net at given input shapes, before any weights are seen.

    Attributes:
        net: the net.
        inputs: input blob -> shape.
        shapes: value -> shape, for every value that can be computed.
        params: layer -> its arrays, for every layer whose bottoms are known.
        sharing: which arrays are one.
        blocked: layer -> why it cannot run.
        refused: those of them that do not allow what they are given.
        unshaped: tops of data layers whose shape nothing tells.
        as_pictures: those of them that are as large as the pictures are -> number of channels, 0 where that is open, too.
        why: those of them that were asked about elsewhere -> what is known of them, for the message.
        notes: which shapes were taken from where.
        most: numbers that a blob may hold.
    """

    net: Net
    inputs: dict[str, Shape] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    params: dict[str, list[Param]] = field(default_factory=dict)
    sharing: Sharing = field(default_factory=Sharing)
    blocked: dict[str, str] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    unshaped: list[str] = field(default_factory=list)
    as_pictures: dict[str, int] = field(default_factory=dict)
    why: Mapping[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    most: int = MAX_COUNT

    @property
    def owners(self) -> Mapping[ParamKey, ParamKey]:
        """(layer, index) -> (layer, index) that holds the array; differs for shared parameters."""
        return self.sharing.owners


@dataclass
class Lowered:
    """A net as an ONNX graph.

    Attributes:
        graph: its values bear Caffe's blob names; an in-place blob's earlier versions are "blob@layer".
        learned: initializer -> which blob of which layer it is.
        layer_tops: layer -> the values it makes.
        unreached: arrays that the net must have, but that no value of the graph reads: their layers cannot run.
    """

    graph: Graph
    learned: dict[str, Learned]
    layer_tops: dict[str, list[str]]
    unreached: list[Learned]


def infer_net(
    net: Net,
    given: Mapping[str, Shape] | None = None,
    most: int = MAX_COUNT,
    why: Mapping[str, str] | None = None,
) -> Inference:
    """Work out every shape.

    Args:
        given: input blob -> shape, taken instead of what the prototxt says; with one axis fewer than the blob has,
            the batch axis is left as it is.
        most: numbers that a blob may hold.
        why: see `Inference`.
    """
    found = Inference(net, most=most, why=why or {})
    for entry in net.named_layers:
        described = find_type(entry.layer.type)
        if entry.layer.name in net.refusals:
            found.blocked[entry.layer.name] = net.refusals[entry.layer.name]
        elif described is None and entry.tops and not entry.bottoms:
            # Whatever a custom layer without bottoms does, it brings data from outside.
            _infer_data(found, entry, OutsideData(), given or {})
        elif described is None:
            found.blocked[entry.layer.name] = unknown_type_message(entry.layer.type)
        elif described.is_data:
            _infer_data(found, entry, described, given or {})
        else:
            _infer_layer(found, entry, described)
    return found


def _infer_data(found: Inference, entry: NamedLayer, described: LayerType, given: Mapping[str, Shape]) -> None:
    try:
        check_ends(entry.layer, described)
        check_specs(entry.layer, described, [])
        shapes: list[Shape | None] = list(described.infer(entry.layer, []))
        for index, top in enumerate(entry.tops[: len(shapes)]):
            shape = shapes[index]
            if top in given:
                shapes[index] = _merge_shape(shape, given[top])
            elif index == 0 and described.takes_pictures_as_they_are and shape and 0 in shape:
                shapes[index] = _as_elsewhere(found, top, shape)
            check_extents(f'top "{top}"', shapes[index] or (), found.most)
    except LayerError as error:
        _block(found, entry.layer, error)
        return
    for top, shape in zip(entry.tops, shapes, strict=True):
        if shape is not None and 0 not in shape:
            found.inputs[top] = found.shapes[top] = tuple(int(d) for d in shape)
            continue
        found.unshaped.append(top)
        if described.takes_pictures_as_they_are and top == entry.tops[0] and shape:
            found.as_pictures[top] = shape[1]


def _as_elsewhere(found: Inference, top: str, shape: Shape) -> Shape:
    """Return an input's shape with the size that data layers of other phases or stages state for it, if they agree.

    The weights are the same in all phases, so pictures of that size go through the net in this one, too.
    """
    kept = {id(layer) for layer in found.net.layers}
    stated = set()
    for layer in found.net.message.layer:
        described = find_type(layer.type)
        if id(layer) in kept or not layer.top or layer.top[0] != top or described is None or not described.is_data:
            continue
        try:
            other = described.infer(layer, [])[0]
        except LayerError:
            continue  # it takes no part in this phase, so its faults are none of this net's
        if other and len(other) == len(shape) and 0 not in other:
            stated.add(tuple(other[1:]))
    if len(stated) != 1 or (size := stated.pop())[0] != (shape[1] or size[0]):
        return shape
    found.notes.append(f'input "{top}": {times(size)}, which the net\'s data layer of another phase or stage states')
    return (shape[0], *size)


def times(shape: Shape) -> str:
    """Return a shape as it is shown to users: 3 x 32 x 32."""
    return " x ".join(map(str, shape))


def _merge_shape(declared: Shape | None, given: Shape) -> Shape:
    rank = len(declared) if declared else 4
    if len(given) == rank - 1:
        return ((declared[0] if declared else 1) or 1, *given)
    return tuple(given)


def _infer_layer(found: Inference, entry: NamedLayer, described: LayerType) -> None:
    layer = entry.layer
    missing = [b for b in entry.bottoms if b not in found.shapes]
    if missing:
        found.blocked[layer.name] = _missing_reason(found, missing[0])
        return
    bottoms = [found.shapes[b] for b in entry.bottoms]
    try:
        check_ends(layer, described)
        tops = described.infer(layer, bottoms)
        for top, shape in zip(entry.tops, tops, strict=False):
            check_extents(f'top "{top}"', shape, found.most)
        params = described.params(layer, bottoms)
        for index, param in enumerate(params):
            check_extents(f"parameter {index}", param.shape)
        check_specs(layer, described, params)
        found.sharing.add(layer, params)
    except LayerError as error:
        _block(found, layer, error)
        found.refused.add(layer.name)
        return
    found.params[layer.name] = params
    found.shapes.update(zip(entry.tops, tops, strict=False))


def _block(found: Inference, layer: Layer, error: LayerError) -> None:
    """Note why a layer cannot run, with the fields of it that may have been meant for what it lacks."""
    found.blocked[layer.name] = "; ".join([str(error), *found.net.misspelt.get(layer.name, ())])


def _missing_reason(found: Inference, blob: str) -> str:
    if blob in found.unshaped:
        return f'the shape of input "{blob}" is not known: give --input-shape {blob}=C,H,W{found.why.get(blob, "")}'
    if (entry := found.net.makers.get(blob)) is not None:
        return f'{BEHIND}"{entry.layer.name}" ({entry.layer.type}), which cannot run'
    return f'blob "{blob}" is not there'


class _LoweringGraph(ParamGraph):
    """The graph under construction, with the net's arrays as initializers that enter when they are first read."""

    def __init__(self, found: Inference, arrays: Mapping[str, Sequence[np.ndarray]]) -> None:
        super().__init__()
        self._found = found
        self._arrays = arrays
        self.learned: dict[str, Learned] = {}
        self._entered: dict[ParamKey, str] = {}
        # Names of our own must not be those of blobs that are still to come.
        self._names.update(top for entry in found.net.named_layers for top in entry.tops)

    def param(self, layer: Layer, index: int) -> str:
        own = (layer.name, index)
        key = self._found.owners[own]
        if key not in self._entered:
            name = self.fresh_param(*key)
            self.add_initializer(name, self._arrays[key[0]][key[1]])
            self._entered[key] = name
            self.learned[name] = self._describe(key)
        wanted = self._found.params[own[0]][own[1]].shape
        value = self._entered[key]
        if wanted == self.shape(value):
            return value
        return self.op("Reshape", value, np.asarray(wanted, np.int64))

    def number(self, layer: Layer, field: str, given: float, degree: float, array: np.ndarray) -> str:
        numbers, key = self._found.net.numbers, (layer.name, field)
        known = numbers.setdefault(key, NetNumber(*key, given, degree, array))
        if known.array.shape != array.shape:  # an input of other channels: nothing that could be scaled is below
            return self.constant(array)
        name = self.fresh(field.rpartition(".")[2])
        self.add_initializer(name, known.array)
        self.net_numbers[name] = known
        return name

    def fresh_param(self, layer: str, index: int) -> str:
        scope, self.scope = self.scope, ""
        name = self.fresh(f"{layer}/param{index}")
        self.scope = scope
        return name

    def unreached(self) -> list[Learned]:
        """Return the arrays that have not entered."""
        owned = [key for key, owner in self._found.owners.items() if key == owner]
        return [self._describe(key) for key in owned if key not in self._entered]

    def _describe(self, key: ParamKey) -> Learned:
        param = self._found.params[key[0]][key[1]]
        return Learned(*key, param.role, self._found.sharing.is_frozen(key), param.filler)


def lower_net(found: Inference, arrays: Mapping[str, Sequence[np.ndarray]]) -> Lowered:
    """Return the net as a graph over the given arrays, which are shared, not copied.

    Layers that turn out not to be expressible are added to `found.blocked`.
    """
    graph = _LoweringGraph(found, arrays)
    for name, shape in found.inputs.items():
        graph.add_input(name, shape)
    tops: dict[str, list[str]] = {}
    for entry in found.net.named_layers:
        described = find_type(entry.layer.type)
        if described is None or described.is_data or entry.layer.name in found.blocked:
            continue
        if not all(b in graph.inputs or graph.producer(b) is not None for b in entry.bottoms):
            missing = next(b for b in entry.bottoms if b not in graph.inputs and graph.producer(b) is None)
            found.blocked[entry.layer.name] = _missing_reason(found, missing)
            continue
        tops[entry.layer.name] = _lower_layer(graph, entry, described, found)
    open_rows(graph, (t for e in found.net.named_layers if _chooses_rows(e) for t in tops.get(e.layer.name, ())))
    graph.batch_axis_free = is_batch_axis_free(found)
    return Lowered(graph, _with_sharers(found, graph.learned), tops, graph.unreached())


def _chooses_rows(entry: NamedLayer) -> bool:
    described = find_type(entry.layer.type)
    return described is not None and described.chooses_rows


def _with_sharers(found: Inference, learned: Mapping[str, Learned]) -> dict[str, Learned]:
    """Return the learned arrays, each with the layer that shares it and cannot run, if there is one."""
    layers = {entry.layer.name: entry.layer for entry in found.net.named_layers}
    sharers = {p.name: name for name in found.blocked for p in layers[name].param if p.name}
    changed = {}
    for value, array in learned.items():
        params = layers[array.layer].param
        name = params[array.index].name if array.index < len(params) else ""
        changed[value] = replace(array, sharer=sharers.get(name, ""))
    return changed


def _lower_layer(graph: _LoweringGraph, entry: NamedLayer, described: LayerType, found: Inference) -> list[str]:
    layer, start = entry.layer, len(graph.nodes)
    graph.scope = layer.name
    try:
        values = described.lower(layer, graph, entry.bottoms)
    except LayerError as error:
        found.blocked[layer.name] = str(error)
        graph.drop(start)
        return []
    finally:
        graph.scope = ""
    for value, top in zip(values, entry.tops, strict=False):
        made_here = any(value in n.output for n in graph.nodes[start:])
        if made_here and values.count(value) == 1:
            graph.rename(value, top, since=start)
        else:
            graph.op("Identity", value, name=top)
        graph.set_shape(top, found.shapes[top], graph.elem_type(top))
        if described.is_loss or described.is_verdict:
            graph.verdicts[top] = list(entry.bottoms)
        if described.is_nearly_homogeneous:
            graph.nearly_homogeneous[top] = entry.bottoms[0]
    return list(entry.tops)


def is_batch_axis_free(found: Inference) -> bool:
    """Return whether all inputs have one batch size and every shape in the net follows it on axis 0 alone.

    Losses are scalars, and constants do not follow: both may be there.
    """
    sizes = {shape[0] for shape in found.inputs.values() if shape}
    if len(sizes) != 1 or not all(found.inputs.values()):
        return False
    doubled = infer_net(found.net, {n: (2 * s[0], *s[1:]) for n, s in found.inputs.items()}, 2 * found.most)
    # What was refused while it was lowered is blocked here alone.
    if not set(doubled.blocked) <= set(found.blocked):
        return False
    # A Scale whose factors lie along axis 0 has as many as there are pictures.
    if any([p.shape for p in doubled.params[n]] != [p.shape for p in own] for n, own in found.params.items()):
        return False
    free = set(found.inputs)  # values whose axis 0 is the batch; others must not change
    for entry in found.net.named_layers:
        described = find_type(entry.layer.type)
        if described is None or described.is_data or entry.layer.name in found.blocked:
            continue
        if described.axis_0 == "time":
            return False
        if described.holds_batch(entry.layer, [found.shapes[b] for b in entry.bottoms]):
            return False
        if described.axis_0 == "batch" and not described.is_loss and any(b in free for b in entry.bottoms):
            free.update(entry.tops)
    aside = {
        top
        for entry in found.net.named_layers
        for top in entry.tops
        if entry.layer.name in found.blocked or ((kind := find_type(entry.layer.type)) and kind.is_loss)
    }
    return all(
        doubled.shapes.get(name) == ((2 * shape[0], *shape[1:]) if shape and name in free else shape)
        for name, shape in found.shapes.items()
        if name not in aside
    )
