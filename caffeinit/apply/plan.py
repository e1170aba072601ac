"""A plan: by which factors a network's values and arrays are to change, and its execution.

The methods that keep a net's function (`equalize`, `between`, ...) each return one; what they have in common, from the
factors of single channels to the bytes of the arrays, is here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffeinit.arithmetic.factors import fits, is_zero, moves, multiply
from caffeinit.arithmetic.moments import Moments
from caffeinit.errors import WeightsError
from caffeinit.graph import Graph
from caffeinit.graph.units import Unit
from caffeinit.model.network import Network
from caffeinit.scales.channels import channel_labels, has_channel_scales
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.links import Use as ArrayUse
from caffeinit.storage.mapped import release


@dataclass(frozen=True)
class Plan:
    """Factors for all labels of a scale system.

    Attributes:
        system: which labels the values have.
        scales: (labels + 1,) log scales that fulfil the system's constraints.
    """

    system: ScaleSystem
    scales: np.ndarray

    def factors(self, graph: Graph, unit: Unit, use: int = 0) -> np.ndarray:
        """Return the log scale of each channel of what one use of a unit puts out, (O,)."""
        return np.asarray(self.scales[channel_labels(graph, self.system, unit.uses[use])])

    def moments(self, graph: Graph, unit: Unit, before: Moments) -> Moments:
        """Return the moments of a unit's outputs as they become.

        Args:
            before: of all uses; its parts are of one use each.
        """
        parts = [
            part.scaled(np.exp(self.factors(graph, unit, number)), np.zeros(unit.num_channels))
            for number, part in enumerate(before.parts or [before])
        ]
        return Moments.pooled(parts)

    def tells(self, graph: Graph, unit: Unit) -> bool:
        """Tell whether each channel of what a unit puts out has one scale, so that `moments` are what they become."""
        return all(has_channel_scales(graph, self.system, use, self.scales) for use in unit.uses)

    def changes(self, graph: Graph, unit: Unit) -> bool:
        """Tell whether a unit's arrays change; they are as before the plan or after it."""
        for name in unit.initializers:
            use = self.system.uses.get(name)
            if use is not None and any(moves(log) for log in _logs(self, use)):
                array = graph.initializers[name]
                is_changed = not is_zero(array)
                release(array)
                if is_changed:
                    return True
        return False

    def is_free(self, graph: Graph, unit: Unit) -> np.ndarray:
        """Tell which output channels of a unit are free, (O,)."""
        return self.system.is_free(channel_labels(graph, self.system, unit.uses[0]))

    def plus(self, scales: np.ndarray) -> Plan:
        """Return the plan that changes everything by further log scales, of the same labels."""
        return Plan(self.system, self.scales + scales)


def apply(network: Network, plan: Plan, roughly: bool = False) -> None:
    """Change a network's arrays as planned, in place.

    Args:
        roughly: round a factor that is the same for a whole array before it is used, which takes half of the time.
    Raises:
        WeightsError: a number leaves single precision, or a variance falls below 0; the network is then half changed and
            must not be saved.
    """
    variances, lifts = (f(network.graph, plan.scales) for f in (plan.system.variances, plan.system.lifts))
    stored = plan.system.stored_variances
    for name, use in plan.system.uses.items():
        if name not in stored:
            array = network.graph.initializers[name]
            logs = _logs(plan, use, lifts.get(name), roughly)
            with np.errstate(over="ignore"):  # no number can be multiplied by that
                factors = [np.exp(log) for log in logs]
            if not multiply(array, *factors, threads=network.settings.threads):
                raise _overflow(network, name, sum(float(log.max()) for log in logs))
            release(array)
    for name, values in variances.items():
        array = network.graph.initializers[name]
        if not np.isfinite(array).all():
            raise WeightsError(f'layer "{network.learned[name].layer}": holds numbers that are not finite')
        if _is_negative(array, values):
            raise WeightsError(f'layer "{network.learned[name].layer}": the variance that it stores would be negative')
        with np.errstate(over="ignore"):
            array[...] = values
        if not np.isfinite(array).all():
            raise _overflow(network, name)


