"""How rates follow scales where the terms of a sum take scales of their own.

Where scales keep the function, a value that is scaled by exp(s) has a gradient scaled by exp(-s). Sums whose terms are
scaled apart do otherwise, in both directions:

- A sum passes its gradient on to every term as it is: where a term is to have the scale exp(s) and the sum exp(t), the
  term's gradient is exp(s - t) times what its scale makes of it. That goes on to all below the term, and where several
  layers read one value, the energies of what they bring back add up.
- A sum has the energies of its terms together. Where that is not exp(2 t), what follows is off by as much.

In logarithms both are means of exponentials, weighted by energies that are measured. Terms, and gradients, are taken to be
uncorrelated. What is foretold so leads to the next round; what is reached is measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients import append_backward
from caffeinit.graph import Graph
from caffeinit.network import Network
from caffeinit.units import Unit

_PICTURES = 4  # on which energies are measured

# What brings an energy to a value: the value, and the term or the first output of the node that brings it.
Edge = tuple[str, str]
_Part = tuple[int, np.ndarray, Edge]


class Growth(Protocol):
    """By how much a unit's gradient grows beside what its own scales make of it, log, as a function of the unknowns."""

    def growth(self, unknowns: np.ndarray) -> float:
        """Return it."""

    def growth_gradient(self, unknowns: np.ndarray) -> np.ndarray:
        """Return its derivatives, (unknowns,)."""


class Mixtures:
    """Functions of the unknowns, each log(mean(exp(2 (f + row unknowns)))) / 2 over some (f, row), f an earlier function.

    Function number 0 is 0.
    """

    def __init__(self, size: int) -> None:
        """Take the number of unknowns."""
        self._above: list[list[int]] = [[]]
        self._rows: list[np.ndarray] = [np.zeros((0, size))]
        self._edges: list[list[list[Edge]]] = [[]]
        self._shares: list[np.ndarray] = [np.zeros(0)]  # log
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def edges(self) -> list[Edge]:
        """What energies are asked for."""
        return [edge for parts in self._edges if len(parts) > 1 for edges in parts for edge in edges]

    def add(self, parts: Iterable[_Part]) -> int:
        """Return the number of a mixture; equal parts are one, and a part by itself that adds nothing is what it is."""
        apart: dict[tuple[int, bytes], tuple[int, np.ndarray, list[Edge]]] = {}
        for number, row, edge in parts:
            apart.setdefault((number, row.tobytes()), (number, row, []))[2].append(edge)
        found = list(apart.values())
        if not found:
            return 0
        if len(found) == 1 and not found[0][1].any():
            return found[0][0]
        self._above.append([number for number, _, _ in found])
        self._rows.append(np.stack([row for _, row, _ in found]))
        self._edges.append([edges for _, _, edges in found])
        self._shares.append(np.zeros(0))
        self.weigh({})
        return len(self._above) - 1

    def weigh(self, energies: Mapping[Edge, float]) -> None:
        """Take the shares of the energies; those of a mixture that are not all known, or no numbers, are equal."""
        for number, parts in enumerate(self._edges):
            known = np.array([sum(energies.get(edge, math.nan) for edge in edges) for edges in parts])
            total = known.sum()
            sound = bool(np.isfinite(total)) and total > 0
            with np.errstate(divide="ignore"):
                self._shares[number] = np.log(known / total if sound else np.full(len(parts), 1 / max(len(parts), 1)))
        self._known = None

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""
        if self._known is None or not np.array_equal(self._known[0], unknowns):
            values, slopes = np.zeros(len(self._above)), np.zeros((len(self._above), len(unknowns)))
            for number, above in enumerate(self._above):
                if above:
                    parts = 2 * (values[above] + self._rows[number] @ unknowns) + self._shares[number]
                    values[number] = np.logaddexp.reduce(parts) / 2
                    weights = np.exp(parts - 2 * values[number])
                    slopes[number] = weights @ (slopes[above] + self._rows[number])
            self._known = unknowns.copy(), values, slopes
        return self._known[1:]


@dataclass(frozen=True)
class SumGrowth:
    """That of a unit by what sums do above and below it; see `Growth`.

    Attributes:
        above, below: numbers of the functions.
    """

    sums: Sums
    above: int
    below: int

    def growth(self, unknowns: np.ndarray) -> float:
        """Return the growth."""
        return float(self.sums.diffs.at(unknowns)[0][self.above] + self.sums.values.at(unknowns)[0][self.below])

    def growth_gradient(self, unknowns: np.ndarray) -> np.ndarray:
        """Return its derivatives, (unknowns,)."""
        diffs, values = self.sums.diffs.at(unknowns)[1], self.sums.values.at(unknowns)[1]
        return np.asarray(diffs[self.above] + values[self.below])


