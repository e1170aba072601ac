"""Means of exponentials, weighted by energies: functions of the unknowns that are built on each other."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


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
        self._parts: list[list[Part]] = [[]]
        self._rows: list[np.ndarray] = [np.zeros((0, size))]
        self._edges: list[list[list[Edge | None]]] = [[]]
        self._shares: list[np.ndarray] = [np.zeros(0)]  # log
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
        self._rows.append(np.stack([part.row for part in found]))
        self._edges.append([edges for _, edges in apart.values()])
        self._shares.append(_log_shares(self._edges[-1], {}))
        self._known = None
        return len(self._parts) - 1

    def weigh(self, energies: Mapping[Edge, float]) -> None:
        """Take the shares of the energies; those of a mixture that are not all known, or no numbers, are equal."""
        self._shares = [_log_shares(parts, energies) for parts in self._edges]
        self._known = None

    def at(self, unknowns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return all values, (functions,), and their derivatives, (functions, unknowns)."""
        if self._known is None or not np.array_equal(self._known[0], unknowns):
            values, slopes = np.zeros(len(self._parts)), np.zeros((len(self._parts), len(unknowns)))
            for number, parts in enumerate(self._parts):
                if parts:
                    rows = self._rows[number].copy()
                    logs = rows @ unknowns
                    for i, part in enumerate(parts):
                        for other, weight in part.functions:
                            logs[i] += weight * values[other]
                            rows[i] += weight * slopes[other]
                    logs = 2 * logs + self._shares[number]
                    values[number] = np.logaddexp.reduce(logs) / 2
                    slopes[number] = np.exp(logs - 2 * values[number]) @ rows
            self._known = unknowns.copy(), values, slopes
        return self._known[1:]


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
