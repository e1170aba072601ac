"""Units that change each channel of another unit's output by itself: BatchNorm and Scale on a convolution.

Such a unit is an affine map of each channel, so that its moments follow from those of what it reads.
"""

from __future__ import annotations

import numpy as np

from caffeinit.graph import Graph
from caffeinit.graph.units import Unit
from caffeinit.model.network import Network


@np.errstate(over="ignore", invalid="ignore", divide="ignore")
def channel_map(unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and shift, (C,) float64 each, of a unit that is a factor and a shift for each channel.

    Numbers of the unit that are not finite show in them, and in the moments that they give.

    Args:
        unit: of kind "channel", or "norm" with a factor that is not 0.
    """
    scale, shift = np.ones(unit.num_channels), np.zeros(unit.num_channels)
    if unit.kind == "norm":
        assert unit.mean is not None
        assert unit.variance is not None
        share = float(unit.factor[0]) if unit.factor is not None else 1.0
        scale = 1 / np.sqrt(unit.variance / share + unit.epsilon)
        shift = -unit.mean / share * scale
    if unit.weight is not None:
        scale, shift = scale * unit.weight.astype(np.float64), shift * unit.weight.astype(np.float64)
    return scale, shift if unit.bias is None else shift + unit.beta * unit.bias.astype(np.float64)


def followed_units(network: Network, settled: bool = False) -> dict[str, Unit]:
    """Return the key of each unit whose moments follow from another's -> that unit, which comes before it.

    Args:
        settled: as it is when all stored statistics have been set; without, those that are not leave nothing to follow.
    """
    makers = {unit.uses[0].output: unit for unit in network.units if len(unit.uses) == 1}
    return {
        unit.key: makers[unit.uses[0].input]
        for unit in network.units
        if len(unit.uses) == 1 and unit.uses[0].input in makers and _follows(network.graph, unit, makers, settled)
    }


def _follows(graph: Graph, unit: Unit, makers: dict[str, Unit], settled: bool) -> bool:
    if unit.kind == "affine" or (unit.factor is not None and not unit.factor[0] and not settled):
        return False
    return has_channels_of(graph, unit, makers[unit.uses[0].input])


def has_channels_of(graph: Graph, unit: Unit, before: Unit) -> bool:
    """Tell whether the channels of a unit of one use are those of the unit whose output it reads, and no others."""
    use = unit.uses[0]
    axis = next(u.axis for u in before.uses if u.output == use.input)
    is_same = use.axis == axis and unit.num_channels == before.num_channels
    return is_same and graph.shape(use.input) == graph.shape(use.output)
