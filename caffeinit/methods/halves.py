"""Powers of two as scales, with which every number keeps its digits, and head-room below 65504 for half precision.

Each free channel's largest value on the pictures is brought near one size, unless the net has head-room enough and would
lose no fewer digits; and to a smaller one, where products of such values, or their sums, would be too large. Multiplying
by a power of two is exact, and so the net computes bit by bit what it did, except where a number leaves the range of its
type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from caffeinit.apply.plan import Plan
from caffeinit.arithmetic.moments import Moments
from caffeinit.graph import Graph
from caffeinit.graph.nodes import name_of
from caffeinit.graph.rules import find_rule
from caffeinit.model.network import Network
from caffeinit.scales.channels import scaled_apart
from caffeinit.scales.classes import ScaleSystem

LARGEST, SMALLEST = 65504.0, 2.0**-14  # of half precision; below the latter digits get lost
# What the largest value of every free channel is brought to: a factor of 4000 below overflow, and far more above zero. The
# next is tried where what is made of them overflows.
WANTED = (16.0, 4.0, 1.0, 0.25)
_NEGLIGIBLE = 1e-7  # of a unit's largest value: a channel that never exceeds this has nothing to lose
# Scales of one unit's channels differ by no more than this: weights grow with a scale, and a value of 16 / 256 is as safe.
_APART = 256.0
# So far from both ends of the range, pictures of another kind do not overflow either, nor do small weights lose digits.
_ENOUGH = 64.0
_HAS_ROOM = "no unit and no layer comes near either end of half precision"
_NO_HELP = "what is free to change would not bring what comes near an end of half precision away from it"
_LN2 = float(np.log(2.0))


def exact_system(system: ScaleSystem, graph: Graph) -> ScaleSystem:
    """Return the system in which nothing is scaled that would have to be rounded.

    That is the variance that a BatchNormalization stores, and what operators read that round powers of two.
    """
    tied, held = [], [np.zeros(0, int)]
    for link in system.links:
        if link.kind == "norm" and "weight" in link.initializers:
            held.append(link.inputs)
        elif link.kind == "norm":
            tied += [np.array([i, o]) for i, o in zip(link.inputs, link.outputs, strict=True)]
    exact = system.tied(tied).held(
        np.unique(np.concatenate(held)), "the variance that BatchNorm stores would be rounded"
    )
    for node in graph.nodes:
        rule = find_rule(node)
        read = [exact.labels[i].ravel() for i in node.input if i in exact.labels]
        if read and rule is not None and not rule.is_exact(node, graph):
            exact = exact.held(np.unique(np.concatenate(read)), f"{name_of(node)} would round what is scaled")
    return exact


@dataclass
class Planned:
    """A plan, and what is to be said of it.

    Attributes:
        notes: sentences, in mode fp16 on the head-room of values and weights, before and after.
        reason: why no free scale was changed; empty where some were.
    """

    plan: Plan
    notes: list[str]
    reason: str = ""


def plan_halves(
    network: Network, moments: Mapping[str, Moments], largest: Mapping[str, np.ndarray], system: ScaleSystem
) -> Planned:
    """Return the plan that brings the largest value of each free channel near one of WANTED by powers of two.

    Where nothing comes near either end of half precision, or the plan would help neither, it changes nothing.

    Args:
        largest: sizes of what no unit puts out, as `statistics.largest` measures them.
    """
    nothing = Plan(system, system.expand(np.zeros(system.num_unknowns)))
    before = _extent(network, moments, largest, nothing)
    best, after = nothing, before
    for wanted in WANTED:
        plan = Plan(system, system.expand(_rounded(system, _wanted(network, moments, system, wanted))))
        found = _extent(network, moments, largest, plan)
        if found.shortfall < after.shortfall:
            best, after = plan, found
        if not after.shortfall[0]:
            break
    if best is not nothing:
        return Planned(best, before.described("before") + after.described("after"))
    reason = _NO_HELP if any(before.shortfall) else _HAS_ROOM
    return Planned(nothing, [*before.described("as it is"), f"no scale was changed: {reason}"], reason)


def _wanted(network: Network, moments: Mapping[str, Moments], system: ScaleSystem, size: float) -> np.ndarray:
    """Return the unknowns with which the largest values of channels come nearest to a size; of tied ones, the largest."""
    labels, sizes = [np.zeros(0, int)], [np.zeros(0)]
    for unit in network.units:
        for channels, found in scaled_apart(network.graph, system, unit, moments[unit.key]):
            largest, top = found.largest, found.max_abs
            # What a channel without values would need cannot be known: it goes with the largest of its unit.
            own = np.where(largest > _NEGLIGIBLE * top, np.maximum(largest, top / _APART), top)
            sizes.append(own if top > 0 else np.full(len(largest), np.nan))
            labels.append(channels)
    flat = np.concatenate(labels)
    groups, extents = system.groups(flat), np.concatenate(sizes)
    counts = np.isfinite(extents)
    tops = np.zeros(groups.max() + 1)
    np.maximum.at(tops, groups[counts], extents[counts])
    return system.unknowns_for(flat, np.log(size / np.where(counts, tops[groups], np.nan)))


def to_powers_of_two(plan: Plan) -> Plan:
    """Return the plan whose scales are the nearest powers of two; its system should be an `exact_system`."""
    system = plan.system
    found = system.unknowns_for(np.arange(len(plan.scales) - 1), plan.scales[:-1])
    return Plan(system, system.expand(_rounded(system, found)))


def _rounded(system: ScaleSystem, unknowns: np.ndarray) -> np.ndarray:
    """Return the nearest unknowns for which all scales are powers of two."""
    grain = _LN2 * _denominators(system)
    return np.round(unknowns / grain) * grain


def _denominators(system: ScaleSystem) -> np.ndarray:
    """Return for each unknown the least whole number whose multiples all labels' coefficients take to whole numbers."""
    matrix = system.solution.matrix.tocsc()
    found = np.ones(system.num_unknowns)
    for column in range(system.num_unknowns):
        values = np.unique(matrix.data[matrix.indptr[column] : matrix.indptr[column + 1]])
        found[column] = np.lcm.reduce(
            [Fraction(float(v)).limit_denominator(1 << 16).denominator for v in values] or [1]
        )
    return found


