"""A net as boxes for a picture: layers with what follows them in a line, so that Conv, BatchNorm, Scale and ReLU are one.

A box begins with an input, with a layer that has weights of its own (an affine unit), and wherever branches part or meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx

from caffeinit.graph import Graph, Shape
from caffeinit.graph.nodes import INSIDE, value_in
from caffeinit.model.network import Network
from caffeinit.scales.free import UnitScales

# Operators that move numbers about only; not worth a word beside others.
_QUIET = {"Reshape", "Identity", "Cast", "Squeeze", "Unsqueeze", "Transpose", "Split"}


@dataclass
class Box:
    """One box.

    Attributes:
        name: of the layer that it begins with. types: of all its layers.
        units: scales of the units in it.
        shape: of what leaves it, batch axis left out; None where it is not known.
        readers: indices of the boxes that read it.
    """

    name: str
    types: list[str]
    units: list[UnitScales] = field(default_factory=list)
    shape: Shape | None = None
    readers: list[int] = field(default_factory=list)


@dataclass
class _Step:
    """A layer's nodes."""

    name: str
    type: str
    nodes: list[onnx.NodeProto]
    units: list[int]

    def reads(self) -> list[str]:
        made = set(self.makes())
        return list(dict.fromkeys(i for n in self.nodes for i in n.input if i not in made))

    def makes(self) -> list[str]:
        return [o for n in self.nodes for o in n.output if o]


def find_boxes(network: Network, scales: list[UnitScales]) -> list[Box]:
    """Return the boxes of a net, inputs first, then in the order of the graph.

    Args:
        scales: of the net's units, in their order.
    """
    graph = network.graph
    steps = _steps(network)
    maker = {name: -1 - n for n, name in enumerate(graph.inputs)}
    maker |= {value: n for n, step in enumerate(steps) for value in step.makes()}
    sources = [list(dict.fromkeys(maker[v] for v in step.reads() if v in maker)) for step in steps]
    num_readers: dict[int, int] = {}
    for found in sources:
        for source in found:
            num_readers[source] = num_readers.get(source, 0) + 1
    boxes = [Box(name, ["input"], shape=shape[1:]) for name, shape in graph.inputs.items()]
    place = {-1 - n: n for n in range(len(boxes))}
    ends = set(graph.outputs)
    for n, step in enumerate(steps):
        source = sources[n][0] if len(sources[n]) == 1 else -1
        begins = any(network.units[u].kind == "affine" for u in step.units)
        if begins or source < 0 or num_readers[source] > 1 or ends & set(steps[source].makes()):
            boxes.append(Box(step.name, []))
            place[n] = len(boxes) - 1
            for other in sources[n]:
                boxes[place[other]].readers.append(place[n])
        else:
            place[n] = place[source]
        box = boxes[place[n]]
        box.types.append(step.type)
        box.units += [scales[u] for u in step.units]
        box.shape = _shape(graph, step.makes()[-1])
    for box in boxes:
        box.readers = list(dict.fromkeys(box.readers))
    return boxes


def _steps(network: Network) -> list[_Step]:
    """Return the nodes that depend on an input, layer by layer where the source has layers, else one by one."""
    moving = network.graph.moving_values()
    unit_at = {id(use.node): n for n, unit in enumerate(network.units) for use in unit.uses}
    steps: list[_Step] = []
    waiting: list[onnx.NodeProto] = []
    inside: dict[str, _Step] = {}  # operators of the file that several nodes stand for

    def take(nodes: list[onnx.NodeProto], name: str, kind: str) -> None:
        units = list(dict.fromkeys(unit_at[id(n)] for n in nodes if id(n) in unit_at))
        if steps and network.makers and steps[-1].name == name:  # a layer with several tops
            steps[-1].nodes += nodes
            steps[-1].units += [u for u in units if u not in steps[-1].units]
        else:
            steps.append(_Step(name, kind, nodes, units))

    for node in network.graph.nodes:
        if not any(i in moving for i in node.input):
            continue
        whole, mark, _ = node.name.partition(INSIDE)
        if mark:
            if whole not in inside:
                take([], value_in(whole), whole.partition(" ")[0])
                inside[whole] = steps[-1]
            inside[whole].nodes.append(node)
            inside[whole].units += [unit_at[id(node)]] if id(node) in unit_at else []
            continue
        waiting.append(node)
        made = next((network.makers[o] for o in node.output if o in network.makers), None)
        if made is not None or not network.makers:
            take(waiting, *(made or (node.output[0], node.op_type)))
            waiting = []
    for node in waiting:
        take([node], node.output[0], node.op_type)
    return steps


def _shape(graph: Graph, value: str) -> Shape | None:
    try:
        return graph.shape(value)[1:]
    except KeyError:
        return None


def kinds(box: Box) -> str:
    """Return the types of a box's layers in a line, quiet ones left out where there are others."""
    told = [t for t in dict.fromkeys(box.types) if t not in _QUIET] or list(dict.fromkeys(box.types))
    return ", ".join(told)
