"""How rates follow scales where the terms of a sum take scales of their own.

Where scales keep the function, a value that is scaled by exp(s) has a gradient scaled by exp(-s). Sums whose terms are
scaled apart do otherwise, in both directions:

- A sum passes its gradient on to every term as it is: where a term is to have the scale exp(s) and the sum exp(t), the
  term's gradient is exp(s - t) times what its scale makes of it. That goes on to all below the term, and where several
  layers read one value, the energies of what they bring back add up.
- A sum has the energies of its terms together. Where that is not exp(2 t), what follows is off by as much. Where the layer
  that reads it gets weights anew, so that its outputs deviate as they did, what counts for them is how far the sum deviates
  from its channels' means: after many sums and ReLUs most of its energy is in these.

In logarithms all are means of exponentials, weighted by energies that are measured. Terms, and gradients, are taken to be
uncorrelated. What is foretold so leads to the next round; what is reached is measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import onnx

from caffeinit.engine.session import compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients.reverse import append_backward
from caffeinit.model.graph import Graph
from caffeinit.model.network import Network
from caffeinit.model.units import Unit
from caffeinit.ops.building import reduced
from caffeinit.scales.labels import Labels

_PICTURES = 4  # on which energies are measured

# What brings an energy to a value: "value", "deviation" or "diff", the value, and the term or the first output of the node
# that does.
Edge = tuple[str, str, str]


@dataclass(frozen=True)
class Part:
    """One exponent of a mixture: a weighted sum of earlier functions, and a row times the unknowns."""

    functions: tuple[tuple[int, float], ...]  # number, weight
    row: np.ndarray
    edge: Edge

    @classmethod
    def of(cls, functions: Iterable[tuple[int, float]], row: np.ndarray, edge: Edge) -> Part:
        """Return a part without the functions that are 0."""
        return cls(tuple((number, weight) for number, weight in functions if number), row, edge)

    @property
    def key(self) -> Hashable:
        """What equal exponents have in common."""
        return self.functions, self.row.tobytes()


class Source(Protocol):
    """Functions of the unknowns."""

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""


@dataclass(frozen=True)
class Growth:
    """By how much a unit's gradient grows beside what its own scales make of it, log: the sum of some functions.

    Attributes:
        source: what they are functions of.
        functions: their numbers there.
    """

    source: Source
    functions: Sequence[int] | np.ndarray


class Mixtures:
    """Functions of the unknowns, each log(mean(exp(2 part))) / 2 over some parts.

    Function number 0 is 0.
    """

    def __init__(self, size: int) -> None:
        """Take the number of unknowns."""
        self._parts: list[list[Part]] = [[]]
        self._rows: list[np.ndarray] = [np.zeros((0, size))]
        self._edges: list[list[list[Edge]]] = [[]]
        self._shares: list[np.ndarray] = [np.zeros(0)]  # log
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def edges(self) -> list[Edge]:
        """What energies are asked for."""
        return [edge for parts in self._edges if len(parts) > 1 for edges in parts for edge in edges]

    def add(self, parts: Iterable[Part]) -> int:
        """Return the number of a mixture; equal parts are one, and a function by itself is that function."""
        apart: dict[Hashable, tuple[Part, list[Edge]]] = {}
        for part in parts:
            apart.setdefault(part.key, (part, []))[1].append(part.edge)
        found = [part for part, _ in apart.values()]
        if not found:
            return 0
        if len(found) == 1 and not found[0].row.any() and (is_known := _alone(found[0])) is not None:
            return is_known
        self._parts.append(found)
        self._rows.append(np.stack([part.row for part in found]))
        self._edges.append([edges for _, edges in apart.values()])
        self._shares.append(_log_shares(self._edges[-1], {}))
        self._known = None
        return len(self._parts) - 1

    def weigh(self, energies: Mapping[Edge, float]) -> None:
        """Take the shares of the energies; those of a mixture that are not all known, or no numbers, are equal."""
        self._shares = [_log_shares(parts, energies) for parts in self._edges]
        self._known = None

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""
        if self._known is None or not np.array_equal(self._known[0], unknowns):
            values, slopes = np.zeros(len(self._parts)), np.zeros((len(self._parts), len(unknowns)))
            for number, parts in enumerate(self._parts):
                if parts:
                    rows = self._rows[number].copy()
                    logs = rows @ unknowns
                    for i, part in enumerate(parts):
                        for other, weight in part.functions:
                            logs[i] += weight * values[other]
                            rows[i] += weight * slopes[other]
                    logs = 2 * logs + self._shares[number]
                    values[number] = np.logaddexp.reduce(logs) / 2
                    slopes[number] = np.exp(logs - 2 * values[number]) @ rows
            self._known = unknowns.copy(), values, slopes
        return self._known[1:]


def _log_shares(parts: Sequence[Sequence[Edge]], energies: Mapping[Edge, float]) -> np.ndarray:
    """Return the logarithms of the shares that parts have in the energies of all their edges; see `Mixtures.weigh`."""
    known = np.array([sum(energies.get(edge, math.nan) for edge in edges) for edges in parts])
    total = known.sum()
    is_sound = bool(np.isfinite(total)) and total > 0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(known / total if is_sound else np.full(len(parts), 1 / max(len(parts), 1))))


def _alone(part: Part) -> int | None:
    """Return the function that a part without a row is, if it is one."""
    if not part.functions:
        return 0
    return part.functions[0][0] if len(part.functions) == 1 and part.functions[0][1] == 1 else None


class Sums:
    """What the sums of a graph do to all values, and to their gradients."""

    def __init__(
        self,
        network: Network,
        heads: Collection[str],
        gains: Mapping[tuple[str, str], np.ndarray],
        restored: Collection[str],
        labels: Mapping[str, Labels],
    ) -> None:
        """Walk a graph from its inputs to the heads, and back.

        Args:
            gains: (sum, term) -> (unknowns,): by how much the term's scale is above the sum's, log; and (head, head) -> the
                head's scale, whose gradient does not follow it.
            restored: keys of the units whose outputs are given the sizes that their scales say, after each step.
            labels: of all values; along axes of size 1 a value is one channel.
        """
        self._network, self._heads, self._gains, self._restored = network, heads, gains, restored
        self._labels = labels
        self._zero = np.zeros(len(next(iter(gains.values()), ())))
        self.mixtures = Mixtures(len(self._zero))
        uses = [use for unit in network.units if unit.key in restored for use in unit.uses]
        self._ends = {use.output for use in uses}
        self._starts = {(use.input, use.node.output[0]) for use in uses}
        nodes = network.graph.ancestors(heads) if gains else []
        self._values: dict[str, int] = {}  # by how much a value is larger than its scale says
        self._deviations: dict[str, int] = {}  # the same of what it deviates from its channels' means
        for node in nodes:
            self._pass_up(node, "value", self._values)
            if restored:
                self._pass_up(node, "deviation", self._deviations)
        self._diffs: dict[str, int] = {}  # by how much a gradient is larger than its value's scale says
        self._energies: _Energies | None = None
        brought = {head: [Part((), gains.get((head, head), self._zero), ("diff", head, ""))] for head in heads}
        for node in reversed(nodes):
            self._pass_down(node, brought)

    def _pass_up(self, node: onnx.NodeProto, kind: str, known: dict[str, int]) -> None:
        """Go up one node, for energies of one kind."""
        inputs = [i for i in dict.fromkeys(node.input) if i]
        for output in node.output:
            if output in self._ends:
                continue
            terms = [i for i in inputs if (output, i) in self._gains] or [i for i in inputs if i in known]
            rows = [self._gains.get((output, i), self._zero) for i in terms]
            edges = [(kind, output, i) for i in terms]
            functions = [[(known.get(i, 0), 1.0)] for i in terms]
            if number := self.mixtures.add(map(Part.of, functions, rows, edges)):
                known[output] = number

    def _pass_down(self, node: onnx.NodeProto, brought: dict[str, list[Part]]) -> None:
        reached = [o for o in node.output if o in brought]
        for output in reached:
            self._diffs[output] = self.mixtures.add(brought[output])
        for value in dict.fromkeys(i for i in node.input if i):
            # Weights that make up for how far an input deviates pass less on of what comes back.
            is_start = (value, node.output[0]) in self._starts
            taken_up = [(self._deviations.get(value, 0), -1.0)] if is_start else []
            for output in reached:
                row, edge = self._gains.get((output, value), self._zero), ("diff", value, node.output[0])
                brought.setdefault(value, []).append(Part.of([(self._diffs[output], 1.0), *taken_up], row, edge))

    def of(self, unit: Unit) -> list[Growth]:
        """Return what sums do to the rate of a unit; empty for nothing."""
        uses = [use for use in unit.uses if use.output in self._diffs]
        is_restored = float(unit.key in self._restored)
        # The gradient grows with the input, and restored weights shrink as that deviates by more.
        number = self.mixtures.add(
            Part.of(
                [
                    (self._diffs[use.output], 1.0),
                    (self._values.get(use.input, 0), 1.0),
                    (self._deviations.get(use.input, 0), is_restored),
                ],
                self._zero,
                ("", "", ""),
            )
            for use in uses
        )
        return [Growth(self.mixtures, [number])] if number else []

    def excess(self, value: str, unknowns: np.ndarray) -> float:
        """Return by how much a value is larger than its scale says, log."""
        return float(self.mixtures.at(unknowns)[0][self._values.get(value, 0)])

    def look(self, batch: Mapping[str, np.ndarray]) -> None:
        """Measure the energies that terms, and what comes back to values, have on some pictures of a batch."""
        asked = [edge for edge in self.mixtures.edges if edge[0] != "diff" or edge[2]]
        if not asked:
            return
        if self._energies is None or self._energies.asked != asked:
            self._energies = _Energies(self._network, self._heads, asked, self._labels)
        self.mixtures.weigh(self._energies.measure(batch))


class _Energies:
    """What measures energies: compiled once, and reads the learned arrays anew each time."""

    def __init__(
        self, network: Network, heads: Collection[str], asked: Sequence[Edge], labels: Mapping[str, Labels]
    ) -> None:
        """Compile a graph with gradients that computes the energies that are asked for."""
        self.asked = asked
        self._network = network
        graph = network.graph.copy()
        noise = {head: graph.add_input(graph.fresh("noise"), graph.shape(head)) for head in heads}
        back = [edge for edge in asked if edge[0] == "diff"]
        parts: dict[tuple[str, str], list[str]] = {}
        try:
            append_backward(graph, noise, list(dict.fromkeys(value for _, value, _ in back)), parts)
        except GradientError:  # where no gradient passes, nothing has a rate that depends on it
            parts = {}
        wanted = {edge: parts[edge[1:]] for edge in back if edge[1:] in parts}
        wanted |= {edge: [edge[2]] for edge in asked if edge[0] == "value"}
        wanted |= {edge: [_centred(graph, edge[2], labels)] for edge in asked if edge[0] == "deviation"}
        self._squares = {
            edge: [graph.op("ReduceSumSquare", v, keepdims=0) for v in values] for edge, values in wanted.items()
        }
        names = [name for of in self._squares.values() for name in of]
        self._session = compile_graph(graph, names, network.settings, fed=network.learned)
        self._shapes = {name: graph.shape(name) for name in self._session.inputs}

    def measure(self, batch: Mapping[str, np.ndarray]) -> dict[Edge, float]:
        """Return the energies on some pictures of a batch."""
        free = self._network.graph.batch_axis_free
        feeds = {name: array[:_PICTURES] if free and array.ndim else array for name, array in batch.items()}
        pictures = len(next(iter(feeds.values())))
        rng = np.random.default_rng(0)
        for name in self._session.inputs:
            if name not in feeds:
                first, *rest = self._shapes[name]
                size = (pictures, *rest) if free else (first, *rest)
                feeds[name] = rng.standard_normal(size, np.float32)
        found = self._session.run({name: feeds[name] for name in self._session.inputs})
        return {edge: sum(float(found[name]) for name in of) for edge, of in self._squares.items()}


def _centred(graph: Graph, value: str, labels: Mapping[str, Labels]) -> str:
    """Append what a value deviates from the means of its channels."""
    axes = [axis for axis, size in enumerate(labels[value].shape) if size == 1]
    return graph.op("Sub", value, reduced(graph, "ReduceMean", value, axes)) if axes else value
