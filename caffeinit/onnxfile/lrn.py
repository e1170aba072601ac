"""LRN nodes whose alpha may change: taken apart in our graph, and where the file has the number.

Where alpha is to make up for scales it must be an array that plans can multiply (`graph/netnumbers.py`), and so the node
becomes a convolution with a band of alpha / size over squares, a power and a division, as LRN layers of Caffe do. In the
file the node stays, and its attribute gets the new number; a node that leaves the default unsaid gets the attribute.
Source: onnx/onnx.proto, AttributeProto; the operator's specification.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import AttributeProto

from caffeinit.graph import Graph, attribute
from caffeinit.graph.netnumbers import NetNumber
from caffeinit.ops.normalize import band_of
from caffeinit.storage import wire

PARTS = "@parts"  # values inside a node that was taken apart are named after it and this
ALPHA = 1e-4  # the operator's default
_NODE_TYPE, _NODE_OUTPUT, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 2, 5, 7
_NAME, _FLOAT, _KIND = 1, 2, 20


@dataclass(frozen=True)
class Alpha:
    """Where a file has the alpha of an LRN node.

    Attributes:
        frames: the messages around it, the node last.
        number: the four bytes of it; None where the node has none.
    """

    frames: list[wire.Field]
    number: wire.Field | None

    def edit(self, value: float) -> wire.Edit:
        """Return what gives the node another alpha."""
        content = struct.pack("<f", value)
        if self.number is not None:
            return self.number.start, self.number.end, content
        entry = wire.encode_bytes(_NAME, b"alpha") + wire.encode_varint(_FLOAT << 3 | wire.FIXED32) + content
        entry += wire.encode_number(_KIND, AttributeProto.FLOAT)
        at = self.frames[-1].start
        return at, at, wire.encode_bytes(_NODE_ATTRIBUTE, entry)


def find_alpha(data: wire.Buffer, graph: wire.Field, node: wire.Field, budget: wire.Budget) -> tuple[str, Alpha] | None:
    """Return (output, where its alpha is) of a node of a file's graph; None if it is no LRN."""
    inner = list(wire.fields(data, node.start, node.end, budget))

    def texts(number: int) -> list[bytes]:
        return [bytes(data[f.start : f.end]) for f in inner if f.number == number and f.wire == wire.BYTES]

    if texts(_NODE_TYPE) != [b"LRN"] or texts(_NODE_DOMAIN) not in ([], [b""], [b"ai.onnx"]):
        return None
    number = None
    for entry in inner:
        if entry.number == _NODE_ATTRIBUTE and entry.wire == wire.BYTES:
            parts = {f.number: f for f in wire.fields(data, entry.start, entry.end, budget)}
            name, value = parts.get(_NAME), parts.get(_FLOAT)
            if name and value and value.wire == wire.FIXED32 and bytes(data[name.start : name.end]) == b"alpha":
                number = number or value
    outputs = texts(_NODE_OUTPUT)
    return (outputs[0].decode("utf-8", "replace"), Alpha([graph, node], number)) if outputs else None


def taken_apart(graph: Graph, known: Collection[str], numbers: MutableMapping[str, NetNumber]) -> Graph:
    """Return a graph in which the alpha of LRN nodes is an array of its own.

    Args:
        known: outputs of the nodes whose alpha the file can be given.
        numbers: output -> its number; those that are not there yet are added.
    """
    moving = graph.moving_values()
    other = graph.copy()
    nodes, other.nodes = other.nodes, []
    for node in nodes:
        is_ours = node.op_type == "LRN" and not node.domain and node.output[0] in known and node.output[0] in moving
        if is_ours and len(graph.shape(node.input[0])) == 4:  # onnxruntime runs no others
            _append_parts(other, node, numbers)
        else:
            other.nodes.append(node)
    return other


def _append_parts(graph: Graph, node: onnx.NodeProto, numbers: MutableMapping[str, NetNumber]) -> None:
    """Append the nodes that compute what an LRN node does."""
    x, top = node.input[0], node.output[0]
    shape, alpha = graph.shape(x), attribute(node, "alpha", ALPHA)
    kernel = (band_of(node, shape[1]) * alpha).astype(np.float32)[:, :, None, None]
    name = node.name or top
    number = numbers.setdefault(top, NetNumber(name, "alpha", alpha, 2.0, kernel, kind="node"))
    scope, graph.scope = graph.scope, f"{name}{PARTS}"
    weight = graph.fresh("alpha")
    graph.add_initializer(weight, number.array)
    bias = np.full(shape[1], attribute(node, "bias", 1.0), np.float32)
    sums = graph.op("Conv", graph.op("Mul", x, x), weight, bias, kernel_shape=[1, 1])
    graph.op("Div", x, graph.op("Pow", sums, float(attribute(node, "beta", 0.75))), name=top)
    graph.scope = scope
    graph.net_numbers[weight] = number
    graph.nearly_homogeneous[top] = x


def changed_alphas(numbers: Mapping[str, NetNumber]) -> dict[str, float]:
    """Return output -> alpha, for the nodes whose alpha is another one than the file has."""
    return {top: number.now for top, number in numbers.items() if number.is_changed}
