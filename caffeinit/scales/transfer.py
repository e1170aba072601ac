"""How a layer that is nearly homogeneous (LRN) passes a scale on, found by trying.

Local response normalisation leaves small values as they are and divides large ones by a power of their own size, so that
the scale of its output follows that of its input along a curve, and what it does to gradients along another. The curves
are measured with the layer itself, on one batch: no formula of a layer is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.interpolate import CubicSpline

from caffeinit.arithmetic.workers import worker_pool
from caffeinit.engine.session import Session, compile_graph
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import joins_rows
from caffeinit.model.network import Network
from caffeinit.scales.bonds import Bond

# Log scales at which a layer is tried, closer where it bends; beyond them the curve goes on straight.
_TRIED = np.array([-12.0, -9.0, -7.0, -5.0, -3.5, -2.0, -1.0, 0.0, 1.0, 2.0, 3.5, 5.0, 7.0, 9.0, 12.0])
# Below this slope of its curve an activation hardly follows, as where most values are at a limit; looked for at so many.
_HARDLY, _FINELY = 0.5, 241
# Of what a layer makes of a small input and its negative, the share that may not be opposite.
_STRAIGHT = 1e-2
# With two pictures, CaffeNet needed 4 to 8 rounds where it needs 2 to 4 with these.
_PICTURES = 8
_NUMBERS = 1 << 24  # that the layers read; of fewer pictures where these have more

# Operators whose gradient does not depend on the scale of what they read.
_PIECEWISE_LINEAR = {"AveragePool", "Flatten", "Identity", "LeakyRelu", "MaxPool", "Relu", "Reshape", "Slice"}


@dataclass(frozen=True)
class Curves:
    """A function of its log scale for each of some layers, 0 at 0; at once, for a search asks for them thousands of times.

    Attributes:
        spline: of the log scales that were tried, (layers,), counted from what the scales were then.
        origin: (layers,) how far the scales have moved since.
    """

    spline: CubicSpline
    origin: np.ndarray

    def __call__(self, scales: np.ndarray) -> np.ndarray:
        """Return the values, (layers,), at one scale each."""
        return np.asarray(self._at(self.origin + scales) - self._at(self.origin))

    def slope(self, scales: np.ndarray) -> np.ndarray:
        """Return the derivatives, (layers,)."""
        return np.asarray(self._inside(self.origin + scales)[2])

    def _at(self, tried: np.ndarray) -> np.ndarray:
        inside, values, slopes = self._inside(tried)
        return np.asarray(values + slopes * (tried - inside))

    def _inside(self, tried: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the nearest scales between those that were tried, and the values and derivatives there."""
        knots = self.spline.x
        inside = np.clip(tried, knots[0], knots[-1])
        piece = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, len(knots) - 2)
        by = inside - knots[piece]
        cubic, square, linear, constant = self.spline.c[:, piece, np.arange(len(by))]
        values = ((cubic * by + square) * by + linear) * by + constant
        return inside, values, (3 * cubic * by + 2 * square) * by + linear


@dataclass(frozen=True)
class Transfers:
    """What layers do when their inputs are scaled.

    Attributes:
        values: log scale of the input -> that of the output.
        diffs: log scale of the input -> by how much the gradient there grows, log, beside the inverse of that scale, which
            it would grow by if the layer were homogeneous; the gradient at the output shrinks as the output grows.
        is_linear: (layers,) whether a layer does to small inputs, and to their negatives, what a factor does.
        highest: (layers,) log scales, as counted for the curves, above which most inputs are cut off; infinite for none.
    """

    values: Curves
    diffs: Curves
    is_linear: np.ndarray
    highest: np.ndarray

    def moved(self, by: np.ndarray) -> Transfers:
        """Return what holds from now on, if the inputs' log scales have moved."""
        values, diffs = (replace(c, origin=c.origin + by) for c in (self.values, self.diffs))
        return replace(self, values=values, diffs=diffs)


