"""Caffe files as the source of a Network: loading them, lowering again for other shapes, writing the weights back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike

import numpy as np
from google.protobuf import text_format

from caffeinit.caffe.layers import find_type
from caffeinit.caffe.lower import Inference, infer_net, lower_net
from caffeinit.caffe.match import Matched, mismatch_error
from caffeinit.caffe.net import Net, read_net
from caffeinit.caffe.opened import open_net
from caffeinit.caffe.textedit import with_numbers
from caffeinit.caffe.upgrade import field_in_text
from caffeinit.caffe.weights import WeightsFile, open_weights, write_new
from caffeinit.errors import CaffeinitError, FormatError, LayerError, OptionError, OutputError, WeightsError
from caffeinit.graph import Graph, Shape
from caffeinit.graph.layouts import is_channels_last
from caffeinit.graph.netnumbers import shortest
from caffeinit.images import Preprocessing, preprocessing_of_net
from caffeinit.images.extents import Teller
from caffeinit.model.network import Network, Params, Place, Skipped
from caffeinit.patterns import first_of
from caffeinit.storage.files import replacing_all

Path = str | PathLike[str]
_MOST_NAMES = 8  # of layers that are listed


@dataclass
class CaffeSource:
    """A net, its weights file if there is one, and how they fit."""

    net: Net
    file: WeightsFile | None
    found: Inference
    matched: Matched

    def lower(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for other input shapes.

        Raises:
            LayerError: the net's parameters do not allow them.
        """
        again = infer_net(self.net, shapes)
        for layer, params in self.found.params.items():
            other = again.params.get(layer)
            if other is None:
                raise LayerError(f'layer "{layer}" cannot run with inputs {dict(shapes)}: {again.blocked[layer]}')
            if [p.shape for p in other] != [p.shape for p in params]:
                raise LayerError(
                    f'layer "{layer}": its weights are {params[0].shape}; '
                    f"inputs {dict(shapes)} would need {other[0].shape}"
                )
        return lower_net(again, self.matched.arrays).graph

    def preprocessing(self) -> dict[str, Preprocessing]:
        """Return input -> how the net's own data layers prepare pictures.

        An input whose last axis has the channels, and that the net first turns by a Permute, takes channels last: nets that
        are converted from TensorFlow begin so.
        """
        told = preprocessing_of_net(self.net.layers, self.net.path.parent)
        last = [name for name, shape in self.found.inputs.items() if is_channels_last(shape) and self._is_turned(name)]
        return told | {name: replace(told[name], channels_last=True) for name in last}

    def parameters(self, layer: str) -> str:
        """Return the parameters of a layer's type, in today's form, such as lrn_param { k: 0 }; see `Source`."""
        message = next(entry for entry in self.net.layers if entry.name == layer)
        stated = [(of.name, value) for of, value in message.ListFields() if of.name.endswith("_param")]
        parts = [f"{name} {{ {text_format.MessageToString(value, as_one_line=True)} }}" for name, value in stated]
        return " ".join(parts)

    def _is_turned(self, blob: str) -> bool:
        """Return whether all that reads a blob brings its last axis to the second place."""
        readers = [e.layer for e in self.net.named_layers if blob in e.bottoms and e.layer.name in self.found.params]
        kinds = [(layer, find_type(layer.type)) for layer in readers]
        return bool(kinds) and all(kind is not None and kind.puts_channels_first(layer) for layer, kind in kinds)

    def net_text(self) -> bytes:
        """Return the net's text with the numbers that have been rewritten.

        Raises:
            FormatError: the net is no text, or is part of a solver file.
        """
        net = self.net
        if not net.raw:
            raise FormatError(f"{net.path}: holds no net as text; what is to be rewritten has to be one")
        types = {entry.name: entry.type for entry in net.layers}
        changed = [n for n in net.numbers.values() if n.is_changed]
        found = {
            (net.places[n.layer], field_in_text(net.generation, types[n.layer], n.field)): shortest(n.now)
            for n in changed
        }
        return with_numbers(net.raw, str(net.path), found)

    def open_numbers(self, graph: Graph) -> Graph:
        """Return the graph as it is; refuse a net whose text could not be written."""
        self.net_text()
        return graph

    def round_as_stored(self, params: Params) -> bool:
        """Round changed numbers in place to the type in which the file stores them; see `Source`.

        Of a shared parameter the last copy in the file counts, as when it was read.
        """
        owners = self.found.owners
        counting = {owners.get(key, key): at for key, at in self.matched.stored.items()}
        blobs = [(params[n][i], self.file.layers[at[0]][at[1]]) for (n, i), at in counting.items() if self.file]
        return sum(blob.round_as_stored(array) for array, blob in blobs if blob) > 0

    def check_writable(self) -> None:
        """Refuse layers with weights of their own, but without names of their own; see `Source`."""
        for layer, params in self.found.params.items():
            given = self.net.file_names.get(layer)
            keys = [(layer, index) for index in range(len(params))]
            if given is None or all(self.found.owners.get(key, key) != key for key in keys):
                continue
            entry = next(entry for entry in self.net.layers if entry.name == layer)
            makes = ", ".join(entry.top)
            known = f'is named "{given}", as another layer is' if given else "has no name"
            raise WeightsError(
                f"{self.net.path}: the {entry.type} layer that makes {makes} {known}: files of weights tell layers by "
                "their names, and its numbers could not be read again. Give it a name of its own in the net"
            )

    def write(self, path: Path, params: Params, force: bool, net_path: Path | None = None) -> None:
        """Write the weights in the form they came in; without a source file, a new one. With `net_path`, the net, too."""
        self.check_writable()
        if net_path is not None:
            text = self.net_text()
            with replacing_all([path, net_path], force) as (weights, net):
                net.write_bytes(text)
                self._write_weights(weights, params, True, named=path)
            return
        if any(n.is_changed for n in self.net.numbers.values()):
            raise OutputError(f"{path}: the weights need the net that was rewritten with them: give it a name, too")
        self._write_weights(path, params, force, named=path)

    def _write_weights(self, path: Path, params: Params, force: bool, named: Path) -> None:
        """Write the weights; the ending of `named` tells the form of a new file."""
        if self.file is None:
            types = {entry.name: entry.type for entry in self.net.layers}
            write_new(path, {n: (types[n], a) for n, a in params.items() if a}, self.net.name, force, named)
            return
        arrays = {at: params[layer][index] for (layer, index), at in self.matched.stored.items()}
        self.file.write(path, arrays, self._added(params), force)

    def _added(self, params: Params) -> dict[str, tuple[str, Sequence[np.ndarray]]]:
        """Return the layers that the file lacks and that have been given numbers.

        A layer that only shares others' parameters is not lacking: Caffe leaves it out of HDF5 files.
        """
        held = {*self.matched.stored, *(key for key, owner in self.found.owners.items() if owner != key)}
        types = {entry.name: entry.type for entry in self.net.layers}
        return {
            layer: (types[layer], arrays)
            for layer, arrays in params.items()
            if any((layer, i) not in held for i in range(len(arrays))) and any(a.any() for a in arrays)
        }


