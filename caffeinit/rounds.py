"""One rate for all units where the net's function need not be kept: rounds of planning, applying and measuring again.

What the graph allows without changing the function is planned at once (`between.py`). The rest, through layers that pass
a scale on along a curve (LRN) and sums whose terms take scales of their own, is planned roughly, and what it did is
measured, with the same pictures and noise, before the next round.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from caffeinit.acceleration import LONG, Accelerated
from caffeinit.between import (
    RIDGE,
    Bend,
    Held,
    Term,
    balance,
    find_terms,
    free_groups,
    plan_balance,
    predict,
    scale_system,
    spread_of,
)
from caffeinit.bonds import values_below
from caffeinit.engine.shelf import ScratchFile, Stored
from caffeinit.errors import WeightsError
from caffeinit.factors import copied
from caffeinit.network import Network
from caffeinit.plan import Plan, apply, can_apply
from caffeinit.rates import RateProbe, UnitRates, rate_spread
from caffeinit.restoring import Restorer
from caffeinit.scales import ScaleSystem
from caffeinit.sums import Sums
from caffeinit.transfer import Transfer, measure_transfers
from caffeinit.units import Unit

# The weight of scales that stay where they are, in nets whose terms of sums are scaled apart: rates hardly follow some of
# them, and steps of e to the power of 10 and back would be made for the last percents.
_SUMS_RIDGE = 1e-2
# Log sizes of values that are as good as foretold: with random weights CaffeNet's then are, with PCA's they are .3 off.
_CLOSE = 0.15
# A step that leaves more of a large spread was misled by what curves say of gradients: it is done without them then.
_GAIN = 0.5
# Measurements after which a spread half as large again will do. What is missing then is as large as what chance adds: on
# 16 pictures, rates move by 1 or 2 % when some ReLUs flip.
_STRICT = 3
# Rounds without a better one after which no more are tried.
_PATIENCE = 6
# Log scales of a change from which nothing is to be had.
_STILL = 1e-3
# Measurements at most.
ROUNDS = 24


@dataclass
class Balanced:
    """What `iterate` reached.

    Attributes:
        scales: unit's key -> log factors that its output channels have been given, (C,).
        before: rates as first measured.
        after: rates as they now are, by the prediction of the last step, which kept the function.
        rounds: how often they were measured.
        changed: whether steps before the last one changed the function.
    """

    scales: dict[str, np.ndarray]
    before: dict[str, UnitRates]
    after: dict[str, UnitRates]
    rounds: int
    changed: bool


class Relaxed:
    """Steps towards one rate that change the function; `approach` goes some, and `iterate` can go on from there.

    It changes through the scales at curves, or through all of them, where terms of a sum have scales of their own; these
    are accelerated, and the others follow from them.

    Attributes:
        point: log scales through which the function has changed since the start.
    """

    def __init__(
        self,
        network: Network,
        probe: RateProbe,
        chosen: Callable[[Unit], str],
        counted: Callable[[Unit], bool],
        restored: bool = False,
    ) -> None:
        """Look at a network.

        Args:
            chosen: returns why a unit's arrays are to be left alone; empty to let them change.
            counted: which units' rates are to become equal.
            restored: a restorer gives the chosen units' outputs the sizes that their scales say, after each step.
        """
        self.network, self.probe = network, probe
        self.chosen, self.counted = chosen, counted
        system = scale_system(network, chosen, probe.heads, relaxed=True)
        self.system = system.tied(free_groups(system))
        self.units = [u for u in network.units if counted(u)]
        rows = self.system.solution.matrix
        bonds = self.system.bonds
        self.keys = rows[[b.inputs for b in bonds]].toarray() if bonds else np.eye(self.system.num_unknowns)
        below = [values_below(network.graph, bond, probe.heads) for bond in bonds]
        self._above = {u.key: [all(use.output in values for use in u.uses) for values in below] for u in self.units}
        keys = {u.key for u in network.units if restored and not chosen(u)}
        self._sums = Sums(network, probe.heads, _gains(self.system), keys)
        self._summed = {u.key: self._sums.of(u) for u in self.units}
        self._gone = np.zeros(self.system.num_unknowns)
        self._ridge = float(__import__("os").environ.get("R",1e-2)) if 1 else _SUMS_RIDGE if self.system.sums else RIDGE
        self._transfers: list[Transfer] = []
        self._spread, self._misled = np.inf, False  # the last one, and whether a step has not made it smaller
        self.start()

    def forget(self) -> None:
        """Forget all that was seen, because a step could not be made."""
        self._transfers = []
        self.start()

    def start(self) -> None:
        """Forget how steps from other arrays, or other measurements, went."""
        self.point = np.zeros(len(self.keys))
        self._accelerated = Accelerated()

    def step(self, rates: Mapping[str, UnitRates]) -> tuple[Plan, float]:
        """Return the next change, from what was measured before it, and the spread of the rates that is expected then.

        The change is to be made, before rates are measured again.
        """
        terms = self.terms(rates)
        spread = rate_spread(np.exp([term.log_rate(np.zeros(self.system.num_unknowns)) for term in terms]))
        self._misled |= spread > max(LONG, _GAIN * self._spread)
        self._spread = spread
        if not self._transfers:
            self._transfers = measure_transfers(self.network, self.probe.batches[0], self.system.bonds)
        self._sums.look(self.probe.batches[0])
        bends = _bends(self.system, self._transfers)
        for term in terms:
            curves = [] if self._misled else list(itertools.compress(bends, self._above[term.unit]))
            term.bends = [*term.bends, *curves]
        found = balance(terms, self.system.num_unknowns, bends, self._ridge, self._gone)
        to = self._accelerated.next(self.point, self.keys @ found)
        unknowns, expected = self._go(to - self.point, terms, bends)
        if self.system.sums and expected > spread:
            to = self._accelerated.restart(self.point, self.keys @ found)
            unknowns, expected = self._go(to - self.point, terms, bends)
        self.point = to
        self._gone = self._gone + unknowns
        self._transfers = [bend.transfer.moved(float(bend.inputs @ unknowns)) for bend in bends]
        return Plan(self.system, self.system.expand(unknowns)), expected

    def terms(self, rates: Mapping[str, UnitRates]) -> list[Term]:
        """Return the terms of the units, with what sums do to them."""
        terms = find_terms(self.units, self.system, rates)
        for term in terms:
            term.bends = self._summed[term.unit]
        return terms

    def _go(self, moved: np.ndarray, terms: Sequence[Term], bends: Sequence[Bend]) -> tuple[np.ndarray, float]:
        """Return the unknowns that move the point by so much, and the spread of the rates that is expected then."""
        asked = [Held(row, float(value)) for row, value in zip(self.keys, moved, strict=True)]
        unknowns = balance(terms, self.system.num_unknowns, [*bends, *asked], self._ridge, self._gone)
        return unknowns, rate_spread(np.exp([term.log_rate(unknowns) for term in terms]))


def iterate(
    relaxed: Relaxed,
    *,
    limit: float = 0.01,
    rounds: int = ROUNDS,
    restorer: Restorer | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Balanced:
    """Give the units one rate, and change the function for that where the graph would not allow it otherwise.

    Args:
        relaxed: `approach` may have gone some steps with it.
        limit: of the spread max |log C - mean log C| at which it ends; 1.5 times that from the third measurement on. In a
            deep net without BatchNorm the smallest step flips ReLUs all the way up and moves single rates by some percent.
        rounds: measurements at most; fewer if the last six brought nothing better. The best of them counts.
        restorer: what makes up for changes of the function beside what was planned; nothing does without.
    """
    network, probe = relaxed.network, relaxed.probe
    exact = scale_system(network, relaxed.chosen, probe.heads, relaxed=False)
    relaxed.start()
    restorer = restorer or Restorer()
    state = _Best(network, relaxed.units)
    before: dict[str, UnitRates] = {}
    done = since_best = 0
    while done < rounds:
        rates = probe.measure()
        before = before or rates
        done += 1
        progress(done, rounds)
        plan = plan_balance(network, rates, relaxed.counted, Plan(exact, np.zeros(exact.solution.matrix.shape[0])))
        spread = state.offer(plan, predict(network.units, rates, plan))
        since_best = 0 if spread <= state.spread else since_best + 1
        if state.spread <= (limit if done < _STRICT else 1.5 * limit) or since_best == _PATIENCE or done == rounds:
            break
        change = relaxed.step(rates)[0]
        if not np.abs(change.scales).max(initial=0) > _STILL:
            break
        restorer.prepare(state.given_by(change), relaxed.point)
        try:
            given = state.leave(change)
        except WeightsError:  # no number can take this step; the best point can be gone back to
            break
        restorer.restore(given, relaxed.point)
    return Balanced(state.finish(), before, state.rates, done, state.is_moved)


def approach(relaxed: Relaxed, *, limit: float, rounds: int, restorer: Restorer) -> dict[str, np.ndarray]:
    """Bring the units' rates near to each other; return the scales that the units have been given, as `iterate` does.

    Args:
        limit: of the spread that a step is expected to lead to, at which it is the last; nothing is measured after it.
            After a long step another follows, unless restoring found values to be of the sizes that it foretold.
        rounds: steps at most.
        restorer: as for `iterate`. Not called after the last step if that is short: a pass over all pictures is to follow.
    """
    network, probe = relaxed.network, relaxed.probe
    given = {u.key: np.zeros(u.num_channels) for u in network.units}
    for number in range(rounds):
        earlier = relaxed.point
        change, expected = relaxed.step(probe.measure(rough=True))
        if not can_apply(network, change):
            relaxed.forget()
            break
        planned = _with(network, given, change)
        restorer.prepare(planned, relaxed.point)
        apply(network, change, roughly=True)
        given = planned
        is_short = np.abs(relaxed.point - earlier).max(initial=0) <= LONG
        if (expected <= limit and is_short) or number == rounds - 1:
            break
        if restorer.restore(given, relaxed.point) <= _CLOSE and expected <= limit:
            break
    return given


def _with(network: Network, given: Mapping[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
    """Return scales given so far together with those of a plan."""
    return {u.key: given[u.key] + plan.factors(network.graph, u) for u in network.units}


class _Arrays:
    """The units' arrays as they were, in memory or, where memory is bounded, in a file."""

    def __init__(self, network: Network) -> None:
        self.network = network
        room = network.settings.room
        self._scratch = ScratchFile(room.folder) if room else None
        self._kept: dict[str, np.ndarray | Stored] = {}

    def __bool__(self) -> bool:
        return bool(self._kept)

    def keep(self) -> None:
        """Keep the arrays as they are, in place of what was kept before."""
        self.forget()
        names = {i for unit in self.network.units for i in unit.initializers}
        keep = self._scratch.write if self._scratch else partial(copied, threads=self.network.settings.threads)
        self._kept = {name: keep(self.network.graph.initializers[name]) for name in names}

    def put_back(self) -> None:
        """Give the network the arrays that were kept, if any were."""
        for name, array in self._kept.items():
            if isinstance(array, Stored):
                assert self._scratch is not None
                array = self._scratch.load(array)
            self.network.graph.initializers[name][...] = array

    def forget(self) -> None:
        """Let go of what was kept."""
        for array in self._kept.values():
            if isinstance(array, Stored):
                assert self._scratch is not None
                self._scratch.free(array)
        self._kept = {}


