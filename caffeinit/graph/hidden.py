"""Weights of recurrent states, which a graph hides from those who look for units.

An array behind a Concat of one is no plain view. Whoever unrolls a layer hides the weights that it uses again at every
step so, and they stay known for what they are in an ONNX file, whose steps may be as few as one.
"""

from __future__ import annotations

from caffeinit.graph.graph import Graph
from caffeinit.graph.nodes import VIEWS
from caffeinit.graph.products import PRODUCTS


def hide(graph: Graph, array: str) -> str:
    """Return the value of an array that makes no unit."""
    return graph.op("Concat", array, axis=0)


def find_hidden(graph: Graph) -> dict[str, str]:
    """Return operands of products -> the hidden array that they are, or are a view of."""
    operands = dict.fromkeys(i for node in graph.nodes if node.op_type in PRODUCTS for i in node.input)
    return {value: array for value in operands if (array := _hidden_array(graph, value))}


def _hidden_array(graph: Graph, value: str) -> str:
    """Return the array that is hidden in a value; empty where there is none."""
    is_hidden = False
    while (node := graph.producer(value)) is not None and not node.domain:
        if node.op_type == "Concat" and len(node.input) == 1:
            is_hidden = True
        elif node.op_type not in VIEWS:
            return ""
        value = node.input[0]
    return value if is_hidden and value in graph.initializers else ""
