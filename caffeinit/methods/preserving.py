"""Rescaling that keeps the net's function, and the proof on the pictures that it did.

One pass over the pictures measures the units' outputs and keeps the net's; a plan is made from that and from the rates
on one batch; a second pass compares the outputs. Of activations, one batch is in memory at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto

from caffeinit.apply.plan import Plan, apply, labels_beyond
from caffeinit.arithmetic.moments import Moments
from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph
from caffeinit.graph.heads import find_heads
from caffeinit.graph.netnumbers import shortest
from caffeinit.graph.nodes import INSIDE, operator_of
from caffeinit.graph.places import find_places
from caffeinit.graph.units import Unit
from caffeinit.methods.between import plan_balance, scale_system, spread_of
from caffeinit.methods.columns import plan_column_rates
from caffeinit.methods.equalize import plan_unit_deviations
from caffeinit.methods.halves import SMALLEST, Planned, exact_system, plan_halves, to_powers_of_two
from caffeinit.methods.outcome import Outcome
from caffeinit.methods.telling import holding, learns, rate_notes
from caffeinit.methods.within import ALL_DEAD
from caffeinit.model.network import Network
from caffeinit.proof.functions import NetFunction, differences
from caffeinit.proof.verify import TOLERANCE, Difference, KeptValues, is_kept
from caffeinit.result import UnitReport, UnitStats
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.forward import Found, kept_values, looked_at, measure_moments, run_pieces
from caffeinit.statistics.largest import measure_largest
from caffeinit.statistics.nonfinite import check_finite
from caffeinit.statistics.rate_options import BALANCED, Pictures, RateOptions, first_pictures
from caffeinit.statistics.rates import RateProbe, UnitRates, without_squares

Batch = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]
# mode -> what was done to a channel that is free
MODES = {"preserve": "equalized", "equalize": "equalized", "balance": "balanced", "fp16": "given head-room"}
# Units of one plan reach the same deviation within this; with powers of two, each is off by up to the root of two.
_EQUAL = 1e-3
# A spread of the rates has grown if it is so many times the one before; below the other no rates lie apart.
_GROWN, _EVEN = 1.01, 1e-2
# An output that moved by more than this part of its largest value is not what it was, whatever the reason.
_GROSS = 1e-2
_OTHER_CHOICE = "has other entries, which rounding chose; what they are chosen from is the same"


@dataclass
class _Run:
    """What is known while a net is rescaled.

    Attributes:
        chosen: returns why a unit's arrays are to be left alone; empty to let them change.
        per_channel_rates: make the rates of each unit's columns equal instead of its channels' deviations.
        rewritten: let numbers of the net's text (alpha of LRN) change, too.
        powers_of_two: round all scales to powers of two.
        probe: measures rates; None where the mode does not need them, or there are none.
        moments: unit's key -> moments of its output as it was.
        largest: value that no unit puts out -> how large its numbers are; in mode fp16 alone.
        measured: unit's key -> moments as they have become, measured where they do not follow from the scales of channels.
        rates: unit's key -> rates as they were.
        rounded: weights are stored in half precision, and new ones were rounded to it.
        outputs_moved: as in `Outcome`.
        no_change: why no free scale is changed; empty where some are.
    """

    network: Network
    chosen: Callable[[Unit], str]
    mode: str
    per_channel_rates: bool = False
    rewritten: bool = False
    powers_of_two: bool = False
    probe: RateProbe | None = None
    moments: dict[str, Moments] = field(default_factory=dict)
    largest: dict[str, np.ndarray] = field(default_factory=dict)
    measured: dict[str, Moments] = field(default_factory=dict)
    rates: dict[str, UnitRates] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    rounded: bool = False
    outputs_moved: dict[str, float] = field(default_factory=dict)
    no_change: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether all scales are powers of two."""
        return self.powers_of_two or self.mode == "fp16"


