"""Unit channel deviations with the net's function kept.

Every channel of a unit whose scale is free (`scales.py`) is brought to standard deviation 1 on the calibration set, and
what reads it makes up for that; where channels are tied, their deviations have geometric mean 1. Means stay where they
are. The outputs before and after are compared on the pictures.
Method: derived from the change of rates between layers in Krähenbühl et al., ICLR 2016, section 3.2, with one factor
per channel instead of one per layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.graph import Graph
from caffeinit.heads import find_heads
from caffeinit.moments import Moments
from caffeinit.network import Network
from caffeinit.plan import Plan, apply, channel_labels
from caffeinit.result import UnitReport, UnitStats
from caffeinit.scales import find_scales
from caffeinit.units import Unit
from caffeinit.verify import TOLERANCE, compute_outputs, largest_moves

Batch = Mapping[str, np.ndarray]


def measure(network: Network, batches: Iterable[Batch]) -> dict[str, Moments]:
    """Return the moments of every unit's output, all its uses together, in one forward pass.

    Returns:
        unit's first initializer -> moments.
    Raises:
        WeightsError: an output is not finite.
    """
    uses = {use.output: (unit, use) for unit in network.units for use in unit.uses}
    session = compile_graph(network.graph, list(uses), network.settings)
    found = {unit.initializers[0]: Moments(unit.num_channels) for unit in network.units}
    for batch in batches:
        for value, array in session.run({n: batch[n] for n in session.inputs}).items():
            unit, use = uses[value]
            found[unit.initializers[0]].update(array, use.axis)
    for unit in network.units:
        if not np.isfinite(found[unit.initializers[0]].std).all():
            raise WeightsError(f'layer "{unit.name}": its output is not finite on the calibration pictures')
    return found


def plan_unit_deviations(network: Network, moments: Mapping[str, Moments], chosen: Callable[[Unit], str]) -> Plan:
    """Return the plan that brings free channels to deviation 1.

    Args:
        chosen: returns why a unit's arrays are to be left alone; empty to let them change.
    """
    graph = network.graph
    learned = [i for unit in network.units if not chosen(unit) for i in unit.initializers]
    system = find_scales(graph, learned)
    labels, wanted = [], []
    for unit in network.units:
        found = moments[unit.initializers[0]]
        log_std = np.full(unit.num_channels, np.nan)
        log_std[~found.dead] = -np.log(found.std[~found.dead])
        labels.append(channel_labels(graph, system, unit.uses[0]))
        wanted.append(log_std)
    flat, targets = np.concatenate(labels), np.concatenate(wanted)
    unknowns = system.unknowns_for(flat, targets)
    while len(low := system.below_floor(unknowns)):
        system = system.held(low, "the variance that BatchNorm stores would be negative")
        unknowns = system.unknowns_for(flat, targets)
    return Plan(system, system.expand(unknowns))


def equalize(
    network: Network,
    batches: Iterable[Batch],
    chosen: Callable[[Unit], str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[UnitReport], list[str]]:
    """Bring free channels to deviation 1 and prove that the function is kept.

    Returns:
        One report per unit, and a sentence for each output on how far it moved.
    Raises:
        CaffeinitError: an output moved by more than `verify.TOLERANCE`; the network must not be saved then.
    """
    graph = network.graph
    # Where a loss wants labels that the pictures do not bring, what it judges is compared in its place.
    ends = dict.fromkeys([*graph.outputs, *find_heads(graph, network.learned)])
    outputs = [name for name in ends if _computable(network, name, batches)]
    if not outputs:
        raise CaffeinitError("the pictures determine no output of the net, so that nothing can be proved")
    before = compute_outputs(network, batches, outputs)
    progress(1, 3)
    moments = measure(network, batches)
    plan = plan_unit_deviations(network, moments, chosen)
    apply(network, plan)
    progress(2, 3)
    moves = largest_moves(before, compute_outputs(network, batches, outputs))
    progress(3, 3)
    worst = max(moves, key=lambda name: moves[name])
    if not moves[worst] <= TOLERANCE:
        raise CaffeinitError(
            f'output "{worst}" moved by {moves[worst]:.2g} of its largest value on the pictures, more than {TOLERANCE:g}: '
            "rounding is blown up in this net. Nothing is written"
        )
    notes = [f'output "{name}" moved by {move:.2g} of its largest value' for name, move in moves.items()]
    return [_report(graph, unit, moments[unit.initializers[0]], plan, chosen(unit)) for unit in network.units], notes


def _computable(network: Network, output: str, batches: Iterable[Batch]) -> bool:
    given = set(next(iter(batches)))
    return all(i in given for n in network.graph.ancestors([output]) for i in n.input if i in network.graph.inputs)


def _report(graph: Graph, unit: Unit, moments: Moments, plan: Plan, reason: str) -> UnitReport:
    scale = np.exp(plan.factors(graph, unit))
    report = UnitReport(unit.name, unit.kind, unit.num_channels, reason=reason)
    report.before, report.after = UnitStats.of(moments), UnitStats.of(moments.scaled(scale, np.zeros(len(scale))))
    report.dead = [int(i) for i in np.flatnonzero(moments.dead)]
    free = int(plan.is_free(graph, unit).sum())
    why = "; ".join(plan.reasons(graph, unit))
    alive = report.after.channel_stds[~moments.dead]
    if not reason and free == unit.num_channels:
        report.done = "equalized" if np.allclose(alive, 1, atol=1e-3) else "equalized as far as tied channels allow"
    elif not reason and free:
        report.done = f"{free} channels equalized, the others held: {why}"
    elif not reason:
        report.done = "takes up its input's scales" if unit.initializers[0] in plan.system.uses else ""
        report.reason = "" if report.done else f"its output is held: {why}"
        report.done += f"; its output is held: {why}" if report.done else ""
    return report
