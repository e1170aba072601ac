"""How rates follow scales where the terms of a sum take scales of their own.

Where scales keep the function, a value that is scaled by exp(s) has a gradient scaled by exp(-s). Sums whose terms are
scaled apart do otherwise, in both directions:

- A sum passes its gradient on to every term as it is: where a term is to have the scale exp(s) and the sum exp(t), the
  term's gradient is exp(s - t) times what its scale makes of it. That goes on to all below the term, and where several
  layers read one value, the energies of what they bring back add up.
- A sum has the energies of its terms together. Where that is not exp(2 t), what follows is off by as much. Where the layer
  that reads it gets weights anew, so that its outputs deviate as they did, what counts for them is how far the sum deviates
  from its channels' means: after many sums and ReLUs most of its energy is in these.

Channels that have scales of their own, as those that were joined before a sum, are taken by themselves. In logarithms all
are means of exponentials, weighted by energies that are measured. Terms, and gradients, are taken to be uncorrelated. What
is foretold so leads to the next round; what is reached is measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.graph.units import Unit, Use
from caffeinit.model.network import Network
from caffeinit.ops.labels import PINNED, Labels
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.energies import Energies
from caffeinit.scales.mixtures import Edge, Growth, Mixtures, Part

# The numbers of functions that belong to the elements of a label array.
_Numbers = np.ndarray


@dataclass
class _Brought:
    """What one node brings back to a value: functions of its elements, and the labels whose scales they grow by.

    Attributes:
        source: the node's first output; empty for the noise at a head.
        functions: number arrays, and how often each counts.
        plus, minus: gradients grow by the scales of the first, and shrink by those of the second.
    """

    source: str
    functions: list[tuple[_Numbers, float]]
    plus: Labels
    minus: Labels

    @property
    def arrays(self) -> list[np.ndarray]:
        """All that may differ from element to element."""
        return [self.plus, self.minus, *(numbers for numbers, _ in self.functions)]


class Sums:
    """What the sums of a graph do to all values, and to their gradients.

    Attributes:
        there: whether there are sums whose terms have scales of their own, or outputs that have one.
        mixtures: the functions of the unknowns that say what they do.
    """

    def __init__(
        self, network: Network, heads: Collection[str], system: ScaleSystem, restored: Collection[str]
    ) -> None:
        """Walk a graph from its inputs to the heads, and back.

        Args:
            restored: keys of the units whose outputs are given the sizes that their scales say, after each step.
        """
        self._network, self._heads, self._restored = network, heads, restored
        self._known_labels, self._sums, self._rows = system.labels, system.sums, system.solution.matrix
        self._standardised = system.standardised
        self.mixtures = Mixtures(system.num_unknowns)
        self._zero = np.zeros(system.num_unknowns)
        self._keys = system.fingerprints
        units = [(unit, use) for unit in network.units for use in unit.uses]
        self._units = {use.node.output[0]: unit for unit, use in units}
        self._ends = {use.output for unit, use in units if unit.key in restored}
        self._starts = {(use.input, use.node.output[0]) for unit, use in units if unit.key in restored}
        self._values: dict[str, _Numbers] = {}  # by how much a value is larger than its scale says
        self._deviations: dict[str, _Numbers] = {}  # the same of what it deviates from its channels' means
        self._diffs: dict[str, _Numbers] = {}  # by how much a gradient is larger than its value's scale says
        self._excess: dict[str, int] = {}  # of heads as a whole
        self._energies: Energies | None = None
        self.there = any(self._keys[self._labels(h)].any() for h in heads) or any(map(self._is_apart, self._sums))
        if not self.there:
            return
        nodes = network.graph.ancestors(heads)
        for node in nodes:
            self._pass_up(node, "value", self._values)
            if restored:
                self._pass_up(node, "deviation", self._deviations)
        brought = {head: [_Brought("", [], self._labels(head), _pinned(self._labels(head)))] for head in heads}
        for node in reversed(nodes):
            self._pass_down(node, brought)
        self._excess = {head: self._of("value", self._values, head) for head in heads}

    def _labels(self, value: str) -> Labels:
        """Return a value's labels; one without an axis for values inside of what is passed as a whole."""
        return self._known_labels.get(value, _PINNED)

    def _is_apart(self, total: str) -> bool:
        """Tell whether the terms of a sum have other scales than it."""
        labels = self._labels(total)
        return any((self._keys[_wide(self._labels(t), labels)] != self._keys[labels]).any() for t in self._sums[total])

    # --- up -----------------------------------------------------------------------------------------------------

    def _pass_up(self, node: onnx.NodeProto, kind: str, known: dict[str, _Numbers]) -> None:
        """Go up one node, for energies of one kind."""
        moving = [i for i in dict.fromkeys(node.input) if i in known or i in self._known_labels]
        # Conditions and places have no energy.
        inputs = {i: known.get(i, _NONE) for i in moving if self._network.graph.elem_type(i) == TensorProto.FLOAT}
        for output in node.output:
            if (
                output in self._ends
                or output in self._standardised
                or not (known.keys() & inputs or output in self._sums)
            ):
                continue
            if output in self._sums:
                found = self._summed(output, kind, known)
            else:
                weights = node.output[0] if node.output[0] in self._units else ""
                mixed = self._mixed([(kind, i, weights) for i in inputs], inputs.values())
                found = self._passed(node, self._labels(output), mixed, inputs)
            if found.any():
                known[output] = found

    def _summed(self, total: str, kind: str, known: Mapping[str, _Numbers]) -> _Numbers:
        """Return the numbers of a sum."""
        labels = self._labels(total)
        terms = [
            _Brought(t, [(_wide(known.get(t, _NONE), labels), 1.0)], _wide(self._labels(t), labels), labels)
            for t in self._sums[total]
        ]
        return self._joined([(kind, term.source, "") for term in terms], terms, labels)

    def _passed(self, node: onnx.NodeProto, labels: Labels, mixed: int, known: Mapping[str, _Numbers]) -> _Numbers:
        """Return the numbers that a node hands on to the elements of a value, given those of what is on its other side.

        Args:
            mixed: of all that is there together: what a node that mixes channels hands on.
        """
        unit = self._units.get(node.output[0])
        first, numbers = next(iter(known.items()))
        if unit is not None and unit.kind == "affine":
            return np.full(_pinned(labels).shape, mixed)
        below = self._labels(first)
        if len(known) == 1 and below.shape == labels.shape and (unit is not None or np.array_equal(below, labels)):
            return np.broadcast_to(numbers, labels.shape)
        pairs = [np.broadcast_arrays(self._keys[self._labels(v)], n) for v, n in known.items()]
        keys, places = np.unique(np.concatenate([k.ravel() for k, _ in pairs]), return_index=True)
        numbers = np.concatenate([n.ravel() for _, n in pairs])[places]
        asked = self._keys[labels]
        places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        return np.where((keys[places] == asked) & (asked != 0), numbers[places], mixed)

    # --- down ---------------------------------------------------------------------------------------------------

    def _pass_down(self, node: onnx.NodeProto, brought: dict[str, list[_Brought]]) -> None:
        """Go down one node."""
        reached = [o for o in node.output if o in brought]
        for output in reached:
            edges = [("part", output, b.source) for b in brought[output]]
            self._diffs[output] = self._joined(edges, brought[output], self._labels(output))
        if not reached:
            return
        diffs = {output: self._diffs[output] for output in reached}
        mixed = self._mixed([("diff", o, "") for o in diffs], diffs.values())
        for value in dict.fromkeys(i for i in node.input if i):
            labels, total = self._labels(value), reached[0]
            plus = minus = _pinned(labels)
            functions = [(self._passed(node, labels, mixed, diffs), 1.0)]
            if value in self._sums.get(total, ()):
                above = self._labels(total)
                plus = labels
                minus = above if above.shape == labels.shape else above.reshape(-1)[:1].reshape(minus.shape)
                functions = [(diffs[total] if above.shape == labels.shape else np.full(minus.shape, mixed), 1.0)]
            if total in self._standardised:
                # It is divided by what it reads: by how much that is larger than its scale says, so much less comes back.
                functions.append((np.full(minus.shape, self._of("value", self._values, value)), -1.0))
            if (value, node.output[0]) in self._starts:
                # Weights that make up for how far an input deviates pass less on of what comes back.
                deviation = self._of("deviation", self._deviations, value, node.output[0])
                functions.append((np.full(minus.shape, deviation), -1.0))
            brought.setdefault(value, []).append(_Brought(node.output[0], functions, plus, minus))

    # --- functions ----------------------------------------------------------------------------------------------

    def _joined(self, edges: Sequence[tuple[str, str, str]], brought: Sequence[_Brought], labels: Labels) -> _Numbers:
        """Return the numbers of the mixtures of what is brought, for each element, shaped like labels."""
        flat = [[np.broadcast_to(a, labels.shape).reshape(-1) for a in b.arrays] for b in brought]
        columns = [self._keys[a] if i < 2 else a for arrays in flat for i, a in enumerate(arrays)]
        first, inverse = np.unique(np.stack(columns, 1), axis=0, return_index=True, return_inverse=True)[1:]
        found = np.zeros(len(first), int)
        for number, place in enumerate(first):
            group = _group(inverse.reshape(-1) == number)
            parts = []
            for arrays, b, edge in zip(flat, brought, edges, strict=True):
                plus, minus, *numbers = (int(a[place]) for a in arrays)
                row = (self._rows[plus] - self._rows[minus]).toarray().reshape(-1)
                functions = zip(numbers, (times for _, times in b.functions), strict=True)
                parts.append(Part.of(functions, row, Edge(*edge, labels.shape, group)))
            found[number] = self.mixtures.add(parts)
        return found[inverse.reshape(labels.shape)]

    def _mixed(self, edges: Sequence[tuple[str, str, str]], numbers: Iterable[_Numbers]) -> int:
        """Return the number of the mixture of all elements of some values."""
        parts = []
        for edge, of in zip(edges, numbers, strict=True):
            shape = self._labels(edge[1]).shape
            flat = np.broadcast_to(of, shape).reshape(-1)
            for number in np.unique(flat):
                parts.append(Part.of([(int(number), 1.0)], self._zero, Edge(*edge, shape, _group(flat == number))))
        return self.mixtures.add(parts)

    def _of(self, kind: str, known: Mapping[str, _Numbers], value: str, weights: str = "") -> int:
        """Return the number of a value as a whole, or as a unit's node weighs it that is named by its first output."""
        return self._mixed([(kind, value, weights)], [known[value]]) if value in known else 0

    # --- what is asked ------------------------------------------------------------------------------------------

    def of(self, unit: Unit, num_columns: int) -> tuple[list[Growth], _Numbers | None]:
        """Return what sums do to the rate of a unit; empty for nothing.

        Args:
            num_columns: input channels of the unit.
        Returns:
            What they do to its whole gradient and its weights, and the numbers of what they do to the gradient of each
            input channel's weights, (num_columns,); None for nothing more.
        """
        uses = [use for use in unit.uses if use.output in self._diffs]
        columns = self._columns(uses, num_columns)
        parts = []
        for use in uses:
            diff = self._mixed([("diff", use.output, "")], [self._diffs[use.output]])
            # The gradient grows with the input, and restored weights shrink as that deviates by more.
            size = 0 if columns is not None else self._of("value", self._values, use.input)
            is_restored = unit.key in self._restored
            deviation = self._of("deviation", self._deviations, use.input, use.node.output[0]) if is_restored else 0
            parts.append(Part.of([(diff, 1.0), (size, 1.0), (deviation, 1.0)], self._zero))
        number = self.mixtures.add(parts)
        return [Growth(self.mixtures, [number])] if number else [], columns

    def _columns(self, uses: Sequence[Use], num_columns: int) -> _Numbers | None:
        """Return the numbers of a unit's input channels, where they differ and are those of one value."""
        numbers = self._values.get(uses[0].input) if len(uses) == 1 else None
        if numbers is None or numbers.size != num_columns or (numbers == numbers.flat[0]).all():
            return None
        return numbers.reshape(-1)

    def excess(self, head: str, unknowns: np.ndarray) -> float:
        """Return by how much a head is larger than its scale says, log."""
        return float(self.mixtures.at(unknowns)[0][self._excess.get(head, 0)])

    def look(self, batch: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> None:
        """Measure the energies that terms, and what comes back to values, have on some pictures of a batch.

        Args:
            weights: unit's key -> (I,) squares of its weights for each input channel.
        """
        asked = self.mixtures.edges
        if not asked:
            return
        if self._energies is None or self._energies.asked != asked:
            self._energies = Energies(self._network, self._heads, asked)
        of = {output: weights[unit.key] for output, unit in self._units.items() if unit.key in weights}
        self.mixtures.weigh(self._energies.measure(batch, of))


_PINNED = np.full((), PINNED)
_NONE = np.zeros((), int)


def _pinned(labels: Labels) -> Labels:
    """Return what says nothing of scales, with as many axes as labels have."""
    return np.full((1,) * labels.ndim, PINNED)


def _wide(array: np.ndarray, labels: Labels) -> np.ndarray:
    """Return an array with as many axes as labels have."""
    return array.reshape((1,) * (labels.ndim - array.ndim) + array.shape)


def _group(members: np.ndarray) -> bytes | None:
    """Return the numbers of the elements that count, as an edge has them."""
    return None if members.all() else np.flatnonzero(members).astype(np.int64).tobytes()
