"""Places for the boxes of a graph, from top to bottom, in layers.

Every box stands below all that it reads; edges that pass a layer get a place in it, so that no line runs through a box.
Orders within layers come from medians of neighbours, swept up and down; places across from the neighbours' mean, kept
apart by isotonic regression.
Method: Sugiyama, Tagawa & Toda, IEEE Transactions on Systems, Man, and Cybernetics 11(2), 1981.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

_SWEEPS = 10
_ROUNDS = 40
_PULL = 4.0  # how much more passing lines count than boxes where there is no room for both
_ASIDE = 0.6  # how much a passing line counts for the place of a box that it leads to
_HOME = 0.4  # pull to the middle, or nets would drift sideways from block to block


@dataclass
class Layout:
    """Where everything is.

    Attributes:
        rows: layer of each box. centers: middle of each box, from 0 at the left edge of the picture.
        lines: (from, to, x of each layer passed on the way).
        width: of the picture. num_rows: of layers.
    """

    rows: list[int]
    centers: list[float]
    lines: list[tuple[int, int, list[float]]]
    width: float
    num_rows: int


def lay_out(readers: Sequence[Sequence[int]], width: float, gap: float, lane: float) -> Layout:
    """Place boxes.

    Args:
        readers: for each box, in an order in which readers come later, the boxes that read it.
        width: of a box. gap: between two boxes side by side. lane: width for a line that passes.
    """
    rows = _rows(readers)
    count = len(readers)
    below: list[list[int]] = [[] for _ in readers]
    routes: list[tuple[int, int, list[int]]] = []
    for start, ends in enumerate(readers):
        for end in ends:
            passed = []
            last = start
            for row in range(rows[start] + 1, rows[end]):
                below.append([])
                rows.append(row)
                below[last].append(len(below) - 1)
                last = len(below) - 1
                passed.append(last)
            below[last].append(end)
            routes.append((start, end, passed))
    above: list[list[int]] = [[] for _ in below]
    for node, ends in enumerate(below):
        for end in ends:
            above[end].append(node)
    layers = _ordered(rows, below, above)
    sizes = [width if n < count else lane for n in range(len(below))]
    x = _across(layers, below, above, sizes, count, gap)
    left = min(c - s / 2 for c, s in zip(x, sizes, strict=True)) if x else 0.0
    right = max(c + s / 2 for c, s in zip(x, sizes, strict=True)) if x else 0.0
    lines = [(start, end, [x[p] - left for p in passed]) for start, end, passed in routes]
    return Layout(rows[:count], [c - left for c in x[:count]], lines, right - left, len(layers))


def _rows(readers: Sequence[Sequence[int]]) -> list[int]:
    """Return the layer of each box: below all that it reads; one that reads nothing, right above its first reader."""
    rows = [0] * len(readers)
    reads = [False] * len(readers)
    for node, ends in enumerate(readers):
        for end in ends:
            rows[end] = max(rows[end], rows[node] + 1)
            reads[end] = True
    for node, ends in enumerate(readers):
        if not reads[node] and ends:
            rows[node] = min(rows[end] for end in ends) - 1
    return rows


def _ordered(rows: Sequence[int], below: Sequence[Sequence[int]], above: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the nodes of each layer from left to right, with few crossings."""
    layers: list[list[int]] = [[] for _ in range(max(rows, default=-1) + 1)]
    for node, row in enumerate(rows):
        layers[row].append(node)
    best, fewest = [list(layer) for layer in layers], _crossings(layers, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        neighbours = above if down else below
        order = range(1, len(layers)) if down else range(len(layers) - 2, -1, -1)
        for row in order:
            at = {n: i for i, n in enumerate(layers[row - 1 if down else row + 1])}
            key = {n: _mean([at[m] for m in neighbours[n]], i) for i, n in enumerate(layers[row])}
            layers[row].sort(key=key.__getitem__)
        found = _crossings(layers, below)
        if found < fewest:
            best, fewest = [list(layer) for layer in layers], found
    return best


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _crossings(layers: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> int:
    total = 0
    for upper, lower in itertools.pairwise(layers):
        at = {n: i for i, n in enumerate(lower)}
        seen: list[int] = []
        for node in upper:
            ends = sorted(at[e] for e in below[node])
            for end in ends:
                total += len(seen) - bisect_left(seen, end + 1)
            for end in ends:
                insort(seen, end)
    return total


def _across(
    layers: Sequence[Sequence[int]],
    below: Sequence[Sequence[int]],
    above: Sequence[Sequence[int]],
    sizes: Sequence[float],
    count: int,
    gap: float,
) -> list[float]:
    """Return the middle of each node; 0 is the middle of the picture."""
    x = [0.0] * len(sizes)
    for layer in layers:
        _set_apart(layer, [0.0] * len(layer), [1.0] * len(layer), sizes, gap, x)
    for sweep in range(_ROUNDS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = []
            for node in layer:
                # The lines that pass beside a box matter less to it than boxes do, so that chains stay straight.
                near = [(x[m], 1.0 if m < count or node >= count else _ASIDE) for m in (*above[node], *below[node])]
                total = sum(w for _, w in near) + _HOME
                wanted.append(sum(place * w for place, w in near) / total)
            _set_apart(layer, wanted, [_PULL if node >= count else 1.0 for node in layer], sizes, gap, x)
    return x


def _set_apart(
    layer: Sequence[int],
    wanted: Sequence[float],
    weights: Sequence[float],
    sizes: Sequence[float],
    gap: float,
    x: list[float],
) -> None:
    """Put a layer's nodes as near as can be to where they want to be, in order and without overlap."""
    offsets, at = [], 0.0
    for i, node in enumerate(layer):
        if i:
            at += (sizes[layer[i - 1]] + sizes[node]) / 2 + gap
        offsets.append(at)
    blocks: list[tuple[float, float, int]] = []  # weighted sum, weight, how many: pool adjacent violators
    for place, weight, offset in zip(wanted, weights, offsets, strict=True):
        block = ((place - offset) * weight, weight, 1)
        while blocks and blocks[-1][0] / blocks[-1][1] > block[0] / block[1]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    means = [total / weight for total, weight, many in blocks for _ in range(many)]
    for node, mean, offset in zip(layer, means, offsets, strict=True):
        x[node] = mean + offset
