"""How the responses of a unit's filters go together, and turning the filters so that they go together otherwise.

A unit's filters are turned within the space that they span: its weights, and what it has put out, are multiplied by the
same small matrix, group by group, and nothing is computed twice. `Refiner` makes responses uncorrelated, as `pca` promises
them. `ResponseKeeper` gives them the correlations back that they had, where giving the units one rate has changed what
the unit reads: through LRN, scales do that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import linalg

from caffeinit.arithmetic.factors import put
from caffeinit.arithmetic.moments import Moments, PictureMoments, as_blocks
from caffeinit.arithmetic.workers import each, single_threaded
from caffeinit.draw.whitening import RANK_TOLERANCE, largest_signs
from caffeinit.graph.units import Unit

# Responses of each filter from which on their correlations are more than chance, for each filter; and the same for those
# on a few pictures, which are to stand for all.
LEAST_RESPONSES, LEAST_KEPT = 2, 5
# Added to correlations, which are 1 of each filter with itself: what hardly ever happens together is not blown up.
RIDGE = 1e-2
# Deviations from which on a mean is taken out first: squares would leave less than four digits of what varies.
LARGE_MEAN = 30.0
_BLOCKS = 4  # whose products are in memory at a time


class Distant(Protocol):
    """An activation that lies on a device; see `engine.resident.Piece`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        ...

    def moments(self, axis: int) -> Sequence[PictureMoments] | None:
        """Return the moments of its channels on `axis`; None if it has to be brought here for that."""

    def products(self, axis: int, centre: np.ndarray) -> np.ndarray:
        """Return sums of products of the first channels of each group less their centre, and of these with 1."""
        ...

    def __array__(self) -> np.ndarray: ...


class Turner(Protocol):
    """Says how a unit's filters are to be turned, once all that they respond has been seen."""

    @property
    def determined(self) -> Sequence[int]:
        """How many filters of each group may be turned, its first; known when the unit runs."""

    def turn(self, responses: Responses) -> np.ndarray | None:
        """Return what each group's filters are to be multiplied by, (groups, C/group, C/group); None for nothing."""


