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

from collections.abc import Collection, Mapping

import numpy as np
import onnx

from caffeinit.model.network import Network
from caffeinit.model.units import Unit
from caffeinit.scales.energies import Energies
from caffeinit.scales.labels import Labels
from caffeinit.scales.mixtures import Growth, Mixtures, Part


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
        self._energies: Energies | None = None
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
            self._energies = Energies(self._network, self._heads, asked, self._labels)
        self.mixtures.weigh(self._energies.measure(batch))
