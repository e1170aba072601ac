"""Which labels the channels of units' outputs have, and which uses of a unit are scaled alike."""

from __future__ import annotations

import numpy as np

from caffeinit.arithmetic.factors import moves
from caffeinit.arithmetic.moments import Moments
from caffeinit.graph import Graph
from caffeinit.graph.units import Unit, Use
from caffeinit.ops.labels import PINNED, of_rank
from caffeinit.scales.classes import ScaleSystem


def channel_labels(graph: Graph, system: ScaleSystem, use: Use) -> np.ndarray:
    """Return the label of each channel of a unit's output, (C,); where it has several, its first."""
    labels = _all_labels(graph, system, use)
    first = labels[_first_of_channels(use.axis, labels.ndim)].reshape(-1)
    return np.broadcast_to(first, (graph.shape(use.output)[use.axis],))


def _all_labels(graph: Graph, system: ScaleSystem, use: Use) -> np.ndarray:
    """Return the labels of a unit's output, with as many axes as it has.

    What no input feeds has none, and keeps its factor: a layer that is used in turns may read a stored guess first.
    """
    rank = len(graph.shape(use.output))
    labels = system.labels.get(use.output, np.full((1,) * rank, PINNED))
    return of_rank(labels, rank)


def _first_of_channels(axis: int, rank: int) -> tuple[slice, ...]:
    """Return what picks the first place of every channel."""
    return tuple(slice(None) if i == axis % rank else slice(1) for i in range(rank))


def scaled_apart(graph: Graph, system: ScaleSystem, unit: Unit, moments: Moments) -> list[tuple[np.ndarray, Moments]]:
    """Return labels (C,) of a unit's outputs, and the moments of those uses together whose scales are the same.

    Uses with channels that have several scales, along other axes, are not among them.
    """
    parts = moments.parts or [moments]
    groups = _uses_by_scale(graph, system, unit).values()
    return [(labels, Moments.pooled([parts[n] for n in numbers])) for labels, numbers in groups]


def has_one_scale(graph: Graph, system: ScaleSystem, unit: Unit) -> bool:
    """Tell whether the outputs of all uses of a unit get the same scales."""
    return len(_uses_by_scale(graph, system, unit)) == 1


def _uses_by_scale(graph: Graph, system: ScaleSystem, unit: Unit) -> dict[bytes, tuple[np.ndarray, list[int]]]:
    """Return for each scale of its own the labels (C,) of these outputs and the numbers of the uses."""
    keys = system.fingerprints
    found: dict[bytes, tuple[np.ndarray, list[int]]] = {}
    for number, use in enumerate(unit.uses):
        if has_channel_scales(graph, system, use, keys):
            labels = channel_labels(graph, system, use)
            found.setdefault(keys[labels].tobytes(), (labels, []))[1].append(number)
    return found


def has_channel_scales(graph: Graph, system: ScaleSystem, use: Use, scales: np.ndarray) -> bool:
    """Tell whether each channel of a unit's output has one of the scales, (labels + 1,)."""
    logs = scales[_all_labels(graph, system, use)]
    return not moves(logs - logs[_first_of_channels(use.axis, logs.ndim)])
