"""Steps towards one rate that change the function: planned from what the rates are, through all scales that may change.

Layers that pass a scale on along a curve (LRN), and sums whose terms take scales of their own, are planned for roughly;
what a step did is measured before the next one (`rounds.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np

from caffeinit.apply.plan import Plan
from caffeinit.graph.units import Unit
from caffeinit.methods.acceleration import LONG, Accelerated
from caffeinit.methods.between import each_has_a_scale, free_groups, scale_system
from caffeinit.methods.goal import ONE_RATE, RIDGE, Bends, Goal, Held, Within
from caffeinit.methods.restoring import can_restore
from caffeinit.methods.terms import Term, Terms, find_terms
from caffeinit.model.network import Network
from caffeinit.scales.bonds import values_below
from caffeinit.scales.channels import has_one_scale
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.mixtures import Growth
from caffeinit.scales.sums import Sums
from caffeinit.scales.transfer import Transfers, measure_transfers
from caffeinit.statistics.rates import RateProbe, UnitRates, rate_spread

# The weight of scales that stay where they are, in nets whose terms of sums are scaled apart: rates hardly follow some of
# them, and steps of e to the power of 10 and back would be made for the last percents.
_SUMS_RIDGE = 3e-3
# How closely a step is solved for: what is foretold of it is off by percents, and deep nets with sums take 15 times as many
# evaluations for another three digits of the sum of squares.
_ROUGHLY = 1e-5
# The longest log scale at a curve to which it is trusted that they need none.
_NEAR = 1.0
# What has to be left of the spread for it.
_WORTH = 0.5
# The longest log scale that they are given: outputs larger than by a factor of 400 are no start for training.
_FARTHEST = 6.0
# Steps after which they lose it again if the spread is above this, and above so much of what was expected without.
_TRIED, _FAIR, _HARDLY = 2, 0.5, 0.9
# The smallest log scale that what a layer with a curve reads is given: smooth activations are linear there, and a branch
# that is as small beside the sum it goes into is none.
_DEEPEST = -3.0
# By how much a step may miss such a limit: the search keeps to them closely, and all of it would be stopped for the rest.
_SLACK = 0.05
# So much more than the smallest spread is left behind.
_LOST = 1.1
# Rates may lie farther apart for a while, by so much, than at first; log scales below 1 count as 1.
_ASTRAY = 1.5
# A step that leaves more of a large spread was misled by what curves say of gradients: it is done without them then. With
# sums there may be other reasons, and steps become shorter.
_GAIN = 0.5
# Log scales of a change from which nothing is to be had.
STILL = 1e-3

# Terms of the units, curves if there are any, and the spread of the rates as they are.
_Prepared = tuple[list[Term], list[Bends], float]


class Relaxed:
    """Steps towards one rate that change the function; `approach` goes some, and `iterate` can go on from there.

    It changes through the scales at curves, or through all of them, where terms of a sum have scales of their own; these
    are accelerated, and the others follow from them.

    Attributes:
        point: log scales that are accelerated, as they have changed since the start.
        way: log scales through which the function has changed since the start; with sums more than are accelerated.
        moved: by how much the last step changed these.
        has_sums: whether there are sums whose terms have scales of their own.
        held: the least spread with the outputs' scale held, where that was not enough and it is not held any more.
        too_far: the log scale that one rate asks of the outputs, where that is more than they are given.
    """

    def __init__(
        self,
        network: Network,
        probe: RateProbe,
        chosen: Callable[[Unit], str],
        counted: Callable[[Unit], bool],
        restored: Callable[[ScaleSystem], bool] = lambda system: False,
    ) -> None:
        """Look at a network.

        Args:
            chosen: returns why a unit's arrays are to be left alone; empty to let them change.
            counted: which units' rates are to become equal.
            restored: whether, with such scales, a restorer gives the outputs of chosen units the sizes that their scales
                say, after each step.
        """
        self.network, self.probe = network, probe
        self.chosen, self.counted = chosen, counted
        self.units = [u for u in network.units if counted(u)]
        self._is_restored = restored
        self.held: float | None = None
        self.too_far: float | None = None
        # Activations bend scales, and what bends is found on some pictures: not where scales that keep the function do.
        self._bending = not each_has_a_scale(network, self.units, chosen, probe.heads)
        # Where ways through the net come together, in sums or as gates, or part, the rates may follow the outputs' size.
        moving = network.graph.moving_values()
        self._may_tie_outputs = len(probe.heads) > 1 or any(
            len(moving.intersection(node.input)) > 1 for node in network.graph.ancestors(probe.heads)
        )
        self._look_at(scale_system(network, chosen, probe.heads, relaxed=True, bending=self._bending))

    def _look_at(self, system: ScaleSystem) -> None:
        """Take a system of scales."""
        graph, heads = self.network.graph, self.probe.heads
        self.system = system.tied(free_groups(system))
        rows = self.system.solution.matrix
        bonds = self.system.bonds
        self.keys = rows[[b.inputs for b in bonds]].toarray() if bonds else np.eye(self.system.num_unknowns)
        below = [values_below(graph, bond, heads) for bond in bonds]
        above = ([all(use.output in values for use in u.uses) for values in below] for u in self.units)
        self._above = {u.key: np.array(layers, bool) for u, layers in zip(self.units, above, strict=True)}
        self._apart = {unit.key for unit in self.network.units if not has_one_scale(graph, self.system, unit)}
        restorable = self.network.units if self._is_restored(system) else []
        restored = {u.key for u in restorable if can_restore(u) and not (self.chosen(u) or self.why_unrestored(u))}
        self._sums = Sums(self.network, heads, self.system, restored)
        self.has_sums = self._sums.there
        self._changing = np.eye(self.system.num_unknowns) if self.has_sums else self.keys
        links = {id(link.node): link for link in self.system.links if link.kind == "affine"}
        self._summed: dict[str, list[Growth]] = {}
        self._columns: dict[str, Growth] = {}
        for unit in self.units:
            link = links.get(id(unit.uses[0].node)) if unit.uses else None
            self._summed[unit.key], columns = self._sums.of(unit, len(link.inputs) if link else 0)
            if columns is not None:
                self._columns[unit.key] = Growth(self._sums.mixtures, columns)
        self._ridge = _SUMS_RIDGE if self.has_sums else RIDGE
        self._gone = np.zeros(self.system.num_unknowns)
        self._steps = 0
        means = {
            h: np.asarray(rows[self.system.labels[h].ravel()].mean(axis=0)).reshape(-1)
            for h in heads
            if h in self.system.labels
        }
        self._heads = {head: row for head, row in means.items() if row.any()}
        self._size = np.zeros(len(self._heads))  # of these, log, as it has been foretold
        self._given_back = False  # whether the outputs' scale is
        self._transfers: Transfers | None = None
        self._misled = False  # whether a step has not made the spread smaller
        self.start()

    def why_unrestored(self, unit: Unit) -> str:
        """Return why no restorer can give a unit's outputs the sizes that their scales say; empty where one can."""
        return "its uses get scales of their own" if unit.key in self._apart else ""

    def forget(self) -> None:
        """Forget all that was seen, because a step could not be made."""
        self._transfers = None
        self.start()

    def start(self) -> None:
        """Forget how steps from other arrays, or other measurements, went."""
        self.point = np.zeros(len(self.keys))
        self.way = self.moved = np.zeros(len(self._changing))
        # The last spread, and how far a step may go, with sums: what is foretold of them holds near by.
        self._spread, self._reach = np.inf, _FARTHEST if self.has_sums else np.inf
        self._accelerated = Accelerated()
        self.mark()

    def mark(self) -> None:
        """Take the point that steps have led to for one to go back to."""
        self._marked = self.point, self.way, self._gone, self._size, self._transfers

    def is_lost(self, spread: float, best: float) -> bool:
        """Tell whether a spread is so much larger than the best that it is no way to a better one."""
        return self.has_sums and spread > max(_LOST * best, best + ONE_RATE)

    def is_astray(self, spread: float, first: float) -> bool:
        """Tell whether rates lie so much farther apart than at first that values have left the sizes that were foretold."""
        return self.has_sums and spread > _ASTRAY * max(first, 1.0)

    def back(self) -> np.ndarray:
        """Go back to the point that was marked; the next step is half as long as the last was. Returns `way` there."""
        self._reach = np.abs(self.moved).max(initial=0) / 2
        self.point, self.way, self._gone, self._size, self._transfers = self._marked
        self._spread, self._accelerated = np.inf, Accelerated()
        return self.way

    def step(self, rates: Mapping[str, UnitRates], is_early: bool = False) -> tuple[Plan, float]:
        """Return the next change, from what was measured before it, and the spread of the rates that is expected then.

        The change is to be made, before rates are measured again.

        Args:
            is_early: the outputs may be given a scale, and lose it again if it was for nothing.
        """
        prepared, best = self._loosened(rates, self._prepare(rates), is_early)
        if is_early:
            self._give_back(prepared[2])
        self._steps += 1
        best, asked = self._bounded(prepared, best)
        found = self.keys @ best
        to = self._accelerated.next(self.point, found)
        unknowns, expected = self._go(to - self.point, prepared, asked, best)
        if self.has_sums and expected > prepared[2]:
            to = self._accelerated.restart(self.point, found)
            unknowns, expected = self._go(to - self.point, prepared, asked, best)
        length = np.abs(self._changing @ unknowns).max(initial=0)
        part = min(self._room(unknowns, prepared[1]), self._reach / max(length, STILL))
        self.point, unknowns = self.point + part * (to - self.point), part * unknowns
        self.moved = self._changing @ unknowns
        self.way = self.way + self.moved
        self._gone = self._gone + unknowns
        self._size = self._size + self._sizes(unknowns)
        for bends in prepared[1]:
            self._transfers = bends.transfers.moved(bends.inputs @ unknowns)
        return Plan(self.system, self.system.expand(unknowns)), expected

    def _loosened(
        self, rates: Mapping[str, UnitRates], prepared: _Prepared, is_early: bool
    ) -> tuple[_Prepared, np.ndarray]:
        """Give the outputs a scale, if rates cannot be one without and are far closer with it.

        Returns:
            What holds then, and the unknowns of the best step; with sums roughly, where no scale is given.
        """
        is_due = self._may_tie_outputs and self.held is None and not self._given_back and (is_early or not self._steps)
        found = self._solve(prepared, evenly=is_due or not self.has_sums)
        if not is_due:
            return prepared, found
        held = _spread_at(prepared[0], found)
        is_first = self.has_sums and not self._steps
        bends_far = is_first and any(np.abs(bends.inputs @ found).max() > _NEAR for bends in prepared[1])
        if held <= ONE_RATE and not bends_far:
            return prepared, found
        heads = self.probe.heads
        loose = copy(self)
        loose._look_at(scale_system(self.network, self.chosen, heads, relaxed=True, loose=True, bending=self._bending))
        if [(b.bottom, b.top) for b in loose.system.bonds] == [(b.bottom, b.top) for b in self.system.bonds]:
            loose._transfers = self._transfers  # layers do the same to scales, whichever these are
        loosened = loose._prepare(rates)
        freely = loose._solve(loosened)
        farthest = float(np.abs(loose._sizes(freely)).max(initial=0))
        is_worth = bends_far or _spread_at(loosened[0], freely) <= _WORTH * held
        if not is_worth or farthest > _FARTHEST:
            self.too_far = farthest if is_worth else None
            return prepared, found
        vars(self).update(vars(loose))
        self.held, self.too_far = held, None
        return loosened, freely

    def _give_back(self, spread: float) -> None:
        """Let the outputs have the sizes that they had, if after some steps another has brought next to nothing."""
        is_due = self._steps == _TRIED and self.held is not None
        if is_due and spread > max(_HARDLY * (self.held or 0.0), _FAIR):
            self._given_back, self.held = True, None

    def _room(self, unknowns: np.ndarray, curves: Sequence[Bends]) -> float:
        """Return which part of a step can be gone until a curve's scale is as small, or large, as is allowed."""
        parts = [1.0]
        for bends in curves:
            for limit in _limits(bends):
                by = limit.rows @ unknowns
                most = limit.values + _SLACK
                parts += list(most[by > most] / by[by > most])
        return float(min(parts))

    def _solve(
        self, prepared: _Prepared, asked: Sequence[Held] = (), start: np.ndarray | None = None, evenly: bool = True
    ) -> np.ndarray:
        """Return the unknowns of the best step, or of the best that does as is asked; `start` is near to them."""
        terms, bends, _ = prepared
        gone = self._gone if self.has_sums else 0.0  # without, rates follow all scales, and steps are small in the end
        kept_to: list[Bends | Held] = [*bends, *(limit for of in bends for limit in _limits(of)), *asked]
        goal = Goal(terms, self.system.num_unknowns, kept_to, self._ridge, gone, loosely=self.has_sums)
        return goal.best(start, _ROUGHLY, evenly)

    def _bounded(self, prepared: _Prepared, best: np.ndarray) -> tuple[np.ndarray, list[Held]]:
        """Return the best step within what outputs may be scaled by, and how far one may go; and what outputs ask for.

        Args:
            best: what is best without bounds. Only to go a part of the way there may well lead to a larger spread.
        """
        asked, by = self._asked(best), self._changing @ best
        length = np.abs(by).max(initial=0)
        limits = list(asked)
        if length > self._reach and all(np.abs(held.values).max() <= self._reach for held in asked):
            far = np.abs(by) > self._reach / 2  # the others stay near in any case
            limits.append(Within(self._changing[far] * np.sign(by[far])[:, None], np.full(far.sum(), self._reach)))
        if limits or self.has_sums:
            best = self._solve(prepared, limits, best * min(1.0, self._reach / max(length, STILL)))
        return best, asked

    def _asked(self, best: np.ndarray) -> list[Held]:
        """Return what is asked of the outputs' sizes, given the best step: none, those that they had, or the farthest."""
        if not self._heads:
            return []
        rows = np.stack([*self._heads.values()])
        if self._given_back:
            return [Held(rows, -self._size)]
        size = self._size + self._sizes(best)
        if np.abs(size).max() <= _FARTHEST:
            return []
        return [Held(rows, np.clip(size, -_FARTHEST, _FARTHEST) - self._size)]

    def _sizes(self, unknowns: np.ndarray) -> np.ndarray:
        """Return by how much the outputs that have a scale grow, log, as it is foretold."""
        return np.array([row @ unknowns + self._sums.excess(h, unknowns) for h, row in self._heads.items()])

    def _prepare(self, rates: Mapping[str, UnitRates]) -> _Prepared:
        """Return the units' terms and the curves, as they are now, and the rates' spread."""
        terms = self.terms(rates)
        spread = _spread_at(terms, np.zeros(self.system.num_unknowns))
        self._misled |= not self.has_sums and spread > max(LONG, _GAIN * self._spread)
        if self.has_sums and spread > self._spread:
            self._reach = np.abs(self.moved).max(initial=0) / 2
        elif np.isfinite(self._spread) and spread < self._spread / 2:
            self._reach *= 2
        self._spread = spread
        self._sums.look(self.probe.batches[0], {u.key: _squares(u, rates) for u in self.units if u.key in rates})
        curves = self._curves()
        for term in terms:
            above = self._above[term.unit]
            if above.any() and not self._misled:
                term.bends = [*term.bends, *(Growth(bends, np.flatnonzero(above)) for bends in curves)]
        return terms, curves, spread

    def _curves(self) -> list[Bends]:
        """Return the curves, as they are now, if there are any."""
        bonds, rows = self.system.bonds, self.system.solution.matrix
        if not bonds:
            return []
        if self._transfers is None:
            self._transfers = measure_transfers(self.network, self.probe.batches[0], bonds)
        ends = (rows[[b.inputs for b in bonds]], rows[[b.outputs for b in bonds]])
        return [Bends(ends[0].toarray(), ends[1].toarray(), self._transfers)]

    def terms(self, rates: Mapping[str, UnitRates]) -> list[Term]:
        """Return the terms of the units, with what sums do to them."""
        terms = find_terms(self.units, self.system, rates, columns=self._columns)
        for term in terms:
            term.bends = self._summed[term.unit]
        return terms

    def _go(
        self, moved: np.ndarray, prepared: _Prepared, asked: Sequence[Held], best: np.ndarray
    ) -> tuple[np.ndarray, float]:
        """Return the unknowns that move the point by so much and do as is asked, and the spread that is expected then.

        Args:
            best: those of the best step.
        """
        is_there = self.has_sums and np.abs(moved - self.keys @ best).max(initial=0) <= STILL * STILL
        unknowns = best if is_there else self._solve(prepared, [*asked, Held(self.keys, moved)], best)
        return unknowns, _spread_at(prepared[0], unknowns)


def _limits(bends: Bends) -> list[Within]:
    """Return how far curves' scales may go, down and up."""
    transfers, origin = bends.transfers, bends.transfers.values.origin
    deepest = np.where(transfers.is_linear, _DEEPEST, -np.inf)
    ends = (-bends.inputs, origin - deepest), (bends.inputs, transfers.highest - origin)
    return [Within(rows, np.maximum(left, 0.0)) for rows, left in ends]


def _spread_at(terms: Sequence[Term], unknowns: np.ndarray) -> float:
    """Return the spread of the rates that is expected of unknowns."""
    return rate_spread(np.exp(Terms(terms).log_rates(unknowns)) if terms else [])


def _squares(unit: Unit, rates: Mapping[str, UnitRates]) -> np.ndarray:
    """Return the squares of a unit's weights for each input channel, (I,), where they are known."""
    weights = rates[unit.key].weights
    return np.zeros(0) if weights is None else weights.columns(np.ones(unit.num_channels))
