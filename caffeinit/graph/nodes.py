"""What messages name nodes of ONNX graphs by, and what has to be true of the names in any graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx

from caffeinit.errors import FormatError

SUBGRAPHS = "caffeinit.subgraphs"  # domain of the functions that nodes with graphs of their own are put into


INSIDE = "@inside"  # follows a value of the file in the names of those that we make on the way to it


# Operators that show an array in another form.
VIEWS = ("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten")


def readers_behind_views(name: str, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """Return the nodes that read a value, looking through plain views.

    Args:
        readers: value -> the nodes that read it.
    """
    found, pending = [], [name]
    while pending:
        for node in readers.get(pending.pop(), []):
            if node.op_type in VIEWS:
                pending.append(node.output[0])
            else:
                found.append(node)
    return found


def rewired(node: onnx.NodeProto, instead: Mapping[str, str]) -> onnx.NodeProto:
    """Return the node, or a copy of it that reads other values where `instead` names some."""
    if not any(name in instead for name in node.input):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [instead.get(name, name) for name in node.input]
    return copy


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """Yield the graphs in a node's attributes."""
    for entry in node.attribute:
        if entry.HasField("g"):
            yield entry.g
        yield from entry.graphs


def nodes_within(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """Yield a node and all nodes in its subgraphs."""
    yield node
    for graph in subgraphs(node):
        for inner in graph.node:
            yield from nodes_within(inner)


def operator_of(node: onnx.NodeProto) -> str:
    """Return the name of a node's operator as the file has it."""
    if node.domain == SUBGRAPHS:
        return node.op_type.rpartition("_")[0]
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def node_label(node: onnx.NodeProto) -> str:
    """Return what messages name a node by: its name, or its operator and what it makes where it has none."""
    if INSIDE in node.name:
        return name_of(node)
    operator = operator_of(node).rpartition(".")[2]
    return f'node "{node.name}" ({operator})' if node.name else f'the {operator} that makes "{_first_output(node)}"'


def name_of(node: onnx.NodeProto) -> str:
    """Return what a reader knows a node by, in reasons; a node of ours as that of the file which it is part of."""
    if INSIDE in node.name:
        return node.name.partition(INSIDE)[0]
    operator = operator_of(node)
    return f"{operator} {node.name}" if node.name else f'{operator} that makes "{_first_output(node)}"'


def value_in(name: str) -> str:
    """Return the node's name, or that of the value that it makes, in what `name_of` returned."""
    made = name.partition(' that makes "')[2]
    return made[:-1] if made else name.partition(" ")[2]


def _first_output(node: onnx.NodeProto) -> str:
    """Return the first value that a node makes; a node of ours inside one of the file goes under what that one makes."""
    return next((o for o in node.output if o), "").partition(INSIDE)[0]


def captured(node: onnx.NodeProto) -> list[str]:
    """Return the values that a node's subgraphs read from around it."""
    found: dict[str, None] = {}
    for graph in subgraphs(node):
        own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
        own |= {t.values.name for t in graph.sparse_initializer}
        for inner in graph.node:
            found |= dict.fromkeys(i for i in (*inner.input, *captured(inner)) if i and i not in own)
            own.update(inner.output)
        found |= dict.fromkeys(v.name for v in graph.output if v.name not in own)
    return list(found)


def all_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield all nodes, those of functions and subgraphs among them."""
    for outermost in (*model.graph.node, *(n for function in model.functions for n in function.node)):
        yield from nodes_within(outermost)


def _names(model: onnx.ModelProto) -> Iterator[str | bytes]:
    """Yield the names of values and operators, which are bytes where they are damaged."""
    for node in all_nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        for graph in subgraphs(node):
            yield from (v.name for v in (*graph.input, *graph.output, *graph.value_info))
            yield from (t.name for t in graph.initializer)
        yield from (entry.name for entry in node.attribute)
    yield from (v.name for v in (*model.graph.input, *model.graph.output, *model.graph.value_info))
    yield from (t.name for t in model.graph.initializer)
    yield from (t.values.name for t in model.graph.sparse_initializer)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output, *function.attribute)
        yield from (entry.domain for entry in function.opset_import)
    yield from (entry.domain for entry in model.opset_import)
    yield from (d.dim_param for v in model.graph.input for d in v.type.tensor_type.shape.dim)


def check_names(model: onnx.ModelProto, where: str) -> None:
    """Refuse a model with names that are no text, and nodes that make nothing.

    Raises:
        FormatError: it has one.
    """
    if any(isinstance(name, bytes) for name in _names(model)):
        raise FormatError(f"{where}: a name in it is no text: it is damaged")
    if not all(node.output for node in all_nodes(model)):
        raise FormatError(f"{where}: a node in it makes nothing: it is damaged")


def check_made_once(graph: onnx.GraphProto, stored: Iterable[str], where: str) -> None:
    """Refuse a graph in which a value is made twice, which has no meaning.

    Args:
        stored: names of its initializers, which may be inputs, too.
    Raises:
        FormatError: it has one.
    """
    makers: dict[str, str] = {}
    for value in graph.input:
        if value.name in makers:
            raise FormatError(f'{where}: two inputs are named "{value.name}": it is damaged')
        makers[value.name] = "as an input"
    makers |= dict.fromkeys(stored, "as an initializer")
    for number, node in enumerate(graph.node):
        own = f'by node "{node.name}" ({node.op_type})' if node.name else f"by node number {number} ({node.op_type})"
        for name in filter(None, node.output):
            if name in makers:
                raise FormatError(f'{where}: value "{name}" is made twice, {makers[name]} and {own}: it is damaged')
            makers[name] = own


def check_outputs(graph: onnx.GraphProto, stored: Iterable[str], where: str) -> None:
    """Refuse a graph that is to put out what it does not have.

    Args:
        stored: names of its initializers.
    Raises:
        FormatError: it is one.
    """
    there = {*stored, *(v.name for v in graph.input), *(o for node in graph.node for o in node.output)}
    lost = next((v.name for v in graph.output if v.name not in there), None)
    if lost is not None:
        raise FormatError(f'{where}: nothing makes its output "{lost}"; it is damaged')
