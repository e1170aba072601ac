"""Scale classes: which channels of which values can be scaled by factors of their own while the net stays the same.

A unit takes up any factor of its input and gives its output any other: weight[i, j] is multiplied by
exp(s_out[i] - s_in[j]), its bias by exp(s_out[i]). In between, each operator's rule says how factors pass (`ops/`), and
inputs and outputs of the net are held. What remains free is found once, by `solving.solve`; every value's log scales are
then linear functions of independent unknowns.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse.linalg import lsmr

from caffeinit.graph import Graph, attribute
from caffeinit.graph.norms import stored_factor
from caffeinit.ops.labels import PINNED, Constraints, Labels
from caffeinit.scales.bonds import Bond
from caffeinit.scales.links import Link, Use, lowest_gain
from caffeinit.scales.solving import Solution, solve
from caffeinit.scales.walk import Scales

_ROUNDING = 1e-9  # of epsilon: a variance that is less than that below 0 is 0

__all__ = ["Link", "ScaleSystem", "Use", "find_scales"]


@dataclass
class ScaleSystem:
    """The free scales of a graph.

    Attributes:
        labels: value that depends on an input -> its label array.
        links: all uses of units, in graph order.
        uses: learned initializer -> how it is scaled. All its uses scale it alike. Numbers of the net that are rewritten
            are among them.
        constraints: what the labels were found from.
        solution: labels in terms of the unknowns.
        unknown_operators: operators without a rule, which are barriers.
        bonds: layers whose output's scale follows their input's by a curve; in relaxed systems only.
        sums: value -> the terms of which it is the sum and that have scales of their own; in relaxed systems only.
        standardised: values that have lost their input's scale in being made, to a deviation that is none of the net's
            numbers; in relaxed systems only.
    """

    labels: dict[str, Labels]
    links: list[Link]
    uses: dict[str, Use]
    constraints: Constraints
    solution: Solution = field(init=False)
    unknown_operators: list[str] = field(default_factory=list)
    bonds: list[Bond] = field(default_factory=list)
    sums: dict[str, tuple[str, ...]] = field(default_factory=dict)
    standardised: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.solution = solve(self.constraints)

    @property
    def num_unknowns(self) -> int:
        """Number of scales that can be chosen independently."""
        return int(self.solution.matrix.shape[1])

    def expand(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the log scales of all labels, (labels + 1,); indexed with a label array they give its factors."""
        return np.asarray(self.solution.matrix @ unknowns)

    @functools.cached_property
    def fingerprints(self) -> np.ndarray:
        """A number for each label, (labels + 1,): equal where scales are the same function of the unknowns."""
        return self.expand(np.random.default_rng(0).random(self.num_unknowns))

    def groups(self, labels: Labels) -> np.ndarray:
        """Return a number for each of some labels, (n,), that those which are tied to each other have in common."""
        return np.unique(self.fingerprints[labels], return_inverse=True)[1]

    def is_free(self, labels: Labels) -> np.ndarray:
        """Tell for each label whether it depends on an unknown."""
        return np.asarray(np.diff(self.solution.matrix.indptr)[labels] > 0)

    def reasons(self, labels: Labels) -> list[str]:
        """Return, for each distinct label that is not free, why."""
        held = np.unique(labels[~self.is_free(labels)])
        return list(dict.fromkeys(self.solution.reason(int(n)) for n in held))

    def unknowns_for(self, labels: Labels, wanted: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Return the unknowns that bring log scales closest to wanted ones; the mean over what is tied.

        Args:
            labels: those that matter, (n,); the unknowns that they do not depend on are 0.
            wanted: (n,) log scales; not finite ones do not count.
            weights: (n,) of the squared differences; 1 by default.
        """
        counts = np.isfinite(wanted)
        roots = np.sqrt(np.ones(len(labels)) if weights is None else weights)[counts]
        rows = self.solution.matrix[labels[counts]].multiply(roots[:, None]).tocsr()
        if self.num_unknowns == 0 or rows.nnz == 0:
            return np.zeros(self.num_unknowns)
        return np.asarray(lsmr(rows, wanted[counts] * roots, atol=1e-14, btol=1e-14, maxiter=10000)[0])

    def below_floor(self, unknowns: np.ndarray) -> Labels:
        """Return the labels of norm channels whose stored variance would have to be negative, inputs and outputs."""
        return self.labels_below_floor(self.expand(unknowns))

    def labels_below_floor(self, scales: np.ndarray) -> Labels:
        """Return the same for the log scales of all labels."""
        found = [np.zeros(0, int)]
        for link in self.links:
            if link.floor is not None and not link.lifts:
                low = link.gained(scales) < link.floor
                found += [link.inputs[low], link.outputs[low]]
        return np.unique(np.concatenate(found))

    def held(self, labels: Labels, reason: str) -> ScaleSystem:
        """Return the system with further labels held at factor 1; its unknowns are others."""
        constraints = replace(self.constraints, pins=[*self.constraints.pins])
        constraints.pin(labels, reason)
        return replace(self, constraints=constraints)

    def tied(self, groups: Iterable[Labels]) -> ScaleSystem:
        """Return the system with the labels of each group made equal; its unknowns are others."""
        constraints = replace(self.constraints, ties=[*self.constraints.ties])
        for labels in groups:
            if labels.size > 1:
                constraints.tie(labels[:1], labels[1:])
        return replace(self, constraints=constraints)

    def log_factors(self, graph: Graph, scales: np.ndarray) -> dict[str, np.ndarray]:
        """Return learned initializer -> logarithms of what it is multiplied by, broadcast to its shape.

        The variances that `variances` gives are not among them.
        """
        stored, lifts = self.stored_variances, self.lifts(graph, scales)
        return {
            n: scales[use.plus] - scales[use.minus] + lifts.get(n, 0.0)
            for n, use in self.uses.items()
            if n not in stored
        }

    def lifts(self, graph: Graph, scales: np.ndarray) -> dict[str, np.ndarray]:
        """Return weight of a BatchNormalization -> logarithm of what it makes up for beside its scales, of its shape.

        Where the input gets so small that even a variance of 0 is too large beside epsilon, the weight grows by the rest.

        Args:
            graph: with the variances as they are before.
        """
        found = {}
        for link in self.links:
            rest = _lifted(graph, link, scales) if link.lifts else np.zeros(0)
            if rest.any():
                name = link.initializers["weight"]
                found[name] = rest.reshape(self.uses[name].plus.shape)
        return found

    @property
    def stored_variances(self) -> set[str]:
        """Initializers that `variances` gives."""
        return {link.initializers["variance"] for link in self.links if link.kind == "norm"}

    def variances(self, graph: Graph, scales: np.ndarray) -> dict[str, np.ndarray]:
        """Return initializer -> stored variance, float64, that takes up the scale of a BatchNormalization's input."""
        found = {}
        for link in self.links:
            if link.kind == "norm":
                known, epsilon, inverse = _stored(graph, link)
                changed = np.exp(2 * link.gained(scales)) * known - epsilon
                changed[(changed < 0) & (changed >= -_ROUNDING * epsilon)] = 0
                if link.lifts:
                    changed[_lifted(graph, link, scales) > 0] = 0
                name = link.initializers["variance"]
                found[name] = (changed / inverse).reshape(graph.initializers[name].shape)
        return found

    def rescaled(self, graph: Graph, unknowns: np.ndarray) -> dict[str, np.ndarray]:
        """Return the learned arrays, in float64, that make the net's values scaled and its outputs the same.

        Args:
            graph: the graph that the system was found on; its arrays are left alone.
            unknowns: (num_unknowns,) logarithms of the free factors.
        """
        scales = self.expand(unknowns)
        factors = self.log_factors(graph, scales)
        arrays = {n: graph.initializers[n].astype(np.float64) * np.exp(f) for n, f in factors.items()}
        return arrays | self.variances(graph, scales)


def _stored(graph: Graph, link: Link) -> tuple[np.ndarray, float, float]:
    """Return a norm's variances with epsilon, (C,) float64, epsilon, and what the stored numbers are multiplied by."""
    inverse = stored_factor(graph, link.node)
    assert inverse
    epsilon = attribute(link.node, "epsilon", 1e-5)
    variance = graph.initializers[link.initializers["variance"]].astype(np.float64)
    return variance.reshape(-1) * inverse + epsilon, epsilon, inverse


def _lifted(graph: Graph, link: Link, scales: np.ndarray) -> np.ndarray:
    """Return what a norm's weight makes up for, log, (C,): by how much the variance would be below 0."""
    known, epsilon, _ = _stored(graph, link)
    return np.asarray(np.maximum(np.minimum(lowest_gain(known, epsilon), 0) - link.gained(scales), 0))


def find_scales(
    graph: Graph,
    learned: Collection[str],
    outputs: Sequence[str] | None = None,
    relaxed: bool = False,
    rewritten: bool = False,
    loose: bool = False,
    bending: bool = True,
) -> ScaleSystem:
    """Find the free scales of a graph.

    Args:
        learned: the initializers that may be changed.
        outputs: values whose scale is held; by default the graph's outputs.
        relaxed: let scales differ where nothing but the function forbids it: nearly homogeneous layers (LRN) pass them on
            by a curve, and the terms of a sum have scales of their own.
        rewritten: let numbers of the net's text (alpha of LRN) make up for scales.
        loose: let the outputs have a scale, one for all of them; as far as nothing below, or learned, holds them.
        bending: if relaxed, smooth activations pass scales on by a curve, too.
    """
    scales = Scales(graph, learned, relaxed, rewritten, bending)
    for name, shape in graph.inputs.items():
        scales.values[name] = np.full((1,) * len(shape), PINNED)
    own = graph.outputs or graph.unused()
    judges = _nodes_above(graph, outputs or own, learned) if loose else set()
    for node in graph.nodes:
        if id(node) not in judges:
            scales.visit(node)
    ends = {name: scales.values[name].reshape(-1) for name in outputs or own if name in scales.values}
    first = next(iter(ends.values()), np.zeros(0, int))[:1]
    for name, labels in ends.items():
        if loose:
            scales.constraints.tie(first, labels)
        else:
            scales.constraints.pin(labels, f"net {'output' if name in own else 'head'} {name}")
    for name, reason in graph.held.items() if not relaxed else ():
        if name in scales.values:
            scales.constraints.pin(scales.values[name], reason)
    scales.close()
    uses = scales.first_uses()
    return ScaleSystem(
        scales.values,
        scales.links,
        uses,
        scales.constraints,
        scales.unknown_operators,
        scales.bonds,
        scales.sums,
        scales.standardised,
    )


def _nodes_above(graph: Graph, values: Collection[str], learned: Collection[str]) -> set[int]:
    """Return the identities of the nodes that read nothing but some values, and that nothing learned comes after."""
    moving, trained = graph.moving_values(), set(learned)
    known, above = set(values), set()
    for node in graph.nodes:
        fixed, varying = {i for i in node.input if i not in moving}, {i for i in node.input if i in moving}
        if not varying:
            trained.update(node.output if trained & fixed else ())
        elif varying <= known and not trained & fixed:
            above.add(id(node))
            known.update(node.output)
    readers = graph.consumers()
    for node in reversed(graph.nodes):
        if any(id(reader) not in above for output in node.output for reader in readers.get(output, [])):
            above.discard(id(node))
    return above