def load_caffe(
    net_path: Path,
    weights_path: Path | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    strict: bool = False,
    tell: Teller | None = None,
) -> Network:
    """Load a Caffe net as a Network; see `caffeinit.load`."""
    if phase not in ("TRAIN", "TEST"):
        raise OptionError(f'phase "{phase}": has to be TRAIN or TEST')
    net = read_net(net_path, phase, level, stages)
    _check_inputs(net, input_shapes or {})
    file = open_weights(weights_path) if weights_path is not None else None
    opened = open_net(net, file, input_shapes or {}, tell)
    found, matched = opened.found, opened.matched
    if matched.mismatches:
        raise mismatch_error(matched, net_path, weights_path)
    lowered = lower_net(found, matched.arrays)
    if strict and found.blocked:
        raise CaffeinitError(_blocked_message(found, net_path))
    graph = lowered.graph
    blobs = _computed_blobs(net, graph)
    graph.outputs, graph.held = net_outputs(found, graph), read_elsewhere(net, graph)
    return Network(
        graph=graph,
        params={n: tuple(a) for n, a in matched.arrays.items() if a},
        learned=lowered.learned,
        source=CaffeSource(net, file, found, matched),
        blobs=blobs,
        skipped=[Skipped(layer, reason) for layer, reason in found.blocked.items()],
        missing=matched.missing,
        unreached=lowered.unreached,
        place=places(found),
        makers={top: (entry.layer.name, entry.layer.type) for entry in net.named_layers for top in entry.tops},
        notes=[
            *net.notes,
            *(file.notes if file else []),
            *matched.notes,
            *_ignored(net, matched),
            *found.notes,
            *_sentences(opened.taken),
        ],
        taken=opened.taken,
    )