def rescale_preserving(
    network: Network,
    batches: Pictures,
    chosen: Callable[[Unit], str],
    mode: str = "preserve",
    options: RateOptions = BALANCED,
    rewritten: bool = False,
    powers_of_two: bool = False,
    progress: Progress = lambda done, total: None,
) -> Outcome:
    """Rescale a network in place, its function kept.

    Args:
        batches: input -> array; iterated over several times.
        chosen: returns why a unit's arrays are to be left alone; empty to let them change.
        mode: one of MODES.
        options: in mode preserve, whether units get one rate, and whether the columns of each one instead of its channels
            one deviation; on which pictures.
        rewritten: let numbers of the net itself (alpha of LRN) change, too, which the network's source writes;
            `network.open_numbers` was called.
        powers_of_two: round all scales to powers of two, with which no digit is lost.
    Raises:
        CaffeinitError: an output moved by more than `verify.TOLERANCE`; the network must not be saved then.
    """
    run = _Run(network, chosen, mode, options.per_channel, rewritten, powers_of_two)
    run.notes += options.told(batches)
    first = first_pictures(network, batches, options.num_pictures(batches))
    outputs = _computable(network, first[0])
    if mode == "balance" or (mode == "preserve" and options.balanced):
        _measure_rates(run, first)
    moves = {d.name: d for d in differences(NetFunction(network, "the net"), outputs)}
    room = network.settings.room
    with KeptValues(compared(network, first[0]), room.folder if room else None) as kept:
        progress(0, 3)
        run.moments = measure_moments(network, batches, kept.names, kept.keep)
        check_finite(network, run.moments, batches)
        progress(1, 3)
        plan = _plan(run, outputs, batches)
        _describe_plan(run, plan)
        run.rates = without_squares(run.rates)
        apply(network, plan)
        run.rounded = network.round_as_stored()
        _describe_net(run)
        progress(2, 3)
        _prove(run, plan, batches, kept, moves)
        progress(3, 3)
    return _outcome(run, plan)


def compared(network: Network, given: Collection[str]) -> list[str]:
    """Return the values that are kept to be compared: what the given inputs determine, and what places are told of.

    Raises:
        CaffeinitError: they determine no output.
    """
    outputs = _computable(network, given)
    moving = network.graph.moving_values() - {*network.graph.inputs}
    places = [find_places(name, network.graph.producer) for name in outputs]
    return list(dict.fromkeys([*outputs, *(p.value for p in places if p and p.value in moving)]))


def _computable(network: Network, given: Collection[str]) -> list[str]:
    graph = network.graph
    # Where a loss wants labels that the pictures do not bring, what it judges is compared in its place.
    ends = dict.fromkeys([*(graph.outputs or graph.unused()), *find_heads(graph, network.unit_arrays)])
    outputs = [
        name for name in ends if all(i in given for n in graph.ancestors([name]) for i in n.input if i in graph.inputs)
    ]
    if not outputs:
        raise CaffeinitError("the pictures determine no output of the net, so that nothing can be proved")
    return outputs


def _measure_rates(run: _Run, first: Sequence[Batch]) -> None:
    try:
        run.probe = RateProbe(run.network, first, changing=run.network.graph.net_numbers if run.rewritten else ())
    except CaffeinitError as error:
        if run.mode == "balance":
            raise
        run.notes.append(f"the rates of the units were left as they are: {error}")
        return
    run.rates = run.probe.measure()
    run.notes += rate_notes(run.network, run.probe, run.rates)


def _plan(run: _Run, held: Sequence[str], batches: Iterable[Batch]) -> Plan:
    """Return what is to change; all values that are compared afterwards are held, the heads among them."""
    system = scale_system(run.network, run.chosen, held, relaxed=False, rewritten=run.rewritten)
    system = exact_system(system, run.network.graph) if run.is_exact else system
    if run.mode == "fp16":
        run.largest = measure_largest(run.network, batches, held, system.labels)
    found = _plan_in(run, system)
    while len(beyond := labels_beyond(run.network, found.plan)):
        system = system.held(beyond, "their factors would take numbers beyond single precision (3.4e38)")
        found = _plan_in(run, system)
    run.notes += found.notes
    run.no_change = found.reason
    return found.plan


def _plan_in(run: _Run, system: ScaleSystem) -> Planned:
    if run.mode == "fp16":
        return plan_halves(run.network, run.moments, run.largest, system)
    plan = Plan(system, np.zeros(system.solution.matrix.shape[0]))
    if run.per_channel_rates and run.probe:
        plan = plan_column_rates(run.network, run.rates, learns, system)
    elif run.mode in ("preserve", "equalize"):
        plan = plan_unit_deviations(run.network, run.moments, system)
    plan = plan_balance(run.network, run.rates, learns, plan) if run.probe else plan
    return Planned(to_powers_of_two(plan) if run.powers_of_two else plan, [])


