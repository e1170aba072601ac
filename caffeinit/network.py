"""Network: one executable ONNX graph, its learned arrays and units, and the source that they came from."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from typing import Any, Protocol

import numpy as np

from caffeinit.engine.session import Session, Settings, compile_graph
from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph, Shape
from caffeinit.units import Learned, Unit, find_units

Params = Mapping[str, tuple[np.ndarray, ...]]


@dataclass(frozen=True)
class Skipped:
    """Something that was left alone, and why."""

    name: str
    reason: str


class Source(Protocol):
    """The files behind a network: they can be lowered again for other input shapes, and written back."""

    def lower(self, shapes: Mapping[str, Shape]) -> Graph:
        """Return the graph for other input shapes, over the same arrays."""

    def preprocessing(self) -> Mapping[str, Any]:
        """Return input -> `images.Preprocessing`, as far as the files tell it."""

    def write(self, path: str | PathLike[str], params: Params, force: bool) -> None:
        """Write the weights file with these numbers; everything else as in the source."""


@dataclass
class Network:
    """A net that can be run, measured, changed and saved.

    Attributes:
        graph: lowered at `inputs`' shapes.
        params: layer -> its arrays, float32, in the file's own layout and shape; assign into them with [...].
        learned: initializer of `graph` -> which array of which layer it is.
        source: the files.
        blobs: the blobs that can be computed, inputs included, in the order in which they are made.
        skipped: layers that cannot run, with reasons.
        missing: arrays (layer, index) that the weights file did not hold; they start at zero.
        settings: threads and device.
    """

    graph: Graph
    params: Params
    learned: dict[str, Learned]
    source: Source
    blobs: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    missing: list[tuple[str, int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    settings: Settings = field(default_factory=Settings)
    _sessions: dict[tuple[int, tuple[str, ...]], tuple[int, Session]] = field(default_factory=dict, repr=False)
    _relowered: tuple[dict[str, Shape], Graph] | None = field(default=None, repr=False)

    @property
    def inputs(self) -> dict[str, Shape]:
        """Input blob -> shape."""
        return dict(self.graph.inputs)

    @property
    def outputs(self) -> list[str]:
        """Names of the blobs that nothing uses."""
        return list(self.graph.outputs)

    @cached_property
    def units(self) -> list[Unit]:
        """All units, in graph order, with writable views of their arrays."""
        return find_units(self.graph, self.learned)

    def forward(self, inputs: Mapping[str, np.ndarray], blobs: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the net.

        Args:
            inputs: input blob -> array. Another batch or picture size than the net's is fine where the net allows it.
            blobs: what to return; by default every blob that the given inputs determine.
        Returns:
            blob -> float32 array (Caffe's final value where layers work in place).
        Raises:
            CaffeinitError: an input is missing or does not fit, or there is no such blob.
        """
        feeds = {name: np.asarray(a, np.float32, order="C") for name, a in inputs.items()}
        self._check_inputs(feeds)
        graph = self._graph_for({n: a.shape for n, a in feeds.items()})
        reachable = _reachable(graph, feeds)
        wanted = list(blobs) if blobs is not None else [b for b in self.blobs if b in reachable]
        for name in wanted:
            if name not in reachable:
                known = name in graph.inputs or graph.producer(name) is not None
                why = "depends on an input that was not given" if known else "is not there, or its layer cannot run"
                raise CaffeinitError(f'blob "{name}" {why}')
        computed = [n for n in wanted if n not in feeds]
        results = self._session(graph, computed).run(feeds) if computed else {}
        return {n: feeds[n] if n in feeds else results[n] for n in wanted}

    def save(self, path: str | PathLike[str], force: bool = False) -> None:
        """Write the weights: everything but the changed numbers as in the source file.

        Raises:
            OutputError: the file exists and `force` is not set, or cannot be written.
            WeightsError: a number is not finite.
        """
        self.source.write(path, self.params, force)

    def _check_inputs(self, feeds: Mapping[str, np.ndarray]) -> None:
        for name, array in feeds.items():
            if name not in self.graph.inputs:
                raise CaffeinitError(
                    f'there is no input "{name}"; the net has {", ".join(self.graph.inputs) or "none"}'
                )
            if array.ndim != len(self.graph.inputs[name]):
                raise CaffeinitError(f'input "{name}" is {array.shape}, the net wants {self.graph.inputs[name]}')

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

    def _session(self, graph: Graph, outputs: Sequence[str]) -> Session:
        """Return a compiled session whose built-in weights are those of now."""
        key = (id(graph), tuple(outputs))
        known = self._sessions.get(key)
        if known is None or known[0] != _digest(known[1].embedded):
            session = compile_graph(graph, outputs, self.settings)
            self._sessions = {key: (_digest(session.embedded), session)}
        return self._sessions[key][1]


def _digest(arrays: Mapping[str, np.ndarray]) -> int:
    digest = 0
    for array in arrays.values():
        digest = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, digest)
    return digest


def _reachable(graph: Graph, given: Iterable[str]) -> set[str]:
    """Return the values that the given inputs determine."""
    known = {*given, *graph.initializers, ""}
    for node in graph.nodes:
        if all(i in known for i in node.input):
            known.update(node.output)
    return known
