"""ONNX files as the source of a Network: loading them, making the graph for other shapes, writing the weights back."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from os import PathLike

import numpy as np
from onnx import TensorProto

from caffeinit.errors import CaffeinitError, FormatError, WeightsError
from caffeinit.graph import Graph, Shape
from caffeinit.graph.hidden import find_hidden
from caffeinit.graph.netnumbers import NetNumber
from caffeinit.graph.nodes import INSIDE, operator_of
from caffeinit.graph.rules import find_rule
from caffeinit.graph.units import Learned
from caffeinit.images import Preprocessing
from caffeinit.model.network import Network, Params
from caffeinit.onnxfile.batch import declares_batch, free_batch
from caffeinit.onnxfile.bodies import laid_open
from caffeinit.onnxfile.build import Built, build_graph
from caffeinit.onnxfile.container import Container, open_onnx
from caffeinit.onnxfile.endings import endings_apart
from caffeinit.onnxfile.gains import gains_after
from caffeinit.onnxfile.held import find_held, held_for, held_inside
from caffeinit.onnxfile.lastly import factors_last
from caffeinit.onnxfile.learning import (
    find_learned,
    idle_units,
    is_constant,
    is_parameter,
    not_units,
    work_out,
)
from caffeinit.onnxfile.lrn import PARTS, changed_alphas, taken_apart
from caffeinit.onnxfile.numbers import one_channel
from caffeinit.onnxfile.plain import Plain, read_plain
from caffeinit.onnxfile.plainly import spelt_plainly
from caffeinit.onnxfile.shapes import declared_shape, input_shapes, is_channels_last
from caffeinit.onnxfile.spelt import find_spelt
from caffeinit.onnxfile.verdicts import find_softmax

Path = str | PathLike[str]

_ONE_SIZE = (
    "Another --input-shape than it was made for may not do: sizes spelt out inside go with one size of inputs only"
)


@dataclass
class OnnxSource:
    """An ONNX file, and the model made ready for computing.

    Attributes:
        computed: weights of units that are worked out in the graph -> checksum.
        handed: value that leaves the net to an operator that cannot run -> that node's label.
        numbers: output of an LRN node -> its alpha, once it may change.
    """

    file: Container
    plain: Plain
    computed: dict[str, int]
    handed: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, NetNumber] = field(default_factory=dict)

    def lower(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for other input shapes.

        Raises:
            CaffeinitError: its nodes do not go together then.
        """
        graph = _make_ready(self.plain, shapes).graph
        return taken_apart(graph, self.numbers, self.numbers) if self.numbers else graph

    def preprocessing(self) -> dict[str, Preprocessing]:
        """Return input -> the layout of its pictures; an ONNX file tells nothing else of them."""
        last = [v.name for v in self.plain.inputs if is_channels_last(v)]
        return {name: Preprocessing(channels_last=True) for name in last}

    def open_numbers(self, graph: Graph) -> Graph:
        """Return the graph with the alpha of LRN nodes as arrays; those of functions, and in subgraphs, stay."""
        return taken_apart(graph, self.file.alphas, self.numbers)

    def place(self, value: str, leaves: bool) -> str:
        """Return the node that a value was made by in the file where our graph has another, or goes to; see `Network`."""
        if leaves:
            return f"{self.handed[value]}, which cannot run" if value in self.handed else ""
        for top, number in self.numbers.items():
            if value == top or value.startswith(f"{number.layer}{PARTS}"):
                return f"LRN {number.layer}"
        return ""

    def parameters(self, layer: str) -> str:
        """Return nothing: a model has nodes, whose attributes are in the graph."""
        return ""

    def round_as_stored(self, params: Params) -> bool:
        """Round changed numbers in place to the type in which the model stores them; see `Source`."""
        tensors = self.file.tensors
        return sum(tensors[n].round_as_stored(arrays[0]) for n, arrays in params.items() if n in tensors) > 0

    def check_writable(self) -> None:
        """Refuse nothing: a model holds its weights."""

    def write(self, path: Path, params: Params, force: bool, net_path: Path | None = None) -> None:
        """Write the model with these numbers, and its data files beside it.

        Raises:
            FormatError: a net is asked for beside the model.
            WeightsError: a number cannot be written, or is not stored in the file. OutputError: the target cannot.
        """
        if net_path is not None:
            raise FormatError(
                f"{net_path}: an ONNX model has its net within itself; there is none to be written beside it"
            )
        for name, known in self.computed.items():
            if _checksum(params[name][0]) != known:
                raise WeightsError(f"{self.file.path}: {name} is computed in the graph; its numbers cannot be changed")
        arrays = {name: arrays[0] for name, arrays in params.items() if name in self.file.tensors}
        self.file.write(path, arrays, force, changed_alphas(self.numbers))


