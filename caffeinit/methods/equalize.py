"""Unit channel deviations with the net's function kept.

Every channel of a unit whose scale is free (`scales/classes.py`) is brought to standard deviation 1 on the calibration set,
and what reads it makes up for that; where channels are tied, their deviations have geometric mean 1. Means are not shifted.
Method: derived from the change of rates between layers in Krähenbühl et al., ICLR 2016, section 3.2, with one factor
per channel instead of one per layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffeinit.apply.plan import Plan, scaled_apart
from caffeinit.methods.between import FLOOR
from caffeinit.model.network import Network
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.moments import Moments


def plan_unit_deviations(network: Network, moments: Mapping[str, Moments], system: ScaleSystem) -> Plan:
    """Return the plan that brings free channels to deviation 1.

    Args:
        moments: unit's key -> moments of its outputs, with a part for each use where there are several.
        system: the scales that may change.
    """
    graph = network.graph
    labels, wanted = [], []
    for unit in network.units:
        for channels, found in scaled_apart(graph, system, unit, moments[unit.key]):
            log_std = np.full(unit.num_channels, np.nan)
            log_std[~found.dead] = -np.log(found.std[~found.dead])
            labels.append(channels)
            wanted.append(log_std)
    flat, targets = np.concatenate(labels), np.concatenate(wanted)
    unknowns = system.unknowns_for(flat, targets)
    while len(low := system.below_floor(unknowns)):
        system = system.held(low, FLOOR)
        unknowns = system.unknowns_for(flat, targets)
    return Plan(system, system.expand(unknowns))
