"""Between layers: scales that give all units one rate of change.

The rates follow from the scales in closed form (`terms.py`), and the scales that make them equal are looked for without
another pass through the net (`goal.py`).
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, Algorithm 2, whose
fixed point this is. The closed form is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caffeinit.apply.plan import Plan
from caffeinit.graph.units import Unit
from caffeinit.methods.goal import Goal
from caffeinit.methods.terms import find_terms
from caffeinit.model.network import Network
from caffeinit.scales.classes import ScaleSystem, find_scales
from caffeinit.statistics.rates import UnitRates, known_spread

FLOOR = "the variance that BatchNorm stores would be negative"


def scale_system(
    network: Network,
    chosen: Callable[[Unit], str],
    heads: Sequence[str],
    relaxed: bool,
    rewritten: bool = False,
    loose: bool = False,
    bending: bool = True,
) -> ScaleSystem:
    """Return the scales that may change; those of the heads are held, so that gradients can be compared.

    Args:
        chosen: returns why a unit's arrays are to be left alone; empty to let them change.
        relaxed, rewritten, loose, bending: as for `find_scales`.
    """
    learned = [i for unit in network.units if not chosen(unit) for i in unit.initializers]
    outputs = [*(network.graph.outputs or network.graph.unused()), *heads]
    return find_scales(network.graph, learned, outputs, relaxed, rewritten, loose, bending)


def each_has_a_scale(
    network: Network, units: Sequence[Unit], chosen: Callable[[Unit], str], heads: Sequence[str]
) -> bool:
    """Tell whether all units but one, which makes the head, have a scale of their own that keeps the function."""
    if any(chosen(u) or len(u.uses) > 1 for u in units):
        return False
    exact = scale_system(network, chosen, heads, relaxed=False)
    values = [u.uses[0].output for u in units]
    scales = [exact.solution.matrix[exact.labels[v].ravel()].mean(axis=0) for v in values if v in exact.labels]
    if not scales:
        return False
    free = np.vstack(scales)
    rank = int(np.linalg.matrix_rank(free)) if free.size else 0  # numpy 2.0 refuses a matrix without columns
    return rank >= len(units) - 1


def plan_balance(
    network: Network,
    rates: Mapping[str, UnitRates],
    counted: Callable[[Unit], bool],
    start: Plan,
    evenly: bool = False,
) -> Plan:
    """Return the plan that also makes the rates equal, as far as the graph allows.

    Args:
        rates: measured with the arrays as they are, without `start`.
        counted: which units' rates are to become equal.
        start: scales that are given to the values in any case; free channels of one unit keep their ratios.
        evenly: as for `Goal.best`.
    """
    base = start.system
    while True:
        system = base.tied(free_groups(base))
        units = [u for u in network.units if counted(u)]
        terms = find_terms(units, system, rates, start.scales)
        moved = system.expand(Goal(terms, system.num_unknowns).best(evenly=evenly))
        low = base.labels_below_floor(start.scales + moved)
        if not low.size:
            return Plan(base, start.scales + moved)
        base = base.held(low, FLOOR)


def free_groups(system: ScaleSystem) -> list[np.ndarray]:
    """Return the free output channels of every unit: one scale each, so that a unit's channels keep their ratios."""
    found = []
    for link in system.links:
        for labels in (link.outputs, link.inputs) if link.kind == "norm" else (link.outputs,):
            labels = np.unique(labels)
            found.append(labels[system.is_free(labels)])
    return found


def predict(units: Sequence[Unit], rates: Mapping[str, UnitRates], plan: Plan) -> dict[str, UnitRates]:
    """Return the rates that a plan leads to."""
    links = {id(link.node): link for link in plan.system.links if link.kind == "affine"}
    found = {}
    for unit in units:
        link = links.get(id(unit.uses[0].node)) if unit.uses else None
        known = rates.get(unit.key)
        if known is not None:
            found[unit.key] = known.scaled(link, plan.scales) if link and known.diffs else known.alone()
    return found


def spread_of(rates: Mapping[str, UnitRates], units: Sequence[Unit]) -> float:
    """Return the spread max |log C - mean log C| of the units' rates; NaN where none has one."""
    return known_spread(rates[u.key].rate for u in units if u.key in rates)
