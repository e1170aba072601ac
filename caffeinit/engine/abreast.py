"""Runs a stage on parts of a batch side by side, each part on one thread.

Within one run, onnxruntime shares a convolution among its threads, but changes of layout and pooling hardly or not at all;
parts of a batch share everything. They are small, so that what one operator makes is still in the cache when the next one,
or whoever looks at the result, reads it. It is done where each picture's values follow from its own alone, so that the cut
does not show in them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import TypeVar

import numpy as np

from caffeinit.arithmetic.buffers import ThreadMemory
from caffeinit.engine.affine import Affine, with_corrections
from caffeinit.engine.session import Session, Settings, fed_weights, output_shape
from caffeinit.graph import Graph, Shape
from caffeinit.graph.products import has_product
from caffeinit.graph.rowwise import common_rows, is_rowwise
from caffeinit.graph.sizes import numpy_type

Seen = TypeVar("Seen")
PART_BYTES = 1 << 22  # of the largest value of a part; a picture at least
Values = Mapping[str, np.ndarray]


class Abreast:
    """A compiled stage.

    Attributes:
        corrected: inputs that it corrects first.
    """

    def __init__(
        self,
        graph: Graph,
        settings: Settings,
        pool: Executor,
        corrections: Mapping[str, Affine] | None = None,
        memory: ThreadMemory | None = None,
    ) -> None:
        """Compile a stage for which `is_rowwise` holds.

        Args:
            memory: for outputs that are not kept.
            corrections: inputs that are to be corrected first; `is_cheap` holds for all.
        """
        graph, self._renamed = with_corrections(graph, corrections or {}, cheaply=True)
        self.outputs = list(graph.outputs)
        self.corrected: Collection[str] = self._renamed.keys()
        self._graph = graph
        self._session = Session(graph, replace(settings, threads=1))
        self._workers = settings.cores
        self._pool = pool
        self._memory = memory or ThreadMemory()

    def fits(self, feeds: Values) -> bool:
        """Tell whether a run with these arrays can be cut: all have the same pictures."""
        return len({self._pictures(n, a) for n, a in feeds.items()}) == 1

    def run(self, feeds: Values, into: Values) -> dict[str, np.ndarray]:
        """Compute all outputs at once; see `Session.run`."""
        return self._session.run(self._called(feeds), into)

    def run_parts(
        self, feeds: Values, into: Values, prepare: Callable[[Values], None], look: Callable[[Values], Seen]
    ) -> Iterator[Seen]:
        """Begin to compute all outputs, part by part, into arrays that are given.

        Args:
            into: outputs that are not in it are written into memory of the thread's own, again and again.
            prepare: gets the inputs of each part before it runs, to change them in place.
            look: gets the outputs of each part, while they are in the cache.
        Returns:
            What `look` returned, in the order of the pictures; all is done when the last is there.
        """
        name, array = next(iter(feeds.items()))
        pictures = self._pictures(name, array)
        parts = num_parts(self._graph, pictures, self._workers)
        bounds = [pictures * number // parts for number in range(parts + 1)]

        def run(at: tuple[int, int]) -> Seen:
            given, made = self._rows(feeds, *at), self._rows(into, *at) | self._passing(into, at[1] - at[0])
            prepare(given)
            self._session.run(self._called(given), made)
            return look(made)

        return self._pool.map(run, itertools.pairwise(bounds))

    def _passing(self, into: Values, pictures: int) -> dict[str, np.ndarray]:
        """Return this thread's arrays for the outputs that are not kept."""
        names = [n for n in self.outputs if n not in into]
        shapes = [output_shape(self._shape(n), common_rows(self._graph), pictures) for n in names]
        types = [numpy_type(self._graph, n) for n in names]
        return dict(zip(names, self._memory.take(list(zip(shapes, types, strict=True))), strict=True))

    def _called(self, feeds: Values) -> dict[str, np.ndarray]:
        return {self._renamed.get(name, name): array for name, array in feeds.items()}

    def _shape(self, name: str) -> Shape:
        return self._graph.shape(self._renamed.get(name, name))

    def _pictures(self, name: str, array: np.ndarray) -> int:
        return len(array) * common_rows(self._graph) // self._shape(name)[0]

    def _rows(self, arrays: Values, start: int, stop: int) -> dict[str, np.ndarray]:
        made_for = common_rows(self._graph)
        found = {}
        for name, array in arrays.items():
            each = self._shape(name)[0] // made_for
            found[name] = array[start * each : stop * each]
        return found


def can_cut(graph: Graph) -> bool:
    """Tell whether a stage is best run on parts: products of matrices would read their weights for each of them."""
    return is_rowwise(graph) and not has_product(graph.nodes) and not fed_weights(graph)


def num_parts(graph: Graph, pictures: int, workers: int) -> int:
    """Return into how many parts of even size a batch is cut: each worker gets as many as the others."""
    largest = max(math.prod(graph.shape(v)) for v in graph.moving_values())
    fitting = max(1, PART_BYTES * common_rows(graph) // max(4 * largest, 1))
    return max(1, min(pictures, workers * math.ceil(pictures / fitting / workers)))
