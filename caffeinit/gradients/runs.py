"""Runs a graph with gradients over pieces of pictures, and takes the squares of what it puts out.

It goes forward, and then back in steps: a gradient's squares are taken as soon as it is there. A net with few weights has
them all in memory, and a thread takes a piece through all steps. Where there are more than are to be in memory at once
(`engine/segments.py`), the steps are segments of the graph, and some pieces go through one side by side before its weights
make room for the next one's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
import onnx

from caffeinit.arithmetic.workers import worker_pool
from caffeinit.engine import segments
from caffeinit.engine.segments import Segment
from caffeinit.engine.session import Settings
from caffeinit.gradients.sources import GradientSource, Prepared, Way, gradient_squares, gradient_sum
from caffeinit.gradients.squares import FiledSquares, KeptSquares, Squares, SquaresInOrder
from caffeinit.gradients.steps import NUM_STEPS, cut_on_way_back, held_beside
from caffeinit.graph import Graph, Shape
from caffeinit.graph.sizes import count_pictures, resized, value_bytes
from caffeinit.storage.mapped import ScratchArrays, release

Values = Mapping[str, np.ndarray]
Sources = Mapping[str, Sequence[GradientSource]]
ABREAST_BYTES = 1 << 29  # of the values and gradients of all pieces that go through a segment side by side


class GradientRun:
    """What a whole and a segmented run have in common.

    Attributes:
        graph: what runs.
        sources: unit's first initializer -> where its gradients come from.
        is_whole: whether all of it runs at once, and squares are kept in memory.
    """

    is_whole = True

    def __init__(
        self,
        graph: Graph,
        sources: Sources,
        settings: Settings,
        changing: Collection[str],
        whole: Graph,
    ) -> None:
        """Take what runs.

        Args:
            graph: puts out what the sources need and is not given.
            changing: initializers that change from one call of `squares` to the next.
            whole: what it is a part of; its inputs are given.
        """
        self.graph = graph
        self._whole = whole
        self.sources = sources
        self._settings = settings
        self._changing = changing

    def _num_pictures(self, feeds: Values) -> int:
        """Return how many pictures a piece has; 1 where they cannot be told apart."""
        return count_pictures(self._whole, feeds) if self.graph.batch_axis_free else 1


class WholeRun(GradientRun):
    """A graph all of whose weights are in memory: its steps stay compiled, and each thread takes a piece through all."""

    def __init__(self, graph: Graph, *given: Any) -> None:
        """Compile; see `GradientRun`."""
        super().__init__(graph, *given)
        self._prepared = Prepared(graph, self._settings, self._changing)
        # On a device, what one step hands to the next would go by way of the host.
        most = NUM_STEPS if self._settings.device.is_cpu else 1
        self._steps = cut_on_way_back(graph, self.sources, self._prepared.arrays, most)
        self._sessions = [self._prepared.compile(graph, step.outputs, step.inputs) for step in self._steps]
        # A weight's own gradient is shaped like the weight.
        rows = {v for of in self.sources.values() for s in of if s.way is not Way.SUM for v in (s.gradient, s.read)}
        self._moving_rows = rows & graph.moving_values() if graph.batch_axis_free else set()

    @property
    def shared_bytes(self) -> int:
        """How much memory the pieces share."""
        return sum(array.nbytes for array in self._prepared.arrays.values())

    def steps(self, pictures: int) -> Iterator[tuple[Graph, int]]:
        """Yield what runs one after the other on a piece of so many pictures: a graph, and bytes kept beside its values."""
        graph = resized(self.graph, pictures)
        for step, beside in zip(self._steps, held_beside(self._steps), strict=True):
            part = self._prepared.part(graph, step.outputs, step.inputs)
            yield part, sum(value_bytes(graph, name, pictures) for name in beside)

    def squares(self, feeds: Sequence[Values]) -> dict[str, list[Squares]]:
        """Return squares of each unit's gradient that add up to those over all pieces.

        Args:
            feeds: for each piece, input -> array.
        """
        self._prepared.refresh()
        found = SquaresInOrder(self.sources)
        with worker_pool(self._settings.workers) as pool:
            list(pool.map(partial(self._piece, found), range(len(feeds)), feeds))
        self._prepared.forget()
        return found.parts

    @np.errstate(over="ignore", invalid="ignore")
    def _piece(self, found: SquaresInOrder, number: int, feeds: Values) -> None:
        pictures = self._num_pictures(feeds)
        values, pending = dict(feeds), dict(self.sources)
        with found.turn(number) as add:
            self._take_ready(add, pending, values, pictures)
            for step, session in zip(self._steps, self._sessions, strict=True):
                # onnxruntime writes them where they are wanted, and holds no other copy.
                into = {name: np.empty(shape, np.float32) for name, shape in self._shapes(step, pictures).items()}
                given = {name: values[name] for name in session.inputs}
                values |= session.run(given, into, handed_on=set(step.outputs) - set(self.graph.outputs))
                self._take_ready(add, pending, values, pictures)
                for name in step.last_use:
                    values.pop(name, None)

    def _take_ready(
        self,
        add: Callable[[str, Squares], None],
        pending: dict[str, Sequence[GradientSource]],
        values: Values,
        pictures: int,
    ) -> None:
        """Add the squares of the units for which all is there, which are not pending then any more."""
        for key in [k for k, of in pending.items() if all(v in values for s in of for v in s.values)]:
            add(key, gradient_squares(pending.pop(key), values, pictures))

    def _shapes(self, step: Segment, pictures: int) -> dict[str, Shape]:
        """Return the shapes of those outputs of a step that squares are taken from."""
        graph = self.graph
        shapes = {name: graph.shape(name) for name in step.outputs if name in graph.outputs}
        return {
            name: (shape[0] * pictures // self._whole.batch_size(), *shape[1:]) if name in self._moving_rows else shape
            for name, shape in shapes.items()
            if -1 not in shape and graph.elem_type(name) == onnx.TensorProto.FLOAT
        }


class SegmentedRun(GradientRun):
    """A graph that runs in segments; used like a `WholeRun`."""

    is_whole = False
    shared_bytes = 0

    def __init__(self, graph: Graph, *given: Any) -> None:
        """Cut the graph; see `GradientRun`."""
        super().__init__(graph, *given)
        self._segments = segments.cut(graph, segments.SEGMENT_BYTES)
        self._place = ScratchArrays()
        self._last = {name: number for number, segment in enumerate(self._segments) for name in segment.inputs}

    def steps(self, pictures: int) -> Iterator[tuple[Graph, int]]:
        """Yield the segments' graphs and what is kept; see `WholeRun.steps`."""
        graph = resized(self.graph, pictures)
        made = {name: number for number, segment in enumerate(self._segments) for name in segment.outputs}
        for number, segment in enumerate(self._segments):
            beside = [n for n, at in made.items() if at < number <= self._last.get(n, -1) and n not in segment.inputs]
            held = sum(value_bytes(graph, n, pictures) for n in (*beside, *segment.outputs))
            yield graph.part(segment.outputs, segment.inputs), held

    def squares(self, feeds: Sequence[Values]) -> dict[str, list[Squares]]:
        """Return squares of each unit's gradient; see `WholeRun.squares`."""
        found: dict[str, list[Squares]] = {key: [] for key in self.sources}
        self._place = ScratchArrays()
        abreast = self._abreast(feeds[0])
        for start in range(0, len(feeds), abreast):
            self._run([dict(values) for values in feeds[start : start + abreast]], found)
        return found

    def _abreast(self, feeds: Values) -> int:
        """Return how many pieces of this size are to go side by side."""
        pictures = self._num_pictures(feeds)
        steps = self.steps(pictures)
        piece = max(
            (b + sum(value_bytes(part, n, part.batch_size()) for n in part.inputs) for part, b in steps), default=0
        )
        return max(1, min(self._settings.workers, ABREAST_BYTES // max(1, piece)))

    def _run(self, pieces: Sequence[dict[str, np.ndarray]], found: dict[str, list[Squares]]) -> None:
        pending = dict(self.sources)
        with worker_pool(len(pieces)) as pool:
            self._take_ready(pending, pieces, found)  # what needs no more than is given
            for number, segment in enumerate(self._segments):
                self._step(segment, pieces, pool)
                self._take_ready(pending, pieces, found)
                needed = {v for of in pending.values() for s in of for v in s.values}
                needed |= {name for name, last in self._last.items() if last > number}
                for values in pieces:
                    for name in values.keys() - needed:
                        del values[name]

    def _take_ready(
        self,
        pending: dict[str, Sequence[GradientSource]],
        pieces: Sequence[Values],
        found: Mapping[str, list[Squares]],
    ) -> None:
        """Take the squares of the units for which all is there."""
        for key in [k for k, of in pending.items() if all(v in pieces[0] for s in of for v in s.values)]:
            self._take(found[key], pending.pop(key), pieces)

    def _part(self, segment: Segment) -> Graph:
        return self.graph.part(segment.outputs, segment.inputs)

    def _step(self, segment: Segment, pieces: Sequence[dict[str, np.ndarray]], pool: Executor) -> None:
        """Run one segment for some pieces, which get its outputs."""
        part = self._part(segment)
        prepared = Prepared(part, self._settings, self._changing)
        prepared.refresh()
        session = prepared.compile(part, part.outputs)
        runs = [pool.submit(session.run, {n: values[n] for n in session.inputs}) for values in pieces]
        for values, run in zip(pieces, runs, strict=True):
            values.update(run.result())
        for array in part.initializers.values():
            release(array)

    @np.errstate(over="ignore", invalid="ignore")
    def _take(self, squares: list[Squares], sources: Sequence[GradientSource], pieces: Sequence[Values]) -> None:
        """Add one unit's squares to those that earlier pieces gave."""
        counts = [self._num_pictures(values) for values in pieces]
        if sources[0].way is Way.ROWS:
            squares += [gradient_squares(sources, v, n, self._place) for v, n in zip(pieces, counts, strict=True)]
            return
        if not squares:
            squares.append(FiledSquares(self._place, self._settings.threads))
        filed = squares[0]
        assert isinstance(filed, FiledSquares)
        for values, count in zip(pieces, counts, strict=True):
            if sources[0].way is Way.SUM:
                filed.add(gradient_sum(sources, values))
                continue
            found = gradient_squares(sources, values, count)
            assert isinstance(found, KeptSquares)
            filed.add_sums(found.sums)
