"""One rate for all units where the net's function need not be kept: rounds of planning, applying and measuring again.

What the graph allows without changing the function is planned at once (`between.py`). The rest, through layers that pass
a scale on along a curve (LRN) and sums whose terms take scales of their own, is planned roughly (`relaxed.py`), and what it
did is measured, with the same pictures and noise, before the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from caffeinit.apply.plan import Plan, apply, can_apply
from caffeinit.errors import WeightsError
from caffeinit.methods.acceleration import LONG
from caffeinit.methods.best import Best, with_plan
from caffeinit.methods.between import plan_balance, predict, scale_system, spread_of
from caffeinit.methods.relaxed import STILL, Relaxed
from caffeinit.methods.restoring import Restorer
from caffeinit.model.network import Network
from caffeinit.statistics.rates import UnitRates, without_squares

# Log sizes of values that are as good as foretold: with random weights CaffeNet's then are, with PCA's they are .3 off.
_CLOSE = 0.15
# Measurements after which a spread half as large again will do. What is missing then is as large as what chance adds: on
# 16 pictures, rates move by 1 or 2 % when some ReLUs flip.
_STRICT = 3
# Rounds without one that leaves less than this of the spread, after which no more are tried.
_PATIENCE, _PROGRESS = 6, 0.99
# Rounds one after the other that promise no such progress by steps of this length, log, after which no more are tried.
_IDLE, _IDLE_STEP = 2, 0.1
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
        rounds: measurements at most; fewer if the last six brought nothing better, or two promise nothing. The best counts.
        restorer: what makes up for changes of the function beside what was planned; nothing does without.
    """
    relaxed.start()
    search = _Search(relaxed, limit, rounds, restorer or Restorer())
    while search.done < rounds:
        rates = search.rates()
        progress(search.done, rounds)
        search.judge(rates)
        if search.is_over():
            break
        if search.is_lost():
            search.go_back()
            continue
        change = search.next_step(rates)
        del rates  # what they come from makes room for the next ones
        if change is None or not search.take(change):
            break
    return search.reached()


class _Search:
    """Rounds: where they have led, and the best point so far.

    Attributes:
        done: measurements.
        best: the point with the least spread.
        spread: of the rates as last measured; infinite where the function is astray.
        since_best: rounds without progress. idle: rounds one after the other that promised none.
        is_back: the rates are those of a point that was gone back to.
        marked: rates at the point that is gone back to, where they can be kept.
    """

    def __init__(self, relaxed: Relaxed, limit: float, rounds: int, restorer: Restorer) -> None:
        self._relaxed, self._limit, self._rounds, self._restorer = relaxed, limit, rounds, restorer
        exact = scale_system(relaxed.network, relaxed.chosen, relaxed.probe.heads, relaxed=False)
        self._start = Plan(exact, np.zeros(exact.solution.matrix.shape[0]))
        self.best = Best(relaxed.network, relaxed.units)
        self.before: dict[str, UnitRates] = {}
        self.marked: dict[str, UnitRates] = {}
        self.done = self.since_best = self.idle = 0
        self.spread = np.inf
        self.is_back = False

    def rates(self) -> dict[str, UnitRates]:
        """Return the rates where the net stands."""
        if self.is_back and self.marked:
            return self.marked
        self.done += 1
        return self._relaxed.probe.measure()

    def judge(self, rates: Mapping[str, UnitRates]) -> None:
        """See what scales that keep the function would make of these rates, and whether that is the best so far."""
        relaxed, network = self._relaxed, self._relaxed.network
        self.before = self.before or without_squares(rates)
        best, self.spread = self.best.spread, np.inf
        if not relaxed.is_astray(spread_of(rates, relaxed.units), spread_of(self.before, relaxed.units)):
            plan = plan_balance(network, rates, relaxed.counted, self._start, evenly=True)
            self.spread = self.best.offer(plan, predict(network.units, rates, plan))
        if not self.is_back:
            self.since_best = 0 if self.spread <= _PROGRESS * best else self.since_best + 1

    def is_over(self) -> bool:
        """Tell whether the best point is good enough, or no better one is to be expected."""
        limit = self._limit if self.done < _STRICT else 1.5 * self._limit
        return self.best.spread <= limit or self.since_best >= _PATIENCE or self.done == self._rounds

    def is_lost(self) -> bool:
        """Tell whether the last step led away, so that another way is to be gone from the best point."""
        return self._relaxed.is_lost(self.spread, self.best.spread) and not self.is_back

    def go_back(self) -> None:
        """Take back what has been done since the best point."""
        self._restorer.returned(self.best.back(), self._relaxed.back())
        self.is_back = True

    def next_step(self, rates: dict[str, UnitRates]) -> Plan | None:
        """Return the step that promises most; None where that is hardly anything."""
        relaxed = self._relaxed
        if self.is_back or self.spread == self.best.spread:
            relaxed.mark()
            self.marked = rates if relaxed.has_sums and relaxed.probe.can_keep else {}
        self.is_back = False
        change, expected = relaxed.step(rates)
        is_idle = relaxed.has_sums and expected > _PROGRESS * self.best.spread and _length(relaxed.moved) <= _IDLE_STEP
        self.idle = self.idle + 1 if is_idle else 0
        return change if self.idle < _IDLE and _length(change.scales) > STILL else None

    def take(self, change: Plan) -> bool:
        """Apply a change, and make up for what it does to the function; return whether the numbers can take it."""
        way = self._relaxed.way
        self._restorer.prepare(way)
        try:
            given = self.best.leave(change)
        except WeightsError:  # the best point can be gone back to
            return False
        if self._restorer.acts(way):
            self.best.keep()
        self._restorer.restore(given, way)
        return True

    def reached(self) -> Balanced:
        """Go to the best point and return what it is."""
        return Balanced(self.best.finish(), self.before, self.best.rates, self.done, self.best.is_moved)


