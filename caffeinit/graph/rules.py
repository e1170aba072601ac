"""What is to be told of each ONNX operator: its gradient, and how positive factors pass through it.

The rules stand in the package `ops`, one class an operator, and register themselves with `op_rule`; it is loaded when a
rule is first asked for. Graphs, the reverse walk (`gradients/reverse.py`) and the scale classes (`scales/classes.py`) know
no operator. Gradients are nodes of opset 17 that never spell out the batch size.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx

if TYPE_CHECKING:
    from caffeinit.graph.graph import Graph, Shape
    from caffeinit.scales.walk import Scales

Diffs = Sequence[str | None]
# Gets what a node reads beside its weight, and its dy, both of some pictures; returns their weight gradients' sum.
PictureGradient = Callable[[np.ndarray, np.ndarray], np.ndarray]


class OpRule:
    """What one operator does to gradients and to scales.

    Attributes:
        op_type: the operator, set by `op_rule`.
        refusal: why there is no gradient through the operator; None where there is one.
    """

    op_type: str = ""
    refusal: str | None = None

    def is_nearly_homogeneous(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Tell whether a positive factor on the input passes to the output, roughly.

        So it does through an activation that is a multiple of its input where that is large, or where it is small.
        """
        return False

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Append nodes for the gradients of a node's inputs.

        Args:
            dys: per output its gradient, or None where nothing depends on it.
        Returns:
            Per input its gradient, shaped like the input, or None where none flows.
        """
        raise NotImplementedError(self.op_type)

    def modernize(self, node: onnx.NodeProto, graph: Graph, opset: int) -> None:
        """Append a node of an older opset to a graph of opset 17, in that opset's form; most operators have but one."""
        graph.append(node)

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Append nodes that do the same to another graph, if their units or extents are known and those of the node not.

        Args:
            made: gets the nodes; the last of them makes the node's output.
            moving: the values that depend on an input.
        Returns:
            Whether there are such; by default there are none.
        """
        return False

    def known_shape(self, node: onnx.NodeProto, graph: Graph) -> Shape | None:
        """Return the shape of the first output, of the first input's type, where onnx's own inference does not know it.

        Raises:
            KeyError: the rank of what it reads is not known.
        """
        return None

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """State how the scales of a node's values hang together; by default the operator is a barrier."""
        scales.barrier(node)

    def is_exact(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Tell whether powers of two on what it reads that come out as powers of two leave all other digits as they are."""
        return True

    def axes_behind_factors(self, node: onnx.NodeProto, graph: Graph) -> int | None:
        """Return how many axes follow the one along which the second input has factors, by which all is multiplied last.

        A third input has shifts that are added then. None by default: the operator is no such one.
        """
        return None

    def picture_gradient(self, node: onnx.NodeProto, graph: Graph, side: int) -> PictureGradient | None:
        """Return what computes the gradient of a weight outside of the graph, for pictures by themselves; None by default.

        Args:
            side: which operand the weight is.
        Returns:
            Function of the other operand and of dy, with pictures on axis 0, to (group, O/group, I/group, *kernel).
        """
        return None

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Tell whether each entry of the output along axis 0 follows from the one there of the inputs that move.

        The caller has seen that all of them have one extent there.
        """
        return False

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Tell whether an entry of the output along axis 0 follows from others of the inputs, or from its own number.

        Where no shape shows that, another batch is another function.
        """
        return False


_RULES: dict[str, OpRule] = {}


def op_rule(*op_types: str) -> Callable[[type[OpRule]], type[OpRule]]:
    """Register a class as the rule of one or more operators of ONNX's own domain."""

    def register(cls: type[OpRule]) -> type[OpRule]:
        for op_type in op_types:
            if op_type in _RULES:
                raise ValueError(f"operator {op_type} is described twice: {type(_RULES[op_type])} and {cls}")
            rule = cls()
            rule.op_type = op_type
            _RULES[op_type] = rule
        return cls

    return register


def find_rule(node: onnx.NodeProto) -> OpRule | None:
    """Return the rule of a node's operator, or None."""
    _load()
    return _RULES.get(node.op_type) if node.domain in ("", "ai.onnx") else None


def known_ops() -> list[str]:
    """Return all operators that have a rule, sorted."""
    _load()
    return sorted(_RULES)


@functools.cache
def _load() -> None:
    importlib.import_module("caffeinit.ops")
