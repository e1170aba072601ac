"""Convolutions that take up what stands behind them: stored normalisation, and factors and shifts per channel.

A Conv, and a BatchNormalization, Mul or Add behind it that nobody else reads before, are one Conv whose weight and bias
follow from the learned arrays by further nodes. Differentiated as that, nothing but the convolution itself goes over all
places, and the values in between need not be kept: gamma's gradient comes from the weight's, by the chain rule.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx

from caffeinit.graph import Graph, attribute
from caffeinit.ops.building import to_shape


def absorbed(graph: Graph, kept: Collection[str]) -> Graph:
    """Return a graph that computes the same with fewer passes over its values.

    Args:
        kept: values that must stay, beside the graph's outputs and those that several nodes read.
    """
    chains = _chains(graph, {*kept, *graph.outputs})
    if not chains:
        return graph.copy()
    by_last = {id(chain[-1]): chain for chain in chains}
    inner = {id(node): node for chain in chains for node in chain[:-1]}
    other = graph.without(inner.values(), {})
    nodes, other.nodes = other.nodes, []
    for node in nodes:
        if id(node) in by_last:
            _append_one(other, by_last[id(node)])
        else:
            other.nodes.append(node)
    return other


def _chains(graph: Graph, kept: Collection[str]) -> list[list[onnx.NodeProto]]:
    """Return each Conv with the nodes that it takes up, where there are any."""
    readers, moving = graph.consumers(), graph.moving_values()
    found = []
    for node in graph.nodes:
        if node.op_type != "Conv" or any(i in moving for i in node.input[1:]):
            continue
        chain = [node]
        while True:
            value = chain[-1].output[0]
            follows = readers.get(value, [])
            if value in kept or len(follows) != 1 or not _is_taken_up(graph, follows[0], value, moving):
                break
            chain.append(follows[0])
        if len(chain) > 1:
            found.append(chain)
    return found


def _is_taken_up(graph: Graph, node: onnx.NodeProto, value: str, moving: Collection[str]) -> bool:
    """Tell whether a node gives each channel of `value` a factor or a shift that does not depend on a graph input."""
    if node.op_type == "BatchNormalization":
        own = not attribute(node, "training_mode", 0) and len(node.output) == 1
        return own and node.input[0] == value and not any(i in moving for i in node.input[1:])
    if node.op_type not in ("Mul", "Add") or len(node.input) != 2 or list(node.input).count(value) != 1:
        return False
    operand = _other(node, value)
    shape, dims = graph.shape(value), graph.shape(operand)
    wide = (1,) * (len(shape) - len(dims)) + dims
    # An operand of more axes, or of one number alone, would need other arithmetic.
    return operand not in moving and wide == (1, shape[1], *[1] * (len(shape) - 2))


def _other(node: onnx.NodeProto, value: str) -> str:
    return next(i for i in node.input if i != value)


def _append_one(graph: Graph, chain: Sequence[onnx.NodeProto]) -> None:
    """Append the Conv that computes what the last node of the chain does, and the nodes that its weight and bias need."""
    conv, last = chain[0], chain[-1]
    scope, graph.scope = graph.scope, "absorbed"
    weight, bias = conv.input[1], conv.input[2] if len(conv.input) > 2 else ""
    value, factor = conv.output[0], ""
    for node in chain[1:]:
        times, plus = _factor_and_shift(graph, node, value)
        if times:
            factor = graph.op("Mul", factor, times) if factor else times
            bias = graph.op("Mul", bias, times) if bias else ""
        if plus:
            bias = graph.op("Add", bias, plus) if bias else plus
        value = node.output[0]
    if factor:
        weight = graph.op("Mul", weight, to_shape(graph, factor, [-1] + [1] * (len(graph.shape(weight)) - 1)))
    one = onnx.NodeProto()
    one.CopyFrom(conv)
    one.input[:] = [conv.input[0], weight, *([bias] if bias else [])]
    one.output[:] = [last.output[0]]
    graph.scope = scope
    graph.append(one)


def _factor_and_shift(graph: Graph, node: onnx.NodeProto, value: str) -> tuple[str, str]:
    """Return the node's factor and shift, (C,) each; empty where it has none."""
    if node.op_type != "BatchNormalization":
        operand = to_shape(graph, _other(node, value), [-1])
        return (operand, "") if node.op_type == "Mul" else ("", operand)
    _, scale, bias, mean, variance = node.input
    deviation = graph.op("Sqrt", graph.op("Add", variance, float(attribute(node, "epsilon", 1e-5))))
    factor = graph.op("Div", scale, deviation)
    return factor, graph.op("Sub", bias, graph.op("Mul", mean, factor))
