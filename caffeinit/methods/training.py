"""A start for training: unit channels within layers (`within.py`), then one rate between them (`rounds.py`).

Where layers such as LRN, or sums, tie the rates to the function, the second step would undo the first in what follows.
So the scales are found on the first batch before all else, and the pass over all pictures gives the channels deviations
of these sizes, and makes responses uncorrelated that promise to be. What is left to the second step then is small as a
rule, and made up for on the first batch; where it is not, all pictures are seen again.
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, Algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from caffeinit.apply.plan import apply
from caffeinit.errors import CaffeinitError
from caffeinit.graph.heads import find_heads
from caffeinit.graph.units import Unit
from caffeinit.methods.between import each_has_a_scale, scale_system, spread_of
from caffeinit.methods.columns import plan_column_rates
from caffeinit.methods.correction import Trust
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.responses import ResponseKeeper, refiners
from caffeinit.methods.restoring import (
    MANY_VALUES,
    Normalizer,
    Restorer,
    Thorough,
    can_restore,
    find_restorer,
    scale_targets,
)
from caffeinit.methods.rounds import ROUNDS, Balanced, approach, iterate
from caffeinit.methods.telling import (
    apart_notes,
    foretold_notes,
    holding,
    large_notes,
    learns,
    loose_notes,
    rate_notes,
    too_far_notes,
    uneven_notes,
)
from caffeinit.methods.within import InputSampler, normalize
from caffeinit.model.network import Network, digest
from caffeinit.result import UnitReport, UnitStats
from caffeinit.scales.channels import has_one_scale
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.forward import measure_moments
from caffeinit.statistics.rate_options import BALANCED, Pictures, RateOptions, first_pictures
from caffeinit.statistics.rates import RateProbe, UnitRates, without_squares

Batch = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]
Scales = Mapping[str, np.ndarray]
# What the scales found on the first batch have to reach: the rest is done after the pass over all pictures.
_ROUGH_LIMIT, _ROUGH_ROUNDS = 0.1, 4


@dataclass
class Outcome:
    """What was done.

    Attributes:
        units: one report each.
        peak_bytes: the most memory that kept activations took.
        notes: what else is worth knowing.
        spreads: of the rates before and after balancing; None without.
        outputs_moved: net output -> its largest change on the pictures, as a part of its largest value; empty where the
            function was not to be kept.
    """

    units: list[UnitReport]
    peak_bytes: int
    notes: list[str] = field(default_factory=list)
    spreads: tuple[float, float] | None = None
    outputs_moved: dict[str, float] = field(default_factory=dict)


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
    work = _Work(network, batches, chosen, beta, samplers, uncorrelated or {}, rates.num_pictures(batches))
    if not rates.balanced:
        return Outcome(*work.drawn(progress=progress))
    try:
        probe = RateProbe(network, work.first)
    except CaffeinitError as error:
        reports, peak = work.drawn(progress=progress)
        return Outcome(reports, peak, [f"the rates of the units were left as they are: {error}"])
    both = _Phases(progress)
    relaxed = work.relaxed(probe)
    bent = _is_restored(network, relaxed.system) and (bool(relaxed.system.bonds) or relaxed.has_sums)
    if bent:
        done = _bend(work, relaxed, both)
    else:
        reports, peak = work.drawn(progress=both.first)
        left = _left_alone(network, reports, chosen)
        relaxed = work.relaxed(probe, relaxed)
        found = iterate(relaxed, progress=both.second)
        done = _Done(relaxed, reports, peak, left, found, relaxed.held, relaxed.too_far)
    relaxed, reports, found = done.relaxed, done.reports, done.found
    if rates.per_channel:
        restorer = work.keeper(relaxed) if bent else Restorer()
        found = _balance_columns(work, probe, restorer, found)
    for unit, report in zip(network.units, reports, strict=True):
        known = done.left.get(unit.key)
        if not report.done and known not in (None, _numbers(network, unit)):
            report.done = "scaled"
    # Of a unit whose uses got scales of their own, one factor does not tell the deviations.
    one_each = all(has_one_scale(network.graph, relaxed.system, unit) for unit in network.units)
    # What is foretold of values behind sums is off by percents, and so it is where restoring was not enough.
    close = not (done.is_off or relaxed.has_sums)
    told = all(report.before is not None or not report.done for report in reports)
    foretold = found.changed and bent and all(map(can_restore, network.units)) and close and one_each and told
    # Nothing made up for a change of the function, or not enough; or a unit was scaled that has not been measured.
    # The file may hold less digits.
    rounded = network.round_as_stored()
    foretold = foretold and not rounded
    if (found.changed and not foretold) or not one_each or not told or rounded:
        _measure_again(network, batches, reports, found)
    if rounded or (found.changed and not foretold):  # rates that were foretold over many steps are off by a percent
        found.after = without_squares(probe.measure())
    both.end()
    outcome = _outcome(work, relaxed, reports, done.peak, found)
    outcome.notes += foretold_notes(foretold, work.num_first)
    outcome.notes += loose_notes(done.held if bent or found.changed else None, outcome.spreads)
    outcome.notes += too_far_notes(done.too_far, outcome.spreads)
    outcome.notes += rates.told(batches) + large_notes(reports)
    if not foretold and not rates.per_channel:
        outcome.notes += uneven_notes(network.units, reports)
    return outcome


def _is_restored(network: Network, system: ScaleSystem) -> bool:
    """Tell whether outputs are given the sizes back that their scales say, while scales are looked for.

    Sums alone do not ask for that where a net stores statistics: with these, most units have a scale of their own.
    """
    return bool(system.bonds) or all(map(can_restore, network.units))


@dataclass
class _Work:
    """What is to be trained, and with what.

    Attributes:
        samplers: unit name -> what draws its weights.
        turned: unit name -> how many filters of each group respond without correlation.
        num_first: how many pictures the scales are found on.
        first: these, in a list of one batch.
    """

    network: Network
    batches: Iterable[Batch]
    chosen: Callable[[Unit], str]
    beta: float
    samplers: Mapping[str, InputSampler]
    turned: Mapping[str, Sequence[int]]
    num_first: int

    @cached_property
    def first(self) -> list[Batch]:
        return first_pictures(self.network, self.batches, self.num_first)

    def relaxed(self, probe: RateProbe, before: Relaxed | None = None) -> Relaxed:
        """Return the scales that may change; what was found `before` weights were drawn, where they do not matter.

        Weights that are drawn and then left alone tie scales as they are, and all zero they tie nothing.
        """
        late = any(unit.name in self.samplers and self.chosen(unit) for unit in self.network.units)
        if before is not None and not late:
            return before
        return Relaxed(self.network, probe, self.chosen, learns, partial(_is_restored, self.network))

    def drawn(self, **more: Any) -> tuple[list[UnitReport], int]:
        """Draw what is to be drawn from data, and normalise; see `normalized`."""
        return self.normalized(samplers=self.samplers, **more)

    def normalized(
        self, *, refined: bool = True, chosen: Callable[[Unit], str] | None = None, **more: Any
    ) -> tuple[list[UnitReport], int]:
        """Normalise on all pictures, and make responses uncorrelated that are to be so; see `within.normalize`."""
        turners, chosen = refiners(self.turned) if refined else {}, chosen or self.chosen
        return normalize(self.network, self.batches, beta=self.beta, chosen=chosen, turners=turners, **more)

    def why_unrestored(self, relaxed: Relaxed, unit: Unit) -> str:
        """Return why a unit's outputs are not given the sizes that their scales say; empty to give them these."""
        return self.chosen(unit) or relaxed.why_unrestored(unit)

    def keeper(self, relaxed: Relaxed, least: int = MANY_VALUES) -> Restorer:
        """Return what makes up for changes of the function, on the first pictures; see `find_restorer`."""
        keepers = {name: ResponseKeeper(determined) for name, determined in self.turned.items()}
        return find_restorer(self.network, self.first, partial(self.why_unrestored, relaxed), least, keepers)


