"""Which arrays of an ONNX model have to stay as they are, and why.

An array that changes may change what it must not: a default that callers know, an output of the model, what a subgraph, or
the arithmetic that another layer's weight comes from, reads of it, or an array that lies on the same bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import onnx
from onnx import TensorProto

from caffeinit.graph import Graph
from caffeinit.graph.nodes import INSIDE, captured
from caffeinit.graph.units import Learned
from caffeinit.onnxfile.container import Container
from caffeinit.onnxfile.learning import inside_layers
from caffeinit.onnxfile.plain import Plain
from caffeinit.onnxfile.tensors import Tensor


def find_held(file: Container, plain: Plain) -> dict[str, str]:
    """Return array -> why it has to stay as it is."""
    model, tensors = file.model, file.tensors
    lacking = [name for name in plain.arrays if name not in tensors]
    held = dict.fromkeys(lacking, "stands in a function of the model") | plain.inside
    for name, tensor in tensors.items():
        if tensor.elem_type == TensorProto.BFLOAT16:
            held[name] = "is stored as bfloat16, of which no numbers are changed"
    held |= dict.fromkeys(file.sparse, "is stored as a sparse array: its zeros stay, and so do its other numbers")
    inputs = {v.name for v in model.graph.input}
    # IR versions below 4 list every initializer as an input, and some exporters still do. Where only some are listed,
    # their numbers are defaults that a caller may feed others for.
    listed = [name for name in file.initializers if name in inputs]
    if model.ir_version >= 4 and len(listed) < len(file.initializers):
        held |= dict.fromkeys(listed, "is also an input of the model: its numbers are a default")
    held |= _put_out(plain.graph, plain.arrays, {v.name for v in plain.inputs})
    held |= {v.name: "is also an output of the model" for v in model.graph.output if v.name in tensors}
    held |= {n: f"is read inside {reader}" for n, reader in _read_within(model).items() if n in tensors}
    for one, other in _sharing([*tensors.items(), *((tensor.where, tensor) for tensor in file.within)]):
        held |= {one: f'shares its numbers in the data file with "{other}"'}
        held |= {other: f'shares its numbers in the data file with "{one}"'}
    return held


def held_for(
    spelt: Graph, free: Graph, before: Graph, computed: Mapping[str, Learned], gains: Collection[str]
) -> dict[str, str]:
    """Return array -> why it stays: something else was worked out from it, and would not follow a change of it.

    Args:
        spelt, free: the graph with the arithmetic of its shapes, and with what follows from that worked out.
        before: the graph in which weights are not worked out yet, and `computed`: array -> such a weight.
        gains: arrays that are no part of what was worked out.
    """
    settled = [name for name in free.initializers if spelt.producer(name) is not None]
    weights = _made_of(before.nodes, [of.layer for of in computed.values()])
    parts = _made_of(spelt.nodes, settled) | {name: of for name, of in weights.items() if name not in gains}
    named = {of: "something inside" if INSIDE in of else f'"{of}"' for of in parts.values()}
    return {n: f"is also what {named[of]} is computed from" for n, of in parts.items() if n in spelt.initializers}


def held_inside(graph: Graph) -> dict[str, str]:
    """Return array -> why it stays, of those that normalisations across neighbours are made of."""
    moving, inside = graph.moving_values(), inside_layers(graph)
    found = {i for node in graph.nodes if id(node) in inside for i in node.input if i and i not in moving}
    return dict.fromkeys(_made_of(graph.nodes, found), "is also part of a normalisation across neighbours")


def _put_out(graph: onnx.GraphProto, arrays: Collection[str], inputs: Collection[str]) -> dict[str, str]:
    """Return array -> why it stays, of those that outputs are made of which follow from no input's numbers."""
    moving = set(inputs)
    for node in graph.node:
        if not moving.isdisjoint(_taken(node)):
            moving.update(node.output)
    made = _made_of(graph.node, [v.name for v in graph.output if v.name not in moving])
    return {name: f'is also what the output "{of}" is made of' for name, of in made.items() if name in arrays}


def _made_of(nodes: Sequence[onnx.NodeProto], values: Iterable[str]) -> dict[str, str]:
    """Return what goes into some values with its numbers -> one of these values."""
    found = {value: value for value in values}
    for node in reversed(nodes):
        own = [found[o] for o in node.output if o and o in found]
        for name in _taken(node) if own else ():
            found.setdefault(name, own[0])
    return found


def _taken(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node takes numbers of, and not the extents or the type alone."""
    few = {"Shape": 0, "Size": 0, "CastLike": 1} if node.domain in ("", "ai.onnx") else {}
    return [*node.input[: few.get(node.op_type, len(node.input))], *captured(node)]


def _read_within(model: onnx.ModelProto) -> dict[str, str]:
    """Return value -> the node with a subgraph that reads it from inside."""
    return {
        name: f'{node.op_type} "{node.name}"' if node.name else node.op_type
        for node in model.graph.node
        for name in captured(node)
    }


def _sharing(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str]]:
    """Yield pairs of named tensors that have bytes of a data file in common; each that has any is in a pair."""
    placed = [(*tensor.place, tensor.num_bytes, name) for name, tensor in tensors if tensor.place]
    last: tuple[str, int, str] = ("", 0, "")  # the file and the end of what reaches farthest until now, and its name
    for location, offset, size, name in sorted(p for p in placed if p[2]):
        if location == last[0] and offset < last[1]:
            yield last[2], name
        last = max(last, (location, offset + size, name)) if location == last[0] else (location, offset + size, name)
