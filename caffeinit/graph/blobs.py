"""Which blobs of a graph a run determines from the inputs that it is given, and in what shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from caffeinit.errors import CaffeinitError
from caffeinit.graph.graph import Graph, Shape


def check_blobs(graph: Graph, names: Iterable[str], known: Collection[str]) -> None:
    """Refuse blobs that a run does not determine.

    Args:
        known: those that it does.
    """
    for name in names:
        if not name or name not in known:  # "" stands for inputs that operators do without
            is_there = name in graph.inputs or (name and graph.producer(name) is not None)
            why = "depends on an input that was not given" if is_there else "is not there, or its layer cannot run"
            raise CaffeinitError(f'blob "{name}" {why}')


def fits(graph: Graph, blob: str, given: Shape, feeds: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a blob has a shape in a run; axis 0 may be the batch, which can differ from the graph's."""
    shape = graph.shape(blob)
    if not graph.batch_axis_free or not shape:
        return given == shape
    ratios = {(a.shape[0], graph.inputs[n][0]) for n, a in feeds.items() if n in graph.inputs}
    return any(given == (shape[0] * rows // made, *shape[1:]) for rows, made in ratios)


def reachable(graph: Graph, given: Iterable[str]) -> set[str]:
    """Return the values that the given inputs determine."""
    known = {*given, *graph.initializers, ""}
    for node in graph.nodes:
        if all(i in known for i in node.input):
            known.update(node.output)
    return known
