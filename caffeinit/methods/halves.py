"""Powers of two as scales, with which every number keeps its digits, and head-room below 65504 for half precision.

Each free channel's largest value on the pictures is brought near one size. Multiplying by a power of two is exact, and so
the net computes bit by bit what it did, except where a number leaves the range of its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

import numpy as np

from caffeinit.apply.plan import Plan, channel_labels
from caffeinit.model.network import Network
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.moments import Moments

LARGEST, SMALLEST = 65504.0, 2.0**-14  # of half precision; below the latter digits get lost
# What the largest value of every free channel is brought to: a factor of 4000 below overflow, and far more above zero.
WANTED = 16.0
_NEGLIGIBLE = 1e-7  # of a unit's largest value: a channel that never exceeds this has nothing to lose
# Scales of one unit's channels differ by no more than this: weights grow with a scale, and a value of 16 / 256 is as safe.
_APART = 256.0
_LN2 = float(np.log(2.0))


def exact_system(system: ScaleSystem) -> ScaleSystem:
    """Return the system in which no BatchNormalization has to change its stored variance, which cannot be exact."""
    tied, held = [], [np.zeros(0, int)]
    for link in system.links:
        if link.kind == "norm" and "weight" in link.initializers:
            held.append(link.inputs)
        elif link.kind == "norm":
            tied += [np.array([i, o]) for i, o in zip(link.inputs, link.outputs, strict=True)]
    return system.tied(tied).held(
        np.unique(np.concatenate(held)), "the variance that BatchNorm stores would be rounded"
    )


def plan_halves(network: Network, moments: Mapping[str, Moments], system: ScaleSystem) -> Plan:
    """Return the plan that brings the largest value of each free channel near WANTED by powers of two."""
    labels, wanted = [], []
    for unit in network.units:
        largest = moments[unit.key].largest
        top = largest.max(initial=0)
        # What a channel without values would need cannot be known: it goes with the largest of its unit.
        sizes = np.where(largest > _NEGLIGIBLE * top, np.maximum(largest, top / _APART), top)
        wanted.append(np.log(WANTED / sizes) if top > 0 else np.full(len(largest), np.nan))
        labels.append(channel_labels(network.graph, system, unit.uses[0]))
    found = system.unknowns_for(np.concatenate(labels), np.concatenate(wanted))
    return Plan(system, system.expand(_rounded(system, found)))


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


def describe_halves(network: Network, moments: Mapping[str, Moments], plan: Plan) -> list[str]:
    """Return sentences on the head-room of values and weights before and after; the arrays are as they were."""
    keys = [unit.key for unit in network.units]
    factors = [np.exp(plan.factors(network.graph, unit)) for unit in network.units]
    before = {u.name: float(moments[k].largest.max()) for u, k in zip(network.units, keys, strict=True)}
    after = {
        u.name: float((moments[k].largest * f).max()) for u, k, f in zip(network.units, keys, factors, strict=True)
    }
    notes = [f"largest value before: {_head_room(before)}", f"largest value after: {_head_room(after)}"]
    logs = plan.system.log_factors(network.graph, plan.scales)
    arrays = {n: network.graph.initializers[n] for n in logs if n in network.learned}
    scaled = {n: np.abs(a * np.exp(logs[n])) for n, a in arrays.items()}
    given = {n: np.abs(a) for n, a in arrays.items()}
    for when, found in (("before", given), ("after", scaled)) if arrays else ():
        lost = sum(int(((a > 0) & (a < SMALLEST)).sum()) for a in found.values())
        size: dict[str, float] = {}
        for name, array in found.items():
            layer = network.learned[name].layer
            size[layer] = max(size.get(layer, 0.0), float(array.max(initial=0)))
        notes.append(
            f"largest weight {when}: {_head_room(size)}; {lost} of {sum(a.size for a in found.values())} below "
            f"{SMALLEST:.2g}, where half precision loses digits"
        )
    return notes


def _head_room(largest: Mapping[str, float]) -> str:
    name = max(largest, key=lambda n: largest[n], default="")
    value = largest.get(name, 0.0)
    if value > LARGEST:
        return f"{value:.3g} in {name}, which overflows half precision"
    return f"{value:.3g} in {name}, head-room {LARGEST / value:.3g}" if value else "0"
