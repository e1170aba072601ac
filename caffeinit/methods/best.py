"""The best of some points that a network goes through: its arrays can be given back, and a plan that ends there applied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from caffeinit.apply.plan import Plan, apply
from caffeinit.arithmetic.factors import copied
from caffeinit.engine.shelf import ScratchFile, Stored
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.graph.units import Unit
from caffeinit.methods.between import spread_of
from caffeinit.model.network import Network
from caffeinit.statistics.rates import UnitRates

_SHORT = 1.0  # the longest log scale of a change that is undone by its inverse


def with_plan(network: Network, given: Mapping[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
    """Return scales given so far together with those of a plan."""
    return {u.key: given[u.key] + plan.factors(network.graph, u) for u in network.units}


def _is_short(change: Plan) -> bool:
    """Tell whether a change keeps single precision's digits, and its range, but for numbers at the ends of it.

    Variances that are stored hang on each other in another way than by factors.
    """
    return bool(np.abs(change.scales).max(initial=0) <= _SHORT) and not change.system.stored_variances


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
            target = self.network.graph.initializers[name]
            if isinstance(array, np.ndarray):
                target[...] = array
            elif self._scratch is not None and target.flags.c_contiguous:
                self._scratch.read(array, target)
            elif self._scratch is not None:
                target[...] = self._scratch.load(array)

    def forget(self) -> None:
        """Let go of what was kept."""
        for array in self._kept.values():
            if isinstance(array, Stored):
                assert self._scratch is not None
                self._scratch.free(array)
        self._kept = {}


class Best:
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
        self._gone: list[Plan] = []  # short changes since the best point, before arrays were kept

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
            self._gone = []
        return spread

    def keep(self) -> None:
        """Keep the arrays, which are about to be changed by something that cannot be undone."""
        if not self._arrays:
            self._arrays.keep()

    def leave(self, change: Plan) -> dict[str, np.ndarray]:
        """Apply a change, which can be undone; return all scales given.

        A short one is undone by its inverse, which costs the last digits and spares a copy of all arrays.

        Raises:
            WeightsError: a number leaves single precision; the best point can still be gone back to.
            CaffeinitError: so it does in a short change, and there is no way back.
        """
        assert self._best is not None
        is_short = not self._arrays and _is_short(change)
        if is_short:
            self._gone.append(change)
        else:
            self.keep()
        try:
            apply(self.network, change, roughly=True)
        except WeightsError as error:
            raise CaffeinitError(str(error)) if is_short else error from None
        self._given = self.given_by(change)
        return self._given

    def given_by(self, change: Plan) -> dict[str, np.ndarray]:
        """Return all scales that will have been given once a change is applied."""
        return with_plan(self.network, self._given, change)

    def back(self) -> dict[str, np.ndarray]:
        """Go back to the best point, without its plan, and return the scales that the units had been given there."""
        assert self._best is not None
        self._arrays.put_back()
        for change in reversed(self._gone):
            apply(self.network, Plan(change.system, -change.scales), roughly=True)
        if self._gone:  # arrays were kept after these
            self._arrays.forget()
        self._gone = []
        self._given = self._best[1]
        return self._given

    def finish(self) -> dict[str, np.ndarray]:
        """Go back to the best point, apply its plan, and return the scales that the units have been given."""
        assert self._best is not None
        given, plan = self.back(), self._best[0]
        apply(self.network, plan, roughly=True)
        return with_plan(self.network, given, plan)
