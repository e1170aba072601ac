"""What of a net can be rescaled with its function kept: for each unit, which output channels have a scale of their own.

A channel is *free* if its scale can be chosen without regard to any other unit's, *tied* if it is related to others (the
branches of a sum share their channels' scales), and *held* if it cannot change: something behind it would answer to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from caffeinit.graph import Graph
from caffeinit.graph.nodes import name_of, value_in
from caffeinit.graph.units import Learned, Unit, array_view
from caffeinit.model.network import Place, nowhere
from caffeinit.ops.labels import PINNED
from caffeinit.scales.channels import channel_labels
from caffeinit.scales.classes import ScaleSystem, find_scales
from caffeinit.scales.solving import RELATED

SCALE_OF = "the scale of "  # before what a reason names, where a unit's output has its scale from below


@dataclass
class UnitScales:
    """The scales of one unit's output channels.

    Attributes:
        free, tied, held: how many channels are which; together `num_channels`.
        tied_with: units that the tied channels are related to; the unit itself where they are to each other.
        num_shared: independent scales that the tied channels depend on.
        reasons: why channels are held -> how many.
        kept: why the unit's own arrays are not to be changed; empty if they may be.
    """

    name: str
    kind: str
    num_channels: int
    free: int = 0
    tied: int = 0
    held: int = 0
    tied_with: list[str] = field(default_factory=list)
    num_shared: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    kept: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        entry = dict(vars(self))
        return {"name": entry.pop("name"), "type": entry.pop("kind"), **entry}


@dataclass
class ScaleReport:
    """The scales of a net; `num_independent` of them can be chosen independently."""

    units: list[UnitScales]
    num_independent: int

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"num_independent": self.num_independent, "units": [u.to_json() for u in self.units]}


def report_scales(
    graph: Graph,
    units: Sequence[Unit],
    learned: Mapping[str, Learned],
    kept: Callable[[Unit], str],
    outputs: Sequence[str] | None = None,
    place: Place = nowhere,
) -> ScaleReport:
    """Find the scales of all units.

    Args:
        kept: returns why a unit's arrays are not to be changed; empty if they may be.
        outputs: values whose scale is held; by default the graph's.
        place: as in `Network`.
    """
    system = find_scales(graph, [i for u in units if not kept(u) for i in u.initializers], outputs)
    pairs = _pairs(graph, system, units)
    first = np.unique(pairs[:, 2], return_index=True, return_inverse=True, return_counts=True)
    shared = first[3][first[2]] > 1
    users, left = _users(pairs[shared]), unchanged(system, units)
    found = []
    for number, unit in enumerate(units):
        labels = channel_labels(graph, system, unit.uses[0])
        is_free = system.is_free(labels)
        mine = pairs[shared & (pairs[:, 0] == number)]
        tied, unknowns = np.unique(mine[:, 1]), np.unique(mine[:, 2])
        found.append(
            UnitScales(
                name=unit.name,
                kind=unit.kind,
                num_channels=unit.num_channels,
                free=int(is_free.sum()) - len(tied),
                tied=len(tied),
                held=int((~is_free).sum()),
                tied_with=[units[n].name for n in _partners(mine, number, users)],
                num_shared=len(unknowns),
                reasons=dict(holding(graph, system, unit, learned, left, place)),
                kept=kept(unit),
            )
        )
    return ScaleReport(found, system.num_unknowns)


def _pairs(graph: Graph, system: ScaleSystem, units: Sequence[Unit]) -> np.ndarray:
    """Return (unit, channel, unknown) for all unknowns that the scales of the units' output channels depend on."""
    rows = [system.solution.matrix[channel_labels(graph, system, unit.uses[0])] for unit in units]
    if not rows:
        return np.zeros((0, 3), int)
    whose = [(number, channel) for number, own in enumerate(rows) for channel in range(own.shape[0])]
    found = [
        (*whose[row], unknown) for row, names in enumerate(_own_unknowns(vstack(rows).tocsr())) for unknown in names
    ]
    return np.array(found, int).reshape(-1, 3)


