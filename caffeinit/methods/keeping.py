"""What a normalising pass keeps of what it measures.

A measured value has to be complete, over all pictures, before its unit is corrected and anything downstream is computed.
What is kept for that is most of the pass' memory, and each byte of it is written and read once more than in a plain
forward pass. So as little as possible is kept:

- Units that follow directly on a measured value, and a ReLU, are left out of the graph: the correction of the kept values
  takes them along.
- Where all that is read of it is a maximum over places, these maxima alone are kept. A correction leaves the order of a
  channel's values as it is.
- Where a convolution makes it of much smaller values with few products, these are kept, and it is computed once more
  when the weights are corrected.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.units import Unit

# Making a value of so many products takes no longer than writing it, reading it and correcting it.
CHEAP_PRODUCTS = 64
SMALLER = 2  # what is kept instead is to be smaller by this factor at least


@dataclass
class Kept:
    """What becomes of the measured values.

    Attributes:
        graph: the graph to run.
        instead: value that is not made -> measured value that equals it once corrected.
        folded: measured value -> units that its correction takes along.
        rectified: measured values whose correction takes a ReLU along as well, after those units.
        pooled: measured value -> its maxima, which are kept and corrected instead.
        again: measured value -> the value that is computed once more in its place.
    """

    graph: Graph
    instead: dict[str, str] = field(default_factory=dict)
    folded: dict[str, list[Unit]] = field(default_factory=dict)
    rectified: set[str] = field(default_factory=set)
    pooled: dict[str, str] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)


def keep_little(
    graph: Graph,
    measured: Mapping[str, Unit],
    following: Mapping[str, Sequence[Unit]],
    wanted: Collection[str],
    whole: Collection[str],
) -> Kept:
    """Return what a pass keeps that corrects what it measures.

    Args:
        measured: values whose moments are taken -> their units.
        following: value -> units directly on it, whose moments follow.
        wanted: values that have to be made as they are.
        whole: measured values that have to be kept themselves.
    """
    graph = graph.copy()  # where names of new values are claimed
    kept, removed = Kept(graph), []
    readers = graph.consumers()
    for value, unit in measured.items():
        taken, units = _followed(graph, readers, value, following, wanted)
        end = units[-1].uses[0].output if units else value
        relu = _sole_reader(graph, readers, end, "Relu") if end not in wanted else None
        last = relu.output[0] if relu is not None else end
        if value not in whole and last not in wanted and _is_cheap(graph, readers, unit, value):
            kept.again[value] = graph.fresh(f"{value}/again")
            continue
        removed += taken if relu is None else [*taken, relu]
        if units:
            kept.folded[value] = units
        if relu is not None:
            kept.rectified.add(value)
        if last != value:
            kept.instead[last] = value
        pool = _sole_reader(graph, readers, last, "MaxPool")
        if pool is not None and {last, value}.isdisjoint(wanted) and value not in whole and _keep_order(units):
            kept.pooled[value] = pool.output[0]
    if removed:
        kept.graph = graph.without(removed, kept.instead)
    if kept.again:
        kept.graph = _with_copies(kept.graph, kept.again)
    return kept


def _followed(
    graph: Graph,
    readers: Mapping[str, Sequence[onnx.NodeProto]],
    value: str,
    following: Mapping[str, Sequence[Unit]],
    wanted: Collection[str],
) -> tuple[list[onnx.NodeProto], list[Unit]]:
    """Return the units that follow on a value one after the other, and their nodes: they are affine in each channel."""
    removed: list[onnx.NodeProto] = []
    units: list[Unit] = []
    end = value
    while len(readers.get(end, [])) == 1 and len(following.get(end, [])) == 1:
        unit = following[end][0]
        use = unit.uses[0]
        nodes = graph.ancestors([use.output], [end])
        if end in wanted or end in graph.outputs or use.output in wanted or readers[end][0] is not use.node:
            break
        removed += [n for n in nodes if n.output[0] in (use.node.output[0], use.output)]
        units.append(unit)
        end = use.output
    return removed, units


def _sole_reader(
    graph: Graph, readers: Mapping[str, Sequence[onnx.NodeProto]], value: str, operator: str
) -> onnx.NodeProto | None:
    """Return the node of this operator, with one output, that alone reads a value."""
    found = readers.get(value, [])
    alone = len(found) == 1 and value not in graph.outputs and found[0].op_type == operator and not found[0].domain
    return found[0] if alone and len(found[0].output) == 1 else None


def _keep_order(units: Sequence[Unit]) -> bool:
    """Tell whether units, and corrections of them, leave the order of a channel's values as it is."""
    return all((unit.weight >= 0).all() for unit in units if unit.weight is not None)


def _is_cheap(graph: Graph, readers: Mapping[str, Sequence[onnx.NodeProto]], unit: Unit, value: str) -> bool:
    """Tell whether a value is best computed once more of what its unit reads."""
    use = next(u for u in unit.uses if u.output == value)
    if use.node.op_type != "Conv" or list(use.node.output) != [value] or unit.weight is None:
        return False
    if value in graph.outputs or not readers.get(value):
        return False
    products = unit.weight.size // unit.num_channels
    size, read = (math.prod(graph.shape(v)) for v in (value, use.input))
    return products <= CHEAP_PRODUCTS and 0 < SMALLER * read <= size


def _with_copies(graph: Graph, again: Mapping[str, str]) -> Graph:
    """Return a graph in which values are made twice, and who reads them reads the second."""
    other = graph.copy()
    other.nodes = []
    for node in graph.nodes:
        rewired = onnx.NodeProto()
        rewired.CopyFrom(node)
        rewired.input[:] = [again.get(name, name) for name in node.input]
        other.append(rewired)
        for number, output in enumerate(node.output):
            if output in again:
                copy = onnx.NodeProto()
                copy.CopyFrom(rewired)
                copy.name = ""
                copy.output[number] = again[output]
                other.append(copy)
    return other
