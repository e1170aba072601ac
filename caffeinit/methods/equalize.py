"""Unit channel deviations with the net's function kept.

Every channel of a unit whose scale is free (`scales/classes.py`) is brought to standard deviation 1 on the calibration set,
and what reads it makes up for that; where channels are tied, their variances have mean 1: however many of them hardly vary,
as what little a trained net adds to some channels of a sum, none is scaled far up for their sake. Means are not shifted.
Method: derived from the change of rates between layers in Krähenbühl et al., ICLR 2016, section 3.2, with one factor
per channel instead of one per layer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from caffeinit.apply.plan import Plan
from caffeinit.arithmetic.moments import Moments
from caffeinit.methods.between import FLOOR
from caffeinit.model.network import Network
from caffeinit.scales.channels import scaled_apart
from caffeinit.scales.classes import ScaleSystem


def plan_unit_deviations(network: Network, moments: Mapping[str, Moments], system: ScaleSystem) -> Plan:
    """Return the plan that brings free channels to deviation 1.

    Args:
        moments: unit's key -> moments of its outputs, with a part for each use where there are several.
        system: the scales that may change.
    """
    graph = network.graph
    labels, variances = [np.zeros(0, int)], [np.zeros(0)]
    for unit in network.units:
        for channels, found in scaled_apart(graph, system, unit, moments[unit.key]):
            labels.append(channels)
            variances.append(np.where(found.dead, np.nan, np.square(found.std, dtype=np.float64)))
    flat = np.concatenate(labels)
    targets = -np.log(_group_means(system.groups(flat), np.concatenate(variances))) / 2
    unknowns = system.unknowns_for(flat, targets)
    while len(low := system.below_floor(unknowns)):
        system = system.held(low, FLOOR)
        unknowns = system.unknowns_for(flat, targets)
    return Plan(system, system.expand(unknowns))


def _group_means(groups: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return for each number, (n,), the mean of those of its group; NaN counts nowhere, and stays."""
    counts = np.isfinite(numbers)
    sums, sizes = (np.bincount(groups[counts], w, groups.max() + 1) for w in (numbers[counts], None))
    return np.where(counts, (sums / np.maximum(sizes, 1))[groups], np.nan)