@dataclass
class _Done:
    """What is reached.

    Attributes:
        relaxed: with which scales.
        left: unit's key -> numbers of the units that could not be normalised, as `_left_alone` returns them.
        held, too_far: as in `Relaxed`.
        is_off: whether what is foretold of deviations is off by percents.
    """

    relaxed: Relaxed
    reports: list[UnitReport]
    peak: int
    left: dict[str, int]
    found: Balanced
    held: float | None
    too_far: float | None
    is_off: bool = False


def _bend(work: _Work, relaxed: Relaxed, both: _Phases) -> _Done:
    """Draw, normalise and give one rate where scales change the function, so that one undoes the other."""
    network, chosen = work.network, work.chosen
    as_found = _look_first(work)
    relaxed = work.relaxed(relaxed.probe, relaxed)
    restored = partial(work.why_unrestored, relaxed)
    # What is normalised on the first pictures alone is so again after each round.
    anew = Normalizer(network, work.first, restored, work.beta)
    restorer = work.keeper(relaxed, least=0) if work.samplers else anew
    given, before = approach(relaxed, limit=_ROUGH_LIMIT, rounds=_ROUGH_ROUNDS, restorer=restorer)
    left = _left_alone(network, as_found, chosen)
    reports, peak = work.normalized(targets=scale_targets(work.beta, given), chosen=restored, progress=both.first)
    pairs = zip(network.units, reports, as_found, strict=True)
    reports = [earlier if relaxed.why_unrestored(unit) else report for unit, report, earlier in pairs]
    left = _left_alone(network, reports, chosen) | left

    def normalize_again(scales: Scales) -> None:
        targets = scale_targets(work.beta, {key: given[key] + logs for key, logs in scales.items()})
        work.normalized(targets=targets, chosen=restored)

    thorough = Thorough(work.keeper(relaxed), normalize_again)
    found = iterate(relaxed, restorer=thorough, progress=both.second)
    learned = [unit for unit in network.units if learns(unit)]
    done = _Done(relaxed, reports, peak, left, found, relaxed.held, relaxed.too_far, thorough.was_needed)
    if relaxed.is_lost(spread_of(found.after, learned), spread_of(before, learned)):
        done = _unbent(work, relaxed, left)
    done.found.before = before
    for report, earlier in zip(done.reports, as_found, strict=True):
        report.before = earlier.before
    return done


