"""A pass stage by stage, as in `staged.py`, with all that is kept between the stages on a device.

Batches are joined where pictures do not hang on each other: a stage of a small batch takes longer to begin than to run.
Corrections of kept values are not applied in place but where a later stage reads them, see `resident.Piece`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from caffeinit.arithmetic.moments import PictureMoments, picture_moments
from caffeinit.engine.affine import Affine
from caffeinit.engine.arrays import DeviceArray
from caffeinit.engine.resident import RUN_BYTES, Piece, Portion, ResidentSession
from caffeinit.engine.session import Settings
from caffeinit.engine.staged import StagedRun
from caffeinit.engine.stages import Stage
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import groups, is_rowwise, most_pictures


def start_run(
    graph: Graph,
    batches: Iterable[Mapping[str, np.ndarray]],
    stages: Sequence[Stage],
    settings: Settings,
    axes: Mapping[str, int],
    notes: list[str],
    looked_at: Collection[str] = (),
) -> StagedRun | ResidentRun:
    """Return a pass whose kept values live where the settings say.

    Args:
        axes: checkpoints whose moments are wanted -> the axis of their channels.
        notes: takes a sentence when a device's memory has run out.
        looked_at: values that `values` will be asked for.
    """
    if settings.device.resident:
        return ResidentRun(graph, batches, stages, settings, axes, notes)
    return StagedRun(graph, batches, stages, settings, axes, looked_at)


class ResidentRun:
    """The state of one pass; see `staged.StagedRun`, whose form it has."""

    def __init__(
        self,
        graph: Graph,
        batches: Iterable[Mapping[str, np.ndarray]],
        stages: Sequence[Stage],
        settings: Settings,
        axes: Mapping[str, int],
        notes: list[str],
    ) -> None:
        self.graph = graph
        self.stages = stages
        self.settings = settings
        self.peak_bytes = 0
        self._batches = batches
        self._most = _most_rows(graph, stages)
        self._axes = axes
        self._portion = Portion(settings.device, notes)
        self._kept: dict[str, list[Any]] = {}  # pieces; lists of the machine's arrays for inputs that are read again
        self._held = 0

    def run(self, number: int, observe: Callable[[str, Sequence[PictureMoments]], None]) -> None:
        """Run stage `number` over all pieces; `observe(checkpoint, its moments)` is called for each."""
        stage = self.stages[number]
        corrections = {n: p[0].correction for n, p in self._kept.items() if isinstance(p[0], Piece)}
        session = ResidentSession(
            self.graph,
            stage.outputs,
            self.settings,
            self._portion,
            inputs=stage.inputs,
            axes={name: axis for name, axis in self._axes.items() if name in stage.checkpoints},
            corrections={n: c for n, c in corrections.items() if c is not None and n in stage.inputs},
            extremes=False,
        )
        made: dict[str, list[Any]] = {name: [] for name in stage.outputs}
        spent = [n for n in stage.last_use if n in stage.inputs]
        for index, feeds in enumerate(self._feeds(number)):
            for name, piece in session.run({n: self._on_device(feeds[n]) for n in session.inputs}).items():
                made[name].append(piece)
                self._count(piece.array.nbytes)
                if name in self._axes:
                    observe(name, picture_moments(piece, self._axes[name], extremes=False))
            for name in spent:
                self._count(-feeds[name].array.nbytes)
                self._kept[name][index] = None
            feeds.clear()  # else the last piece would outlive its last use
        self._kept.update(made)
        for name in spent:
            del self._kept[name]

    def values(self, name: str) -> list[Piece]:
        """Return the pieces of a kept value; they may be corrected before the next stage runs."""
        return self._kept[name]

    def change(self, name: str, change: Affine) -> None:
        """Have a kept value changed where it is read next."""
        for piece in self.values(name):
            piece.correct(change)

    def release(self, number: int) -> None:
        """Give up what stage `number` made and no later stage reads."""
        for name in self.stages[number].last_use:
            for piece in self._kept.pop(name, []):
                self._count(-piece.array.nbytes)

    def _feeds(self, number: int) -> Iterator[dict[str, Any]]:
        """Yield what each run of a stage is fed."""
        stage = self.stages[number]
        fresh = [n for n in stage.inputs if n in self.graph.inputs and n not in self._kept]
        if not fresh:
            (count,) = {len(self._kept[n]) for n in stage.inputs}
            for index in range(count):  # nothing here holds a piece that has been given up
                yield {n: self._kept[n][index] for n in stage.inputs}
            return
        later = [n for n in fresh if any(n in s.inputs for s in self.stages[number + 1 :])]
        stored: dict[str, list[Any]] = {n: [] for n in later}
        for index, group in enumerate(groups(self._batches, self._most)):
            given = {n: [batch[n] for batch in group] for n in fresh}
            for name in later:
                stored[name].append(given[name])
            yield {n: given[n] if n in fresh else self._kept[n][index] for n in stage.inputs}
        self._kept.update(stored)

    def _on_device(self, given: Piece | list[np.ndarray]) -> DeviceArray:
        return given.array if isinstance(given, Piece) else self._portion.send(given)

    def _count(self, change: int) -> None:
        self._held += change
        self.peak_bytes = max(self.peak_bytes, self._held)


def _most_rows(graph: Graph, stages: Sequence[Stage]) -> int:
    """Return how many rows batches that are joined have at most; 0 where none may be."""
    if not is_rowwise(graph.part([name for stage in stages for name in stage.outputs])):
        return 0
    most = (most_pictures(graph, [*stage.inputs, *stage.outputs], RUN_BYTES) for stage in stages)
    return min((m for m in most if m), default=0)
