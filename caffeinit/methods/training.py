"""A start for training: unit channels within layers (`within.py`), then one rate between them (`rounds.py`).

Where layers such as LRN, or sums, tie the rates to the function, the second step would undo the first in what follows
(`bending.py`).
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from caffeinit.apply.plan import apply
from caffeinit.errors import CaffeinitError
from caffeinit.graph.heads import find_heads
from caffeinit.graph.units import Unit
from caffeinit.methods.bending import bend
from caffeinit.methods.between import each_has_a_scale, scale_system, spread_of
from caffeinit.methods.columns import plan_column_rates
from caffeinit.methods.outcome import Outcome
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.restoring import Restorer
from caffeinit.methods.rounds import Balanced, iterate
from caffeinit.methods.telling import (
    apart_notes,
    foretold_notes,
    holding,
    large_notes,
    learns,
    loose_notes,
    rate_notes,
    shifted_notes,
    too_far_notes,
    uneven_notes,
)
from caffeinit.methods.within import InputSampler
from caffeinit.methods.work import Done, Phases, Training, all_restored, is_restored, left_alone, numbers_of
from caffeinit.model.network import Network
from caffeinit.result import UnitReport, UnitStats
from caffeinit.scales.channels import has_one_scale
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rate_options import BALANCED, Pictures, RateOptions
from caffeinit.statistics.rates import RateProbe, UnitRates, without_squares

Batch = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]


def keeps_function(network: Network, chosen: Callable[[Unit], str]) -> bool:
    """Tell whether units surely get one rate with no change of the function: nothing bends or ties their scales.

    Each but one, which makes the head, has to have a scale that is its own.

    Args:
        chosen: returns why a unit is to be left alone; empty to change it.
    """
    heads, units = find_heads(network.graph, network.unit_arrays), [u for u in network.units if learns(u)]
    if network.graph.held or not each_has_a_scale(network, units, chosen, heads):
        return False
    relaxed = scale_system(network, chosen, heads, relaxed=True, bending=False)
    return not relaxed.bonds and not relaxed.sums


def prepare_training(
    network: Network,
    batches: Pictures,
    *,
    beta: float,
    chosen: Callable[[Unit], str],
    samplers: Mapping[str, InputSampler],
    uncorrelated: Mapping[str, Sequence[int]] | None = None,
    rates: RateOptions = BALANCED,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Draw what is to be drawn, normalise the chosen units, and give all units one rate.

    Args:
        batches: input -> array dictionaries; may be iterated over several times.
        chosen: returns why a unit is to be left alone; empty to change it.
        samplers: unit name -> what draws its weights from its inputs first.
        uncorrelated: unit name -> how many filters of each group, its first, are to respond without correlation; known
            once it is drawn.
        rates: whether they are balanced, and on which pictures.
    Raises:
        WeightsError: a unit's output is not finite; the network must not be saved then.
    """
    work = Training(network, batches, chosen, beta, samplers, uncorrelated or {}, rates.num_pictures(batches))
    if not rates.balanced:
        return Outcome(*work.drawn(progress=progress))
    try:
        probe = RateProbe(network, work.first)
    except CaffeinitError as error:
        reports, peak = work.drawn(progress=progress)
        return Outcome(reports, peak, [f"the rates of the units were left as they are: {error}"])
    both = Phases(progress)
    done = _give_one_rate(work, probe, both, rates.per_channel)
    is_foretold = _settle(work, done)
    both.end()
    outcome = _outcome(work, done)
    outcome.notes += foretold_notes(is_foretold, work.num_first)
    outcome.notes += loose_notes(done.held if done.bent or done.found.changed else None, outcome.spreads)
    outcome.notes += too_far_notes(done.too_far, outcome.spreads)
    outcome.notes += rates.told(batches) + large_notes(done.reports)
    if not is_foretold and not rates.per_channel:
        outcome.notes += uneven_notes(network.units, done.reports) + shifted_notes(network.units, done.reports, beta)
    return outcome


def _give_one_rate(work: Training, probe: RateProbe, both: Phases, per_channel: bool) -> Done:
    """Draw, normalise and give the units one rate, and if asked for their columns, too."""
    network, relaxed = work.network, work.relaxed(probe)
    bent = is_restored(network, relaxed.system) and (bool(relaxed.system.bonds) or relaxed.has_sums)
    done = bend(work, relaxed, both) if bent else _scale(work, relaxed, both)
    if per_channel:
        restorer = work.keeper(done.relaxed) if bent else Restorer()
        done.found = _balance_columns(work, probe, restorer, done.found)
    for unit, report in zip(network.units, done.reports, strict=True):
        known = done.left.get(unit.key)
        if not report.done and known not in (None, numbers_of(network, unit)):
            report.done = "scaled"
    return done


