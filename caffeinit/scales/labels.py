"""Label arrays: which parts of which values have to be scaled by one and the same factor.

Every value carries an array of integer labels that broadcasts to its shape; axes along which the scale cannot vary have
size 1, the batch among them. A label stands for the logarithm of a positive factor. Label 0 is the factor 1; -1 marks
exact zeros, which any factor leaves as they are. Operators' rules (`ops/`) tie labels to each other, pin them, or
state linear relations; nothing is merged before `solve`, so that all of it is array work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components, dijkstra

from caffeinit.model.graph import Shape

PINNED = 0
ZEROS = -1
Labels = np.ndarray
_LONG = 100  # rows of a relation, from which on they are compared before each is looked at by itself


@dataclass
class Constraints:
    """What is known about labels.

    Attributes:
        count: labels handed out so far.
        ties: pairs of arrays of equal labels.
        pins: labels of factor 1 with the reason.
        reason: what is given as the reason where a rule ties a label to the factor 1.
        relations: rows of labels (n, k) with coefficients (k,): the weighted sum of each row is 0.
    """

    count: int = 1
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[tuple[Labels, str]] = field(default_factory=list)
    reason: str = ""
    relations: list[tuple[Labels, np.ndarray]] = field(default_factory=list)

    def fresh(self, shape: Shape) -> Labels:
        """Return new labels."""
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def tie(self, one: Labels, other: Labels) -> None:
        """Make labels equal, element by element after broadcasting."""
        if one.ndim == other.ndim and one.min(initial=0) >= PINNED and other.min(initial=0) >= PINNED:
            # What is tied to one label is tied to each other; spelling out all pairs could take gigabytes.
            wide = list(zip(one.shape, other.shape, strict=True))
            one = self.collapse(one, [i for i, (m, n) in enumerate(wide) if n == 1 < m])
            other = self.collapse(other, [i for i, (m, n) in enumerate(wide) if m == 1 < n])
        self._tie_pairs(*np.broadcast_arrays(one, other))

    def _tie_pairs(self, a: Labels, b: Labels) -> None:
        differ = (a != b) & (a != ZEROS) & (b != ZEROS)
        a, b = a[differ], b[differ]
        held = (a == PINNED) | (b == PINNED)
        self.pin(np.maximum(a, b)[held])
        if not held.all():
            self.ties.append((a[~held], b[~held]))

    def merge(self, *arrays: Labels) -> Labels:
        """Tie arrays to each other and return their common labels."""
        result = arrays[0]
        for other in arrays[1:]:
            self.tie(result, other)
            result = np.where(result == ZEROS, other, result)
        return result

    def pin(self, labels: Labels, reason: str = "") -> None:
        """Hold labels at factor 1."""
        held = np.unique(labels[labels > PINNED])
        if held.size:
            self.pins.append((held, reason or self.reason))

    def collapse(self, labels: Labels, axes: Iterable[int]) -> Labels:
        """Tie labels along axes and return them with size 1 there."""
        axes = sorted({a % labels.ndim for a in axes if labels.shape[a] > 1})
        if not axes:
            return labels
        kept = [n for a, n in enumerate(labels.shape) if a not in axes]
        rows = np.moveaxis(labels, axes, range(-len(axes), 0)).reshape(int(np.prod(kept)), -1)
        first = rows[np.arange(len(rows)), (rows != ZEROS).argmax(1)]
        self._tie_pairs(np.broadcast_to(first[:, None], rows.shape), rows)
        return np.reshape(first, [1 if a in axes else n for a, n in enumerate(labels.shape)])

    def combine(self, *terms: tuple[float, Labels]) -> Labels:
        """Return labels whose logarithms are the weighted sums of others', after broadcasting."""
        arrays = np.broadcast_arrays(*(labels for _, labels in terms))
        rows = np.stack([a.reshape(-1) for a in arrays], 1)
        coefficients = np.array([c for c, _ in terms], float)
        rows[(rows == ZEROS).any(1)] = ZEROS
        rows[:, coefficients == 0] = np.minimum(rows[:, coefficients == 0], PINNED)
        found, inverse = _distinct(rows)
        moving = found > PINNED
        single = (moving.sum(1) == 1) & ((moving * coefficients).sum(1) == 1)
        result = np.where((found == ZEROS).any(1), ZEROS, (found * moving).sum(1) * single)
        made = ~single & moving.any(1)
        result[made] = self.fresh((int(made.sum()),))
        if made.any():
            self.relations.append((np.column_stack([result[made], found[made]]), np.array([-1.0, *coefficients])))
        return np.asarray(result[inverse.reshape(-1)].reshape(arrays[0].shape))


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
        """Return why a label without unknowns is held at factor 1: of several pins that it is tied to, the nearest."""
        if label == ZEROS:
            return "zero"
        nearest = int(self._nearest_pins[label])
        if nearest in self._pinned:
            return self._pinned[nearest]
        return self.reasons.get(int(self.tied[label]), "values that it is related to")

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
        equal = _made_equal(constraints.relations, classes)
        if not equal:
            rows = _reduced_rows(constraints.relations, classes)
            equal = [(min(r), max(r)) for r in rows if len(r) == 2 and sorted(r.values()) == [-1.0, 1.0]]
            equal += [(next(iter(r)), classes[PINNED]) for r in rows if len(r) == 1]
        if not equal:
            break
        first = np.full(constraints.count, -1)
        first[classes[::-1]] = np.arange(constraints.count)[::-1]
        pairs = first[np.array(equal)]
        ties = [np.concatenate([t, pairs[:, i]]) for i, t in enumerate(ties)]
    substitutes = _eliminate(rows)
    reasons: dict[int, str] = {}
    for labels, reason in constraints.pins[::-1]:
        reasons.update(dict.fromkeys(tied[labels].tolist(), reason))
    matrix = _matrix(classes, substitutes)
    _explain(constraints.relations, tied, set(tied[np.diff(matrix.indptr)[:-1] == 0].tolist()), reasons)
    return Solution(matrix, tied, reasons, constraints)


