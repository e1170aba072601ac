"""Files that are valid, and written in ways that ours are not."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

import caffeinit


def test_empty_outputs_and_a_concat_of_one_array_are_read(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"c": rng.standard_normal((6, 3, 3, 3)), "w": rng.standard_normal((6, 6))}
    nodes = [
        helper.make_node("Conv", ["x", "c"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["p", ""], kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["q"]),
        helper.make_node("Flatten", ["q"], ["f"]),
        helper.make_node("Concat", ["w"], ["joined"], axis=0),
        helper.make_node("MatMul", ["f", "joined"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", ["N", 3, 9, 9]), ("y", ["N", 6]))]
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    net = caffeinit.load(tmp_path / "net.onnx")
    result = caffeinit.rescale(net, rng.standard_normal((8, 3, 9, 9)).astype(np.float32))
    reasons = {unit.name: unit.reason for unit in result.units}
    assert list(reasons) == ["c", "joined"]
    assert "is computed by Concat in the graph" in reasons["joined"]
    assert not net.skipped
