"""Network: one executable ONNX graph, its learned arrays and units, and the source that they came from."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any, Protocol

import numpy as np

from caffeinit.arguments import check_mapping
from caffeinit.arithmetic.factors import is_zero
from caffeinit.engine.session import Session, Settings, compile_graph
from caffeinit.errors import CaffeinitError
from caffeinit.gradients.backward import Backward
from caffeinit.graph import Graph, Shape
from caffeinit.graph.blobs import check_blobs, fits, reachable
from caffeinit.graph.nounits import without_unit
from caffeinit.graph.readings import other_readings
from caffeinit.graph.units import Learned, Unit, find_units
from caffeinit.patterns import first_of, one_or_more

BEHIND = "depends on layer "  # how the reason of a layer begins that is left alone because another one is
Params = Mapping[str, tuple[np.ndarray, ...]]
Place = Callable[[str, bool], str]


def nowhere(value: str, leaves: bool) -> str:
    """Return no name: the source has none that is better than the operator's or the value's."""
    return ""


@dataclass(frozen=True)
class Skipped:
    """Something that was left alone, and why."""

    name: str
    reason: str

    @property
    def is_behind(self) -> bool:
        """Whether it is left alone only because another layer is."""
        return self.reason.startswith(BEHIND)


def cause_lines(skipped: Sequence[Skipped]) -> list[str]:
    """Return the causes of what was left alone, a line for each reason, and what is behind them in another."""
    causes = [s for s in skipped if not s.is_behind]
    behind = [s.name for s in skipped if s.is_behind]
    names: dict[str, list[str]] = {}
    for cause in causes:
        names.setdefault(cause.reason, []).append(cause.name)
    lines = [f"{', '.join(of)}: {reason}" for reason, of in names.items()]
    if behind:
        layers = f"{len(behind)} layer{'' if len(behind) == 1 else 's'}"
        which = "it" if len(causes) == 1 else "these"
        lines.append(f"and {layers} behind {which}: {first_of(behind)}")
    return lines


def listed(skipped: Sequence[Skipped]) -> str:
    """Return the causes of what was left alone, to go behind a message."""
    return "".join(f"\n  {line}" for line in cause_lines(skipped))


class Source(Protocol):
    """The files behind a network: they can be lowered again for other input shapes, and written back."""

    def lower(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for other input shapes, over the same arrays."""

    def preprocessing(self) -> Mapping[str, Any]:
        """Return input -> `images.Preprocessing`, as far as the files tell it."""

    def parameters(self, layer: str) -> str:
        """Return what the net's text states for a layer, in one line; empty where it states nothing, or has no layers."""

    def round_as_stored(self, params: Params) -> bool:
        """Round changed numbers in place to what `write` will store; return whether any became another one.

        Files in single and double precision hold every number as it is.

        Raises:
            WeightsError: a number is not finite, or too large for the type in which the file stores it.
        """

    def check_writable(self) -> None:
        """Refuse what could be written, but not read again.

        Raises:
            WeightsError: the net does not tell its layers apart as files of weights do.
        """

    def write(
        self, path: str | PathLike[str], params: Params, force: bool, net_path: str | PathLike[str] | None = None
    ) -> None:
        """Write the weights file with these numbers; everything else as in the source.

        Args:
            net_path: where the net goes, with the graph's `net_numbers` as they are now; both are written or neither. A
                source whose net is part of the weights file has no use for it, and writes them there.
        """

    def open_numbers(self, graph: Graph) -> Graph:
        """Return a graph whose `net_numbers` may change and will be written, by this source's `lower` or this graph.

        Raises:
            FormatError: there is no text that could be rewritten.
        """


BARE = "the net has no weights: load it with a weights file that has its layers, or draw them with init"


@dataclass(frozen=True)
class Gradients:
    """What `Network.backward` returns.

    Attributes:
        params: layer -> gradients of its arrays, shaped like `Network.params`; layers that share an array share the sum.
        inputs: input blob -> its gradient.
    """

    params: Params
    inputs: dict[str, np.ndarray]


