"""Unit channels: every channel of every unit gets mean beta and standard deviation 1 on the calibration set.

In topological order, with the units below already done, a unit's weights are divided by the deviation of its output
and its bias is shifted. The correction is affine, so the output that was measured is corrected in place, and only what is
cheaper to compute again is (`keeping.py`): the whole costs about one forward pass. Where one unit follows directly on
another (BatchNorm and Scale on a convolution), its moments are known without looking at its output.
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, Algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from caffeinit.arithmetic.moments import Moments
from caffeinit.engine.affine import Affine
from caffeinit.engine.mixing import Mixing
from caffeinit.engine.resident import Piece
from caffeinit.engine.resident_run import ResidentRun, start_run
from caffeinit.engine.staged import StagedRun
from caffeinit.engine.stages import Stage, plan_stages
from caffeinit.errors import OptionError
from caffeinit.graph import Graph
from caffeinit.graph.units import Unit
from caffeinit.methods.correction import Correction, Target, plan_correction, set_statistics
from caffeinit.methods.keeping import Kept, keep_little
from caffeinit.methods.obstacles import Turns, is_fed_back
from caffeinit.methods.responses import Responses, Turner, is_enough, turn_filters
from caffeinit.model.following import channel_map, has_channels_of
from caffeinit.model.network import Network
from caffeinit.result import UnitReport, UnitStats
from caffeinit.statistics.nonfinite import check_finite

Batch = Mapping[str, np.ndarray]
ALL_DEAD = "all its channels are dead on these pictures"
_LARGEST_BETA = 30  # of 100, a second layer behind a ReLU comes out 18 % off


class InputSampler(Protocol):
    """Sees all of a unit's input before the unit runs, then writes its weights."""

    def observe(self, values: np.ndarray | Piece, use: int, pictures: int | None) -> None:
        """Take in one piece of the unit's input at its use number `use`, of so many pictures."""

    def draw(self) -> None:
        """Write the unit's weights."""


@dataclass
class _Pass:
    """The state of one normalising pass."""

    network: Network
    target: Target
    correct: bool
    targets: Mapping[str, Target]
    reports: dict[str, UnitReport]
    measured: dict[str, Unit]  # checkpoint value -> unit
    following: dict[str, list[Unit]]  # value -> units whose moments follow from that value's
    turns: Turns  # what waits until arrays that it reads are corrected
    kept: Kept  # what becomes of the measured values
    moments: dict[str, Moments]
    turners: Mapping[str, Turner]


def normalize(
    network: Network,
    batches: Iterable[Batch],
    *,
    beta: float = 0.1,
    chosen: Callable[[Unit], str] = lambda unit: "",
    samplers: Mapping[str, InputSampler] | None = None,
    turners: Mapping[str, Turner] | None = None,
    correct: bool = True,
    targets: Mapping[str, Target] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[UnitReport], int]:
    """Normalise the chosen units of a network in place.

    Args:
        batches: input -> array dictionaries; may be iterated over several times.
        chosen: returns why a unit is to be left alone; empty to normalise it.
        samplers: unit name -> what draws its weights from its inputs first.
        turners: unit name -> what turns its filters by what they respond, before it is normalised.
        correct: False only measures, and draws and turns what is to be.
        beta: the mean to reach; the deviation is 1.
        targets: unit's key -> what to reach there instead.
        progress: called with the number of finished stages and of all.
    Returns:
        One report per unit, and the peak size in bytes of the kept activations.
    Raises:
        OptionError: beta is NaN or infinite.
        WeightsError: a unit's output is not finite; the network is then half changed and must not be saved.
    """
    check_beta(beta)
    samplers = samplers or {}
    state = _prepare(network, Target(beta), chosen, correct, targets or {}, turners or {})
    watch = _Watch(network, samplers)
    watch.see_inputs(batches)
    kept = state.kept = _plan_keeping(state, set(watch.values))
    watch.look_at(kept.instead)
    stages = _plan_stages(state, watch.values)
    axes = {value: _axis(state, value) for value in state.measured}
    turned = [use.output for u in state.measured.values() if u.name in state.turners for use in u.uses]
    run = start_run(kept.graph, batches, stages, network.settings, axes, network.notes, {*watch.values, *turned})
    for number, stage in enumerate(stages):
        _start_stage(state, stage.checkpoints)
        run.run(number, lambda value, moments: state.moments[value].fold(moments))
        _finish_stage(state, run, stage.checkpoints, batches)
        watch.see(run, stage.checkpoints)
        run.release(number)
        progress(number + 1, len(stages))
    assert not any(watch.waiting.values()), f"never drawn: {[n for n, uses in watch.waiting.items() if uses]}"
    return list(state.reports.values()), run.peak_bytes


