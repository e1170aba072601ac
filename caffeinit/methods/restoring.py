"""Gives channels back the moments that they were to have, after a change that passed from layer to layer beside its plan.

A step towards one rate foretells what it does to the values of every unit. Through layers that bend a scale (LRN) it is
off by some percent of its length, in log scales. What is off is made up for on a few pictures, layer by layer, or on all of
them where a few do not stand for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caffeinit.arithmetic.moments import Moments
from caffeinit.graph.units import Unit
from caffeinit.methods.correction import Target, Trust
from caffeinit.methods.responses import ResponseKeeper, Responses
from caffeinit.methods.within import normalize
from caffeinit.model.network import Network
from caffeinit.result import UnitReport
from caffeinit.statistics.forward import Found, measure_moments

Batch = Mapping[str, np.ndarray]
Scales = Mapping[str, np.ndarray]  # unit's key -> log factors that its output's channels were to be given so far
# Channels are left as they are until they were given scales of this length, log: deviations are off by 4 to 8 % of it.
_SMALL = 0.1
# The same where responses are kept: two of them are correlated by as much as half of it.
_SMALL_KEPT = 0.05
# Scales of this length, log, and deviations that were off by so much before they were restored, ask for one more pass over
# all pictures; and how many more there are at most.
_FAR, _OFF, _PASSES = 0.3, 0.05, 6
# Values over which a channel's deviation on one batch is as good as that on all.
MANY_VALUES = 1500


class Restorer:
    """Leaves everything as it is, and does not look: for nets in which nothing passes beside what is planned."""

    def prepare(self, point: np.ndarray) -> None:
        """Look at the net as it is, before it is changed.

        Args:
            point: the log scales through which the function is about to change; the others pass nothing on.
        """

    def restore(self, scales: Scales, point: np.ndarray) -> float:
        """Give the channels the moments that belong to these scales.

        Args:
            point: those of the scales through which the function has changed.
        Returns:
            By how much deviations were off before, log, at most, on average over a unit; infinite where it did not look.
        """
        return math.inf

    def acts(self, point: np.ndarray) -> bool:
        """Tell whether `restore` would change the net."""
        return False

    def begin(self, scales: Scales, point: np.ndarray) -> None:
        """Take the net as it is now, when it has been given these scales, for what is to be kept."""

    def returned(self, scales: Scales, point: np.ndarray) -> None:
        """Learn that the net is as it was once, with these scales: its channels have the moments that belong to them."""


class Normalizer(Restorer):
    """Gives the channels the scales themselves as deviations, and beta times that as means: of a net just normalised."""

    def __init__(self, network: Network, pictures: Sequence[Batch], chosen: Callable[[Unit], str], beta: float) -> None:
        """Take what `normalize` needs."""
        self._network, self._pictures, self._chosen, self._beta = network, pictures, chosen, beta

    def acts(self, point: np.ndarray) -> bool:
        """It always does; see `Restorer`."""
        return True

    def restore(self, scales: Scales, point: np.ndarray) -> float:
        """Normalise; see `Restorer`."""
        targets = scale_targets(self._beta, scales, Trust.SAMPLE)
        return _missed(self._network, self._pictures, self._chosen, targets)


class Keeper(Restorer):
    """Gives the channels the moments that they had on some pictures, times the scales.

    The moments over all pictures then are what they were to within the share that the change had in them. Short steps are
    left to be made up for together with later ones.
    """

    def __init__(
        self,
        network: Network,
        pictures: Sequence[Batch],
        chosen: Callable[[Unit], str],
        least: int,
        keepers: Mapping[str, ResponseKeeper] | None = None,
    ) -> None:
        """Take a network; nothing is measured before it is needed; arguments as for `find_restorer`."""
        self._network, self._pictures, self._chosen, self._least = network, pictures, chosen, least
        self._keepers = keepers or {}
        self.begin({unit.key: np.zeros(1) for unit in network.units}, np.zeros(1))

    def begin(self, scales: Scales, point: np.ndarray) -> None:
        """Forget what was measured; see `Restorer`."""
        self._now = scales
        self._restored = point
        self._known: tuple[dict[str, Moments], Scales] | None = None

    def returned(self, scales: Scales, point: np.ndarray) -> None:
        """Go on from there; see `Restorer`."""
        self._now, self._restored = scales, point

    def prepare(self, point: np.ndarray) -> None:
        """Measure the moments, once; see `Restorer`."""
        if self._known is None and self._is_far(point):
            self._known = self._measure(), self._now

    def acts(self, point: np.ndarray) -> bool:
        """Tell whether the net is far from where it was measured; see `Restorer`."""
        return self._known is not None and self._is_far(point)

    def restore(self, scales: Scales, point: np.ndarray) -> float:
        """Normalise if the function is far from what was restored last; see `Restorer`."""
        self._now = scales
        if self._known is None or not self._is_far(point):
            return math.inf
        self._restored = point
        moments, then = self._known
        targets = {}
        for key, known in moments.items():
            sizes = np.exp(scales[key] - then[key])
            trust = Trust.SAMPLE if known.count < self._least else Trust.FULL
            targets[key] = Target(known.mean * sizes, known.std * sizes, trust)
        return _missed(self._network, self._pictures, self._chosen, targets, self._keepers)

    def _measure(self) -> dict[str, Moments]:
        """Return the moments, and have the keepers see what they keep."""
        threads = self._network.settings.threads
        seen = [(unit, keeper) for unit in self._network.units if (keeper := self._keepers.get(unit.name))]
        found = {unit.key: Responses(unit, max(keeper.determined, default=0), threads) for unit, keeper in seen}

        def see(values: Found) -> None:
            for unit, _ in seen:
                for use in unit.uses:
                    found[unit.key].add(values[use.output], use.axis)

        outputs = [use.output for unit, _ in seen for use in unit.uses]
        moments = measure_moments(self._network, self._pictures, outputs, see)
        for unit, keeper in seen:
            keeper.see(found[unit.key])
        return moments

    def _is_far(self, point: np.ndarray) -> bool:
        """Tell whether the function was changed, since it was restored last, by more than what may be left."""
        return bool(np.abs(point - self._restored).max(initial=0) > (_SMALL_KEPT if self._keepers else _SMALL))


class Thorough(Restorer):
    """Restores as another does, and normalises on all pictures where that is not enough.

    In deep nets whose filters respond without correlation, a scale that changes by a tenth before LRN changes deviations
    above by as much, and on a few pictures that is made up for with errors as large.
    """

    def __init__(self, usual: Restorer, normalize: Callable[[Scales], None]) -> None:
        """Take what restores as a rule, and what gives channels their scales as deviations on all pictures."""
        self._usual, self._normalize = usual, normalize
        self._settled = np.zeros(1)
        self._left = _PASSES

    @property
    def was_needed(self) -> bool:
        """Whether all pictures had to be seen again: what is foretold of values there is off by percents."""
        return self._left < _PASSES

    def returned(self, scales: Scales, point: np.ndarray) -> None:
        """Go on from there; see `Restorer`."""
        self._usual.returned(scales, point)

    def prepare(self, point: np.ndarray) -> None:
        """Look at the net as the usual restorer does."""
        self._usual.prepare(point)

    def acts(self, point: np.ndarray) -> bool:
        """Tell whether one of both would; see `Restorer`."""
        return self._usual.acts(point) or self._is_due(point)

    def restore(self, scales: Scales, point: np.ndarray) -> float:
        """Restore, and normalise if much was off or the function has changed by much since all pictures were seen."""
        missed = self._usual.restore(scales, point)
        is_off = math.isfinite(missed) and missed > _OFF
        if (self._left and is_off) or self._is_due(point):
            self._left -= 1
            self._settled = point
            self._normalize(scales)
            self._usual.begin(scales, point)
        return missed

    def _is_due(self, point: np.ndarray) -> bool:
        return self._left > 0 and bool(np.abs(point - self._settled).max(initial=0) > _FAR)


def scale_targets(beta: float, scales: Scales, trust: Trust = Trust.FULL) -> dict[str, Target]:
    """Return for each unit the scales as deviations, and beta times that as means."""
    return {key: Target(beta * np.exp(logs), np.exp(logs), trust) for key, logs in scales.items()}


def find_restorer(
    network: Network,
    pictures: Sequence[Batch],
    chosen: Callable[[Unit], str],
    least: int = MANY_VALUES,
    keepers: Mapping[str, ResponseKeeper] | None = None,
) -> Restorer:
    """Return what keeps the moments of what the chosen units put out.

    Args:
        least: values on these pictures that a channel must have to be brought back by itself; where it has fewer, as in
            fully connected units, as much scatter as chance would make is left out of its change. 0 if all pictures are
            to follow, which take the noise out again.
        keepers: unit name -> what gives its responses more than their moments back.
    """

    def chosen_to_restore(unit: Unit) -> str:
        return chosen(unit) or ("" if can_restore(unit) else "its statistics are those of all pictures")

    return Keeper(network, pictures, chosen_to_restore, least, keepers)


def can_restore(unit: Unit) -> bool:
    """Tell whether the moments of what a unit puts out can be kept on a few pictures: stored statistics are of all."""
    return unit.kind != "norm"


def _missed(
    network: Network,
    pictures: Sequence[Batch],
    chosen: Callable[[Unit], str],
    targets: Mapping[str, Target],
    turners: Mapping[str, ResponseKeeper] | None = None,
) -> float:
    """Normalise to these targets; return by how much deviations were off before; see `Restorer.restore`."""
    reports: Sequence[UnitReport] = normalize(network, pictures, chosen=chosen, targets=targets, turners=turners)[0]
    most = 0.0
    for unit, report in zip(network.units, reports, strict=True):
        if unit.kind == "affine" and unit.key in targets and report.done and report.before is not None:
            alive = np.delete(np.arange(unit.num_channels), report.dead)
            wanted = np.broadcast_to(targets[unit.key].std, unit.num_channels)
            ratios = report.before.channel_stds[alive] / wanted[alive]
            most = max(most, abs(float(np.log(ratios).mean())))
    return most