@dataclass(repr=False)
class Network:
    """A net that can be run, measured, changed and saved.

    Attributes:
        graph: lowered at `inputs`' shapes.
        params: layer -> its arrays, float32, in the file's own layout and shape; assign into them with [...].
        learned: initializer of `graph` -> which array of which layer it is.
        source: the files.
        blobs: the blobs that can be computed, inputs included, in the order in which they are made.
        skipped: layers that cannot run, with reasons.
        missing: arrays (layer, index) that the weights file did not hold; they are zero until they are drawn.
        unreached: arrays of layers that cannot run, so that nothing in `graph` reads them.
        replaced: outputs of the file that are no numbers -> what stands for them among the graph's, in words.
        still: computes the outputs of the file that no input influences, over the same arrays; None where there are none.
        makers: value -> (name, type) of the layer that makes it, where the source has layers.
        place: returns what a reader knows the maker of a value by, or, for one that leaves the net, what it goes to; empty
            where there is no better name than the operator's or the value's.
        taken: input -> its shape and where that was taken from, in words, where the source does not state it.
        settings: threads and device.
    """

    graph: Graph
    params: Params
    learned: dict[str, Learned]
    source: Source
    blobs: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    missing: list[tuple[str, int]] = field(default_factory=list)
    unreached: list[Learned] = field(default_factory=list)
    replaced: dict[str, str] = field(default_factory=dict)
    still: Graph | None = None
    makers: dict[str, tuple[str, str]] = field(default_factory=dict)
    place: Place = nowhere
    notes: list[str] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    _sessions: dict[tuple[int, tuple[str, ...], Settings], tuple[Graph, int, Session]] = field(default_factory=dict)
    _relowered: tuple[dict[str, Shape], Graph] | None = field(default=None)
    _backward: Backward | None = field(default=None)

    def __repr__(self) -> str:
        """Return what the net takes and gives and how large it is; its arrays would fill the screen."""
        num_params = sum(a.size for arrays in self.params.values() for a in arrays)
        skipped = f", {len(self.skipped)} layers that cannot run" if self.skipped else ""
        return (
            f"<Network {self.inputs} -> {self.outputs}, {num_params:,} parameters in {len(self.units)} units{skipped}>"
        )

    @property
    def inputs(self) -> dict[str, Shape]:
        """Input blob -> shape."""
        return dict(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the blobs that nothing uses."""
        return list(self.graph.outputs)

    @property
    def unset(self) -> list[str]:
        """Layers with arrays that the weights file did not hold, and that are zero still."""
        filled = {layer for layer, index in self.missing if not is_zero(self.params[layer][index])}
        return list(dict.fromkeys(layer for layer, _ in self.missing if layer not in filled))

    @property
    def is_bare(self) -> bool:
        """Whether no array of the net has been set yet, as without a weights file."""
        given = {(layer, index) for layer, arrays in self.params.items() for index in range(len(arrays))}
        return bool(given) and given.issubset(self.missing) and {layer for layer, _ in given}.issubset(self.unset)

    @cached_property
    def other_readings(self) -> dict[str, list[str]]:
        """Initializer of a unit -> the values that are made of it otherwise than by its units."""
        return other_readings(self.graph, self.units)

    @cached_property
    def lenders(self) -> dict[str, str]:
        """Layer that is no unit of its own, since its arrays are all those of one earlier layer -> that layer."""
        own = {unit.layer for unit in self.units}
        first: dict[int, str] = {}
        found = {}
        for layer, arrays in self.params.items():
            owners = {first.setdefault(array.ctypes.data, layer) for array in arrays if array.size}
            if len(owners) == 1 and not {layer} & {*own, *owners}:
                (found[layer],) = owners
        return found

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in graph order, with writable views of their arrays."""
        return find_units(self.graph, self.learned, {value: name for value, (name, _) in self.makers.items()})

    @cached_property
    def unit_arrays(self) -> set[str]:
        """The initializers of all units: those learned arrays that any file of the net tells."""
        return {name for unit in self.units for name in unit.initializers}

    @cached_property
    def apart(self) -> list[Skipped]:
        """Layers of Caffe nets that run and have learned numbers, but are no units: their scales are left alone."""
        return [Skipped(*found) for found in without_unit(self.units, self.learned).items()] if self.makers else []

    def forward(self, inputs: Mapping[str, np.ndarray], blobs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the net.

        Args:
            inputs: input blob -> array. Another batch or picture size than the net's is fine where the net allows it.
            blobs: what to return; by default every blob that the given inputs determine.
        Returns:
            blob -> float32 array (Caffe's final value where layers work in place; of an input that they change, the name
            stands for what was given, and "blob@layer" for the final value).
        Raises:
            CaffeinitError: an input is missing or does not fit, or there is no such blob.
        """
        feeds = self._feeds(inputs)
        graph = self._graph_for({n: a.shape for n, a in feeds.items()})
        known = reachable(graph, feeds)
        wanted = one_or_more(blobs) if blobs is not None else [b for b in self.blobs if b in known]
        check_blobs(graph, wanted, known)
        computed = [n for n in wanted if n not in feeds]
        results = self._session(graph, computed, self.settings).run(feeds) if computed else {}
        return {n: feeds[n] if n in feeds else results[n] for n in wanted}

    def backward(
        self,
        inputs: Mapping[str, np.ndarray],
        top_diffs: Mapping[str, np.ndarray],
        blobs: Sequence[str] | None = None,
    ) -> Gradients:
        """Run the net forward and backward.

        Stored statistics (BatchNorm) get no gradient, as in Caffe; what no top depends on gets zeros.

        Args:
            inputs: input blob -> array, as for `forward`.
            top_diffs: blob -> gradient of the objective with respect to it, shaped like it; 1 for a loss.
            blobs: inputs whose gradients are wanted; by default all that are given. Without them it is faster.
        Raises:
            CaffeinitError: an input or top diff does not fit, or an operator on the way has no gradient.
        """
        feeds = self._feeds(inputs)
        check_mapping("top_diffs", top_diffs, "blob -> gradient")
        graph = self._graph_for({n: a.shape for n, a in feeds.items()})
        check_blobs(graph, top_diffs, reachable(graph, feeds))
        wanted = list(feeds) if blobs is None else one_or_more(blobs)
        for name in wanted:
            if name not in feeds:
                raise CaffeinitError(f'input "{name}" was not given, so that it has no gradient')
        made = self._differentiated(graph, tuple(top_diffs), wanted)
        for top, diff in top_diffs.items():
            array = np.asarray(diff, np.float32, order="C")
            shape = array.shape
            if not fits(graph, top, shape, feeds):  # or the data choose its rows
                shape = self._session(graph, [top], self.settings).run(feeds)[top].shape
            if array.shape != shape:
                raise CaffeinitError(f'the top diff of "{top}" is {array.shape}, but the blob is {shape}')
            feeds[made.diffs[top]] = array
        found = made.run(feeds, self.settings, self._session)
        # By place in memory: layers may share an array in different shapes.
        arrays = {graph.initializers[v].ctypes.data: g for v, g in found.items() if v in graph.initializers}
        params = {
            layer: tuple(_shaped(arrays.get(a.ctypes.data), a) for a in own) for layer, own in self.params.items()
        }
        return Gradients(params, {name: found[name] for name in wanted})

    def _differentiated(self, forward: Graph, tops: Sequence[str], inputs: Sequence[str]) -> Backward:
        """Return what computes the gradients of all learned arrays and of these inputs."""
        statistics = ("mean", "variance", "factor")
        arrays = [n for n, of in self.learned.items() if of.role not in statistics and n in forward.initializers]
        known = self._backward
        if (
            known
            and known.forward is forward
            and list(known.diffs) == list(tops)
            and known.wanted == [*arrays, *inputs]
        ):
            return known
        self._backward = Backward(forward, tops, arrays, inputs)
        return self._backward

    def save(self, path: str | PathLike[str], force: bool = False, net_path: str | PathLike[str] | None = None) -> None:
        """Write the weights: everything but the changed numbers as in the source file.

        Args:
            net_path: where to write the net as well, if it was rewritten; both files are written or neither.
        Raises:
            OutputError: a file exists and `force` is not set, or cannot be written; or the net was rewritten, and
                `net_path` is not given.
            WeightsError: a number is not finite, or could not be read again.
        """
        self.source.write(path, self.params, force, net_path)

    def round_as_stored(self) -> bool:
        """Round changed weights to what `save` will store; see `Source.round_as_stored`."""
        return self.source.round_as_stored(self.params)

    def open_numbers(self) -> None:
        """Let numbers of the net itself (alpha of LRN) change; see `Source.open_numbers`."""
        self.graph = self.source.open_numbers(self.graph)
        self._sessions.clear()
        self._relowered = self._backward = None

    def _feeds(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return inputs as float32 arrays that fit."""
        check_mapping("inputs", inputs, "input -> array")
        feeds = {name: np.asarray(a, np.float32, order="C") for name, a in inputs.items()}
        for name, array in feeds.items():
            if name not in self.graph.inputs:
                raise CaffeinitError(
                    f'there is no input "{name}"; the net has {", ".join(self.graph.inputs) or "none"}'
                )
            if array.ndim != len(self.graph.inputs[name]):
                raise CaffeinitError(f'input "{name}" is {array.shape}, the net wants {self.graph.inputs[name]}')
        return feeds

    def _graph_for(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return a graph that takes these input shapes."""
        wanted = {**self.graph.inputs, **shapes}
        if self.graph.batch_axis_free:
            sizes = {s[0] for s in shapes.values()}
            batch = sizes.pop() if len(sizes) == 1 else None
            if all(batch == s[0] and s[1:] == self.graph.inputs[n][1:] for n, s in shapes.items()):
                return self.graph
            wanted = {n: s if n in shapes else (batch or s[0], *s[1:]) for n, s in wanted.items()}
        if wanted == self.graph.inputs:
            return self.graph
        if self._relowered is None or self._relowered[0] != wanted:
            self._relowered = (wanted, self.source.lower(wanted))
        return self._relowered[1]

    def _session(self, graph: Graph, outputs: Sequence[str], settings: Settings) -> Session:
        """Return a compiled session whose built-in weights are those of now."""
        key = (id(graph), tuple(outputs), settings)
        known = self._sessions.get(key)
        if known is None or known[1] != digest(known[2].embedded):
            session = compile_graph(graph, outputs, settings)
            # The graph is held as well: another one must not get its id.
            self._sessions = {key: (graph, digest(session.embedded), session)}
        return self._sessions[key][2]


def _shaped(gradient: np.ndarray | None, array: np.ndarray) -> np.ndarray:
    """Return an array's gradient in its shape; zeros where there is none."""
    if gradient is None:
        return np.zeros_like(array)
    return gradient if gradient.shape == array.shape else gradient.reshape(array.shape)


def digest(arrays: Mapping[str, np.ndarray]) -> int:
    """Return a number that tells whether arrays have changed."""
    found = 0
    for array in arrays.values():
        found = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, found)
    return found