def check_beta(beta: float) -> None:
    """Refuse a mean that no channel can be given.

    Raises:
        OptionError: it is NaN or infinite, or so large that single precision has few digits left for deviations.
    """
    if not math.isfinite(beta):
        raise OptionError(f"beta {beta}: has to be a finite number")
    if abs(beta) > _LARGEST_BETA:
        raise OptionError(
            f"beta {beta:g}: has to be between -{_LARGEST_BETA} and {_LARGEST_BETA}; beside larger means, single "
            "precision holds too few digits of a deviation"
        )


def plan_pass(network: Network) -> tuple[Graph, list[Stage]]:
    """Return the graph that a pass runs which corrects all units and draws none from their inputs, and its stages."""
    state = _prepare(network, Target(0.0), lambda unit: "", True, {}, {})
    state.kept = _plan_keeping(state, set())
    return state.kept.graph, _plan_stages(state, ())


def _plan_stages(state: _Pass, looked_at: Iterable[str]) -> list[Stage]:
    """Return the stages of a pass, which ends one for each measured value and each that is looked at."""
    kept, inputs = state.kept, state.network.graph.inputs
    together = [[use.output for use in u.uses] for u in state.measured.values() if len(u.uses) > 1]
    checkpoints = [*state.measured, *kept.pooled.values(), *(v for v in looked_at if v not in inputs)]
    after = state.turns.after | {copy: [value] for value, copy in kept.again.items()}
    return plan_stages(kept.graph, checkpoints, together=together, passed=kept.pooled, after=after)


class _Watch:
    """Shows the units' inputs to what draws weights from them; a unit is drawn when all its uses have been seen."""

    def __init__(self, network: Network, samplers: Mapping[str, InputSampler]) -> None:
        self.graph = network.graph
        self.samplers = samplers
        self.values: dict[str, list[tuple[str, int]]] = {}
        self.waiting: dict[str, set[int]] = {}
        for unit in network.units:
            if unit.name in samplers:
                # What it makes of its own result cannot be seen before it is drawn.
                seen = unit.uses[:1] if is_fed_back(self.graph, unit) else unit.uses
                self.waiting[unit.name] = set(range(len(seen)))
                for number, use in enumerate(seen):
                    self.values.setdefault(use.input, []).append((unit.name, number))

    def look_at(self, instead: Mapping[str, str]) -> None:
        """Look at other values in place of some: a folded ReLU's output is the value before it, once that is corrected."""
        self.values = {instead.get(value, value): uses for value, uses in self.values.items()}

    def see_inputs(self, batches: Iterable[Batch]) -> None:
        """Show the net's own inputs, before anything runs."""
        inputs = [v for v in self.values if v in self.graph.inputs]
        if inputs:
            for batch in batches:
                for value in inputs:
                    self._show(value, batch[value])
            for value in inputs:
                self._finish(value)

    def see(self, run: StagedRun | ResidentRun, checkpoints: Sequence[str]) -> None:
        """Show what a stage has made, corrected."""
        for value in checkpoints:
            if value in self.values:
                for piece in run.values(value):
                    self._show(value, piece)
                self._finish(value)

    def _show(self, value: str, piece: np.ndarray | Piece) -> None:
        rows = self.graph.shape(value)[0]
        pictures = len(piece) * self.graph.batch_size() // rows if rows > 0 else None  # of rows that the data choose
        for name, use in self.values[value]:
            self.samplers[name].observe(piece, use, pictures)

    def _finish(self, value: str) -> None:
        for name, use in self.values[value]:
            self.waiting[name].discard(use)
            if not self.waiting[name]:
                self.samplers[name].draw()


