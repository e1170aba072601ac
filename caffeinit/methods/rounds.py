"""One rate for all units where the net's function need not be kept: rounds of planning, applying and measuring again.

What the graph allows without changing the function is planned at once (`between.py`). The rest, through layers that pass
a scale on along a curve (LRN) and sums whose terms take scales of their own, is planned roughly (`relaxed.py`), and what it
did is measured, with the same pictures and noise, before the next round.
"""

from __future__ import annotations

from collections.abc import Callable
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
    network, probe = relaxed.network, relaxed.probe
    exact = scale_system(network, relaxed.chosen, probe.heads, relaxed=False)
    start = Plan(exact, np.zeros(exact.solution.matrix.shape[0]))
    relaxed.start()
    restorer = restorer or Restorer()
    state = Best(network, relaxed.units)
    before: dict[str, UnitRates] = {}
    marked: dict[str, UnitRates] = {}  # rates at the point that is gone back to, where they can be kept
    done = since_best = idle = 0
    is_back = False
    while done < rounds:
        if is_back and marked:
            rates = marked
        else:
            rates = probe.measure()
            done += 1
            progress(done, rounds)
        before = before or without_squares(rates)
        best, spread = state.spread, np.inf
        if not relaxed.is_astray(spread_of(rates, relaxed.units), spread_of(before, relaxed.units)):
            plan = plan_balance(network, rates, relaxed.counted, start, evenly=True)
            spread = state.offer(plan, predict(network.units, rates, plan))
        if not is_back:
            since_best = 0 if spread <= _PROGRESS * best else since_best + 1
        if state.spread <= (limit if done < _STRICT else 1.5 * limit) or since_best >= _PATIENCE or done == rounds:
            break
        if relaxed.is_lost(spread, state.spread) and not is_back:
            restorer.returned(state.back(), relaxed.back())
            is_back = True
            continue
        if is_back or spread == state.spread:
            relaxed.mark()
            marked = rates if relaxed.has_sums and probe.can_keep else {}
        is_back = False
        change, expected = relaxed.step(rates)
        del rates  # what they come from makes room for the next ones
        is_idle = (
            relaxed.has_sums
            and expected > _PROGRESS * state.spread
            and np.abs(relaxed.moved).max(initial=0) <= _IDLE_STEP
        )
        idle = idle + 1 if is_idle else 0
        if idle == _IDLE or not np.abs(change.scales).max(initial=0) > STILL:
            break
        restorer.prepare(relaxed.way)
        try:
            given = state.leave(change)
        except WeightsError:  # no number can take this step; the best point can be gone back to
            break
        if restorer.acts(relaxed.way):
            state.keep()
        restorer.restore(given, relaxed.way)
    return Balanced(state.finish(), before, state.rates, done, state.is_moved)


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
        is_short = np.abs(relaxed.moved).max(initial=0) <= LONG
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