def can_apply(network: Network, plan: Plan) -> bool:
    """Tell whether a plan can be applied: all numbers stay in single precision, and variances 0 at least."""
    variances, lifts = (f(network.graph, plan.scales) for f in (plan.system.variances, plan.system.lifts))
    stored = plan.system.stored_variances
    threads = network.settings.threads
    with np.errstate(over="ignore"):
        if not all(np.isfinite(v.astype(np.float32)).all() for v in variances.values()):
            return False
    if any(_is_negative(network.graph.initializers[name], values) for name, values in variances.items()):
        return False
    for name, use in plan.system.uses.items():
        if name not in stored:
            array = network.graph.initializers[name]
            with np.errstate(over="ignore"):
                is_fit = fits(array, *map(np.exp, _logs(plan, use, lifts.get(name))), threads=threads)
            release(array)
            if not is_fit:
                return False
    return True


def labels_beyond(network: Network, plan: Plan) -> np.ndarray:
    """Return the free labels by whose factors numbers would leave single precision, (n,)."""
    if can_apply(network, plan):
        return np.zeros(0, int)
    system, graph, found = plan.system, network.graph, [np.zeros(0, int)]
    with np.errstate(over="ignore", invalid="ignore"):
        variances, lifts = (f(graph, plan.scales) for f in (system.variances, system.lifts))
        for link in system.links:
            if link.kind == "norm":
                beyond = ~np.isfinite(variances[link.initializers["variance"]].astype(np.float32).ravel())
                found += [link.inputs[beyond], link.outputs[beyond]]
        for name, use in system.uses.items():
            if name not in variances:
                array = graph.initializers[name]
                log = sum(_logs(plan, use, lifts.get(name)))
                beyond = np.isfinite(array) & ~np.isfinite((array * np.exp(log)).astype(np.float32))
                found += [np.broadcast_to(labels, array.shape)[beyond] for labels in (use.plus, use.minus)]
                release(array)
    labels = np.unique(np.concatenate(found))
    return np.asarray(labels[system.is_free(labels)])


def _logs(plan: Plan, use: ArrayUse, lift: np.ndarray | None = None, joined: bool = False) -> list[np.ndarray]:
    """Return the logarithms of an array's factors, or their sum where each is a single number.

    Args:
        lift: what a norm's weight makes up for beside that.
        joined: numbers that are all the same count as a single one.
    """
    logs = [plan.scales[use.plus], -plan.scales[use.minus]]
    logs += [] if lift is None else [lift]
    if joined:
        logs = [log[(slice(0, 1),) * log.ndim] if log.size and (log == log.flat[0]).all() else log for log in logs]
    return [np.asarray(sum(logs))] if all(log.size == 1 for log in logs) else logs


def _is_negative(array: np.ndarray, values: np.ndarray) -> bool:
    """Tell whether a variance would fall below 0."""
    return bool(((values < 0) & (array >= 0)).any())


def _overflow(network: Network, name: str, log: float | None = None) -> WeightsError:
    """Return what to raise for an array that a factor, given as its logarithm where it is known, cannot be applied to."""
    of = network.learned.get(name) or network.graph.net_numbers[name]
    factors = "the factors wanted" if log is None else f"factors of up to {_spelt(log)}"
    return WeightsError(
        f'{getattr(of, "kind", "layer")} "{of.layer}": {factors} would take its numbers beyond what single precision '
        "holds (3.4e+38)"
    )


def _spelt(log: float) -> str:
    """Return the number that a logarithm is of, in two digits where any number can be it."""
    return f"{np.exp(log):.2g}" if log < np.log(np.finfo(float).max) else f"1e+{log / np.log(10):.0f}"
