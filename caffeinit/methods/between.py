"""Between layers: scales that give all units one rate of change.

With the gradient on the heads held fixed, scaling the values by exp(s) changes a unit's weights by exp(s_out - s_in)
and their gradient by the inverse, so that each rate is an explicit function of s and of the squares of the unit's
weights and gradients, cut into blocks of channels that share a scale. One scale per unit makes all rates equal in a
small least-squares problem, without another pass through the net.
Method: Krähenbühl et al., Data-dependent Initializations of Convolutional Neural Networks, ICLR 2016, Algorithm 2, whose
fixed point this is. The closed form is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.sparse import csr_matrix

from caffeinit.apply.plan import Plan
from caffeinit.model.network import Network
from caffeinit.model.units import Unit
from caffeinit.scales.classes import ScaleSystem, find_scales
from caffeinit.scales.mixtures import Growth, Source
from caffeinit.scales.transfer import Transfers
from caffeinit.scales.walk import Link
from caffeinit.statistics.rates import UnitRates, known_spread

FLOOR = "the variance that BatchNorm stores would be negative"
# Scales that no rate depends on stay where they are; the weight is far too small to be seen in those that matter.
RIDGE = 1e-4
# A curve is kept to a hundred times better than rates are made equal.
_STIFFNESS = 100.0
# A problem that has an answer takes 140 at most. Without a limit, one whose curves wind would creep along them for minutes,
# to a sum of squares that is smaller by a thousandth.
_MOST_EVALUATIONS = 200
# The same from an answer on, of which only the largest distance is to become smaller.
_FEW_EVALUATIONS = 60
# Parts of its size by which an answer, or the sum of squares, changes at the end.
_CLOSE = 1e-8
# Rates that lie apart by no more are one, and half of the powers that distances are summed with where they are not.
ONE_RATE, _POWERS = 0.02, (2.0, 4.0)


def scale_system(
    network: Network,
    chosen: Callable[[Unit], str],
    heads: Sequence[str],
    relaxed: bool,
    rewritten: bool = False,
    loose: bool = False,
    bending: bool = True,
) -> ScaleSystem:
    """Return the scales that may change; those of the heads are held, so that gradients can be compared.

    Args:
        chosen: returns why a unit's arrays are to be left alone; empty to let them change.
        relaxed, rewritten, loose, bending: as for `find_scales`.
    """
    learned = [i for unit in network.units if not chosen(unit) for i in unit.initializers]
    outputs = [*(network.graph.outputs or network.graph.unused()), *heads]
    return find_scales(network.graph, learned, outputs, relaxed, rewritten, loose, bending)


def each_has_a_scale(
    network: Network, units: Sequence[Unit], chosen: Callable[[Unit], str], heads: Sequence[str]
) -> bool:
    """Tell whether all units but one, which makes the head, have a scale of their own that keeps the function."""
    if any(chosen(u) or len(u.uses) > 1 for u in units):
        return False
    exact = scale_system(network, chosen, heads, relaxed=False)
    values = [u.uses[0].output for u in units]
    scales = [exact.solution.matrix[exact.labels[v].ravel()].mean(axis=0) for v in values if v in exact.labels]
    return bool(scales) and int(np.linalg.matrix_rank(np.vstack(scales))) >= len(units) - 1


@dataclass
class Term:
    """What one unit's rate follows from, as a function of the unknowns x; see `Terms`.

    Attributes:
        unit: the unit's key.
        diffs, weights: (blocks,) logarithms of the sums of squares, one block at least.
        rows: (blocks, unknowns) log factor of the block's weights for a unit of each unknown.
        bends: what layers above do that do not pass gradients on as they pass values on.
        blocks: what the blocks' gradients grow by beside that, one function for each; None for nothing.
    """

    unit: str
    diffs: np.ndarray
    weights: np.ndarray
    rows: np.ndarray
    bends: Sequence[Growth] = ()
    blocks: Growth | None = None


class Terms:
    """Some units' rates as functions of the unknowns x, all at once.

    log C = (log sum exp(diffs - 2 rows x + 2 blocks) - log sum exp(weights + 2 rows x)) / 2, and what layers above do to
    the gradient.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        """Take one term at least."""
        self._starts = np.cumsum([0, *(len(t.diffs) for t in terms[:-1])])
        self._owners = np.repeat(np.arange(len(terms)), [len(t.diffs) for t in terms])
        self._diffs, self._weights, self._rows = (
            np.concatenate([getattr(t, name) for t in terms]) for name in ("diffs", "weights", "rows")
        )
        size = terms[0].rows.shape[1]
        self._growths = _gathered([term.bends for term in terms], size)
        self._blocks = _gathered([growths for term in terms for growths in _apart(term)], size)

    def log_rates(self, unknowns: np.ndarray) -> np.ndarray:
        """Return log C of each unit, (units,)."""
        moved, grown = self._changes(unknowns)
        logs = (self._sums(self._diffs + grown) - self._sums(self._weights + moved)) / 2
        for source, shares in self._growths:
            logs = logs + shares @ source.at(unknowns)[0]
        return np.asarray(logs)

    def gradients(self, unknowns: np.ndarray) -> np.ndarray:
        """Return the derivatives of log C, (units, unknowns)."""
        moved, grown = self._changes(unknowns)
        shares = [np.exp(v - self._sums(v)[self._owners]) for v in (self._diffs + grown, self._weights + moved)]
        found = np.add.reduceat(-(shares[0] + shares[1])[:, None] * self._rows, self._starts)
        for source, parts in self._blocks:
            found = found + np.add.reduceat(shares[0][:, None] * (parts @ source.at(unknowns)[1]), self._starts)
        for source, parts in self._growths:
            found = found + parts @ source.at(unknowns)[1]
        return np.asarray(found)

    def _changes(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return by how much the blocks' weights and gradients change, log of the squares."""
        moved = 2 * (self._rows @ unknowns)
        return moved, sum((2 * (shares @ source.at(unknowns)[0]) for source, shares in self._blocks), -moved)

    def _sums(self, logs: np.ndarray) -> np.ndarray:
        """Return the logarithms of the sums of each unit's numbers, given theirs."""
        return np.asarray(np.logaddexp.reduceat(logs, self._starts))


def _apart(term: Term) -> list[list[Growth]]:
    """Return what each block's gradient grows by."""
    if term.blocks is None:
        return [[] for _ in term.diffs]
    return [[Growth(term.blocks.source, [number])] for number in term.blocks.functions]


def _gathered(growths: Sequence[Sequence[Growth]], num_unknowns: int) -> list[tuple[Source, csr_matrix]]:
    """Return each source of growths, with how often each row has each of its functions, (rows, functions)."""
    sources = {id(growth.source): growth.source for row in growths for growth in row}
    found = []
    for key, source in sources.items():
        pairs = [(i, n) for i, row in enumerate(growths) for g in row if id(g.source) == key for n in g.functions]
        places = tuple(np.array(pairs, int).reshape(-1, 2).T)
        size = len(source.at(np.zeros(num_unknowns))[0])
        found.append((source, csr_matrix((np.ones(len(pairs)), places), shape=(len(growths), size))))
    return found


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


def balance(
    terms: Sequence[Term],
    num_unknowns: int,
    bends: Sequence[Bends | Held] = (),
    ridge: float = RIDGE,
    gone: np.ndarray | float = 0.0,
    start: np.ndarray | None = None,
    close: float = _CLOSE,
    evenly: bool = False,
) -> np.ndarray:
    """Return the unknowns for which the logarithms of all rates are closest to each other, in least squares.

    Args:
        bends: curves to be kept to, and scales that are asked for.
        ridge, gone: the weight, beside rates, of scales that stay where they were, and how far they have gone from there.
        start: unknowns from which they are looked for; all 0 by default.
        close: the part of it by which the sum of squares still changes at the end.
        evenly: where rates cannot be one, the one that is farthest off counts most: the sum is of higher powers then.
    """
    if num_unknowns == 0 or len(terms) < 2:
        return np.zeros(num_unknowns)
    goal = _Goal(Terms(terms), bends, ridge, gone)
    found = goal.reached(np.zeros(num_unknowns) if start is None else start, close)
    for power in _POWERS if evenly else ():
        largest = float(np.abs(goal.distances(found)).max())
        if largest > ONE_RATE:
            found = goal.reached(found, close, power, largest)
    return found


@dataclass(frozen=True)
class _Goal:
    """Rates that are one, by scales that stay where they are otherwise: what the unknowns are short of it."""

    terms: Terms
    bends: Sequence[Bends | Held]
    ridge: float
    gone: np.ndarray | float

    def reached(self, start: np.ndarray, close: float, power: float = 1.0, unit: float = 1.0) -> np.ndarray:
        """Return the unknowns with the least sum of squares, from `start` on.

        Args:
            power, unit: distances of the rates from their mean count as (distance / unit) ** power * unit.
        """

        def residuals(x: np.ndarray) -> np.ndarray:
            apart = self.distances(x)
            weighed = unit * np.sign(apart) * (np.abs(apart) / unit) ** power
            return np.concatenate([weighed, self.ridge * (x + self.gone), *(_STIFFNESS * b.gap(x) for b in self.bends)])

        def jacobian(x: np.ndarray) -> np.ndarray:
            rows = self.terms.gradients(x)
            weights = power * (np.abs(self.distances(x)) / unit) ** (power - 1)
            held = [_STIFFNESS * b.gradient(x) for b in self.bends]
            return np.concatenate([weights[:, None] * (rows - rows.mean(axis=0)), self.ridge * np.eye(len(x)), *held])

        most = {"xtol": _CLOSE, "ftol": close, "max_nfev": _MOST_EVALUATIONS if power == 1.0 else _FEW_EVALUATIONS}
        return np.asarray(least_squares(residuals, start, jacobian, method="lm", **most).x)

    def distances(self, unknowns: np.ndarray) -> np.ndarray:
        """Return log C - mean log C of all units, (units,)."""
        logs = self.terms.log_rates(unknowns)
        return np.asarray(logs - logs.mean())


def plan_balance(
    network: Network,
    rates: Mapping[str, UnitRates],
    counted: Callable[[Unit], bool],
    start: Plan,
    evenly: bool = False,
) -> Plan:
    """Return the plan that also makes the rates equal, as far as the graph allows.

    Args:
        rates: measured with the arrays as they are, without `start`.
        counted: which units' rates are to become equal.
        start: scales that are given to the values in any case; free channels of one unit keep their ratios.
        evenly: as for `balance`.
    """
    base = start.system
    while True:
        system = base.tied(free_groups(base))
        units = [u for u in network.units if counted(u)]
        terms = find_terms(units, system, rates, start.scales)
        moved = system.expand(balance(terms, system.num_unknowns, evenly=evenly))
        low = base.labels_below_floor(start.scales + moved)
        if not low.size:
            return Plan(base, start.scales + moved)
        base = base.held(low, FLOOR)


def free_groups(system: ScaleSystem) -> list[np.ndarray]:
    """Return the free output channels of every unit: one scale each, so that a unit's channels keep their ratios."""
    found = []
    for link in system.links:
        for labels in (link.outputs, link.inputs) if link.kind == "norm" else (link.outputs,):
            labels = np.unique(labels)
            found.append(labels[system.is_free(labels)])
    return found


def find_terms(
    units: Sequence[Unit],
    system: ScaleSystem,
    rates: Mapping[str, UnitRates],
    scales: np.ndarray | None = None,
    columns: Mapping[str, Growth] | None = None,
) -> list[Term]:
    """Return the terms of those units whose rate is measured.

    Args:
        scales: (labels + 1,) log scales that the arrays have not been given yet; none by default.
        columns: unit's key -> what the gradients of each input channel's weights grow by, one function for each.
    """
    links = {id(link.node): link for link in system.links if link.kind == "affine"}
    keys = system.fingerprints()
    terms = []
    for unit in units:
        link = links.get(id(unit.uses[0].node))
        found = rates.get(unit.key)
        if link is not None and found is not None and found.is_measured:
            terms.append(_term(unit.key, link, system, found, keys, scales, (columns or {}).get(unit.key)))
    return terms


def _term(
    unit: str,
    link: Link,
    system: ScaleSystem,
    rates: UnitRates,
    keys: np.ndarray,
    scales: np.ndarray | None,
    columns: Growth | None,
) -> Term:
    """Return a unit's term; channels are in one block whose scales are the same function (`keys`) of the unknowns."""
    matrix = system.solution.matrix
    functions = np.zeros(len(link.inputs), int) if columns is None else np.asarray(columns.functions)
    told = np.stack([keys[link.inputs], functions], 1)
    first_in, column_class = np.unique(told, axis=0, return_index=True, return_inverse=True)[1:]
    column_class = column_class.reshape(-1)
    first_out, row_class = np.unique(keys[link.outputs], return_index=True, return_inverse=True)[1:]
    incoming = matrix[link.inputs[first_in]].toarray()
    outgoing = matrix[link.outputs[first_out]].toarray()
    diffs: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    rows: list[np.ndarray] = []
    for number, out in enumerate(outgoing):
        members = (row_class == number).astype(float)
        for sums, found in zip((diffs, weights), rates.columns(members, link, scales), strict=True):
            sums.append(np.bincount(column_class, found, len(incoming)))
        rows.append(out - incoming)
    d, w, r = np.concatenate(diffs), np.concatenate(weights), np.concatenate(rows)
    there = (d > 0) | (w > 0)  # a pair of blocks in different groups has no weights
    blocks = Growth(columns.source, np.tile(functions[first_in], len(outgoing))[there]) if columns else None
    with np.errstate(divide="ignore"):
        return Term(unit, np.log(d[there]), np.log(w[there]), r[there], blocks=blocks)


def predict(units: Sequence[Unit], rates: Mapping[str, UnitRates], plan: Plan) -> dict[str, UnitRates]:
    """Return the rates that a plan leads to."""
    links = {id(link.node): link for link in plan.system.links if link.kind == "affine"}
    found = {}
    for unit in units:
        link = links.get(id(unit.uses[0].node)) if unit.uses else None
        known = rates.get(unit.key)
        if known is not None:
            found[unit.key] = known.scaled(link, plan.scales) if link and known.diffs else known.alone()
    return found


def spread_of(rates: Mapping[str, UnitRates], units: Sequence[Unit]) -> float:
    """Return the spread max |log C - mean log C| of the units' rates; NaN where none has one."""
    return known_spread(rates[u.key].rate for u in units if u.key in rates)