def _own_unknowns(matrix: csr_matrix) -> list[tuple[int, ...]]:
    """Return the unknowns of each row, with those chosen anew that nothing but a row and its multiples need.

    Which unknowns there are is chance: of a product and its two factors any two may be. An unknown that is in one row only
    makes up for all others of it, and so that row can stand for the unknown; then the same may be true of another row.
    """
    ends = list(pairwise(matrix.indptr.tolist()))
    names = [tuple(matrix.indices[start:end].tolist()) for start, end in ends]
    numbers = [matrix.data[start:end] for start, end in ends]
    kinds = [
        (own, tuple(np.round(n / n[0], 9).tolist())) if own else None for own, n in zip(names, numbers, strict=True)
    ]
    readers: dict[int, set[Any]] = {}
    for kind in kinds:
        for unknown in kind[0] if kind else ():
            readers.setdefault(unknown, set()).add(kind)
    alone = [unknown for unknown, known in readers.items() if len(known) == 1]
    replaced: dict[Any, tuple[int, ...]] = {}
    while alone:
        unknown = alone.pop()
        if readers[unknown]:
            (kind,) = readers[unknown]
            replaced[kind] = (unknown,)
            for other in kind[0]:
                readers[other].discard(kind)
                alone += [other] if len(readers[other]) == 1 else []
    return [replaced.get(kind, own) for kind, own in zip(kinds, names, strict=True)]


def _users(pairs: np.ndarray) -> dict[int, set[int]]:
    """Return unknown -> units that depend on it."""
    users: dict[int, set[int]] = {}
    for unit, unknown in np.unique(pairs[:, [0, 2]], axis=0).tolist():
        users.setdefault(unknown, set()).add(unit)
    return users


def _partners(mine: np.ndarray, number: int, users: Mapping[int, set[int]]) -> list[int]:
    """Return the units that a unit's channels are tied to, in order."""
    unknowns, counts = np.unique(mine[:, 2], return_counts=True)
    others = set().union(*(users[n] for n in unknowns.tolist())) - {number}
    return sorted(others | ({number} if (counts > 1).any() else set()))


def unchanged(system: ScaleSystem, units: Sequence[Unit]) -> set[str]:
    """Return what reasons name the nodes of those units by whose arrays may not change."""
    left = [unit for unit in units if system.uses.keys().isdisjoint(unit.initializers)]
    return {name_of(use.node) for unit in left for use in unit.uses}


def holding(
    graph: Graph,
    system: ScaleSystem,
    unit: Unit,
    learned: Mapping[str, Learned],
    left: Container[str],
    place: Place = nowhere,
) -> Counter[str]:
    """Return why channels of a unit's output have no scale that is free -> how many these are.

    Args:
        left: from `unchanged`.
        place: as in `Network`.
    """
    labels = channel_labels(graph, system, unit.uses[0])
    found: Counter[str] = Counter()
    for label, count in Counter(labels[~system.is_free(labels)].tolist()).items():
        reason = system.solution.reason(label) or _fixed_by(graph, system, unit.uses[0].input, learned)
        found[explain(reason, learned, place, left)] += count
    return found


def _fixed_by(graph: Graph, system: ScaleSystem, value: str, learned: Mapping[str, Learned]) -> str:
    """Return what a value has its scale from that no unit has a part in: an operator, an array that stays, an input."""
    while (node := graph.producer(value)) is not None:
        arrays = [found[0] for i in node.input if (found := array_view(graph, i))]
        if kept := next((a for a in arrays if a in learned and a not in system.uses), ""):
            return SCALE_OF + kept
        moving = {i: system.labels[i].max() for i in node.input if i in system.labels}
        if not moving or (max(moving.values()) > PINNED and system.labels[value].max() <= PINNED):
            return SCALE_OF + name_of(node)
        value = min(moving, key=moving.__getitem__)
    return f'{SCALE_OF}input "{value}"'


def explain(reason: str, learned: Mapping[str, Learned], place: Place, left: Container[str] = ()) -> str:
    """Return a reason for which a scale is held in the words of the net: layers instead of operators and arrays.

    Args:
        left: from `unchanged`.
    """
    if reason.startswith(RELATED):
        reason = reason.removeprefix(RELATED)
        told = explain(reason, learned, place)
        return told if reason.partition(" is ")[0] in learned else f"what {told} makes of it, which is tied to it"
    if reason.startswith(SCALE_OF):
        return f"{explain(reason.removeprefix(SCALE_OF), learned, place)}, whose scale it has"
    if reason in learned:
        return f'the {learned[reason].role} of layer "{learned[reason].layer}"'
    if reason in left:
        return f"{explain(reason, learned, place)}, which stays as it is"
    name, separator, rest = reason.partition(" is ")
    if separator and name in learned:
        of = learned[name]
        return f'the {of.role} of layer "{of.layer}" is {rest}'
    for prefix, words in (
        ("net output ", 'net output "{}"'),
        ("net head ", 'value "{}", which net outputs are told from'),
    ):
        if reason.startswith(prefix):
            value = reason.removeprefix(prefix)
            return place(value, True) or words.format(value)
    return place(value_in(reason), False) or reason