class _Best:
    """The best of the points seen: its arrays, the plan that ends there, and the scales given until then.

    Attributes:
        spread, rates: what that plan leads to.
    """

    def __init__(self, network: Network, units: Sequence[Unit]) -> None:
        self.network = network
        self.units = units
        self.rates: dict[str, UnitRates] = {}
        self.spread = np.inf
        self._measured = 0  # units with a rate, at the point that had most of them
        self._given = {u.key: np.zeros(u.num_channels) for u in network.units}
        self._best: tuple[Plan, dict[str, np.ndarray]] | None = None
        self._arrays = _Arrays(network)

    @property
    def is_moved(self) -> bool:
        """Whether a change of the function led to it."""
        return self._best is not None and any(logs.any() for logs in self._best[1].values())

    def offer(self, plan: Plan, rates: dict[str, UnitRates]) -> float:
        """Look at the point where the network is, with the plan that ends there; return the spread then.

        It is infinite where units have lost their rates, because values are not finite or no gradient is left.
        """
        measured = sum(rates[u.key].is_measured for u in self.units if u.key in rates)
        self._measured = max(self._measured, measured)
        known = spread_of(rates, self.units) if measured else 0.0  # without rates there is nothing to be done
        spread = known if measured == self._measured else np.inf
        if spread < self.spread or self._best is None:
            self.spread, self.rates = spread, rates
            self._best = (plan, self._given)
            self._arrays.forget()
        return spread

    def leave(self, change: Plan) -> dict[str, np.ndarray]:
        """Apply a change, and keep what it changes if the point that is left is the best one; return all scales given."""
        assert self._best is not None
        if not self._arrays:
            self._arrays.keep()
        apply(self.network, change, roughly=True)
        self._given = self.given_by(change)
        return self._given

    def given_by(self, change: Plan) -> dict[str, np.ndarray]:
        """Return all scales that will have been given once a change is applied."""
        return _with(self.network, self._given, change)

    def finish(self) -> dict[str, np.ndarray]:
        """Go back to the best point, apply its plan, and return the scales that the units have been given."""
        assert self._best is not None
        self._arrays.put_back()
        plan, given = self._best
        apply(self.network, plan)
        return _with(self.network, given, plan)


def _gains(system: ScaleSystem) -> dict[tuple[str, str], np.ndarray]:
    """Return (sum, term) -> by how much the term's scale is above the sum's, log, as a function of the unknowns."""
    rows = system.solution.matrix

    def mean(value: str) -> np.ndarray:
        return np.asarray(rows[system.labels[value].ravel()].mean(axis=0)).reshape(-1)

    return {(total, term): mean(term) - mean(total) for total, terms in system.sums.items() for term in terms}


def _bends(system: ScaleSystem, transfers: Sequence[Transfer]) -> list[Bend]:
    rows = system.solution.matrix
    return [
        Bend(rows[b.inputs].toarray()[0], rows[b.outputs].toarray()[0], transfer)
        for b, transfer in zip(system.bonds, transfers, strict=True)
    ]
