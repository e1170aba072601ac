"""Runs a graph on small pieces of pictures side by side, a piece a thread, where each picture's values follow from its own.

Within one run, onnxruntime shares a convolution among its threads, but much else hardly or not at all; pieces share
everything. Each thread has the values written into its own memory again and again: fresh memory would cost a page fault
every 4 KB, and with all values of a deep net wanted that is as much as computing them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from caffeinit.arithmetic.buffers import ThreadMemory
from caffeinit.arithmetic.workers import single_threaded
from caffeinit.engine.session import Session, Settings, fed_weights, is_segmented, output_shape
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import is_rowwise
from caffeinit.graph.sizes import numpy_type

Values = Mapping[str, np.ndarray]
Seen = TypeVar("Seen")
PIECE_BYTES = 1 << 26  # of the wanted values of a piece; a picture at least, however many threads there are
_MATRIX_BYTES = 1 << 23  # of all matrices


class Streaming:
    """A compiled graph."""

    def __init__(self, graph: Graph, settings: Settings) -> None:
        """Compile a graph that `can_stream`."""
        self._graph = graph
        self._session = Session(graph, replace(settings, threads=1), steady=True, sparing=True)
        self._workers = settings.workers
        self._own = ThreadMemory()

    def map(self, pieces: Iterable[Values], look: Callable[[Values], Seen]) -> Iterator[tuple[int, Seen]]:
        """Yield the number of pictures of each piece and what was seen of it, in order.

        Args:
            pieces: input -> array; contiguous.
            look: gets the graph's outputs, which are written again after it.
        """
        begun: deque[tuple[int, Future[Seen]]] = deque()
        with single_threaded(), ThreadPoolExecutor(self._workers) as pool:
            for piece in pieces:
                begun.append((len(next(iter(piece.values()))), pool.submit(self._run, piece, look)))
                while len(begun) > self._workers:
                    yield _ended(begun)
            while begun:
                yield _ended(begun)

    def _run(self, piece: Values, look: Callable[[Values], Seen]) -> Seen:
        into = self._memory(piece)
        self._session.run({n: piece[n] for n in self._session.inputs}, into)
        return look(into)

    def _memory(self, piece: Values) -> dict[str, np.ndarray]:
        """Return this thread's arrays for what a piece gives."""
        names, graph = self._session.outputs, self._graph
        first = self._session.inputs[0]
        made_for, count = graph.shape(first)[0], len(piece[first])
        wanted = [(output_shape(graph.shape(n), made_for, count), numpy_type(graph, n)) for n in names]
        return dict(zip(names, self._own.take(wanted), strict=True))


def _ended(begun: deque[tuple[int, Future[Seen]]]) -> tuple[int, Seen]:
    count, future = begun.popleft()
    return count, future.result()


def can_stream(graph: Graph, settings: Settings) -> bool:
    """Tell whether a graph may be cut so, and loses nothing by it: each piece reads all matrices."""
    if not settings.device.is_cpu or not is_rowwise(graph) or is_segmented(graph, settings):
        return False
    if not graph.moving_values().issuperset(graph.outputs) or any(-1 in graph.shape(v) for v in graph.outputs):
        return False
    return sum(graph.initializers[name].nbytes for name in fed_weights(graph)) <= _MATRIX_BYTES