class Responses:
    """Covariances of a unit's first channels within each group, of everything folded in.

    Attributes:
        unit: whose outputs they are.
        groups, channels: of the unit; channels in each group.
        count: values of each channel.
        threads: workers; None is one per core.
    """

    def __init__(self, unit: Unit, most: int, threads: int = 0) -> None:
        """Take a unit, and how many channels of each group to look at; 0 threads are one per core."""
        assert unit.weight is not None
        self.unit = unit
        self.groups, self.channels = unit.weight.shape[:2]
        self.count = 0
        self.threads = threads or None
        self._centre: np.ndarray | None = None  # near the means, where they are large
        self._sums = np.zeros((self.groups, most))
        self._products = np.zeros((self.groups, most, most))

    def add(self, values: np.ndarray | Distant, axis: int) -> None:
        """Fold in a batch of what one use of the unit puts out, channels on `axis`."""
        if not isinstance(values, np.ndarray):
            moments = values.moments(axis)
            if moments is not None:
                self._add_distant(values, axis, moments)
                return
            values = np.asarray(values)
        most = self._sums.shape[1]
        parted = (b.reshape(len(b), self.groups, self.channels, b.shape[2]) for b in as_blocks(values, axis))
        blocks = [block[:, :, :most] for block in parted if block.size]
        if not blocks:
            return
        if self.count == 0:
            self._centre = _find_centre(blocks[0].mean(axis=(0, 3)), blocks[0].std(axis=(0, 3)))
        with single_threaded():
            for start in range(0, len(blocks), _BLOCKS):
                for sums, products in each(self._look, blocks[start : start + _BLOCKS], self.threads):
                    self._sums += sums
                    self._products += products
        self.count += values.size // (self.groups * self.channels)

    def _add_distant(self, values: Distant, axis: int, moments: Sequence[PictureMoments]) -> None:
        """Fold in a batch that lies on a device; only the products come from there."""
        most = self._sums.shape[1]
        if self.count == 0:
            found = Moments(self.groups * self.channels)
            found.fold(moments)
            means, stds = (a.reshape(self.groups, -1)[:, :most] for a in (found.mean, found.std))
            self._centre = _find_centre(means.astype(np.float32), stds)
        nothing = np.zeros((self.groups, most, 1), np.float32)
        table = values.products(axis, nothing if self._centre is None else self._centre)
        self._sums += table[:, :-1, -1]
        self._products += table[:, :-1, :-1]
        self.count += math.prod(values.shape) // (self.groups * self.channels)

    def _look(self, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return sums and products of a block (n, groups, C/group, P)."""
        values = block if self._centre is None else block - self._centre
        sums = values @ np.ones(values.shape[3], np.float32)
        products = values @ values.transpose(0, 1, 3, 2)
        return sums.sum(axis=0, dtype=np.float64), products.sum(axis=0, dtype=np.float64)

    def covariance(self) -> np.ndarray:
        """Return (groups, C/group, C/group) float64, population form."""
        means = self._sums / max(self.count, 1)
        return np.asarray(self._products / max(self.count, 1) - means[:, :, None] * means[:, None, :])

    def turned(self, moments: Moments, matrix: np.ndarray) -> Moments:
        """Return the moments of the unit's output once its channels are multiplied by the matrices of their groups."""
        other = Moments(len(moments.mean))
        other.count = moments.count
        other.mean = (matrix @ moments.mean.reshape(self.groups, -1, 1)).reshape(-1)
        unknown = np.full(len(moments.mean), np.nan)
        other.reach(unknown, unknown)
        squares = moments.squares.reshape(self.groups, -1).copy()
        most = self._sums.shape[1]
        part = matrix[:, :most, :most]
        squares[:, :most] = moments.count * np.einsum("gij,gij->gi", part @ self.covariance(), part)
        other.squares = squares.reshape(-1)
        return other


class Refiner:
    """Turns filters to the principal directions, within the space that they span, of all that their unit has read.

    A few thousand patches find that space, but each direction in it is turned a little towards the stronger ones, which
    correlates responses by .1 and more.
    """

    def __init__(self, determined: Sequence[int]) -> None:
        """Take how many filters of each group are to be turned, its first; filled in when the unit is drawn."""
        self.determined = determined

    def turn(self, responses: Responses) -> np.ndarray | None:
        """Return what makes responses uncorrelated, of deviation 1, the strongest direction first (Rayleigh-Ritz)."""
        weight = responses.unit.weight
        assert weight is not None
        effective = np.asarray(weight, np.float64) * responses.unit.alpha
        rows = effective.reshape(responses.groups, responses.channels, -1)

        def principal(group: int, covariance: np.ndarray) -> np.ndarray | None:
            return _principal(covariance, rows[group, : len(covariance)])

        return _turned(responses, self.determined, principal)


def refiners(uncorrelated: Mapping[str, Sequence[int]]) -> dict[str, Refiner]:
    """Return what refines some units: unit name -> how many filters of each group, known once it is drawn."""
    return {name: Refiner(determined) for name, determined in uncorrelated.items()}


class ResponseKeeper:
    """Looks at the correlations of responses in a first pass, and gives them back in later ones."""

    def __init__(self, determined: Sequence[int]) -> None:
        """Take how many filters of each group are to be turned, its first."""
        self.determined = determined
        self._known: list[Correlations | None] = []

    def see(self, responses: Responses) -> None:
        """Look at what is to be kept."""
        covariance = responses.covariance()
        self._known = [
            Correlations.of(covariance[group, :count, :count])
            if is_enough(count, responses.count, LEAST_KEPT)
            else None
            for group, count in enumerate(self.determined)
        ]

    def turn(self, responses: Responses) -> np.ndarray | None:
        """Return what gives the correlations back."""

        def kept(group: int, covariance: np.ndarray) -> np.ndarray | None:
            known = self._known[group]
            return known.given_to(covariance) if known else None

        return _turned(responses, self.determined, kept)


@dataclass(frozen=True)
class Correlations:
    """How responses go together.

    Attributes:
        root: (k, k) float64, the symmetric square root of their correlations and `RIDGE`.
    """

    root: np.ndarray

    @classmethod
    def of(cls, covariance: np.ndarray) -> Correlations:
        """Return those of responses with this covariance, (k, k)."""
        return cls(_power(_correlated(covariance)[0] + RIDGE * np.eye(len(covariance)), 0.5))

    def given_to(self, covariance: np.ndarray) -> np.ndarray:
        """Return the matrix (k, k) that gives responses with this covariance these correlations, and their own deviations.

        Of all such matrices it is the one that, at deviation 1, moves responses least: the optimal transport between normal
        distributions (Olkin & Pukelsheim, Linear Algebra and its Applications 48, 1982).
        """
        now, stds = _correlated(covariance)
        now = now + RIDGE * np.eye(len(now))
        turn = self.root @ _power(self.root @ now @ self.root, -0.5) @ self.root
        return np.asarray(turn * stds[:, None] / stds)


def _find_centre(means: np.ndarray, stds: np.ndarray) -> np.ndarray | None:
    """Return means (groups, C/group) as (groups, C/group, 1), if they are so large that squares would lose what varies."""
    return means[:, :, None] if (np.abs(means) > LARGE_MEAN * stds).any() else None


def _turned(
    responses: Responses, counts: Sequence[int], turned: Callable[[int, np.ndarray], np.ndarray | None]
) -> np.ndarray | None:
    """Return the matrices of all groups, from what `turned` makes of a group's number and covariance; None if nothing."""
    covariance = responses.covariance()
    matrix = np.tile(np.eye(responses.channels), (responses.groups, 1, 1))

    def turn(group: int) -> bool:
        count = counts[group]
        found = turned(group, covariance[group, :count, :count]) if is_enough(count, responses.count) else None
        if found is not None:
            matrix[group, :count, :count] = found
        return found is not None

    with single_threaded():
        is_turned = each(turn, range(len(counts)), responses.threads)
    return matrix if any(is_turned) else None


def is_enough(filters: int, values: int, least: int = LEAST_RESPONSES) -> bool:
    """Tell whether so many values of each of the filters say how they go together; one alone goes with nothing."""
    return filters > 1 and values >= least * filters


def _principal(covariance: np.ndarray, rows: np.ndarray) -> np.ndarray | None:
    """Return the matrix that turns rows (k, d) to principal directions; None if they span, or vary along, fewer than k."""
    gram = rows @ rows.T
    lengths = linalg.eigvalsh(_correlated(gram)[0])
    if not lengths[0] > RANK_TOLERANCE * lengths[-1]:
        return None
    variances, combinations = linalg.eigh(covariance, gram)
    if not variances[0] > RANK_TOLERANCE * variances[-1]:
        return None
    matrix = (combinations / np.sqrt(variances)).T[::-1]
    return np.asarray(matrix * largest_signs(matrix @ rows)[:, None])


def _correlated(covariance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return correlations and deviations, (k,); 1 where nothing varies, which goes with nothing."""
    stds = np.sqrt(np.maximum(np.diag(covariance), 0))
    stds[stds == 0] = 1
    return covariance / np.outer(stds, stds), stds


def _power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    """Return a power of a symmetric matrix whose eigenvalues are positive, up to rounding."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.maximum(values, RANK_TOLERANCE * values[-1]) ** exponent) @ vectors.T)


def turn_filters(unit: Unit, matrix: np.ndarray, threads: int = 0) -> None:
    """Multiply a unit's filters and biases by the matrices of its groups, (groups, C/group, C/group)."""
    assert unit.weight is not None
    groups, channels = matrix.shape[:2]
    rows = np.asarray(unit.weight).reshape(groups, channels, -1)
    put(unit.weight, (matrix.astype(np.float32) @ rows).reshape(unit.weight.shape), threads)
    if unit.bias is not None:
        unit.bias[...] = (matrix @ unit.bias.reshape(groups, channels, 1).astype(np.float64)).reshape(unit.bias.shape)
