"""Runs a stage on parts of a batch side by side, each part on one thread.

Within one run, onnxruntime shares a convolution among its threads, but changes of layout and pooling hardly or not at all;
parts of a batch share everything. It is done where each picture's values follow from its own alone, so that the cut does
not show in them. Where memory is bounded, the parts go one after the other, each on all threads, and need less of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace

import numpy as np
import onnx

from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph
from caffeinit.ops import find_rule

BOUNDED_PARTS = 4
Values = Mapping[str, np.ndarray]


class Abreast:
    """A compiled stage; used like a `Session`."""

    def __init__(self, graph: Graph, settings: Settings, pool: Executor) -> None:
        """Compile a stage for which `is_rowwise` holds."""
        self._graph = graph
        self._is_bounded = settings.room is not None
        self._session = Session(graph, settings if self._is_bounded else replace(settings, threads=1))
        self._parts = BOUNDED_PARTS if self._is_bounded else settings.workers
        self._pool = pool

    def run(self, feeds: Values, into: Values) -> dict[str, np.ndarray]:
        """Compute all outputs into arrays that are given; see `Session.run`."""
        made_for = _made_for(self._graph)
        pictures = {len(array) * made_for // self._graph.shape(name)[0] for name, array in feeds.items()}
        if len(pictures) != 1 or set(into) != set(self._session.outputs):
            return self._session.run(feeds, into)
        run_all = map if self._is_bounded else self._pool.map
        cuts = _cuts(pictures.pop(), self._parts)
        list(run_all(lambda at: self._session.run(self._rows(feeds, at), self._rows(into, at)), cuts))
        return dict(into)

    def _rows(self, arrays: Values, pictures: range) -> dict[str, np.ndarray]:
        made_for = _made_for(self._graph)
        found = {}
        for name, array in arrays.items():
            each = self._graph.shape(name)[0] // made_for
            found[name] = array[pictures.start * each : pictures.stop * each]
        return found


def is_rowwise(graph: Graph) -> bool:
    """Tell whether all values of a graph have the batch on axis 0, and each picture's follow from its own alone."""
    made_for = _made_for(graph)
    if not graph.batch_axis_free or not graph.inputs:
        return False
    moving = graph.moving_values()
    return all(_keeps_rows(node, graph, made_for) for node in graph.nodes if any(o in moving for o in node.output))


def _keeps_rows(node: onnx.NodeProto, graph: Graph, made_for: int) -> bool:
    rule = find_rule(node)
    if rule is None or not rule.is_rowwise(node, graph):
        return False
    moving = [i for i in node.input if i and graph.depends_on_input(i)]
    shapes = [graph.shape(v) for v in (*moving, *(o for o in node.output if o))]
    if not all(shapes) or any(-1 in s for s in shapes):
        return False
    return len({s[0] for s in shapes}) == 1 and shapes[0][0] % made_for == 0


def _made_for(graph: Graph) -> int:
    """Return a number of pictures that the shapes of all inputs are multiples of."""
    return int(np.gcd.reduce([s[0] for s in graph.inputs.values() if s] or [1]))


def _cuts(pictures: int, parts: int) -> list[range]:
    """Cut so many pictures into parts as even as they can be."""
    ends = [pictures * n // parts for n in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends) if a < b]
