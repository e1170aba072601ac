"""Operators through which no gradient flows.

Some are constant almost everywhere, positions and comparisons among them, so that their gradient is zero. Others are
not differentiated, and a gradient asked through them is refused with the reason.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from caffeinit.graph import Graph
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.activation import AlongAxis
from caffeinit.ops.base import Elementwise, rewritten
from caffeinit.ops.scaling import compares, fills, forgets, pools_regions, ties_axis

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


class Flat(OpRule):
    """Constant almost everywhere: the gradient is zero."""

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return no gradient for any input."""
        return [None] * len(node.input)


@op_rule("Ceil", "Floor", "NonMaxSuppression", "Round")
class Steps(Flat):
    """Steps at places that no scale moves."""


@op_rule("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
class Comparison(Elementwise, Flat):
    """Tells which of two operands is larger."""

    scale = compares


@op_rule("ArgMax", "ArgMin")
class Position(Flat):
    """Tells where the extreme is."""

    scale = ties_axis


@op_rule("Hardmax")
class Hardmax(AlongAxis, Flat):
    """y = 1 where the largest along an axis is, else 0."""

    scale = ties_axis

    gradient = Flat.gradient


@op_rule("IsInf", "IsNaN", "NonZero", "Not", "Shape", "Sign", "Size")
class Scaleless(Flat):
    """Does not change when its inputs are scaled."""

    scale = forgets


@op_rule("And", "Or", "Xor")
class Logic(Elementwise, Scaleless):
    """Joins truths."""


@op_rule("EyeLike")
class EyeLike(Scaleless):
    """y = 1 on a diagonal of a matrix, else 0."""

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Each row has its own place."""
        return True


@op_rule("Constant", "ConstantOfShape")
class Constant(Flat):
    """A constant; zeros unless it says otherwise."""

    scale = fills


@op_rule("MaxRoiPool", "RoiAlign")
class Regions(OpRule):
    """Pools regions that the net itself chooses, of any of the pictures."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """Each channel has one scale in all pictures."""
        pools_regions(self, node, scales)
        scales.put(node.output[0], scales.collapse(node.output[0], [0]))

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Each region names a picture by its number, which is another in another batch."""
        return True

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Up to opset 15 RoiAlign did not move places by half a pixel."""
        if opset < 16 and node.op_type == "RoiAlign":
            rewritten(node, graph, node.input, coordinate_transformation_mode="output_half_pixel")
        else:
            graph.append(node)

    refusal = "values at places that are computed are not differentiated"


@op_rule("If", "Loop", "Scan")
class Subgraphs(OpRule):
    """Holds graphs of its own."""

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """What they do with rows is not looked at."""
        return True

    refusal = "graphs inside operators are not differentiated"


@op_rule("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
class Quantized(OpRule):
    """Works on whole numbers."""

    refusal = "quantised values do not change gradually"
