"""Runs a graph with gradients on a device, and has the squares of weights' gradients added up there.

Weights are sent there once for a measurement, and what comes back at its end is one number for each pair of channels, not a
weight's gradient for each picture. Where few rows go through a matrix product, these come back, as on a CPU.
Single precision holds squares of numbers between 1e-19 and 1e19 alone: a unit's gradients are multiplied by a power of two
where the largest of all pieces is far from 1, which is known after they have run, and they run once more for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.failures import explained
from caffeinit.engine.session import declare, start
from caffeinit.gradients.runs import GradientRun, Values
from caffeinit.gradients.sources import GradientSource, Way, gradient_squares
from caffeinit.gradients.squares import KeptSquares, Squares
from caffeinit.graph import Graph, Shape
from caffeinit.graph.products import PRODUCTS
from caffeinit.graph.sizes import resized
from caffeinit.graph.units import grouped_view

_LEAST, _MOST = 1e-6, 1e6  # of a unit's largest gradient: what is 1e-13 of it still counts


@dataclass
class _Sum:
    """Squares of a unit's gradient that are added up.

    Attributes:
        shape: of the sums: the gradient's, with extents of 1 in place of the kernel's.
        scale: a graph's input, the power of two; before, after: its input and output with the sums.
        largest: its output with the gradient's largest magnitude.
    """

    source: GradientSource
    shape: Shape
    scale: str
    before: str
    after: str
    largest: str

    @classmethod
    def added_to(cls, graph: Graph, source: GradientSource) -> _Sum:
        """Append what adds the squares of a piece's gradient to those of the pieces before."""
        shape = graph.shape(source.gradient)
        kernel = [] if source.use.node.op_type in PRODUCTS else list(range(2, len(shape)))
        shape = tuple(1 if axis in kernel else extent for axis, extent in enumerate(shape))
        scale = graph.add_input(graph.fresh("scale"), (1,), is_still=True)
        before = graph.add_input(graph.fresh("sums"), shape, is_still=True)
        flat = graph.op("Reshape", source.gradient, [-1])
        largest = graph.op("ReduceMax", graph.op("Abs", flat), keepdims=1)  # of one axis, in any opset
        scaled = graph.op("Mul", source.gradient, scale)
        squares = graph.op("Mul", scaled, scaled)
        if kernel:
            squares = graph.op("ReduceSum", squares, kernel, keepdims=1)
        return cls(source, shape, scale, before, graph.op("Add", before, squares), largest)

    def squares(self, sums: np.ndarray, scale: float) -> KeptSquares:
        """Return what was added up, of gradients that were multiplied by `scale`."""
        use = self.source.use
        found = grouped_view(use.node, sums.astype(np.float64), use.side)
        assert found is not None
        return KeptSquares(found.reshape(found.shape[:3]) / scale**2)


