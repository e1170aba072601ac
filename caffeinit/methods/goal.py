"""Scales that give all units one rate: what is looked for, what is kept to, and the search.

One scale per unit makes all rates equal in a small least-squares problem, without another pass through the net.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares

from caffeinit.methods.terms import Term, Terms
from caffeinit.scales.transfer import Transfers

# Scales that no rate depends on stay where they are; the weight is far too small to be seen in those that matter.
RIDGE = 1e-4
# A curve is kept to a hundred times better than rates are made equal. Before that it is kept to loosely: a search that has
# to follow every curve closely from the start creeps along them, and its limit of evaluations ends it far from the answer.
_LOOSE, _STIFFNESS = 3.0, 100.0
# Without a limit, a problem whose curves wind would be searched for minutes, for a sum of squares smaller by a thousandth.
_MOST_EVALUATIONS = 200
# The same from an answer on, of which only the largest distance is to become smaller.
_FEW_EVALUATIONS = 60
# Parts of its size by which an answer, or the sum of squares, changes at the end.
_CLOSE = 1e-8
# The same of the sum of squares where curves are kept to loosely.
_NEARLY = 1e-3
# Rates that lie apart by no more are one, and half of the powers that distances are summed with where they are not.
ONE_RATE, _POWERS = 0.02, (2.0, 4.0)


@dataclass
class Bends:
    """Layers' curves as functions of the unknowns: outputs x = values(inputs x), rows of (layers, unknowns)."""

    inputs: np.ndarray
    outputs: np.ndarray
    transfers: Transfers

    def __post_init__(self) -> None:
        """Know nothing yet."""
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def gap(self, unknowns: np.ndarray) -> np.ndarray:
        """Return by how much the outputs' log scales are off the curves, (layers,)."""
        return np.asarray(self.outputs @ unknowns - self.transfers.values(self.inputs @ unknowns))

    def gradient(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the derivatives of the gaps, (layers, unknowns)."""
        return np.asarray(self.outputs - self.transfers.values.slope(self.inputs @ unknowns)[:, None] * self.inputs)

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much gradients grow that come back through each layer, log, and the derivatives of that.

        That is beside what the scales alone make of them; (layers,) and (layers, unknowns). See `Source`.
        """
        if self._known is None or not np.array_equal(self._known[0], unknowns):
            scales, diffs = self.inputs @ unknowns, self.transfers.diffs
            self._known = unknowns.copy(), diffs(scales), diffs.slope(scales)[:, None] * self.inputs
        return self._known[1:]


@dataclass
class Held:
    """Scales that are asked for: rows x = values."""

    rows: np.ndarray
    values: np.ndarray

    def gap(self, unknowns: np.ndarray) -> np.ndarray:
        """Return by how much each is missed."""
        return np.asarray(self.rows @ unknowns - self.values)

    def gradient(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the derivatives of the gaps, (scales, unknowns)."""
        return self.rows


@dataclass
class Within(Held):
    """Scales that are not to become larger: rows x <= values."""

    def gap(self, unknowns: np.ndarray) -> np.ndarray:
        """Return by how much each is too large."""
        return np.asarray(np.maximum(self.rows @ unknowns - self.values, 0.0))

    def gradient(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the derivatives of the gaps, (scales, unknowns)."""
        return np.asarray(np.where((self.rows @ unknowns > self.values)[:, None], self.rows, 0.0))


@dataclass(frozen=True)
class Goal:
    """Rates that are one, by scales that stay where they are otherwise.

    Attributes:
        terms: what the rates follow from.
        num_unknowns: how many scales there are.
        kept_to: curves, and scales that are asked for.
        ridge, gone: the weight, beside rates, of scales that stay where they were, and how far they have gone from there.
        loosely: what is kept to is kept to loosely at first. Of many answers it may not be the nearest that is found then.
    """

    terms: Sequence[Term]
    num_unknowns: int
    kept_to: Sequence[Bends | Held] = ()
    ridge: float = RIDGE
    gone: np.ndarray | float = 0.0
    loosely: bool = False

    def best(self, start: np.ndarray | None = None, close: float = _CLOSE, evenly: bool = False) -> np.ndarray:
        """Return the unknowns for which the logarithms of all rates are closest to each other, in least squares.

        Args:
            start: unknowns from which they are looked for; all 0 by default.
            close: the part of it by which the sum of squares still changes at the end.
            evenly: where rates cannot be one, the one that is farthest off counts most: the sum is of higher powers then.
        """
        if self.num_unknowns == 0 or len(self.terms) < 2:
            return np.zeros(self.num_unknowns)
        found = self._found(np.zeros(self.num_unknowns) if start is None else start, close)
        for power in _POWERS if evenly else ():
            largest = float(np.abs(self._distances(found)).max())
            if largest > ONE_RATE:
                tried = self._found(found, close, power, largest)
                found = tried if np.abs(self._distances(tried)).max() < largest else found
        return found

    def _found(self, start: np.ndarray, close: float, power: float = 1.0, unit: float = 1.0) -> np.ndarray:
        """Return the unknowns with the least sum of squares, from `start` on.

        Args:
            power, unit: distances of the rates from their mean count as (distance / unit) ** power * unit.
        """
        if self.loosely:
            start = self._reached(start, max(close, _NEARLY), power, unit, _LOOSE)
        return self._reached(start, close, power, unit, _STIFFNESS)

    def _reached(self, start: np.ndarray, close: float, power: float, unit: float, stiffness: float) -> np.ndarray:
        """Return what `_found` does; what is kept to counts as much more than rates as `stiffness` says."""

        def residuals(x: np.ndarray) -> np.ndarray:
            apart = self._distances(x)
            weighed = unit * np.sign(apart) * (np.abs(apart) / unit) ** power
            kept = [stiffness * k.gap(x) for k in self.kept_to]
            return np.concatenate([weighed, self.ridge * (x + self.gone), *kept])

        def jacobian(x: np.ndarray) -> np.ndarray:
            rows = self._rates.gradients(x)
            weights = power * (np.abs(self._distances(x)) / unit) ** (power - 1)
            kept = [stiffness * k.gradient(x) for k in self.kept_to]
            return np.concatenate([weights[:, None] * (rows - rows.mean(axis=0)), self.ridge * np.eye(len(x)), *kept])

        most = {"xtol": _CLOSE, "ftol": close, "max_nfev": _MOST_EVALUATIONS if power == 1.0 else _FEW_EVALUATIONS}
        return np.asarray(least_squares(residuals, start, jacobian, method="lm", **most).x)

    def _distances(self, unknowns: np.ndarray) -> np.ndarray:
        """Return log C - mean log C of all units, (units,)."""
        logs = self._rates.log_rates(unknowns)
        return np.asarray(logs - logs.mean())

    @cached_property
    def _rates(self) -> Terms:
        return Terms(self.terms)
