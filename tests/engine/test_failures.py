import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffeinit


def test_a_model_newer_than_onnxruntime_is_refused_with_the_way_out(tmp_path):
    newest, path = onnx.defs.onnx_opset_version(), tmp_path / "net.onnx"
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", newest)], ir_version=10), path)
    picture = np.full((1, 3, 4, 4), -1, np.float32)
    try:
        told = caffeinit.load(path).forward({"x": picture})["y"]
    except caffeinit.CaffeinitError as error:
        told = str(error)
    if isinstance(told, np.ndarray):
        pytest.skip("this onnxruntime runs the newest opset that this onnx knows")
    assert told.startswith(f"the net cannot be set up: it is of opset {newest}, and the newest that onnxruntime ")
    older = int(told.rsplit("(model, ", 1)[1].rstrip(")"))
    onnx.save(onnx.version_converter.convert_version(onnx.load(path), older), path)
    np.testing.assert_array_equal(caffeinit.load(path).forward({"x": picture})["y"], 0 * picture)
