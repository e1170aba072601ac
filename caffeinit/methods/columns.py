"""One rate for all columns of a unit: a scale per channel instead of one per unit.

The rate of the weights that read input channel j changes with that channel's own scale by twice its logarithm, once the
scales of the unit's outputs are known. So the scales follow from the top of the net downwards, each in closed form;
where channels are tied, the mean counts. The constraints are the graph's, and the function is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from caffeinit.apply.plan import Plan
from caffeinit.graph.units import Unit
from caffeinit.methods.between import FLOOR
from caffeinit.model.network import Network
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.rates import UnitRates

# Scales settle from the top in as many rounds as units lie on one another; ties need some more.
_ROUNDS = 60
_SETTLED = 1e-4


def plan_column_rates(
    network: Network, rates: Mapping[str, UnitRates], counted: Callable[[Unit], bool], system: ScaleSystem
) -> Plan:
    """Return the plan that makes the rates of each unit's columns equal, as far as the graph allows.

    Args:
        rates: measured with the arrays as they are.
        counted: which units' columns are to become equal.
    """
    while True:
        plan = _settle(network, rates, counted, system)
        low = system.labels_below_floor(plan.scales)
        if not low.size:
            return plan
        system = system.held(low, FLOOR)


def _settle(
    network: Network, rates: Mapping[str, UnitRates], counted: Callable[[Unit], bool], system: ScaleSystem
) -> Plan:
    links = {id(link.node): link for link in system.links if link.kind == "affine"}
    units = [u for u in network.units if counted(u) and u.uses and id(u.uses[0].node) in links]
    known = [(links[id(u.uses[0].node)], rates[u.key]) for u in units if u.key in rates]
    known = [(link, found) for link, found in known if found.is_measured]
    scales = np.zeros(system.solution.matrix.shape[0])
    for _ in range(_ROUNDS if known else 0):
        labels, wanted = [], []
        for link, found in known:
            labels.append(link.inputs)
            wanted.append(scales[link.inputs] + _missing(found.scaled(link, scales).column_rates))
        moved = system.expand(system.unknowns_for(np.concatenate(labels), np.concatenate(wanted)))
        change, scales = float(np.abs(moved - scales).max(initial=0)), moved
        if change < _SETTLED:
            break
    return Plan(system, scales)


def _missing(column_rates: np.ndarray) -> np.ndarray:
    """Return the log scales that bring columns to their mean rate; NaN where a column has none."""
    alive = np.isfinite(column_rates) & (column_rates > 0)
    found = np.full(len(column_rates), np.nan)
    logs = np.log(column_rates[alive])
    found[alive] = (logs.mean() - logs) / 2 if alive.any() else 0
    return found
