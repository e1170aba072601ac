"""What rules append is in the form of the graph's opset, whichever of those from ours on it is."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import CaffeinitError
from caffeinit.graph import OPSET
from tests.ops.checks import LATER, build, skip_newer, written_graph
from tests.ops.test_rules import CASES


def written_at(row, opset):
    """Return a row as exporters write it at a later opset."""
    operands, attributes = list(row.operands), dict(row.attributes)
    if row.op.startswith("Reduce") and "axes" in attributes:
        operands.append(np.asarray(attributes.pop("axes"), np.int64))
    if row.op == "Split" and len(operands) == 1:
        attributes.setdefault("num_outputs", row.outputs)
    if row.op == "GridSample" and opset >= 20:
        attributes["mode"] = attributes.get("mode", "linear")
    return replace(row, operands=operands, attributes=attributes, opset=opset)


def context_of(opset):
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = 11, {"": opset}
    return context


@pytest.mark.parametrize("row", [row for row in CASES if row.opset >= OPSET], ids=str)
def test_gradients_are_valid_at_every_later_opset_and_run_where_the_operator_does(row):
    skip_newer(row)
    for opset in (v for v in LATER if v >= row.opset):
        later, context = written_at(row, opset), context_of(opset)
        if onnx.defs.get_schema(row.op, opset, "").deprecated or not runs(later):
            continue
        built = build(later)
        for node in built.graph.nodes:
            onnx.checker.check_node(node, context)
        compile_graph(built.graph, list(dict.fromkeys(built.grads)), Settings(threads=1))


def runs(row):
    """Tell whether onnxruntime has the operator at the row's opset."""
    graph, _, results = written_graph(row)
    try:
        compile_graph(graph, results, Settings(threads=1))
    except CaffeinitError as error:
        if "Could not find an implementation" not in str(error):
            raise
        return False
    return True
