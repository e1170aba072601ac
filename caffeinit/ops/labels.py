"""Label arrays: which parts of which values have to be scaled by one and the same factor.

Every value carries an array of integer labels that broadcasts to its shape; axes along which the scale cannot vary have
size 1, the batch among them. A label stands for the logarithm of a positive factor. Label 0 is the factor 1; -1 marks
exact zeros, which any factor leaves as they are. Operators' rules tie labels to each other, pin them, or state linear
relations; nothing is merged before `scales.solving.solve`, so that all of it is array work.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffeinit.graph import Shape

PINNED = 0
ZEROS = -1
Labels = np.ndarray


@dataclass
class Constraints:
    """What is known about labels.

    Attributes:
        count: labels handed out so far.
        ties: pairs of arrays of equal labels.
        pins: labels of factor 1 with the reason.
        reason: what is given as the reason where a rule ties a label to the factor 1, or states a relation.
        relations: rows of labels (n, k) with coefficients (k,): the weighted sum of each row is 0.
        stated: the reason of each relation.
    """

    count: int = 1
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    pins: list[tuple[Labels, str]] = field(default_factory=list)
    reason: str = ""
    relations: list[tuple[Labels, np.ndarray]] = field(default_factory=list)
    stated: list[str] = field(default_factory=list)

    def fresh(self, shape: Shape) -> Labels:
        """Return new labels."""
        size = int(np.prod(shape))
        self.count += size
        return np.arange(self.count - size, self.count).reshape(shape)

    def instead_of_zeros(self, labels: Labels) -> Labels:
        """Return labels with new ones for zeros, to which something is added."""
        zeros = labels == ZEROS
        result = labels.copy()
        result[zeros] = self.fresh((int(zeros.sum()),))
        return result

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
        found, inverse = distinct(rows)
        moving = found > PINNED
        single = (moving.sum(1) == 1) & ((moving * coefficients).sum(1) == 1)
        result = np.where((found == ZEROS).any(1), ZEROS, (found * moving).sum(1) * single)
        made = ~single & moving.any(1)
        result[made] = self.fresh((int(made.sum()),))
        if made.any():
            self.relations.append((np.column_stack([result[made], found[made]]), np.array([-1.0, *coefficients])))
            self.stated.append(self.reason)
        return np.asarray(result[inverse.reshape(-1)].reshape(arrays[0].shape))


def distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct rows in order, and which of them each row is; `np.unique` takes many times as long for that."""
    number = np.zeros(len(rows), int)
    for column in rows.T:
        shifted = column - column.min(initial=0)
        number = np.unique(number * (int(shifted.max(initial=0)) + 1) + shifted, return_inverse=True)[1]
    return rows[np.unique(number, return_index=True)[1]], number


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
    return [of_rank(a, rank) for a in arrays]


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


def of_rank(array: np.ndarray, rank: int) -> np.ndarray:
    """Return an array with as many axes, those that it lacks of size 1 before its own."""
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
