"""How a layer that is nearly homogeneous (LRN) passes a scale on, found by trying.

Local response normalisation leaves small values as they are and divides large ones by a power of their own size, so that
the scale of its output follows that of its input along a curve. The curve is measured with the layer itself, on one
batch: no formula of a layer is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline

from caffeinit.bonds import Bond
from caffeinit.engine.session import compile_graph
from caffeinit.network import Network

# Log scales at which a layer is tried, closer where it bends; beyond them the curve goes on straight.
_TRIED = np.array([-14.0, -11.0, -8.0, *np.arange(-6.0, 6.5), 8.0, 11.0, 14.0])
# With two pictures, CaffeNet needed 4 to 8 rounds where it needs 3 or 4 with these.
_PICTURES = 8


@dataclass(frozen=True)
class Transfer:
    """A curve: log scale of a layer's input -> that of its output; 0 at 0."""

    curve: CubicSpline

    def __call__(self, scale: float) -> float:
        """Return the output's log scale."""
        inside = float(np.clip(scale, _TRIED[0], _TRIED[-1]))
        return float(self.curve(inside)) + self.slope(inside) * (scale - inside)

    def slope(self, scale: float) -> float:
        """Return the derivative."""
        return float(self.curve(np.clip(scale, _TRIED[0], _TRIED[-1]), 1))


def measure_transfers(network: Network, batch: Mapping[str, np.ndarray], bonds: Sequence[Bond]) -> list[Transfer]:
    """Return the curve of each bond's layer, measured on one batch."""
    if not bonds:
        return []
    free = network.graph.batch_axis_free
    feeds = {name: array[:_PICTURES] if free else array for name, array in batch.items()}
    below = compile_graph(network.graph, list(dict.fromkeys(b.bottom for b in bonds)), network.settings)
    values = below.run({name: feeds[name] for name in below.inputs})
    return [_measure(network, bond, values[bond.bottom], feeds) for bond in bonds]


def _measure(network: Network, bond: Bond, bottom: np.ndarray, feeds: Mapping[str, np.ndarray]) -> Transfer:
    layer = compile_graph(network.graph, [bond.top], network.settings, [bond.bottom])
    sizes = []
    for scale in _TRIED:
        given = {**feeds, bond.bottom: bottom * np.float32(np.exp(scale))}
        top = layer.run({name: given[name] for name in layer.inputs})[bond.top]
        sizes.append(np.sqrt(np.mean(np.square(top, dtype=np.float64))))
    logs = np.log(np.maximum(sizes, np.finfo(np.float64).tiny))
    return Transfer(CubicSpline(_TRIED, logs - logs[np.flatnonzero(_TRIED == 0)[0]]))