class ResidentGradients(GradientRun):
    """A graph all of whose weights are on a device at once; used like a `WholeRun`."""

    shared_bytes = 0

    def __init__(self, graph: Graph, *given: Any) -> None:
        """Compile; see `GradientRun`."""
        super().__init__(graph, *given)
        runs = graph.copy()
        self._sums = {k: _Sum.added_to(runs, s[0]) for k, s in self.sources.items() if _is_added(graph, s)}
        self._others = {key: of for key, of in self.sources.items() if key not in self._sums}
        self._fetched = list(dict.fromkeys(v for of in self._others.values() for s in of for v in s.values))
        self._fetched = [v for v in self._fetched if runs.producer(v) is not None]
        sums = self._sums.values()
        runs.outputs = [*self._fetched, *(s.after for s in sums), *(s.largest for s in sums)]
        self._weights = {n: runs.initializers[n] for n in self._changing if n in runs.initializers}
        self._session = start(declare(runs, self._weights), self._settings)
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._scales = dict.fromkeys(self._sums, 1.0)

    def steps(self, pictures: int) -> Iterator[tuple[Graph, int]]:
        """Yield what runs on a piece of so many pictures; see `WholeRun.steps`."""
        yield resized(self.graph, pictures), 0

    def squares(self, feeds: Sequence[Values]) -> dict[str, list[Squares]]:
        """Return squares of each unit's gradient that add up to those over all pieces; see `WholeRun.squares`."""
        device = self._settings.device
        with explained("set up"):
            weights = {n: DeviceArray.place(device, a) for n, a in self._weights.items() if n in self._inputs}
        with explained("run"):  # what is placed or fetched on the way may find no memory, too
            found, sums, largest = self._added(feeds, weights)
            if far := {key: top for key, top in largest.items() if self._is_far(key, top)}:
                self._scales |= {key: 2.0 ** -math.frexp(top)[1] for key, top in far.items()}
                found, sums, _ = self._added(feeds, weights)
            added = {key: [s.squares(sums[key].fetch(), self._scales[key])] for key, s in self._sums.items()}
        return {key: [*added.get(key, ()), *found.get(key, ())] for key in self.sources}

    def _is_far(self, key: str, largest: float) -> bool:
        return 0 < largest < math.inf and not _LEAST < largest * self._scales[key] < _MOST

    @np.errstate(over="ignore", invalid="ignore")
    def _added(
        self, feeds: Sequence[Values], weights: Mapping[str, DeviceArray]
    ) -> tuple[dict[str, list[Squares]], dict[str, DeviceArray], dict[str, float]]:
        """Return squares of the units whose sums are not made on the device, the sums of the others, and their largest."""
        device = self._settings.device
        given = dict(weights)
        for key, own in self._sums.items():
            given[own.scale] = DeviceArray.place(device, np.array([self._scales[key]], np.float32))
            given[own.before] = DeviceArray.place(device, np.zeros(own.shape, np.float32))
        spare = {
            own.after: DeviceArray.allocate(device, own.shape, np.dtype(np.float32)) for own in self._sums.values()
        }
        found: dict[str, list[Squares]] = {key: [] for key in self._others}
        largest = dict.fromkeys(self._sums, 0.0)
        for piece in feeds:
            values = self._run({**given, **self._placed(piece)}, spare)
            for key, own in self._sums.items():
                given[own.before], spare[own.after] = spare[own.after], given[own.before]
                largest[key] = max(largest[key], float(values[own.largest][0]))
            pictures = self._num_pictures(piece)
            for key, of in self._others.items():
                found[key].append(gradient_squares(of, {**piece, **values}, pictures))
        return found, {key: given[own.before] for key, own in self._sums.items()}, largest

    def _placed(self, piece: Values) -> dict[str, DeviceArray]:
        return {n: DeviceArray.place(self._settings.device, a) for n, a in piece.items() if n in self._inputs}

    def _run(self, given: Mapping[str, DeviceArray], spare: Mapping[str, DeviceArray]) -> dict[str, np.ndarray]:
        """Run a piece; return what comes back."""
        binding = self._session.io_binding()
        for name, array in given.items():
            array.bind(binding.bind_input, name)
        names = [o.name for o in self._session.get_outputs()]
        for name in names:
            if name in spare:
                spare[name].bind(binding.bind_output, name)
            else:
                binding.bind_output(name, "cpu")
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        pairs = zip(names, binding.get_outputs(), strict=True)
        return {name: value.numpy() for name, value in pairs if name not in spare}


def _is_added(graph: Graph, sources: Sequence[GradientSource]) -> bool:
    """Tell whether a unit's gradient is one value of the graph, shaped like a weight."""
    if any(s.way is not Way.SUM for s in sources) or len({s.differentiated for s in sources}) > 1:
        return False
    value = sources[0].gradient
    return -1 not in graph.shape(value) and graph.elem_type(value) == onnx.TensorProto.FLOAT
