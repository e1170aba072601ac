"""Proof on pictures that a change of weights kept the net's function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.network import Network

# Weights are rounded once more, 6e-8 of each; deep nets blow that up a few hundred times.
TOLERANCE = 1e-4


def compute_outputs(
    network: Network, batches: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Return the net's outputs for each batch."""
    session = compile_graph(network.graph, outputs, network.settings)
    return [session.run({n: batch[n] for n in session.inputs}) for batch in batches]


def largest_moves(
    before: Sequence[Mapping[str, np.ndarray]], after: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """Return for each output by how much it moved at most, relative to its largest magnitude.

    Equal outputs give 0, also where they are all 0; one that is not finite on both sides gives infinity.
    """
    moves: dict[str, float] = {}
    for name in before[0]:
        size = max(float(np.abs(b[name]).max(initial=0)) for b in before)
        gap = max(float(np.abs(a[name] - b[name]).max(initial=0)) for a, b in zip(after, before, strict=True))
        moves[name] = gap if gap == 0 else gap / size if np.isfinite(gap) and size > 0 else float("inf")
    return moves
