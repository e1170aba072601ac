"""Cuts a graph with gradients into steps, so that what the squares of one unit are taken from need not wait for the rest.

The first step is the net's way forward; then each step brings the gradients of some units, the last of the net first. A
node belongs to the first step that needs it: the mask of a ReLU, say, is made on the way back, of what is kept anyway.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from caffeinit.engine.segments import Segment
from caffeinit.gradients.sources import GradientSource
from caffeinit.graph import Graph

NUM_STEPS = 24  # at most, of about as many numbers: each has a session of its own
LEAST_ELEMENTS = 1 << 20  # of a picture's values that squares are taken from; fewer are not worth a cut


def cut_on_way_back(
    graph: Graph, sources: Mapping[str, Sequence[GradientSource]], given: Collection[str], most: int = NUM_STEPS
) -> list[Segment]:
    """Return the steps that make all that the sources need, which are done with a value when its squares are taken.

    Args:
        sources: unit's first initializer -> where its gradients come from.
        given: values that are there before the first step, beside the graph's inputs.
        most: about how many steps.
    """
    index = {o: at for at, node in enumerate(graph.nodes) for o in node.output if o}
    wanted = [[v for s in of for v in s.values if v in index] for of in sources.values()]
    wanted = sorted(filter(None, wanted), key=lambda values: max(index[v] for v in values))
    step_of: dict[int, int] = {}
    groups: list[list[str]] = []
    for group in _grouped(graph, wanted, most):
        fresh = [node for node in graph.ancestors(group, given) if id(node) not in step_of]
        if groups and not fresh:
            groups[-1] += group  # all of it is there after the last step
            continue
        step_of |= dict.fromkeys(map(id, fresh), len(groups))
        groups.append(group)
    return _connected(graph, step_of, groups)


def _grouped(graph: Graph, wanted: Sequence[Sequence[str]], most: int) -> list[list[str]]:
    """Return the values of consecutive units together until they have their share of all numbers."""
    sizes = [sum(math.prod(s) for v in values if -1 not in (s := graph.shape(v))) for values in wanted]
    share = max(sum(sizes) / most, LEAST_ELEMENTS * graph.batch_size())
    groups: list[list[str]] = []
    size = math.inf
    for values, more in zip(wanted, sizes, strict=True):
        if size >= share:
            groups.append([])
            size = 0
        groups[-1] += values
        size += more
    return groups


def _connected(graph: Graph, step_of: Mapping[int, int], groups: Sequence[Sequence[str]]) -> list[Segment]:
    """Return the steps with what each is given and what it hands on.

    Args:
        step_of: id of a node -> its step.
        groups: for each step, what squares are taken of after it.
    """
    steps = [Segment() for _ in groups]
    reads: list[dict[str, None]] = [{} for _ in groups]
    for node in graph.nodes:
        if id(node) in step_of:
            steps[step_of[id(node)]].made |= dict.fromkeys(o for o in node.output if o)
            reads[step_of[id(node)]] |= dict.fromkeys(i for i in node.input if i)
    there = {*graph.inputs, *(name for step in steps for name in step.made)}
    last = {name: number for number, read in enumerate(reads) for name in read if name in there}
    for number, group in enumerate(groups):
        last |= {name: max(number, last.get(name, number)) for name in group}
    for number, (step, read) in enumerate(zip(steps, reads, strict=True)):
        step.inputs = [i for i in read if i in there and i not in step.made]
        step.outputs = [o for o in step.made if o in groups[number] or last.get(o, -1) > number]
        seen = dict.fromkeys([*step.inputs, *step.outputs, *groups[number]])
        step.last_use = [name for name in seen if last[name] == number and name not in graph.inputs]
    return steps


def held_beside(steps: Sequence[Segment]) -> list[list[str]]:
    """Return for each step the values that wait for later ones while it runs, and that it does not read."""
    made = {name: number for number, step in enumerate(steps) for name in step.outputs}
    gone = {name: number for number, step in enumerate(steps) for name in step.last_use}
    return [
        [name for name, at in made.items() if at < number <= gone[name] and name not in step.inputs]
        for number, step in enumerate(steps)
    ]
