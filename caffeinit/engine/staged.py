"""Runs a graph stage by stage over the whole calibration set, keeping only what later stages read.

What is kept at any time is one cut through the net over all pictures. A value is given up batch by batch as its last
reader runs, and its memory is written again by what that reader makes, because most of the cost of keeping activations
is the page faults of fresh memory, not the copying. Where the memory is bounded (`Settings.room`), what it has no room
for is kept in a file (`shelf.py`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from caffeinit.arithmetic.buffers import BufferPool, ThreadMemory
from caffeinit.arithmetic.moments import PictureMoments, picture_moments
from caffeinit.arithmetic.workers import single_threaded
from caffeinit.engine.abreast import Abreast, can_cut
from caffeinit.engine.affine import Affine
from caffeinit.engine.session import Session, Settings, output_shape
from caffeinit.engine.shelf import Piece, Shelf
from caffeinit.engine.stages import Stage
from caffeinit.graph import Graph
from caffeinit.graph.products import has_product
from caffeinit.graph.rowwise import is_rowwise
from caffeinit.graph.sizes import numpy_type

Observer = Callable[[str, Sequence[PictureMoments]], None]
Arrays = Mapping[str, np.ndarray]
AHEAD = 1  # runs that are begun before the last one has ended, or threads would wait for the slowest at its end
MERGED_BYTES = 1 << 26  # the inputs of a stage of matrix products are merged into one batch up to this size


@dataclass(frozen=True)
class _Begun:
    """A run that may still go on.

    Attributes:
        given: what it reads, and `feeds`: the arrays of it.
        finish: waits for it; returns what it makes, and moments of what could be looked at in parts.
    """

    given: Mapping[str, Piece]
    feeds: Arrays
    finish: Callable[[], tuple[Arrays, dict[str, list[PictureMoments]]]]


class StagedRun:
    """The state of one pass: the kept values, in pieces.

    Args:
        graph: made for some batch size; weights may change between stages, each stage is compiled when it starts.
        batches: input -> array dictionaries; iterated over once for each stage that needs them afresh.
        stages: from `plan_stages`.
        axes: checkpoints whose moments are wanted -> the axis of their channels.
        looked_at: values that `values` will be asked for, and that are kept for it.
    """

    def __init__(
        self,
        graph: Graph,
        batches: Iterable[Mapping[str, np.ndarray]],
        stages: Sequence[Stage],
        settings: Settings,
        axes: Mapping[str, int] | None = None,
        looked_at: Collection[str] = (),
    ) -> None:
        self.graph = graph
        self.stages = stages
        self.settings = settings
        self._batches = batches
        self._pool = BufferPool(0) if settings.room else BufferPool()
        self._shelf = Shelf(self._pool, settings.room)
        self._threads = ThreadPoolExecutor(settings.cores)
        self._memory = ThreadMemory()
        self._axes = axes or {}
        self._kept: dict[str, list[Piece]] = {}
        self._looked_at = looked_at
        self._changes: dict[str, Affine] = {}  # of what is kept, still to be made
        self._announced: set[str] = set()  # those of them that the shelf makes to what is in its file

    @property
    def peak_bytes(self) -> int:
        """Largest amount of memory that the kept values took so far."""
        return self._pool.peak

    @single_threaded()
    def run(self, number: int, observe: Observer) -> None:
        """Run stage `number` over all pieces; `observe(checkpoint, its moments)` is called for each."""
        stage = self.stages[number]
        part = self.graph.part(stage.outputs, stage.inputs)
        is_cut = can_cut(part)
        compiled = self._compile(number, part, is_cut)
        within = compiled.corrected if isinstance(compiled, Abreast) else ()
        here = [n for n in stage.inputs if n in self._changes and n not in within]
        for name in here:
            self._announce(name)
        passing = self._passing(stage) if is_cut else ()
        made: dict[str, list[Piece]] = {name: [] for name in stage.outputs if name not in passing}
        spent = [n for n in stage.last_use if n in stage.inputs]
        begun: deque[_Begun] = deque()
        ahead = 0 if self.settings.room else AHEAD

        def finish() -> None:
            piece = begun.popleft()
            found, moments = piece.finish()
            for name in stage.checkpoints:
                if name in self._axes:
                    observe(name, moments.get(name) or self._look(name, found[name], self._threads))
            for name, given in piece.given.items():
                self._shelf.leave(given, piece.feeds[name], name in spent)
            for name, values in found.items():
                if name in made:
                    made[name].append(self._shelf.put(values))
                else:
                    self._pool.give_back(values)

        for pieces in self._feeds(number):
            begun.append(self._begin(compiled, pieces, here, passing))
            if len(begun) > ahead:
                finish()
        while begun:
            finish()
        for name in here:
            self._taken(name)
        self._kept.update(made)
        for name in spent:
            self._forget(name)

    def _begin(
        self, compiled: Session | Abreast, pieces: Mapping[str, Piece], here: Collection[str], passing: Collection[str]
    ) -> _Begun:
        """Start a run; what is made in parts goes on while the next one is started.

        Args:
            here: inputs that are to be changed in place.
            passing: outputs that are looked at in parts, and not kept.
        """
        feeds = {n: self._shelf.get(p) for n, p in pieces.items()}
        cut = isinstance(compiled, Abreast) and compiled.fits(feeds)
        kept = [n for n in compiled.outputs if not cut or n not in passing]
        into = {n: a for n in kept if (a := self._allocate(n, feeds)) is not None}
        changed = [n for n in here if n in self._changes and isinstance(pieces[n], np.ndarray)]
        seen = [n for n in compiled.outputs if self._is_seen_in_parts(n)]

        def prepare(given: Arrays) -> None:
            for name in changed:
                self._changes[name]([given[name]])

        if not isinstance(compiled, Abreast) or not cut or len(into) < len(kept):
            for name in changed:
                self._changes[name]([feeds[name]], pool=self._threads)
            found = compiled.run(feeds, into)
            return _Begun(pieces, feeds, lambda: (found, {}))
        parts = compiled.run_parts(feeds, into, prepare, lambda made: {n: self._look(n, made[n]) for n in seen})

        def finish() -> tuple[Arrays, dict[str, list[PictureMoments]]]:
            moments: dict[str, list[PictureMoments]] = {name: [] for name in seen}
            for part in parts:
                for name, found in part.items():
                    moments[name] += found
            return into, moments

        return _Begun(pieces, feeds, finish)

    def _passing(self, stage: Stage) -> set[str]:
        """Return what a stage that runs in parts makes to be looked at in parts only: nobody reads it later."""
        return {n for n in stage.unread if n not in self._looked_at and self._is_seen_in_parts(n)}

    def _is_seen_in_parts(self, name: str) -> bool:
        """Tell whether the moments of a value are those of its parts; with channels last these would have other rows."""
        return self._axes.get(name) == 1 and len(self.graph.shape(name)) > 2

    def _look(self, name: str, values: np.ndarray, pool: Executor | None = None) -> Sequence[PictureMoments]:
        return picture_moments(values, self._axes[name], pool, extremes=False)

    def _compile(self, number: int, part: Graph, is_cut: bool) -> Session | Abreast:
        """Return what runs a stage; products of matrices read their weights once, and so take each batch as it is."""
        if is_cut:
            return Abreast(part, self.settings, self._threads, self._corrected_within(number), self._memory)
        return Session(part, self.settings)

    def _corrected_within(self, number: int) -> dict[str, Affine]:
        """Return the changes of inputs that a stage is to make; there they cost little.

        Where more than one stage is still to read a value after it, it is changed in place once and for all.
        """
        stage = self.stages[number]
        if len({len(self._kept.get(n, ())) for n in stage.inputs}) > 1:
            return {}
        found = {}
        for name in stage.inputs:
            later = sum(name in s.inputs for s in self.stages[number + 1 :])
            change = self._changes.get(name)
            if change is not None and later <= 1 and change.is_cheap(self.graph.shape(name)):
                found[name] = change
        return found

    def values(self, name: str) -> Iterable[np.ndarray]:
        """Return the pieces of a kept value, each to be looked at before the next."""
        self._settle(name)
        return self._shelf.look(self._kept[name])

    def change(self, name: str, change: Affine) -> None:
        """Have a kept value changed where it is read next."""
        self._settle(name)
        self._changes[name] = change

    def _taken(self, name: str) -> Affine | None:
        """Return a change that is not to be made here any more, if there was one."""
        self._announced.discard(name)
        return self._changes.pop(name, None)

    def _announce(self, name: str) -> None:
        """Have a change made to what lies in the file, each time that it is read."""
        if name not in self._announced:
            self._announced.add(name)
            self._shelf.change_when_read(self._kept[name], self._changes[name])

    def _settle(self, name: str) -> None:
        """Make the change that is still to be made."""
        if name in self._changes:
            self._announce(name)
        if change := self._taken(name):
            change([p for p in self._kept[name] if isinstance(p, np.ndarray)], pool=self._threads)

    def release(self, number: int) -> None:
        """Give up what stage `number` made and no later stage reads."""
        for name in self.stages[number].last_use:
            for piece in self._forget(name):
                self._shelf.drop(piece)

    def _forget(self, name: str) -> list[Piece]:
        self._taken(name)
        return self._kept.pop(name, [])

    def _feeds(self, number: int) -> Iterator[dict[str, Piece]]:
        """Yield what each run of a stage is fed."""
        stage = self.stages[number]
        fresh = [n for n in stage.inputs if n in self.graph.inputs and n not in self._kept]
        if not fresh:
            self._align(stage)
            for pieces in zip(*(self._kept[n] for n in stage.inputs), strict=True):
                yield dict(zip(stage.inputs, pieces, strict=True))
            return
        later = [n for n in fresh if any(n in s.inputs for s in self.stages[number + 1 :])]
        stored: dict[str, list[Piece]] = {n: [] for n in later}
        held = [n for n in stage.inputs if n not in fresh]
        for index, batch in enumerate(self._batches):
            for name in later:
                stored[name].append(self._shelf.put(batch[name]))
            if index == 0 and held:
                self._cut(held, [len(b[fresh[0]]) for b in self._batches])
            yield {n: batch[n] if n in fresh else self._kept[n][index] for n in stage.inputs}
        self._kept.update(stored)

    def _align(self, stage: Stage) -> None:
        """Bring the inputs of a stage into pieces of equal sizes; into one piece where that pays and is small."""
        if not self.graph.batch_axis_free:
            return  # none were merged, and some have no axis to be cut along: sizes that the net works out
        # One number, which is the same for a whole batch, is a piece of its own.
        cuts = {n: [math.prod(p.shape[:1]) for p in self._kept[n]] for n in stage.inputs}
        total = sum(_num_bytes(p) for n in stage.inputs for p in self._kept[n])
        if total <= MERGED_BYTES and can_merge(self.graph, stage):
            for name in stage.inputs:
                self._settle(name)
                self._kept[name] = [self._merge(self._kept[name])]
            return
        finest = max(cuts.values(), key=len)
        self._cut([n for n in stage.inputs if len(cuts[n]) < len(finest)], finest)

    def _cut(self, names: Iterable[str], sizes: Sequence[int]) -> None:
        """Split values that were merged into one piece again."""
        for name in names:
            pieces = self._kept[name]
            if len(pieces) == 1 and len(sizes) > 1:
                self._settle(name)
                whole = self._shelf.move_out(pieces[0])
                ratio = len(whole) / sum(sizes)
                parts = self._pool.split(whole, [round(s * ratio) for s in sizes])
                self._kept[name] = [self._shelf.put(part) for part in parts]

    def _merge(self, pieces: list[Piece]) -> Piece:
        if len(pieces) == 1:
            return pieces[0]
        whole = self._pool.take((sum(p.shape[0] for p in pieces), *pieces[0].shape[1:]), pieces[0].dtype)
        at = 0
        for piece in pieces:
            array = self._shelf.move_out(piece)
            whole[at : at + len(array)] = array
            at += len(array)
            self._pool.give_back(array)
        return self._shelf.put(whole)

    def _allocate(self, name: str, feeds: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Return the array that a run is to write `name` into; None where the shape depends on the data."""
        shape = self.graph.shape(name)
        if min(shape, default=1) < 0:
            return None
        if self.graph.batch_axis_free:
            first = next(iter(feeds))
            shape = output_shape(shape, self.graph.shape(first)[0], len(feeds[first]))
        return self._pool.take(shape, numpy_type(self.graph, name))


def can_merge(graph: Graph, stage: Stage) -> bool:
    """Tell whether a stage is best run on all pictures at once: it reads matrices, and pictures stay apart."""
    part = graph.part(stage.outputs, stage.inputs)
    return has_product(part.nodes) and is_rowwise(part)


def _num_bytes(piece: Piece) -> int:
    return math.prod(piece.shape) * piece.dtype.itemsize