def _computed_blobs(net: Net, graph: Graph) -> list[str]:
    """Return the inputs and the last versions of all blobs that the graph computes, in the order in which they are made."""
    computed = {o for node in graph.nodes for o in node.output} | set(graph.inputs)
    last = {blob: v for entry in net.named_layers for blob, v in zip(entry.layer.top, entry.tops, strict=True)}
    shown = {*graph.inputs, *last.values()} & computed
    return list(dict.fromkeys(v for entry in net.named_layers for v in entry.tops if v in shown))


def places(found: Inference) -> Place:
    """Return what tells the layer that a value is made by or inside of, or, of one that leaves the net, goes to.

    Only layers that cannot run take values out of the net in a way of their own.
    """
    entries = found.net.named_layers
    makers = {top: entry.layer for entry in entries for top in entry.tops}
    layers = {entry.layer.name: entry.layer for entry in entries}
    unknown = {b: entry.layer for entry in entries if entry.layer.name in found.blocked for b in entry.bottoms}

    def place(value: str, leaves: bool) -> str:
        if leaves:
            reader = unknown.get(value)
            return f'layer "{reader.name}" ({reader.type}), which cannot run' if reader else ""
        layer = makers.get(value) or layers.get(value.rpartition("/")[0])
        return f'layer "{layer.name}" ({layer.type})' if layer else ""

    return place


def net_outputs(found: Inference, graph: Graph) -> list[str]:
    """Return what leaves the graph: blobs that no layer reads, and all values that leave it through a layer.

    Those are the bottoms of losses without a top, as old nets end, and of layers that cannot run: what such a layer does
    with them is not known, so they must be kept as outputs are.
    """
    read: set[str] = set()
    handed_over: set[str] = set()
    for entry in found.net.named_layers:
        described = find_type(entry.layer.type)
        ends_net = described is not None and described.is_loss and not entry.tops
        (handed_over if ends_net or entry.layer.name in found.blocked else read).update(entry.bottoms)
    ends = {b for b in _computed_blobs(found.net, graph) if b not in read}
    made = dict.fromkeys(v for entry in found.net.named_layers for v in entry.tops if graph.producer(v) is not None)
    return [v for v in made if v in ends or v in handed_over]


def read_elsewhere(net: Net, graph: Graph) -> dict[str, str]:
    """Return the values that layers of another phase or stage read, or make in another way -> why their scales must stay.

    Weights of such layers are not in this graph, so that nothing could make up for the scale of what they read.
    """
    values: dict[str, list[str]] = {}
    for entry in net.named_layers:
        for blob, value in zip(entry.layer.top, entry.tops, strict=True):
            values.setdefault(blob, []).append(value)
    found: dict[str, str] = {}
    for layer in net.left_out:
        passes_on = layer.type == "Dropout" and list(layer.bottom) == list(layer.top)
        if not layer.bottom or passes_on or layer.type == "Silence":
            continue
        for value in (v for blob in (*layer.bottom, *layer.top) for v in values.get(blob, [])):
            if graph.producer(value) is not None:
                found.setdefault(value, f'layer "{layer.name}" of another phase or stage')
    return found


def _ignored(net: Net, matched: Matched) -> list[str]:
    """Return a sentence about layers that only the weights file has: heads for training, or layers by another name."""
    known = {entry.layer.name for entry in net.named_layers} | {layer.name for layer in net.left_out}
    names = [name for name in matched.unused if name not in known]
    if not names:
        return []
    listed = first_of(names, _MOST_NAMES)
    return [
        f"the weights file holds layers that the net does not have: {listed}. Their numbers stay as they are: a net "
        "that runs them on what is changed here becomes another function"
    ]


def _sentences(taken: Mapping[str, str]) -> list[str]:
    return [f'input "{name}": {words}' for name, words in taken.items()]


def _check_inputs(net: Net, given: Mapping[str, Shape]) -> None:
    tops = {top for entry in net.named_layers for top in entry.tops if not entry.bottoms}
    for name, shape in given.items():
        if name not in tops:
            raise OptionError(
                f'{net.path}: there is no input "{name}" to give a shape to; inputs: {", ".join(sorted(tops))}'
            )
        if any(extent < 1 for extent in shape):
            raise OptionError(f'the shape {shape} for input "{name}": has to be of numbers from 1')


def _blocked_message(found: Inference, path: Path) -> str:
    kinds = {entry.name: entry.type for entry in found.net.layers}
    lines = "\n".join(f'  layer "{n}" ({kinds[n]}): {reason}' for n, reason in found.blocked.items())
    return f"{path}: these layers cannot run:\n{lines}\nWithout --strict, what does not depend on them is still done."
