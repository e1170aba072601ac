"""A plan: by which factors a network's values and arrays are to change, and its execution.

The methods that keep a net's function (`equalize`, `between`, ...) each return one; what they have in common, from the
factors of single channels to the bytes of the arrays, is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffeinit.errors import WeightsError
from caffeinit.graph import Graph
from caffeinit.network import Network
from caffeinit.scales import ScaleSystem
from caffeinit.units import Unit, Use

_BLOCK_ELEMENTS = 1 << 17  # of float64, which stay in the cache


@dataclass(frozen=True)
class Plan:
    """Factors for all labels of a scale system.

    Attributes:
        system: which labels the values have.
        scales: (labels + 1,) log scales that fulfil the system's constraints.
    """

    system: ScaleSystem
    scales: np.ndarray

    def factors(self, graph: Graph, unit: Unit) -> np.ndarray:
        """Return the log scale of each output channel of a unit, (O,)."""
        return np.asarray(self.scales[channel_labels(graph, self.system, unit.uses[0])])

    def is_free(self, graph: Graph, unit: Unit) -> np.ndarray:
        """Tell which output channels of a unit are free, (O,)."""
        return self.system.is_free(channel_labels(graph, self.system, unit.uses[0]))

    def reasons(self, graph: Graph, unit: Unit) -> list[str]:
        """Return why the other channels are not free."""
        return self.system.reasons(channel_labels(graph, self.system, unit.uses[0]))

    def plus(self, scales: np.ndarray) -> Plan:
        """Return the plan that changes everything by further log scales, of the same labels."""
        return Plan(self.system, self.scales + scales)


def channel_labels(graph: Graph, system: ScaleSystem, use: Use) -> np.ndarray:
    """Return the label of each channel of a unit's output, (C,)."""
    shape = graph.shape(use.output)
    labels = system.labels[use.output]
    labels = labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape)
    axis = use.axis % len(shape)
    first = labels[tuple(slice(None) if i == axis else 0 for i in range(len(shape)))]
    return np.broadcast_to(first, (shape[axis],))


def apply(network: Network, plan: Plan) -> None:
    """Change a network's arrays as planned, in place.

    Raises:
        WeightsError: a number leaves single precision; the network is then half changed and must not be saved.
    """
    variances = plan.system.variances(network.graph, plan.scales)
    stored = plan.system.stored_variances
    for name, use in plan.system.uses.items():
        if name not in stored:
            _multiply(network.graph.initializers[name], plan.scales[use.plus], -plan.scales[use.minus])
            _check_finite(network, name)
    for name, values in variances.items():
        network.graph.initializers[name][...] = values
        _check_finite(network, name)


def _multiply(array: np.ndarray, *logs: np.ndarray) -> None:
    """Multiply a float32 array by exp of the sum of these logarithms, which broadcast to it, rounding once."""
    varying = [axis for axis in range(array.ndim) if any(log.shape[axis] > 1 for log in logs)]
    if not varying:
        # One factor for all stays a float32 product, which is many times faster on large arrays.
        factor = float(np.exp(sum(float(log.reshape(-1)[0]) for log in logs)))
        if factor != 1:
            np.multiply(array, factor, out=array, casting="same_kind")
        return
    rows = [np.exp(np.broadcast_to(log, (array.shape[0], *log.shape[1:]))) for log in logs]
    size = max(1, _BLOCK_ELEMENTS * len(array) // max(array.size, 1))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(array), size):
            block = array[start : start + size]
            product = np.multiply(block, rows[0][start : start + size], dtype=np.float64)
            for factors in rows[1:]:
                product *= factors[start : start + size]
            block[...] = product


def _check_finite(network: Network, name: str) -> None:
    if not np.isfinite(network.graph.initializers[name]).all():
        raise WeightsError(f'layer "{network.learned[name].layer}": its rescaled weights leave single precision')
