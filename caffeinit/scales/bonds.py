"""How a walk for scales passes nearly homogeneous layers (LRN), whose nodes it does not look at one by one.

All channels of such a layer's input have one scale. Where the net may be *rewritten*, a number of its text makes up for
that scale, and the output has the same, exactly. In a *relaxed* walk, for which the function need not be kept, the output
has a scale of its own, which follows the input's by a curve.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffeinit.model.graph import Graph
from caffeinit.model.netnumbers import number_behind
from caffeinit.scales.labels import PINNED

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


@dataclass(frozen=True)
class Bond:
    """A layer whose output's scale follows its input's by a curve of its own.

    Attributes:
        bottom, top: the layer's input and output.
        inputs, outputs: the one label that each of them has.
    """

    bottom: str
    top: str
    inputs: int
    outputs: int


def passed_layers(graph: Graph, relaxed: bool, rewritten: bool) -> dict[str, str | None]:
    """Return the outputs of layers that are passed as a whole -> the number that makes up for their scale, or None."""
    numbers = {top: number_behind(graph, top) if rewritten else None for top in graph.nearly_homogeneous}
    return {top: number for top, number in numbers.items() if relaxed or number}


def interior(graph: Graph, tops: Collection[str]) -> set[int]:
    """Return the ids of the nodes inside layers."""
    return {id(n) for top in tops for n in graph.ancestors([top], [graph.nearly_homogeneous[top]])}


def values_below(graph: Graph, bond: Bond, heads: Collection[str]) -> set[str]:
    """Return the values that heads depend on through a bond's layer alone."""
    through = {o for node in graph.ancestors(heads) for o in node.output}
    beside = {o for node in graph.ancestors(heads, [bond.top]) for o in node.output}
    return through - beside - {bond.top}


def pass_layer(scales: Scales, top: str, number: str | None) -> None:
    """State the labels of a layer's output, once its input's are known."""
    graph, constraints = scales.graph, scales.constraints
    below, ones = graph.nearly_homogeneous[top], (1,) * len(graph.shape(top))
    joined = constraints.collapse(scales.of(below), range(len(graph.shape(below))))
    if number is None:
        labels = constraints.fresh(ones)
        scales.put(top, labels)
        scales.bonds.append(Bond(below, top, int(joined.flat[0]), int(labels.flat[0])))
        return
    scales.put(top, joined.reshape(ones))
    taken_up = constraints.combine((graph.net_numbers[number].degree, joined))
    (reader,) = graph.consumers()[number]
    flat = (1,) * len(graph.shape(number))
    scales.use(reader, number, np.full(flat, PINNED), taken_up.reshape(flat))
