"""What rules of several operators share: how rows go, nodes in another form, and the gradient of the only output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, Operand, attribute
from caffeinit.graph.rules import Diffs, OpRule


class Elementwise(OpRule):
    """An operator on several operands, element by element, with numpy's broadcasting."""

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Element by element; an operand of lower rank would lie along other axes."""
        return all(
            len(graph.shape(i)) == len(graph.shape(node.output[0])) for i in node.input if graph.depends_on_input(i)
        )

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the rows of an operand of lower rank lie along another axis."""
        return not self.is_rowwise(node, graph)


def rewritten(
    node: onnx.NodeProto,
    graph: Graph,
    inputs: Sequence[Operand],
    op_type: str | None = None,
    without: Sequence[str] = (),
    **attributes: Any,
) -> None:
    """Append a node with other inputs, less the attributes in `without`, and with further ones."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.op_type = op_type or node.op_type
    copy.input[:] = [graph.constant(i) for i in inputs]
    del copy.attribute[:]
    copy.attribute.extend(a for a in node.attribute if a.name not in (*without, *attributes))
    copy.attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())
    graph.append(copy)


def with_settings(node: onnx.NodeProto, graph: Graph, *names: str) -> None:
    """Append a node whose settings, attributes of whole numbers so far, are inputs; those behind the last given are left
    out."""
    settings: list[Operand] = [
        np.asarray(v, np.int64) if v is not None else "" for v in (attribute(node, n) for n in names)
    ]
    while settings and isinstance(settings[-1], str):
        settings.pop()
    rewritten(node, graph, [*node.input, *settings], without=names)


def single(dys: Diffs) -> str:
    """Return the gradient of a node's first output, the only one that one flows through.

    Raises:
        GradientError: there is one of another output.
    """
    if dys[0] is None or any(dys[1:]):
        raise GradientError("what it puts out beside its first output is not differentiated")
    return dys[0]
