"""Graphs of ONNX nodes, as all parts speak of them, and what can be read off one: sizes, axes, heads, what is constant.

What there is to know of an operator is told by its rule (`rules`), which the package `ops` holds.
"""

from caffeinit.graph.graph import OPSET, Graph, Operand, Shape, attribute

__all__ = ["OPSET", "Graph", "Operand", "Shape", "attribute"]