def _length(steps: np.ndarray) -> float:
    """Return the longest of some steps, log; 0 of none."""
    return float(np.abs(steps).max(initial=0))


def approach(
    relaxed: Relaxed, *, limit: float, rounds: int, restorer: Restorer
) -> tuple[dict[str, np.ndarray], dict[str, UnitRates]]:
    """Bring the units' rates near to each other.

    Args:
        limit: of the spread that a step is expected to lead to, at which it is the last; nothing is measured after it.
            After a long step another follows, unless restoring found values to be of the sizes that it foretold.
        rounds: steps at most.
        restorer: as for `iterate`. Not called after the last step if that is short: a pass over all pictures is to follow.
    Returns:
        The scales that the units have been given, as `iterate` does, and the rates at first.
    """
    network, probe, system = relaxed.network, relaxed.probe, relaxed.system
    given = {u.key: np.zeros(u.num_channels) for u in network.units}
    best = _Seen(np.inf, given, {})
    before: dict[str, UnitRates] = {}
    for number in range(rounds + 1):
        if number == rounds and not relaxed.has_sums:
            break
        rates = probe.measure(rough=True)
        before = before or without_squares(rates)
        spread = spread_of(rates, relaxed.units)
        if relaxed.is_lost(spread, best.spread):
            given, rates = best.given, best.rates
            best.undo(network)
            restorer.restore(given, relaxed.back())
        elif relaxed.has_sums:
            best = _Seen(spread, given, rates)
            relaxed.mark()
        if number == rounds:
            break
        change, expected = relaxed.step(rates, is_early=True)
        del rates
        if not can_apply(network, change):
            relaxed.forget()
            break
        if relaxed.system is not system:
            restorer.begin(given, np.zeros_like(relaxed.way))
            system = relaxed.system
        planned = with_plan(network, given, change)
        restorer.prepare(relaxed.way)
        apply(network, change, roughly=True)
        best.gone.append(change)
        given = planned
        is_short = _length(relaxed.moved) <= LONG
        if (expected <= limit and is_short) or (number == rounds - 1 and not relaxed.has_sums):
            break
        if restorer.restore(given, relaxed.way) <= _CLOSE and expected <= limit:
            break
    return given, before


@dataclass
class _Seen:
    """A point that was gone through: its spread, the scales given until then, the rates there, and the changes since."""

    spread: float
    given: dict[str, np.ndarray]
    rates: dict[str, UnitRates]
    gone: list[Plan] = field(default_factory=list)

    def undo(self, network: Network) -> None:
        """Take the changes back."""
        for change in reversed(self.gone):
            apply(network, Plan(change.system, -change.scales), roughly=True)
        self.gone = []