class Sums:
    """What the sums of a graph do to all values, and to their gradients.

    Attributes:
        values: by how much values are larger than their scales say.
        diffs: by how much gradients are larger than the scales of their values say.
    """

    def __init__(self, network: Network, heads: Collection[str], gains: Mapping[Edge, np.ndarray]) -> None:
        """Walk a graph from its inputs to the heads, and back.

        Args:
            gains: (sum, term) -> (unknowns,): by how much the term's scale is above the sum's, log.
        """
        self._network, self._heads = network, heads
        self._zero = np.zeros(len(next(iter(gains.values()), ())))
        self.values, self.diffs = Mixtures(len(self._zero)), Mixtures(len(self._zero))
        nodes = network.graph.ancestors(heads) if gains else []
        self._below: dict[str, int] = {}
        for node in nodes:
            self._pass_up(node.output, [i for i in dict.fromkeys(node.input) if i], gains)
        self._above: dict[str, int] = {}
        brought: dict[str, list[_Part]] = {head: [(0, self._zero, (head, ""))] for head in heads}
        for node in reversed(nodes):
            self._pass_down(node.output, node.input, gains, brought)

    def _pass_up(self, outputs: Sequence[str], inputs: Sequence[str], gains: Mapping[Edge, np.ndarray]) -> None:
        for output in outputs:
            terms = [i for i in inputs if (output, i) in gains] or [i for i in inputs if i in self._below]
            parts = [(self._below.get(i, 0), gains.get((output, i), self._zero), (output, i)) for i in terms]
            if parts and (number := self.values.add(parts)):
                self._below[output] = number

    def _pass_down(
        self,
        outputs: Sequence[str],
        inputs: Sequence[str],
        gains: Mapping[Edge, np.ndarray],
        brought: dict[str, list[_Part]],
    ) -> None:
        reached = [o for o in outputs if o in brought]
        for output in reached:
            self._above[output] = self.diffs.add(brought[output])
        for value in dict.fromkeys(i for i in inputs if i):
            parts = [(self._above[o], gains.get((o, value), self._zero), (value, outputs[0])) for o in reached]
            brought.setdefault(value, []).extend(parts)

    def of(self, unit: Unit) -> list[Growth]:
        """Return what sums do to the gradient of a unit; empty for nothing."""
        outputs = [use.output for use in unit.uses if use.output in self._above]
        above = self.diffs.add((self._above[value], self._zero, (value, "")) for value in outputs)
        below = self.values.add((self._below.get(use.input, 0), self._zero, (use.input, "")) for use in unit.uses)
        return [SumGrowth(self, above, below)] if above or below else []

    def look(self, batch: Mapping[str, np.ndarray]) -> None:
        """Measure the energies that terms, and what comes back to values, have on some pictures of a batch."""
        asked = [edge for edge in self.diffs.edges if edge[1]]
        terms = [edge for edge in self.values.edges if edge[1]]
        if not asked and not terms:
            return
        graph = self._network.graph.copy()
        noise = {head: graph.add_input(graph.fresh("noise"), graph.shape(head)) for head in self._heads}
        parts: dict[Edge, list[str]] = {}
        try:
            append_backward(graph, noise, list(dict.fromkeys(value for value, _ in asked)), parts)
        except GradientError:  # where no gradient passes, nothing has a rate that depends on it
            parts = {}
        wanted = {("diff", *edge): parts[edge] for edge in asked if edge in parts}
        wanted |= {("value", *edge): [edge[1]] for edge in terms}
        squares = {key: [graph.op("ReduceSumSquare", v, keepdims=0) for v in values] for key, values in wanted.items()}
        names = [name for of in squares.values() for name in of]
        found = _run(self._network, graph, names, batch)
        energies = {key: sum(float(found[name]) for name in of) for key, of in squares.items()}
        self.diffs.weigh({(v, by): e for (kind, v, by), e in energies.items() if kind == "diff"})
        self.values.weigh({(v, by): e for (kind, v, by), e in energies.items() if kind == "value"})


def _run(
    network: Network, graph: Graph, names: Sequence[str], batch: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    session = compile_graph(graph, names, network.settings)
    free = network.graph.batch_axis_free
    feeds = {name: array[:_PICTURES] if free and array.ndim else array for name, array in batch.items()}
    pictures = len(next(iter(feeds.values())))
    rng = np.random.default_rng(0)
    for name in session.inputs:
        if name not in feeds:
            first, *rest = graph.shape(name)
            size = (pictures, *rest) if free else (first, *rest)
            feeds[name] = rng.standard_normal(size, np.float32)
    return dict(session.run({name: feeds[name] for name in session.inputs}))
