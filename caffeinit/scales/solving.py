"""All labels of a graph as linear functions of unknowns that are free of each other: ties merged, relations eliminated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra, minimum_spanning_tree

from caffeinit.ops.labels import PINNED, ZEROS, Constraints, Labels, distinct

_LONG = 100  # rows of a relation, from which on they are compared before each is looked at by itself
_WIDEST = 8  # columns of relations whose rows are looked through for those that follow from others

RELATED = "a relation stated by "  # before the reason of a relation, where that alone holds a scale

Relation = tuple[np.ndarray, np.ndarray]  # rows of labels or classes (n, k), and their coefficients (k,)


@dataclass(frozen=True)
class Solution:
    """All labels as linear functions of unknowns that are free of each other.

    Attributes:
        matrix: (labels + 1, unknowns): a label's logarithm is its row times the unknowns; the last row is that of ZEROS.
        tied: label -> number of the class of labels that ties alone make equal.
        reasons: such class -> why it is pinned.
        constraints: what it was found from.
    """

    matrix: csr_matrix
    tied: np.ndarray
    reasons: dict[int, str]
    constraints: Constraints

    def reason(self, label: int) -> str:
        """Return why a label without unknowns is held at factor 1: of several pins that it is tied to, the nearest.

        Empty of PINNED itself, the scale of what no unit has a part in.
        """
        if label == ZEROS:
            return "zero"
        nearest = int(self._nearest_pins[label])
        if nearest in self._pinned:
            return self._pinned[nearest]
        return self.reasons.get(int(self.tied[label]), "")

    @cached_property
    def _pinned(self) -> dict[int, str]:
        """Label -> why it is pinned itself."""
        return {int(n): reason for labels, reason in self.constraints.pins[::-1] for n in labels}

    @cached_property
    def _nearest_pins(self) -> np.ndarray:
        """Label -> the pinned label that the fewest ties lead to; negative where none do."""
        count, pins = self.constraints.count, sorted(self._pinned)
        if not pins:
            return np.full(count, -1)
        one, other = _joined(self.constraints.ties)
        links = coo_matrix((np.ones(len(one), bool), (one, other)), shape=(count, count))
        found = dijkstra(links.tocsr(), False, pins, unweighted=True, min_only=True, return_predecessors=True)
        return np.asarray(found[2])


def solve(constraints: Constraints) -> Solution:
    """Merge what is tied, then eliminate the linear relations by substitution.

    Coefficients are whole numbers or halves as a rule, so that substitution is exact.
    """
    ties = _joined(constraints.ties)
    pinned = np.concatenate([np.zeros(1, int), *(p for p, _ in constraints.pins)])
    tied = _classes(constraints.count, ties, pinned[:1])
    while True:
        classes = _classes(constraints.count, ties, pinned)
        relations, sums = _joined_relations(_in_classes(constraints.relations, classes), classes[PINNED])
        equal = _made_equal(relations)
        if not equal:
            rows = _reduced_rows([_spanning(*relation) for relation in relations], classes[PINNED])
            equal = [(min(r), max(r)) for r in rows if len(r) == 2 and sorted(r.values()) == [-1.0, 1.0]]
            equal += [(next(iter(r)), classes[PINNED]) for r in rows if len(r) == 1]
        if not equal:
            break
        first = np.full(constraints.count, -1)
        first[classes[::-1]] = np.arange(constraints.count)[::-1]
        pairs = first[np.array(equal)]
        ties = [np.concatenate([t, pairs[:, i]]) for i, t in enumerate(ties)]
    substitutes = _eliminate(rows, _sums(sums, classes[PINNED]))
    reasons: dict[int, str] = {}
    for labels, reason in constraints.pins[::-1]:
        reasons.update(dict.fromkeys(tied[labels].tolist(), reason))
    matrix = _matrix(classes, substitutes)
    _explain(constraints, tied, set(tied[np.diff(matrix.indptr)[:-1] == 0].tolist()), reasons)
    return Solution(matrix, tied, reasons, constraints)


def _joined(ties: Sequence[tuple[Labels, Labels]]) -> list[np.ndarray]:
    """Return the two sides of all ties, (n,) each."""
    return [np.concatenate([t[i] for t in ties] or [np.zeros(0, int)]) for i in (0, 1)]


def _explain(constraints: Constraints, tied: np.ndarray, held: set[int], reasons: dict[int, str]) -> None:
    """Give classes that relations hold the reason of a class that they are related to; without one, that of a relation."""
    unexplained = np.isin(np.arange(int(tied.max()) + 1), [c for c in held if c not in reasons])
    rows: list[tuple[list[int], str]] = []
    for (labels, _), stated in zip(constraints.relations, constraints.stated, strict=True):
        array = tied[np.maximum(labels, PINNED)]
        rows += [(row, stated) for row in distinct(array[unexplained[array].any(1)])[0].tolist()]
    size = -1
    while size != len(reasons):
        size = len(reasons)
        for row, _ in rows:
            known = next((reasons[c] for c in row if c in reasons), None)
            if known is not None and held.issuperset(row):
                reasons.update({c: known for c in row if c not in reasons and c != tied[PINNED]})
    for row, stated in sorted(rows, key=lambda entry: not held.issuperset(entry[0])):
        unknown = [c for c in row if c in held and c not in reasons and c != tied[PINNED]]
        reasons.update(dict.fromkeys(unknown, RELATED + stated))


def _classes(count: int, ties: Sequence[np.ndarray], pinned: np.ndarray) -> np.ndarray:
    """Return label -> number of its class of equal labels."""
    one = np.concatenate([ties[0], pinned])
    other = np.concatenate([ties[1], np.full(len(pinned), PINNED)])
    links = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1])


def _in_classes(relations: Sequence[Relation], classes: np.ndarray) -> list[Relation]:
    """Return the relations between classes instead of labels."""
    return [
        (np.where(labels == ZEROS, classes[PINNED], classes[labels]), coefficients)
        for labels, coefficients in relations
    ]


def _joined_relations(relations: Sequence[Relation], pinned: int) -> tuple[list[Relation], list[Relation]]:
    """Take out classes that are sums of others twice or more often, and otherwise in no relation.

    A matrix that is used twice, the second time turned, has one for each of its entries: what both uses' scales add up to.

    Returns:
        Relations without them, which say that the sums are the same; and their own, each with such a class as its first.
    """
    count = 1 + max((int(rows.max(initial=0)) for rows, _ in relations), default=0)
    is_long = [len(rows) >= _LONG for rows, _ in relations]
    firsts = np.zeros(count, int)  # how often each is a sum
    elsewhere = np.zeros(count, bool)
    elsewhere[pinned] = True
    for (rows, _), long in zip(relations, is_long, strict=True):
        elsewhere[rows[:, 1:] if long else rows] = True
        firsts += np.bincount(rows[:, 0], minlength=count) if long else 0
    is_sum = (firsts > 1) & ~elsewhere
    family, place = np.full(count, -1), np.zeros(count, int)  # which relation's row, and which row, tells a sum first
    kept: list[Relation] = []
    sums: list[Relation] = []
    for number, ((rows, coefficients), long) in enumerate(zip(relations, is_long, strict=True)):
        apart = is_sum[rows[:, 0]] & long
        kept.append((rows[~apart], coefficients))
        places = np.flatnonzero(apart)
        new = places[family[rows[places, 0]] < 0]
        new = new[np.unique(rows[new, 0], return_index=True)[1]]
        family[rows[new, 0]], place[rows[new, 0]] = number, new
        sums.append((rows[new], coefficients))
        again = np.setdiff1d(places, new)
        for first in np.unique(family[rows[again, 0]]):
            here = again[family[rows[again, 0]] == first]
            there, weights = relations[first]
            pairs = np.column_stack([rows[here, 1:], there[place[rows[here, 0]], 1:]])
            kept.append((pairs, np.append(coefficients[1:] / coefficients[0], -weights[1:] / weights[0])))
    return [_united(*relation) for relation in kept], sums


def _united(rows: np.ndarray, coefficients: np.ndarray) -> Relation:
    """Return distinct rows, with columns that are the same in one."""
    weights: dict[bytes, float] = {}
    for column, weight in zip(rows.T, coefficients, strict=True):
        weights[column.tobytes()] = weights.get(column.tobytes(), 0.0) + float(weight)
    left = {key: weight for key, weight in weights.items() if weight != 0}
    columns = [np.frombuffer(key, rows.dtype) for key in left]
    united = np.column_stack(columns) if columns else np.zeros((0, 0), rows.dtype)
    return distinct(united)[0], np.array(list(left.values()))


def _spanning(rows: np.ndarray, coefficients: np.ndarray) -> Relation:
    """Return a relation without rows that follow from those before them.

    Each row says that what some of its columns add up to is what the others do: these are nodes, and rows edges. Of
    edges that close a circle, the last says nothing new.
    """
    width = rows.shape[1]
    if len(rows) < _LONG or width > _WIDEST:
        return rows, coefficients
    best: tuple[int, np.ndarray, np.ndarray] | None = None
    for chosen in range(1, 2 ** (width - 1)):
        mask = np.array([chosen >> i & 1 for i in range(width)], bool)
        one, other = distinct(rows[:, mask])[1], distinct(rows[:, ~mask])[1]
        nodes = int(one.max()) + int(other.max()) + 2
        if best is None or nodes < best[0]:
            best = nodes, one, other + int(one.max()) + 1
    assert best is not None or width == 1
    if best is None or best[0] > len(rows):
        return rows, coefficients
    nodes, one, other = best
    edges = coo_matrix((np.arange(1, len(rows) + 1), (one, other)), shape=(nodes, nodes))
    return rows[np.sort(minimum_spanning_tree(edges.tocsr()).data.astype(int)) - 1], coefficients


def _made_equal(relations: Sequence[Relation]) -> list[tuple[int, int]]:
    """Return pairs of classes that long relations make equal: rows that differ in a single class have it alike.

    A product of what varies along one axis and what varies along another has a row for each pair of places.
    """
    found: set[tuple[int, int]] = set()
    for rows, coefficients in relations:
        if len(rows) >= _LONG:
            for place in np.flatnonzero(coefficients):
                others = distinct(np.delete(rows, place, 1))[1]
                first = np.unique(others, return_index=True)[1]
                pairs = np.column_stack([rows[first[others], place], rows[:, place]])
                found.update((a, b) for a, b in distinct(pairs[pairs[:, 0] != pairs[:, 1]])[0].tolist())
    return sorted(found)


def _sums(relations: Sequence[Relation], pinned: int) -> dict[int, dict[int, float]]:
    """Return the first class of each row -> the others that it is the weighted sum of, pinned ones left out."""
    found: dict[int, dict[int, float]] = {}
    for rows, coefficients in relations:
        weights = (-coefficients[1:] / coefficients[0]).tolist()
        for first, *others in rows.tolist():
            found[first] = {}
            for name, weight in zip(others, weights, strict=True):
                if name != pinned:
                    found[first][name] = found[first].get(name, 0.0) + weight
    return found


def _reduced_rows(relations: Sequence[Relation], pinned: int) -> list[dict[int, float]]:
    """Return the distinct relations between classes, pinned ones left out."""
    found: dict[tuple[tuple[int, float], ...], dict[int, float]] = {}
    for classes, coefficients in relations:
        for row in distinct(classes)[0]:
            sums: dict[int, float] = {}
            for name, coefficient in zip(row.tolist(), coefficients, strict=True):
                if name != pinned:
                    sums[name] = sums.get(name, 0.0) + float(coefficient)
            sums = {k: v for k, v in sums.items() if v != 0}
            if sums:
                found[tuple(sorted(sums.items()))] = sums
    return list(found.values())


def _eliminate(rows: Sequence[dict[int, float]], sums: Mapping[int, dict[int, float]]) -> dict[int, dict[int, float]]:
    """Return class -> its weighted sum of classes that stay free.

    Args:
        rows: weighted sums that are 0.
        sums: class, in none of these -> its weighted sum.
    """
    found = _Substitutes()
    for row in rows:
        rest = found.resolved(row)
        if not rest:
            continue
        pivot = min(rest, key=lambda k: (abs(abs(rest[k]) - 1), k))
        weight = rest.pop(pivot)
        found.rows[pivot] = {k: -v / weight for k, v in rest.items()}
    return {name: found.resolved(row) for name, row in (*list(found.rows.items()), *sums.items())}


class _Substitutes:
    """Classes and the weighted sums of others that they are; what has been followed to its end is not followed again."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[int, float]] = {}

    def resolved(self, row: Mapping[int, float]) -> dict[int, float]:
        """Return a weighted sum in classes that stay free as far as is known."""
        for name in row:
            self._settle(name)
        return self._replaced(row)

    def _settle(self, name: int) -> None:
        """Let a class be a sum of free classes; chains are longer than Python's recursion limit."""
        pending = [name] if name in self.rows else []
        while pending:
            row = self.rows[pending[-1]]
            if unsettled := [k for k in row if k in self.rows and not self.rows.keys().isdisjoint(self.rows[k])]:
                pending += unsettled
                continue
            self.rows[pending.pop()] = self._replaced(row)

    def _replaced(self, row: Mapping[int, float]) -> dict[int, float]:
        """Return a sum of settled classes, and of free ones, in free ones alone."""
        result: dict[int, float] = {}
        for name, weight in row.items():
            for other, factor in self.rows.get(name, {name: 1.0}).items():
                result[other] = result.get(other, 0.0) + weight * factor
        return {k: v for k, v in result.items() if abs(v) > 1e-12}


def _matrix(classes: np.ndarray, substitutes: dict[int, dict[int, float]]) -> csr_matrix:
    """Return the rows of all labels, and one of zeros."""
    count = int(classes.max()) + 1
    free = [c for c in range(count) if c != classes[PINNED] and c not in substitutes]
    column = {c: i for i, c in enumerate(free)}
    entries = [(c, column[c], 1.0) for c in free]
    entries += [(c, column[other], v) for c, row in substitutes.items() for other, v in row.items()]
    where = np.array([e[:2] for e in entries], int).reshape(-1, 2)
    values = np.array([e[2] for e in entries])
    by_class = csr_matrix((values, (where[:, 0], where[:, 1])), shape=(count + 1, len(free)))
    return by_class[np.append(classes, count)]