@dataclass
class _Extent:
    """How far the numbers of a net reach.

    Attributes:
        values: name of each unit -> largest absolute value of its output on the pictures.
        others: the same of what lies between units; name of what makes it.
        weights: layer -> largest absolute weight.
        lost, total: number of weights so small that half precision loses digits, and of all.
    """

    values: dict[str, float]
    others: dict[str, float]
    weights: dict[str, float]
    lost: int
    total: int

    @property
    def shortfall(self) -> tuple[float, float]:
        """What is lacking to `_ENOUGH` at the upper end of the range, and then at the lower one, in binary digits.

        Of each unit and each layer, the largest number counts: what is small beside it adds little to any sum. What is made
        of units' outputs may be small, as probabilities are.
        """
        own = np.array([*self.values.values(), *self.weights.values()])
        own, others = np.log2(own[own > 0]), np.log2([size for size in self.others.values() if size > 0])
        above = np.maximum(0, np.concatenate([own, others]) - np.log2(LARGEST / _ENOUGH))
        below = np.maximum(0, np.log2(SMALLEST * _ENOUGH) - own)
        return float(above.sum()), float(below.sum())

    def described(self, when: str) -> list[str]:
        """Return sentences on the head-room of values and of weights."""
        notes = [f"largest value {when}: {_head_room({**self.values, **self.others})}"]
        if self.total:
            notes.append(
                f"largest weight {when}: {_head_room(self.weights)}; {self.lost} of {self.total} below {SMALLEST:.2g}, "
                "where half precision loses digits"
            )
        return notes


def _extent(network: Network, moments: Mapping[str, Moments], largest: Mapping[str, np.ndarray], plan: Plan) -> _Extent:
    """Return how far numbers reach with this plan; the arrays are as they were."""
    values = {u.name: plan.moments(network.graph, u, moments[u.key]).max_abs for u in network.units}
    found = _Extent(values, _between(network, largest, plan), {}, 0, 0)
    logs = plan.system.log_factors(network.graph, plan.scales)
    shares = _shares(network)
    for name in (n for n in logs if n in network.learned):
        array = np.abs(network.graph.initializers[name] * (np.exp(logs[name]) * shares.get(name, 1.0)))
        layer = network.learned[name].layer
        found.weights[layer] = max(found.weights.get(layer, 0.0), float(array.max(initial=0)))
        found.lost += int(((array > 0) & (array < SMALLEST)).sum())
        found.total += array.size
    return found


def _between(network: Network, largest: Mapping[str, np.ndarray], plan: Plan) -> dict[str, float]:
    """Return what makes values that no unit puts out -> the largest number of these."""
    found: dict[str, float] = {}
    for value, sizes in largest.items():
        labels = plan.system.labels[value]
        scaled = sizes * np.exp(plan.scales[labels.reshape(sizes.shape)])
        maker = _maker(network, value)
        found[maker] = max(found.get(maker, 0.0), float(scaled.max(initial=0)))
    return found


def _maker(network: Network, value: str) -> str:
    node = network.graph.producer(value)
    return network.makers[value][0] if value in network.makers or node is None else name_of(node)


def _shares(network: Network) -> dict[str, float]:
    """Return statistics -> what is used of them: Caffe stores sums, and beside them the number that they are divided by."""
    found: dict[str, float] = {}
    for unit in network.units:
        if unit.factor is not None:
            mean, variance, factor = unit.initializers[:3]
            share = 1 / float(unit.factor[0]) if unit.factor[0] else 0.0
            found |= {mean: share, variance: share, factor: 0.0}
    return found


def _head_room(largest: Mapping[str, float]) -> str:
    name = max(largest, key=lambda n: largest[n], default="")
    value = largest.get(name, 0.0)
    if value > LARGEST:
        return f"{value:.3g} in {name}, which overflows half precision"
    return f"{value:.3g} in {name}, head-room {LARGEST / value:.3g}" if value else "0"