def measure_transfers(network: Network, batch: Mapping[str, np.ndarray], bonds: Sequence[Bond]) -> Transfers:
    """Return what the bonds' layers do, one at least, measured on one batch."""
    graph, feeds = network.graph, dict(batch)
    bottoms = list(dict.fromkeys(b.bottom for b in bonds))
    if graph.batch_axis_free and not joins_rows(graph.part(bottoms)):
        each = sum(math.prod(graph.shape(bond.bottom)) for bond in bonds) // graph.batch_size()
        count = max(1, min(_PICTURES, _NUMBERS // max(each, 1)))
        feeds = {name: array[:count] for name, array in batch.items()}
    below = compile_graph(network.graph, bottoms, network.settings)
    values = below.run({name: feeds[name] for name in below.inputs})
    found = np.stack([_measure(network, bond, values[bond.bottom], feeds) for bond in bonds], axis=-1)
    is_linear = np.array([_is_linear(network, bond, values[bond.bottom], feeds) for bond in bonds])
    of_values, of_diffs = (Curves(CubicSpline(_TRIED, curves), np.zeros(len(bonds))) for curves in found)
    highest = np.where([bond.is_elementwise for bond in bonds], _highest(of_values.spline), np.inf)
    return Transfers(of_values, of_diffs, is_linear, highest)


def _highest(values: CubicSpline) -> np.ndarray:
    """Return the log scales, (layers,), above which outputs hardly grow with the inputs; infinite for none."""
    tried = np.linspace(values.x[-1], values.x[0], _FINELY)
    last = np.argmax(values(tried, 1) >= _HARDLY, axis=0)
    return np.where(last > 0, tried[last], np.inf)


def _measure(network: Network, bond: Bond, bottom: np.ndarray, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the values of both curves of a bond's layer at the scales that are tried, (2, tried)."""
    above = _linear_above(network.graph, bond.top)
    layer = network.graph.part([bond.top, above], [bond.bottom])
    shape = (layer.shape(above)[0] * len(bottom) // layer.shape(bond.bottom)[0], *layer.shape(above)[1:])
    noise = layer.add_input_like(above, "noise")
    (diff,) = append_backward(layer, {above: noise}, [bond.bottom]).values()
    # A ReLU below lets nothing through where the input is 0, and there the layer would pass on most by far.
    passed = layer.add_input_like(bond.bottom, "passed")
    # Squares of large values would leave single precision.
    shrink = layer.add_input(layer.fresh("shrink"), (1,), is_still=True)
    squared = layer.op("Mul", bond.top, shrink), layer.op("Mul", diff, passed)
    layer.outputs = [_sum_squares(layer, value) for value in squared]
    session = Session(layer, replace(network.settings, threads=1))
    drawn = np.random.default_rng(0).standard_normal(shape, np.float32)
    lets = (bottom != 0).astype(np.float32)
    largest = float(np.abs(bottom).max(initial=0)) or 1.0

    def sizes(scale: float) -> list[float]:
        size = largest * np.exp(scale)
        own = {bond.bottom: bottom * np.float32(np.exp(scale)), noise: drawn, passed: lets}
        given = {**feeds, **own, shrink: np.array([1 / size], np.float32)}
        found = session.run({name: given[name] for name in session.inputs})
        of_values, of_diffs = (float(np.sqrt(found[name].sum(dtype=np.float64))) for name in layer.outputs)
        return [of_values * size, of_diffs]

    with worker_pool(network.settings.workers) as pool:
        logs = np.log(np.maximum(list(pool.map(sizes, _TRIED)), np.finfo(np.float64).tiny))
    values, diffs = (logs - logs[np.flatnonzero(_TRIED == 0)[0]]).T
    return np.stack([values, diffs + _TRIED - values])


def _is_linear(network: Network, bond: Bond, bottom: np.ndarray, feeds: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a bond's layer takes the negative of a small input to the negative of its output."""
    session = Session(network.graph.part([bond.top], [bond.bottom]), replace(network.settings, threads=1))
    small = bottom * np.float32(np.exp(_TRIED[0]))
    given = ({**feeds, bond.bottom: sign * small} for sign in (np.float32(1), np.float32(-1)))
    one, other = (session.run({n: own[n] for n in session.inputs})[bond.top].astype(np.float64) for own in given)
    return bool(np.abs(one + other).sum() <= _STRAIGHT * np.abs(one - other).sum())


def _sum_squares(graph: Graph, value: str) -> str:
    """Append the sums of squares over the last axis, few enough numbers for single precision."""
    return graph.op("ReduceSum", graph.op("Mul", value, value), [-1], keepdims=0)


def _linear_above(graph: Graph, value: str) -> str:
    """Return what a value becomes before it is weighed: pooling, above all, lets gradients through in some places only."""
    readers = graph.consumers()
    while len(of := readers.get(value, [])) == 1 and of[0].op_type in _PIECEWISE_LINEAR and value not in graph.outputs:
        value = of[0].output[0]
    return value