def _unbent(work: _Work, relaxed: Relaxed, left: Mapping[str, int]) -> _Done:
    """Normalise once more, and scale by what keeps the function alone: what changes it has led away from one rate."""
    reports, peak = work.normalized()
    found = iterate(relaxed, rounds=1)
    return _Done(relaxed, reports, peak, {**left, **_left_alone(work.network, reports, work.chosen)}, found, None, None)


def _look_first(work: _Work) -> list[UnitReport]:
    """Draw what is to be drawn, and normalise; return what the units put out at first."""
    if work.samplers:
        # Responses are made uncorrelated when the scales are found, on which they depend.
        return work.drawn(refined=False)[0]
    ones = scale_targets(work.beta, {unit.key: np.zeros(1) for unit in work.network.units}, Trust.SAMPLE)
    return normalize(work.network, work.first, chosen=work.chosen, targets=ones)[0]


class _Phases:
    """The progress of normalising and then of balancing, as that of one work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stages = 0

    def first(self, done: int, stages: int) -> None:
        """Show the progress of the first phase, beside all that the second may take."""
        self._stages = stages
        self._progress(done, stages + ROUNDS)

    def second(self, done: int, rounds: int) -> None:
        """Show that of the second phase."""
        self._progress(self._stages + done, self._stages + rounds)

    def end(self) -> None:
        """Show that it is done, in however few rounds."""
        self._progress(self._stages + ROUNDS, self._stages + ROUNDS)


def _left_alone(network: Network, reports: Sequence[UnitReport], chosen: Callable[[Unit], str]) -> dict[str, int]:
    """Return unit's key -> `_numbers` of the units that could not be normalised, but may still be scaled."""
    pairs = zip(network.units, reports, strict=True)
    return {u.key: _numbers(network, u) for u, r in pairs if r.reason and not chosen(u)}


def _numbers(network: Network, unit: Unit) -> int:
    """Return what tells whether a unit's arrays have changed."""
    return digest({name: network.graph.initializers[name] for name in unit.initializers})


def _balance_columns(work: _Work, probe: RateProbe, restorer: Restorer, found: Balanced) -> Balanced:
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


def _outcome(work: _Work, relaxed: Relaxed, reports: list[UnitReport], peak: int, found: Balanced) -> Outcome:
    network, probe = relaxed.network, relaxed.probe
    units = [unit for unit in network.units if learns(unit)]
    spreads = spread_of(found.before, units), spread_of(found.after, units)
    for unit, report in zip(network.units, reports, strict=True):
        key = unit.key
        if report.before is not None:
            report.after = (report.after or report.before).scaled(np.exp(found.scales[key]))
        report.before = _with_rate(report.before, found.before.get(key))
        report.after = _with_rate(report.after, found.after.get(key))
    notes = rate_notes(network, probe, found.after)
    known = {unit.name: found.after[unit.key].rate for unit in units if found.after[unit.key].is_measured}
    held = {u.name: why for u in units if (why := holding(network, relaxed.system, u))}
    notes += apart_notes(spreads, known, found.rounds, held, _fed(units, work.first[0]))
    return Outcome(reports, peak, notes, spreads)


def _fed(units: Sequence[Unit], batch: Batch) -> dict[str, float]:
    """Return unit's name -> how much the numbers deviate that it reads, of those that read an input of the net."""
    read = {u.name: batch[v] for u in units for v in (u.uses[0].node.input[0],) if v in batch}
    return {name: float(np.std(array)) for name, array in read.items()}


def _with_rate(stats: UnitStats | None, rates: UnitRates | None) -> UnitStats | None:
    return stats.with_rate(rates.rate, rates.rate_cvar) if stats and rates else stats