def _joined(ties: Sequence[tuple[Labels, Labels]]) -> list[np.ndarray]:
    """Return the two sides of all ties, (n,) each."""
    return [np.concatenate([t[i] for t in ties] or [np.zeros(0, int)]) for i in (0, 1)]


def _explain(
    relations: Sequence[tuple[Labels, np.ndarray]], tied: np.ndarray, held: set[int], reasons: dict[int, str]
) -> None:
    """Give classes that relations hold the reason of a class that they are related to."""
    unexplained = np.isin(np.arange(int(tied.max()) + 1), [c for c in held if c not in reasons])
    arrays = [tied[np.maximum(labels, PINNED)] for labels, _ in relations]
    rows = [row for array in arrays for row in _distinct(array[unexplained[array].any(1)])[0].tolist()]
    size = -1
    while size != len(reasons):
        size = len(reasons)
        for row in rows:
            known = next((reasons[c] for c in row if c in reasons), None)
            if known is not None and held.issuperset(row):
                reasons.update({c: known for c in row if c not in reasons and c != tied[PINNED]})


def _classes(count: int, ties: Sequence[np.ndarray], pinned: np.ndarray) -> np.ndarray:
    """Return label -> number of its class of equal labels."""
    one = np.concatenate([ties[0], pinned])
    other = np.concatenate([ties[1], np.full(len(pinned), PINNED)])
    links = coo_matrix((np.ones(len(one), np.int8), (one, other)), shape=(count, count))
    return np.asarray(connected_components(links, directed=False)[1])


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows in order, and which of them each row is; `np.unique` takes many times as long for that."""
    number = np.zeros(len(rows), int)
    for column in rows.T:
        shifted = column - column.min(initial=0)
        number = np.unique(number * (int(shifted.max(initial=0)) + 1) + shifted, return_inverse=True)[1]
    return rows[np.unique(number, return_index=True)[1]], number


def _made_equal(relations: Sequence[tuple[Labels, np.ndarray]], classes: np.ndarray) -> list[tuple[int, int]]:
    """Return pairs of classes that long relations make equal: rows that differ in a single label have it alike.

    A product of what varies along one axis and what varies along another has a row for each pair of places.
    """
    found: set[tuple[int, int]] = set()
    for labels, coefficients in relations:
        if len(labels) >= _LONG:
            rows = np.where(labels == ZEROS, classes[PINNED], classes[labels])
            for place in np.flatnonzero(coefficients):
                others = _distinct(np.delete(rows, place, 1))[1]
                first = np.unique(others, return_index=True)[1]
                pairs = np.column_stack([rows[first[others], place], rows[:, place]])
                found.update((a, b) for a, b in _distinct(pairs[pairs[:, 0] != pairs[:, 1]])[0].tolist())
    return sorted(found)


def _reduced_rows(relations: Sequence[tuple[Labels, np.ndarray]], classes: np.ndarray) -> list[dict[int, float]]:
    """Return the distinct relations between classes, pinned ones left out."""
    found: dict[tuple[tuple[int, float], ...], dict[int, float]] = {}
    for labels, coefficients in relations:
        for row in _distinct(np.where(labels == ZEROS, classes[PINNED], classes[labels]))[0]:
            sums: dict[int, float] = {}
            for name, coefficient in zip(row.tolist(), coefficients, strict=True):
                if name != classes[PINNED]:
                    sums[name] = sums.get(name, 0.0) + float(coefficient)
            sums = {k: v for k, v in sums.items() if v != 0}
            if sums:
                found[tuple(sorted(sums.items()))] = sums
    return list(found.values())


def _eliminate(rows: Sequence[dict[int, float]]) -> dict[int, dict[int, float]]:
    """Return class -> its weighted sum of classes that stay free."""
    substitutes: dict[int, dict[int, float]] = {}

    def resolve(row: dict[int, float]) -> dict[int, float]:
        while hit := [k for k in row if k in substitutes]:
            for name in hit:
                weight = row.pop(name)
                for other, factor in substitutes[name].items():
                    row[other] = row.get(other, 0.0) + weight * factor
            row = {k: v for k, v in row.items() if abs(v) > 1e-12}
        return row

    for row in rows:
        rest = resolve(dict(row))
        if not rest:
            continue
        pivot = min(rest, key=lambda k: (abs(abs(rest[k]) - 1), k))
        weight = rest.pop(pivot)
        substitutes[pivot] = {k: -v / weight for k, v in rest.items()}
    return {name: resolve(dict(row)) for name, row in substitutes.items()}


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


def compact(labels: Labels) -> Labels:
    """Return labels with size 1 along the axes where they do not vary."""
    for axis, size in enumerate(labels.shape):
        first = labels[(slice(None),) * axis + (slice(0, 1),)]
        second = labels[(slice(None),) * axis + (slice(1, 2),)]
        if size > 1 and (first == second).all() and (labels == first).all():
            labels = first
    return labels


def reshaped(labels: Labels, old: Shape, new: Shape) -> Labels:
    """Return the labels of a value that is reshaped from `old` to `new`."""
    if labels.size == 1:
        return labels.reshape((1,) * len(new))
    if [n for n in old if n != 1] == [n for n in new if n != 1]:
        sizes = iter([m for m, n in zip(labels.shape, old, strict=True) if n != 1])
        return labels.reshape([next(sizes) if n != 1 else 1 for n in new])
    if old and new and old[0] == new[0] and labels.shape[0] == 1:
        old, new = (1, *old[1:]), (1, *new[1:])
    return compact(np.broadcast_to(labels, old).reshape(new))


def same_rank(arrays: Sequence[Labels]) -> list[Labels]:
    """Return arrays with axes of size 1 in front, as many as the longest has."""
    rank = max(a.ndim for a in arrays)
    return [a.reshape((1,) * (rank - a.ndim) + a.shape) for a in arrays]


def last_axes(labels: Labels, rank: int) -> Labels:
    """Return labels without the axes in front of the last `rank`, which have size 1."""
    return labels.reshape(labels.shape[labels.ndim - rank :])


def weight_labels(outputs: Labels, by_group: Labels, rank: int, o: int, i: int) -> tuple[Labels, Labels]:
    """Return the label arrays of a weight's output and input channels, in the weight's layout."""
    group = len(by_group)
    grouped = outputs.reshape(group, -1)

    def along(labels: Labels, axes: tuple[int, ...]) -> Labels:
        shape = [1] * rank
        for axis, size in zip(axes, labels.shape, strict=True):
            shape[axis] = size
        return (labels if axes == tuple(sorted(axes)) else labels.T).reshape(shape)

    if group == 1:
        return along(outputs, (o,)), along(by_group[0], (i,))
    if o < i:  # (O, I/group): every output channel reads the inputs of its group
        return along(outputs, (o,)), along(np.repeat(by_group, grouped.shape[1], 0), (o, i))
    return along(np.repeat(grouped, by_group.shape[1], 0), (i, o)), along(by_group.reshape(-1), (i,))