def load_onnx(path: Path, given: Mapping[str, Shape] | None = None, *, strict: bool = False) -> Network:
    """Load an ONNX model as a Network; see `caffeinit.load`."""
    file = open_onnx(path)
    plain = read_plain(file)
    shapes = input_shapes(plain.inputs, given or {}, str(path))
    try:
        ready = _make_ready(plain, shapes)
    except CaffeinitError as error:
        as_declared = all(shapes[v.name][1:] == declared_shape(v)[1:] for v in plain.inputs if v.name in (given or ()))
        if as_declared:
            raise
        raise CaffeinitError(f"{error}.\n{_ONE_SIZE}") from None
    graph, built, computed = ready.graph, ready.built, ready.computed
    if strict and built.skipped:
        lines = "\n".join(f"  {s.name}: {s.reason}" for s in built.skipped)
        raise CaffeinitError(f"{path}: these nodes cannot run:\n{lines}\nWithout --strict, the rest is done.")
    constants = {n for n in file.tensors if plain.is_ours and is_constant(n)}
    changeable = {n for n, t in file.tensors.items() if t.is_real} - constants
    named = {n for n in changeable if plain.is_ours and is_parameter(n)}
    held = {n: why for n, why in (ready.parts | find_held(file, built.plain)).items() if n not in constants}
    learned = find_learned(graph, changeable, held, computed, named, plain.remarks.frozen)
    weights = {of.layer: _checksum(graph.initializers[n]) for n, of in computed.items() if n in learned}
    source = OnnxSource(file, plain, weights, built.handed)
    network = Network(
        graph=graph,
        params={of.layer: (graph.initializers[name],) for name, of in learned.items()},
        learned=learned,
        source=source,
        place=source.place,
        blobs=[*graph.inputs, *_blobs(graph)],
        skipped=built.skipped,
        replaced=built.replaced,
        still=built.still,
    )
    network.skipped += [*not_units(graph, network.units), *idle_units(built.idle)]
    network.notes += [*built.plain.notes, *built.replaced.values(), *_notes(graph, declares_batch(plain.inputs))]
    return network


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


@dataclass
class _Ready:
    """A graph that was made ready, and what was found at that.

    Attributes:
        computed: array -> the weight that it stands for, which the file computes.
        parts: array -> why it stays: something else is made of it.
    """

    graph: Graph
    built: Built
    computed: dict[str, Learned]
    parts: dict[str, str]


def _make_ready(plain: Plain, shapes: Mapping[str, Shape]) -> _Ready:
    """Return the graph at these input shapes."""
    built = build_graph(laid_open(plain, shapes), shapes)
    built.graph.verdicts.update(plain.remarks.verdicts_in(built.graph))
    spelt = spelt_plainly(built.graph)
    is_open = declares_batch(plain.inputs)
    # A net that `convert` could not free of its batch keeps it, so that it is fed as the Caffe net is.
    free = free_batch(spelt, is_open, plain.where) if is_open or not plain.is_ours else spelt
    before = one_channel(endings_apart(factors_last(free)))
    graph, without_gain, gains = gains_after(before)
    if plain.is_ours:
        graph.recurrent |= find_hidden(graph)
    graph, computed = work_out(graph)
    computed |= without_gain
    graph.nearly_homogeneous.update(find_spelt(graph))
    graph.verdicts.update(find_softmax(graph))
    parts = held_inside(graph) | held_for(spelt, free, before, computed, gains)
    return _Ready(graph, built, computed, parts)


def _blobs(graph: Graph) -> list[str]:
    """Return the values of the file, of real numbers, that depend on inputs."""
    moving = graph.moving_values()
    made = [o for node in graph.nodes for o in node.output if o in moving and INSIDE not in o]
    return [o for o in made if graph.elem_type(o) == TensorProto.FLOAT]


def _notes(graph: Graph, is_open: bool) -> list[str]:
    """Return what operators no scale passes, and what batch pictures are fed in where not any will do.

    Args:
        is_open: the file leaves the batch open.
    """
    notes = []
    moving = graph.moving_values()
    unknown = [n for n in graph.nodes if find_rule(n) is None and any(o in moving for o in n.output)]
    if unknown:
        listed = ", ".join(dict.fromkeys(map(operator_of, unknown)))
        notes.append(f"no scale passes these operators, which caffeinit has no rule for: {listed}")
    if not graph.batch_axis_free:
        sizes = ", ".join(f"{n} {s}" for n, s in graph.inputs.items())
        known = f"the model takes no other batch than that of {sizes}"
        if is_open:
            known = f"whether pictures stay apart at another batch than that of {sizes} cannot be told"
        notes.append(f"{known}; pictures are fed so")
        if is_open and graph.batch_size() == 1:
            others = " ".join(f"--input-shape {n}={','.join(map(str, (16, *s[1:])))}" for n, s in graph.inputs.items())
            notes[-1] += f". In batches of 16: {others}"
    return notes
