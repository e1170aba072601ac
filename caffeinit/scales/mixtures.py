"""Means of exponentials, weighted by energies: functions of the unknowns that are built on each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from scipy.sparse import csr_matrix, identity
from scipy.sparse.linalg import spsolve_triangular


class Edge(NamedTuple):
    """An energy of some elements of a value, or of what comes back to it.

    Attributes:
        kind: "value", "deviation" (from the channels' means), "diff" (the whole gradient) or "part" (what one node brings).
        value: the value.
        source: the first output of the node that brings the part, empty for the noise at a head; or that of the unit's node
            that weighs the value's channels, empty if none does.
        shape: of the label array whose elements are told apart.
        group: numbers of the elements that count, as bytes; None for all.
    """

    kind: str
    value: str
    source: str
    shape: tuple[int, ...]
    group: bytes | None


@dataclass(frozen=True)
class Part:
    """One exponent of a mixture: a weighted sum of earlier functions, and a row times the unknowns."""

    functions: tuple[tuple[int, float], ...]  # number, weight
    row: np.ndarray
    edge: Edge | None = None

    @classmethod
    def of(cls, functions: Iterable[tuple[int, float]], row: np.ndarray, edge: Edge | None = None) -> Part:
        """Return a part without the functions that are 0."""
        return cls(tuple((number, weight) for number, weight in functions if number), row, edge)

    @property
    def key(self) -> Hashable:
        """What equal exponents have in common."""
        return self.functions, self.row.tobytes()


class Source(Protocol):
    """Functions of the unknowns."""

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""


@dataclass(frozen=True)
class Growth:
    """By how much a unit's gradient grows beside what its own scales make of it, log: the sum of some functions.

    Attributes:
        source: what they are functions of.
        functions: their numbers there.
    """

    source: Source
    functions: Sequence[int] | np.ndarray


class Mixtures:
    """Functions of the unknowns, each log(mean(exp(2 part))) / 2 over some parts.

    Function number 0 is 0.
    """

    def __init__(self, size: int) -> None:
        """Take the number of unknowns."""
        self._size = size
        self._parts: list[list[Part]] = [[]]
        self._edges: list[list[list[Edge | None]]] = [[]]
        self._shares: list[np.ndarray] = [np.zeros(0)]  # log
        self._exponents: _Exponents | None = None
        self._known: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    @property
    def edges(self) -> list[Edge]:
        """What energies are asked for."""
        return [edge for parts in self._edges if len(parts) > 1 for edges in parts for edge in edges if edge]

    def add(self, parts: Iterable[Part]) -> int:
        """Return the number of a mixture; equal parts are one, and a function by itself is that function."""
        apart: dict[Hashable, tuple[Part, list[Edge | None]]] = {}
        for part in parts:
            apart.setdefault(part.key, (part, []))[1].append(part.edge)
        found = [part for part, _ in apart.values()]
        if not found:
            return 0
        if len(found) == 1 and not found[0].row.any() and (is_known := _alone(found[0])) is not None:
            return is_known
        self._parts.append(found)
        self._edges.append([edges for _, edges in apart.values()])
        self._shares.append(_log_shares(self._edges[-1], {}))
        self._known = self._exponents = None
        return len(self._parts) - 1

    def weigh(self, energies: Mapping[Edge, float]) -> None:
        """Take the shares of the energies; those of a mixture that are not all known, or no numbers, are equal."""
        self._shares = [_log_shares(parts, energies) for parts in self._edges]
        self._known = None

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""
        if self._known is None or not np.array_equal(self._known[0], unknowns):
            self._exponents = self._exponents or _Exponents(self._parts, self._size)
            found = self._exponents.mixed(unknowns, np.concatenate(self._shares))
            self._known = unknowns.copy(), *found
        return self._known[1:]


class _Exponents:
    """The parts of all mixtures, in order: there are thousands in a deep net, most of them in mixtures of one or two."""

    def __init__(self, mixtures: Sequence[Sequence[Part]], size: int) -> None:
        parts = [part for mixture in mixtures for part in mixture]
        self._starts = np.cumsum([0, *map(len, mixtures)])
        self._rows = csr_matrix(np.array([part.row for part in parts]).reshape(-1, size))
        self._functions = [part.functions for part in parts]
        entries = [(i, *entry) for i, functions in enumerate(self._functions) for entry in functions]
        number, function, weight = np.array(entries, float).reshape(-1, 3).T
        shape = (len(parts), len(mixtures))
        self._weights = csr_matrix((weight, (number.astype(int), function.astype(int))), shape=shape)

    def mixed(self, unknowns: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all mixtures' values and derivatives.

        Args:
            shares: of the parts, log.
        """
        exponents = (self._rows @ unknowns + shares / 2).tolist()
        values = [0.0] * (len(self._starts) - 1)
        for number, (start, stop) in enumerate(itertools.pairwise(self._starts.tolist())):
            for i in range(start, stop):
                exponents[i] += sum(weight * values[other] for other, weight in self._functions[i])
            if stop > start:
                values[number] = _root_of_sum(exponents[start:stop])
        found = np.array(values)
        slopes = np.exp(2 * (np.array(exponents) - np.repeat(found, np.diff(self._starts))))
        # The derivatives follow from each other as the values do: each from those before it.
        each = csr_matrix((slopes, np.arange(len(slopes)), self._starts), shape=self._weights.shape[::-1])
        chained = (identity(len(values), format="csr") - each @ self._weights).tocsr()
        own = (each @ self._rows).toarray()
        return found, np.asarray(spsolve_triangular(chained, own, unit_diagonal=True))


def _root_of_sum(logs: Sequence[float]) -> float:
    """Return log(sum(exp(2 log))) / 2."""
    top = max(logs)
    return top if len(logs) == 1 else top + math.log(sum(math.exp(2 * (log - top)) for log in logs)) / 2


def _log_shares(parts: Sequence[Sequence[Edge | None]], energies: Mapping[Edge, float]) -> np.ndarray:
    """Return the logarithms of the shares that parts have in the energies of all their edges; see `Mixtures.weigh`."""
    known = np.array([sum(energies.get(edge, math.nan) if edge else math.nan for edge in edges) for edges in parts])
    total = known.sum()
    is_sound = bool(np.isfinite(total)) and total > 0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(known / total if is_sound else np.full(len(parts), 1 / max(len(parts), 1))))


def _alone(part: Part) -> int | None:
    """Return the function that a part without a row is, if it is one."""
    if not part.functions:
        return 0
    return part.functions[0][0] if len(part.functions) == 1 and part.functions[0][1] == 1 else None