def _start_stage(state: _Pass, checkpoints: Sequence[str]) -> None:
    graph = state.network.graph
    state.moments = {v: Moments(graph.shape(v)[_axis(state, v)]) for v in checkpoints if v in state.measured}


def _axis(state: _Pass, value: str) -> int:
    unit = state.measured[value]
    return next(u.axis for u in unit.uses if u.output == value)


def _prepare(
    network: Network,
    target: Target,
    chosen: Callable[[Unit], str],
    correct: bool,
    targets: Mapping[str, Target],
    turners: Mapping[str, Turner],
) -> _Pass:
    """Sort the units into those that are measured, those that follow from another, and those left alone."""
    state = _Pass(network, target, correct, targets, {}, {}, {}, Turns(network), Kept(network.graph), {}, turners)
    known: dict[str, str] = {}  # output of a unit -> measured value with which that unit is corrected
    makers: dict[str, Unit] = {}  # the same -> that unit
    owners: dict[str, str] = {}  # initializer of a unit before -> what becomes of it with that unit
    values: dict[str, str] = {}  # initializer of a unit before -> measured value with which it is corrected
    for unit in network.units:
        shared = next(
            (f"its {network.learned[i].role} is {owners[i]}" for i in unit.initializers if i in owners),
            "",
        )
        reason = chosen(unit) or shared or state.turns.obstacle(unit)
        report = UnitReport(unit.name, unit.kind, unit.num_channels, reason=reason)
        state.reports[unit.key] = report
        if report.reason:
            if correct:
                owners = dict.fromkeys(unit.initializers, f"also that of {unit.name}, which stays as it is") | owners
            for use in unit.uses:
                state.turns.wait(use.node.output[0], (values[i] for i in unit.initializers if i in values))
            continue
        owners |= dict.fromkeys(unit.initializers, f"normalised with {unit.name}")
        before, value = unit.uses[0].input, unit.uses[0].output  # all its uses are measured in one stage
        is_alone = correct and len(unit.uses) == 1 and unit.kind != "affine"
        if is_alone and before in known and _is_known_from(network.graph, unit, makers[before], turners):
            state.following.setdefault(before, []).append(unit)
            value = known[before]
        elif correct and unit.kind == "norm":
            report.reason = "its input is no unit's output: the stored statistics are kept"
            continue
        else:
            state.measured.update({use.output: unit for use in unit.uses})
        state.turns.take(unit, value)
        known.update((use.output, value) for use in unit.uses)
        makers.update((use.output, unit) for use in unit.uses)
        values |= dict.fromkeys(unit.initializers, value)
    return state


def _plan_keeping(state: _Pass, wanted: Collection[str]) -> Kept:
    """Return what is kept of the measured values; all of them where none is corrected.

    Values whose channels are mixed before they are corrected are kept whole, as are all of those on a device: it has them
    in its memory anyway.
    """
    graph = state.network.graph
    if not state.correct:
        return Kept(graph)
    mixed = {v for v, u in state.measured.items() if u.name in state.turners or _axis(state, v) != 1}
    whole = state.measured if state.network.settings.device.resident else mixed
    return keep_little(graph, state.measured, state.following, wanted, whole)


def _with_folded(correction: Correction, folded: Sequence[Unit]) -> Correction:
    """Return a correction followed by the units that it takes along, as their arrays now are."""
    scale, shift = correction.scale, correction.shift
    for unit in folded:
        gain, more = channel_map(unit)
        scale, shift = scale * gain, shift * gain + more
    return Correction(scale, shift, correction.dead)


def _is_known_from(graph: Graph, unit: Unit, before: Unit, turners: Mapping[str, Turner]) -> bool:
    """Tell whether a unit's moments follow from those of the unit before; several uses are turned by what they pool."""
    return has_channels_of(graph, unit, before) and not (len(before.uses) > 1 and before.name in turners)


