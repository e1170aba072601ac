"""What the units' rates follow from, as functions of the unknown scales.

With the gradient on the heads held fixed, scaling the values by exp(s) changes a unit's weights by exp(s_out - s_in)
and their gradient by the inverse, so that each rate is an explicit function of s and of the squares of the unit's
weights and gradients, cut into blocks of channels that share a scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from caffeinit.graph.units import Unit
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.mixtures import Growth, Source
from caffeinit.scales.walk import Link
from caffeinit.statistics.rates import UnitRates


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
    keys = system.fingerprints
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
