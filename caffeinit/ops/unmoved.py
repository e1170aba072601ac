"""Operators through which no gradient flows.

Some are constant almost everywhere, positions and comparisons among them, so that their gradient is zero. Others are
not differentiated, and a gradient asked through them is refused with the reason.
"""

from __future__ import annotations

import onnx

from caffeinit.graph import Graph
from caffeinit.ops.base import Diffs, OpRule, op_rule


@op_rule(
    "ArgMax",
    "ArgMin",
    "Ceil",
    "Constant",
    "ConstantOfShape",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Less",
    "LessOrEqual",
    "IsInf",
    "IsNaN",
    "NonMaxSuppression",
    "NonZero",
    "Not",
    "OneHot",
    "Or",
    "Range",
    "Round",
    "Shape",
    "Sign",
    "Size",
    "Xor",
)
class Steps(OpRule):
    """Constant almost everywhere: the gradient is zero."""

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Return no gradient for any input."""
        return [None] * len(node.input)


@op_rule("MaxRoiPool", "RoiAlign")
class Regions(OpRule):
    """Pools regions that the net itself chooses."""

    refusal = "pooling of regions is not differentiated"


@op_rule("Compress")
class Compress(OpRule):
    """Keeps the slices that a condition names."""

    refusal = "how many values it keeps depends on the data"


@op_rule("If", "Loop", "Scan")
class Subgraphs(OpRule):
    """Holds graphs of its own."""

    refusal = "graphs inside operators are not differentiated"


@op_rule("LSTM", "GRU", "RNN")
class Recurrent(OpRule):
    """Runs over a sequence."""

    refusal = "fused recurrent operators are not differentiated"


@op_rule("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
class Quantized(OpRule):
    """Works on whole numbers."""

    refusal = "quantised values do not change gradually"