def _finish_stage(
    state: _Pass, run: StagedRun | ResidentRun, checkpoints: Sequence[str], batches: Iterable[Batch]
) -> None:
    """Correct every unit whose output the stage made, and the units that follow directly on it."""
    finished: dict[str, Unit] = {}
    for value in checkpoints:
        if value in state.measured:
            finished[state.measured[value].key] = state.measured[value]
    for key, unit in finished.items():
        pooled = Moments(unit.num_channels)
        for use in unit.uses:
            part = state.moments[use.output]
            pooled.merge(part.count, part.mean, part.squares)
            pooled.reach(part.lowest, part.highest)
        check_finite(state.network, {key: pooled}, batches)
        pooled, matrix = _turn(state, run, unit, pooled)
        if not state.correct:
            state.reports[key].before = UnitStats.of(pooled)
            state.reports[key].dead = [int(i) for i in np.flatnonzero(pooled.dead)]
            if matrix is not None:
                same = Correction(np.ones(unit.num_channels), np.zeros(unit.num_channels), pooled.dead)
                for use in unit.uses:
                    run.change(use.output, _as_change(same, use.axis, False, matrix))
            continue
        correction = plan_correction(unit, pooled, state.targets.get(key, state.target))
        unit.rescale(correction.scale, correction.shift, state.network.settings.threads)
        after = _report(state.reports[key], unit, pooled, correction)
        for use in unit.uses:
            part = state.moments[use.output].scaled(correction.scale, correction.shift)
            _follow(state, use.output, part if len(unit.uses) > 1 else after, batches)
            whole = _with_folded(correction, state.kept.folded.get(use.output, []))
            rectify = use.output in state.kept.rectified
            value = state.kept.pooled.get(use.output, use.output)
            if value not in state.kept.again:
                run.change(value, _as_change(whole, use.axis, rectify, matrix))


def _as_change(correction: Correction, axis: int, rectify: bool, matrix: np.ndarray | None) -> Affine:
    """Return a correction of kept values, of what the matrices make of their groups where there are any."""
    scale, shift = correction.scale.astype(np.float32), correction.shift.astype(np.float32)
    if matrix is None:
        return Affine(scale, shift, axis, rectify)
    return Mixing(scale, shift, axis, rectify, matrix=matrix)


def _turn(
    state: _Pass, run: StagedRun | ResidentRun, unit: Unit, moments: Moments
) -> tuple[Moments, np.ndarray | None]:
    """Turn a unit's filters as is wanted; return the moments then, and the matrices of its groups if it was turned."""
    turner = state.turners.get(unit.name)
    counts = [count for count in turner.determined if is_enough(count, moments.count)] if turner else []
    if turner is None or not counts:
        return moments, None
    threads = state.network.settings.threads
    responses = Responses(unit, max(counts), threads)
    for use in unit.uses:
        for piece in run.values(use.output):
            responses.add(piece, use.axis)
    matrix = turner.turn(responses)
    if matrix is None:
        return moments, None
    turn_filters(unit, matrix, threads)
    return responses.turned(moments, matrix), matrix


def _follow(state: _Pass, value: str, moments: Moments, batches: Iterable[Batch]) -> None:
    """Normalise the units directly on `value`, whose moments are given."""
    for unit in state.following.get(value, []):
        report = state.reports[unit.key]
        target = state.targets.get(unit.key, state.target)
        if unit.kind == "norm":
            after = set_statistics(unit, moments, target)
            report.before, report.after = UnitStats.of(moments), UnitStats.of(after)
            report.dead = [int(i) for i in np.flatnonzero(moments.dead)]
            report.done = "statistics set"
        else:
            found = moments.scaled(*channel_map(unit))
            check_finite(state.network, {unit.key: found}, batches)
            correction = plan_correction(unit, found, target)
            unit.rescale(correction.scale, correction.shift, state.network.settings.threads)
            after = _report(report, unit, found, correction)
        _follow(state, unit.uses[0].output, after, batches)


def _report(report: UnitReport, unit: Unit, moments: Moments, correction: Correction) -> Moments:
    after = moments.scaled(correction.scale, correction.shift)
    report.before, report.after = UnitStats.of(moments), UnitStats.of(after)
    report.dead = [int(i) for i in np.flatnonzero(correction.dead)]
    if correction.dead.all():
        report.reason = ALL_DEAD
    elif unit.bias is None:
        report.done = "deviations normalised, without a bias to shift means"
    else:
        report.done = "normalised" if unit.weight is not None else "means normalised, without a factor for deviations"
    return after
