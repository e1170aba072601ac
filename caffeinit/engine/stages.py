"""Cuts a graph into stages, so that a value can be looked at and changed before anything downstream is computed.

A *checkpoint* is a value that the caller wants to see complete (over all batches) before its readers run: the output of
a unit that is about to be normalised, or the input of one whose weights are to be drawn from it. All checkpoints that
do not depend on each other fall into one stage. No node runs twice: a value that a later stage reads is kept.

Nodes that depend on initializers alone (a reshaped weight) belong to no stage; they go along wherever they are read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from caffeinit.graph import Graph


@dataclass
class Stage:
    """One part of the graph that runs without interruption.

    Attributes:
        inputs: values taken as given: graph inputs and what earlier stages kept.
        outputs: values to keep: checkpoints, and what later stages read.
        checkpoints: those of `outputs` that the caller asked for.
        last_use: kept values that no later stage reads; they can be given up after this stage.
    """

    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    last_use: list[str] = field(default_factory=list)

    @property
    def unread(self) -> list[str]:
        """Those of `outputs` that no later stage reads."""
        return [name for name in self.outputs if name in self.last_use]


def plan_stages(
    graph: Graph,
    checkpoints: Sequence[str],
    targets: Sequence[str] = (),
    together: Sequence[Sequence[str]] = (),
    passed: Collection[str] = (),
    after: Mapping[str, Collection[str]] | None = None,
) -> list[Stage]:
    """Return the stages that make every checkpoint, and then the `targets`, in order.

    Args:
        together: groups of checkpoints that must fall into one stage; none may depend on another of its group.
        passed: checkpoints that are looked at only, so that who reads them need not wait.
        after: value -> checkpoints that have to be complete before it is made, though it is not made of them; none of these
            may depend on it.

    A node runs in the last stage that is early enough for all its readers, so that what is kept between stages is the
    checkpoint itself and not everything computed from it.
    """
    moving = graph.moving_values()
    wanted = set(checkpoints)
    levels = _levels_together(graph, wanted.difference(passed), moving, together, after or {})
    placed = _place(graph, wanted, set(targets), levels, moving)
    stages = [Stage() for _ in range(1 + max(placed.values(), default=-1))]
    _connect(graph, stages, placed, wanted, set(targets), moving)
    return [stage for stage in stages if stage.outputs]


def _levels_together(
    graph: Graph,
    checkpoints: Collection[str],
    moving: Collection[str],
    together: Sequence[Sequence[str]],
    after: Mapping[str, Collection[str]],
) -> dict[str, int]:
    """Return the levels with every group on one, and each value above what it waits for.

    Raising one may raise what depends on it, so until at rest.
    """
    least: dict[str, int] = {}
    while True:
        levels = _levels(graph, checkpoints, moving, least)
        wanted = {member: max(levels[m] for m in group) for group in together for member in group}
        for value, first in after.items():
            if value in levels:
                # What moves not has no level.
                wanted[value] = max([levels[value], *(levels.get(f, 0) + 1 for f in first)])
        if wanted == {value: levels[value] for value in wanted}:
            return levels
        assert max(wanted.values()) <= len(graph.nodes), "checkpoints depend on each other"
        least = wanted


def _levels(
    graph: Graph, checkpoints: Collection[str], moving: Collection[str], least: Mapping[str, int]
) -> dict[str, int]:
    """Return for each moving value the first stage in which it can be computed, not below `least`."""
    levels = dict.fromkeys(graph.inputs, 0)
    for node in graph.nodes:
        below = [levels[i] + (i in checkpoints) for i in node.input if i in moving]
        if below:
            levels.update({o: max(*below, *(least.get(o, 0) for o in node.output if o)) for o in node.output if o})
    return levels


def _place(
    graph: Graph,
    checkpoints: Collection[str],
    targets: Collection[str],
    levels: dict[str, int],
    moving: Collection[str],
) -> dict[int, int]:
    """Return node index -> stage; nodes that nothing wanted depends on are left out."""
    last = max(levels.values(), default=0)
    needed: dict[str, int] = {}  # value -> the earliest stage that reads it
    placed: dict[int, int] = {}
    for index in range(len(graph.nodes) - 1, -1, -1):
        node = graph.nodes[index]
        outputs = [o for o in node.output if o and o in moving]
        stages = [needed[o] for o in outputs if o in needed]
        stages += [levels[o] for o in outputs if o in checkpoints]
        stages += [last for o in outputs if o in targets]
        if not stages:
            continue
        placed[index] = min(stages)
        for name in node.input:
            if name in moving:
                needed[name] = min(needed.get(name, placed[index]), placed[index])
    return placed


def _connect(
    graph: Graph,
    stages: list[Stage],
    placed: dict[int, int],
    checkpoints: Collection[str],
    targets: Collection[str],
    moving: Collection[str],
) -> None:
    """Fill in what each stage takes, keeps and may give up."""
    made: dict[str, int] = {o: placed[i] for i, n in enumerate(graph.nodes) if i in placed for o in n.output if o}
    reads: list[dict[str, None]] = [{} for _ in stages]
    for index, place in placed.items():
        node: onnx.NodeProto = graph.nodes[index]
        reads[place].update(dict.fromkeys(i for i in node.input if i in moving))
    final = {
        name: max((s for s, read in enumerate(reads) if name in read), default=-1) for name in [*graph.inputs, *made]
    }
    for number, stage in enumerate(stages):
        stage.inputs = [i for i in reads[number] if made.get(i, -1) < number]
        stage.checkpoints = [c for c in made if c in checkpoints and made[c] == number]
        stage.outputs = [
            o for o, s in made.items() if s == number and (o in checkpoints or o in targets or final[o] > number)
        ]
        stage.last_use = [
            o for o in final if o not in targets and max(final[o], made.get(o, -1)) == number and o not in graph.inputs
        ]