def _prove(run: _Run, plan: Plan, batches: Iterable[Batch], kept: KeptValues, moves: Mapping[str, Difference]) -> None:
    network, pieces = run.network, iter(kept)

    def see(after: Found) -> None:
        before = next(pieces)
        for name, difference in moves.items():
            ranked = before.get(difference.places.value) if difference.places else None
            difference.see(before[name], np.asarray(after[name]), ranked)

    if all(plan.tells(network.graph, unit) for unit in network.units):
        values = looked_at(network, kept.names)
        for _, after in run_pieces(network, batches, values, lambda made, pool: kept_values(made, list(moves))):
            see(after)
    else:
        run.measured = measure_moments(network, batches, kept.names, see)
    assert next(pieces, None) is None, "fewer pictures than before"
    if lost := [d for d in moves.values() if not is_kept(d, moves, TOLERANCE)]:
        raise CaffeinitError(_refusal(run, lost))
    for name, move in moves.items():
        if move.relative <= TOLERANCE:
            run.outputs_moved[name] = move.relative
        run.notes.append(f"{_named(run, name)} {_moved(move) if move.relative <= TOLERANCE else _OTHER_CHOICE}")
    if run.rounded:
        run.notes.append(_halves_rounded(run) + ("" if run.is_exact else "; --powers-of-two keeps their digits"))


def _refusal(run: _Run, moves: Iterable[Difference]) -> str:
    """Return which output changed most and by how much, what that may come from, and what is to be done."""
    gross = [d for d in moves if not (d.is_whole or d.shapes) and d.relative > _GROSS]
    worst = max(gross or moves, key=lambda d: d.relative)
    cause, way = "rounding is blown up in this net", "rounds nothing"
    choices = ", ".join(_choices(run.network.graph, worst.name))
    if run.rounded:
        cause, way = _halves_rounded(run), "keeps their digits"
    elif gross and run.is_exact:
        cause = "this is another function, and no rounding made it so. Please report this net"
    elif gross:
        turned = f"turned a choice of the net ({choices})" if choices else "is blown up without bounds in this net"
        cause = f"this is another function; rounding {turned}, or a scale is not made up for"
        way = "rounds nothing; if the output moves with it, too, please report this net"
    elif choices:
        cause = f"rounding turned a choice of the net ({choices})"
    advice = "" if run.is_exact else f". --powers-of-two {way}"
    return f"{_named(run, worst.name)} {_changed(worst)}: {cause}. Nothing is written{advice}"


def _choices(graph: Graph, value: str) -> list[str]:
    """Return the operators before a value that make something else of real numbers: places, counts, yes or no."""

    def is_real(name: str) -> bool:
        return graph.is_typed(name) and graph.elem_type(name) in (TensorProto.FLOAT, TensorProto.DOUBLE)

    moving, nodes = graph.moving_values(), graph.ancestors([value])
    read = {value, *(i for n in nodes for i in n.input)}
    chosen = [
        n for n in nodes if n.op_type not in ("Shape", "Size") and any(i in moving and is_real(i) for i in n.input)
    ]
    return list(dict.fromkeys(operator_of(n) for n in chosen if any(o in read and not is_real(o) for o in n.output)))


def _changed(move: Difference) -> str:
    """Return in words by how much an output changed that was to stay."""
    if move.shapes:
        return "has other extents on the pictures, {}, and had {}".format(*reversed(move.shapes))
    if move.unequal:
        return f"has changed, {move.told_apart()}"
    if not math.isfinite(move.gap):
        return "is not finite on the pictures, or was not"
    return f"moved by {move.relative:.2g} of its largest value on the pictures, more than {TOLERANCE:g}"


def _named(run: _Run, value: str) -> str:
    """Return what an output is named by, or a value that is compared because outputs are told from it."""
    graph = run.network.graph
    if value in (graph.outputs or graph.unused()):
        return f'output "{value}"'
    return f'value "{value.partition(INSIDE)[0]}", before the output,'


def _halves_rounded(run: _Run) -> str:
    """Return what the rounding of weights that the file stores in half precision comes from."""
    loses = f"which loses digits below {SMALLEST:.2g}" if run.is_exact else "to which the new ones are rounded"
    return f"weights are stored in half precision, {loses}"


def _moved(move: Difference) -> str:
    """Return by how much an output moved."""
    if move.unequal:
        return f"keeps its meaning: {move.told_apart()}"
    if not move.relative:
        return "did not move"
    pictures = f"{move.changed} picture{'s' if move.changed != 1 else ''}"
    judged = f"; the largest entry is another one for {pictures}" if move.changed else ""
    return f"moved by {move.relative:.2g} of its largest value{judged}"


