"""How a walk for scales passes nearly homogeneous layers (LRN, activations), whose nodes it does not look at one by one.

All channels of such a layer's input have one scale. Where the net may be *rewritten*, a number of its text makes up for
that scale, and the output has the same, exactly. In a *relaxed* walk, for which the function need not be kept, the output
has a scale of its own, which follows the input's by a curve.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caffeinit.graph import Graph
from caffeinit.graph.netnumbers import number_behind
from caffeinit.ops.labels import PINNED
from caffeinit.scales.activations import find_activations
from caffeinit.scales.standardised import find_standardised

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


@dataclass(frozen=True)
class Bond:
    """A layer whose output's scale follows its input's by a curve of its own.

    Attributes:
        bottom, top: the layer's input and output.
        inputs, outputs: the one label that each of them has.
        is_elementwise: whether each number that it puts out follows from one that it reads.
    """

    bottom: str
    top: str
    inputs: int
    outputs: int
    is_elementwise: bool = False


@dataclass(frozen=True)
class Passed:
    """A layer that is passed as a whole.

    Attributes:
        bottom: what it reads.
        number: the number of the net that makes up for its input's scale; None where its output follows by a curve.
        axes: over which what it reads is standardised, so that its output follows in no way; None where it is not.
        is_elementwise: as of its bond.
    """

    bottom: str
    number: str | None = None
    is_elementwise: bool = False
    axes: tuple[int, ...] | None = None


def passed_layers(graph: Graph, relaxed: bool, rewritten: bool, bending: bool) -> dict[str, Passed]:
    """Return the outputs of layers that are passed as a whole -> how; `bending`: activations, too."""
    found = {top: Passed(x, None, True) for top, x in find_activations(graph).items()} if relaxed and bending else {}
    if relaxed:
        found |= {top: Passed(own.bottom, axes=own.axes) for top, own in find_standardised(graph).items()}
    for top, bottom in graph.nearly_homogeneous.items():
        number = number_behind(graph, top) if rewritten else None
        if relaxed or number:
            found[top] = Passed(bottom, number)
    return found


def interior(graph: Graph, passed: Mapping[str, Passed]) -> set[int]:
    """Return the ids of the nodes inside layers."""
    return {id(n) for top, layer in passed.items() for n in graph.ancestors([top], [layer.bottom])}


def values_below(graph: Graph, bond: Bond, heads: Collection[str]) -> set[str]:
    """Return the values that heads depend on through a bond's layer alone."""
    through = {o for node in graph.ancestors(heads) for o in node.output}
    beside = {o for node in graph.ancestors(heads, [bond.top]) for o in node.output}
    return through - beside - {bond.top}


def pass_layer(scales: Scales, top: str, passed: Passed) -> None:
    """State the labels of a layer's output, once its input's are known."""
    graph, constraints = scales.graph, scales.constraints
    below, number, ones = passed.bottom, passed.number, (1,) * len(graph.shape(top))
    if passed.axes is not None:
        constraints.collapse(scales.of(below), passed.axes)
        scales.forget(top)
        return
    joined = constraints.collapse(scales.of(below), range(len(graph.shape(below))))
    if number is None and joined.max() <= PINNED:  # nothing learned is below
        scales.put(top, np.full(ones, PINNED))
        return
    if number is None:
        labels = constraints.fresh(ones)
        scales.put(top, labels)
        scales.bonds.append(Bond(below, top, int(joined.flat[0]), int(labels.flat[0]), passed.is_elementwise))
        return
    scales.put(top, joined.reshape(ones))
    taken_up = constraints.combine((graph.net_numbers[number].degree, joined))
    (reader,) = graph.consumers()[number]
    flat = (1,) * len(graph.shape(number))
    scales.use(reader, number, np.full(flat, PINNED), taken_up.reshape(flat))