def _settle(work: Training, done: Done) -> bool:
    """Round numbers as the file is to hold them, and measure again what is then not known.

    Returns:
        Whether what changed is told as foretold: deviations, and rates, where the function has changed.
    """
    network, reports, found = work.network, done.reports, done.found
    rounded = network.round_as_stored()
    # Of a unit whose uses got scales of their own, one factor does not tell the deviations.
    one_each = all(has_one_scale(network.graph, done.relaxed.system, unit) for unit in network.units)
    told = all(report.before is not None or not report.done for report in reports)
    # What is foretold of values behind sums is off by percents, and so it is where restoring was not enough.
    close = done.bent and all_restored(network) and not (done.is_off or done.relaxed.has_sums)
    is_foretold = found.changed and close and one_each and told and not rounded
    # Nothing made up for a change of the function, or not enough; or a unit was scaled that has not been measured.
    is_off = rounded or (found.changed and not is_foretold)
    if is_off or not one_each or not told:
        _measure_again(network, work.batches, reports, found)
    if is_off:  # rates that were foretold over many steps are off by a percent
        found.after = without_squares(done.relaxed.probe.measure())
    return is_foretold


def _scale(work: Training, relaxed: Relaxed, both: Phases) -> Done:
    """Draw and normalise, and then give one rate."""
    reports, peak = work.drawn(progress=both.first)
    left = left_alone(work.network, reports, work.chosen)
    relaxed = work.relaxed(relaxed.probe, relaxed)
    found = iterate(relaxed, progress=both.second)
    return Done(relaxed, reports, peak, left, found, relaxed.held, relaxed.too_far)


def _balance_columns(work: Training, probe: RateProbe, restorer: Restorer, found: Balanced) -> Balanced:
    """Give the columns of each unit one rate, which keeps the function, and the units one rate again."""
    network, chosen = work.network, work.chosen
    system = scale_system(network, chosen, probe.heads, relaxed=False)
    plan = plan_column_rates(network, probe.measure(), learns, system)
    apply(network, plan)
    again = iterate(work.relaxed(probe), restorer=restorer)
    scales = {
        unit.key: found.scales[unit.key] + plan.factors(network.graph, unit) + again.scales[unit.key]
        for unit in network.units
    }
    return Balanced(scales, found.before, again.after, found.rounds + again.rounds, found.changed or again.changed)


def _measure_again(network: Network, batches: Iterable[Batch], reports: Sequence[UnitReport], found: Balanced) -> None:
    """Put what units put out now in place of what was foretold, and let no scale be added to it."""
    moments = measure_moments(network, batches)
    for unit, report in zip(network.units, reports, strict=True):
        if unit.key in moments and (report.before is not None or report.done):
            report.after = UnitStats.of(moments[unit.key])
            found.scales[unit.key] = np.zeros(unit.num_channels)


def _outcome(work: Training, done: Done) -> Outcome:
    network, relaxed, reports, found = work.network, done.relaxed, done.reports, done.found
    units = [unit for unit in network.units if learns(unit)]
    spreads = spread_of(found.before, units), spread_of(found.after, units)
    for unit, report in zip(network.units, reports, strict=True):
        key = unit.key
        if report.before is not None:
            report.after = (report.after or report.before).scaled(np.exp(found.scales[key]))
        report.before = _with_rate(report.before, found.before.get(key))
        report.after = _with_rate(report.after, found.after.get(key))
    notes = rate_notes(network, relaxed.probe, found.after)
    known = {unit.name: found.after[unit.key].rate for unit in units if found.after[unit.key].is_measured}
    held = {u.name: why for u in units if (why := holding(network, relaxed.system, u))}
    notes += apart_notes(spreads, known, found.rounds, held, _fed(units, work.first[0]))
    return Outcome(reports, done.peak, notes, spreads)


def _fed(units: Sequence[Unit], batch: Batch) -> dict[str, float]:
    """Return unit's name -> how much the numbers deviate that it reads, of those that read an input of the net."""
    read = {u.name: batch[v] for u in units for v in (u.uses[0].node.input[0],) if v in batch}
    return {name: float(np.std(array)) for name, array in read.items()}


def _with_rate(stats: UnitStats | None, rates: UnitRates | None) -> UnitStats | None:
    return stats.with_rate(rates.rate, rates.rate_cvar) if stats and rates else stats