def _describe_plan(run: _Run, plan: Plan) -> None:
    """Note where the plan can do nothing."""
    units = [unit for unit in run.network.units if not run.chosen(unit)]
    if units and not any(plan.is_free(run.network.graph, unit).any() for unit in units):
        where = "of the chosen layers" if len(units) < len(run.network.units) else "in the net"
        run.notes.append(f"no scale {where} is free: nothing can be changed without changing the function")


def _describe_net(run: _Run) -> None:
    """Note which numbers of the net itself have changed."""
    numbers = [n for n in run.network.graph.net_numbers.values() if n.is_changed] if run.rewritten else []
    run.notes += [f"{n.kind} {n.layer}: {n.field} is {shortest(n.now)} now, was {shortest(n.given)}" for n in numbers]
    if run.rewritten and not numbers:
        run.notes.append("no alpha of an LRN had to be rewritten")


def _outcome(run: _Run, plan: Plan) -> Outcome:
    rates = run.probe.measure() if run.probe else {}
    reports = [_report(run, unit, plan) for unit in run.network.units]
    for unit, report in zip(run.network.units, reports, strict=True):
        for stats, found in (("before", run.rates), ("after", rates)):
            known = found.get(unit.key)
            old = getattr(report, stats)
            if known is not None and old is not None:
                setattr(report, stats, old.with_rate(known.rate, known.rate_cvar))
    units = [unit for unit in run.network.units if learns(unit)]
    spreads = (spread_of(run.rates, units), spread_of(rates, units)) if run.probe else None
    if spreads and spreads[1] > _GROWN * max(spreads[0], _EVEN):
        run.notes.append(_grown(run, *spreads))
    return Outcome(reports, 0, run.notes, spreads, run.outputs_moved)


def _grown(run: _Run, before: float, after: float) -> str:
    """Return why rates lie further apart than before."""
    known = f"the rates lie further apart than before (spread {before:.3g} -> {after:.3g}): "
    rounding = "factors are rounded to powers of two, and " if run.powers_of_two else ""
    if run.mode == "balance":
        return f"{known}{rounding}scales that are tied or held let some come closer only as others part"
    first = "the columns of units" if run.per_channel_rates else "deviations"
    return (
        f"{known}{first} were made equal first, {rounding or 'and '}scales that are tied or held (inspect --scales) leave "
        "no room to make up for that; --mode balance does the rates alone"
    )


def _report(run: _Run, unit: Unit, plan: Plan) -> UnitReport:
    graph, moments = run.network.graph, run.moments[unit.key]
    report = UnitReport(unit.name, unit.kind, unit.num_channels, reason=run.chosen(unit))
    after = run.measured.get(unit.key) or plan.moments(graph, unit, moments)
    report.before, report.after = UnitStats.of(moments), UnitStats.of(after)
    report.dead = [int(i) for i in np.flatnonzero(moments.dead)]
    if not report.reason:
        _say_done(run, unit, plan, report)
    return report


def _say_done(run: _Run, unit: Unit, plan: Plan, report: UnitReport) -> None:
    """State what was done to a unit, or why nothing was."""
    graph, word = run.network.graph, "its columns balanced" if run.per_channel_rates else MODES[run.mode]
    free = plan.is_free(graph, unit)
    why = holding(run.network, plan.system, unit)
    assert report.after is not None
    alive = report.after.channel_stds[~run.moments[unit.key].dead]
    level = alive[:1] if run.mode == "preserve" else np.ones(1)
    equalizes = word == "equalized"
    equal = not equalizes or bool(np.allclose(alive, level, rtol=_EQUAL))
    if run.powers_of_two and run.mode != "fp16":
        word, equal = f"{word} by powers of two", True
    changes, rates = plan.changes(graph, unit), run.rates.get(unit.key)
    if run.no_change and free.any():
        report.reason = run.no_change
    elif run.mode == "balance" and free.any() and not changes and not (rates and rates.is_measured):
        report.reason = "it has no rate that could be balanced"
    elif equalizes and not len(alive):
        report.done, report.reason = "scaled" if changes else "", ALL_DEAD
    elif free.all():
        report.done = word if equal else f"{word} as far as tied channels allow"
    elif free.any():
        report.done = f"{free.sum()} of {len(free)} channels {word}, the others held: {why}"
    elif changes:
        report.done = f"takes up its input's scales; its output is held: {why}"
    else:
        report.reason = f"its output is held: {why}"
