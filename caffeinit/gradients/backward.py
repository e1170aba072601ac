"""Gradients of a net's arrays and inputs over one batch.

Where each picture's values follow from its own alone, pieces of the batch run side by side, one thread each: within one
run onnxruntime shares convolutions and products among its threads, but hardly the copies, masks and sums between them, and
what one of these makes for few pictures is still in the cache when the next one reads it. Where the arrays have more
numbers than the values of a piece, adding up the pieces' gradients would cost more than that, and the batch runs whole.
The cut depends on the net and the batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from caffeinit.arithmetic.workers import worker_pool
from caffeinit.engine.session import Session, Settings
from caffeinit.gradients.absorbing import absorbed
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import is_rowwise, row_pieces

Values = Mapping[str, np.ndarray]
Compile = Callable[[Graph, Sequence[str], Settings], Session]
PIECE_PICTURES = 4  # that go through gradients at once, on one thread


class Backward:
    """A graph that also computes gradients.

    Attributes:
        forward: the graph that it was made from.
        diffs: blob -> the input that takes its top diff.
        wanted: the values whose gradients are computed.
    """

    def __init__(self, forward: Graph, tops: Sequence[str], arrays: Sequence[str], inputs: Sequence[str]) -> None:
        """Append the gradients.

        Args:
            tops: blobs that top diffs are given for.
            arrays: initializers whose gradients are wanted.
            inputs: graph inputs whose gradients are wanted.
        Raises:
            GradientError: an operator on the way has no gradient.
        """
        self.forward = forward
        self.wanted = [*arrays, *inputs]
        self._graph = absorbed(forward, [*tops, *self.wanted])
        self.diffs = {top: self._graph.add_input_like(top, f"diff/{top}") for top in tops}
        self._found = append_backward(self._graph, self.diffs, self.wanted)
        self._inputs = set(inputs)
        self._is_cut = self._pays(forward.part(tops), arrays)

    def _pays(self, way: Graph, arrays: Iterable[str]) -> bool:
        if not is_rowwise(way):
            return False
        values = sum(math.prod(way.shape(v)) for v in way.moving_values()) // way.batch_size()
        return sum(math.prod(way.shape(a)) for a in arrays if a in way.initializers) <= PIECE_PICTURES * values

    def run(self, feeds: Values, settings: Settings, compile_graph: Compile) -> dict[str, np.ndarray]:
        """Return wanted value -> its gradient.

        Args:
            feeds: array of every input that is read, top diffs by the names of `diffs`.
            compile_graph: returns what computes outputs of a graph.
        """
        computed = [g for g in dict.fromkeys(self._found.values()) if g not in feeds]
        results = {g: feeds[g].copy() for g in self._found.values() if g in feeds}
        if computed:
            pieces = self._pieces(feeds, settings)
            session = compile_graph(
                self._graph, computed, settings if len(pieces) == 1 else replace(settings, threads=1)
            )
            with worker_pool(min(settings.workers, len(pieces))) as pool:
                results |= self._joined(pool.map(session.run, pieces))
        return {value: results[gradient] for value, gradient in self._found.items()}

    def _pieces(self, feeds: Values, settings: Settings) -> list[Values]:
        counts = {len(a) if a.ndim else 0 for a in feeds.values()}
        if not self._is_cut or len(counts) > 1 or max(counts) <= PIECE_PICTURES or not settings.device.is_cpu:
            return [feeds]
        return list(row_pieces(feeds, PIECE_PICTURES))

    def _joined(self, pieces: Iterable[Values]) -> dict[str, np.ndarray]:
        """Return the sum of the arrays' gradients, and those of the inputs one behind the other."""
        rows = {self._found[name] for name in self._inputs}
        found: dict[str, list[np.ndarray]] = {}
        for piece in pieces:
            for name, array in piece.items():
                known = found.setdefault(name, [])
                if known and name not in rows:
                    known[0] += array
                else:
                    known.append(array)
        return {name: arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for name, arrays in found.items()}
