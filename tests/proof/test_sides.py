"""Sides that take other batches, other inputs or none, or put out what no input influences: what is compared, and told."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.export import export_onnx
from caffeinit.proof.comparison import compare, compare_networks
from caffeinit.proof.functions import NetFunction

NET = """
input: "data" input_shape { dim: 1 dim: 3 dim: 6 dim: 5 }
layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
RNG = np.random.default_rng(0)
ROWS = {"data": RNG.standard_normal((10, 3, 6, 5)).astype("f4"), "label": np.arange(10, dtype="f4") % 4}


@pytest.fixture
def net(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    net = caffeinit.load(tmp_path / "net.prototxt")
    caffeinit.init(net, ROWS["data"], balanced=False)
    return net


def stated(path, rows, out):
    """Write a model with a stated batch in place of an open one."""
    model = onnx.load(path)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = rows
    onnx.save(model, out)
    return out


@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("turned", [False, True])
def test_a_loss_over_pictures_is_not_compared_where_they_come_in_pieces(net, tmp_path, rows, turned):
    export_onnx(net, tmp_path / "net.onnx")
    sides = [NetFunction(net, "net"), OnnxFunction(stated(tmp_path / "net.onnx", rows, tmp_path / "rows.onnx"))]
    found = compare(*(sides[::-1] if turned else sides), [ROWS])
    assert ([d.name for d in found.outputs], found.same) == (["ip"], True)
    assert f"{sides[1].label} takes at a time" in found.notes[0]
    whole = compare(sides[0], OnnxFunction(tmp_path / "net.onnx"), [ROWS])
    assert ([d.name for d in whole.outputs], whole.same) == (["loss", "ip"], True)


def test_labels_do_not_hide_which_input_takes_the_pictures(net, tmp_path):
    arrays = {name: net.graph.initializers[name] for unit in net.units for name in unit.initializers}
    weight, bias = arrays.values()
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["ip"], transB=1),
    ]
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 6, 5])]
    told = [helper.make_tensor_value_info("ip", TensorProto.FLOAT, None)]
    stored = [
        numpy_helper.from_array(np.array(a).reshape(s), n) for n, a, s in (("w", weight, (4, 90)), ("b", bias, 4))
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", ends, told, stored), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    onnx.save(model, tmp_path / "deploy.onnx")
    found = compare(NetFunction(net, "net"), OnnxFunction(tmp_path / "deploy.onnx"), [ROWS])
    assert ([d.name for d in found.outputs], found.same) == (["ip"], True)


def test_labels_are_read_as_they_are(tmp_path):
    text = NET.replace("dim: 1 } } }", "dim: 1 dim: 1 dim: 6 dim: 5 } } }", 1)
    text = text.replace("InnerProduct", "Convolution").replace(
        "inner_product_param { num", "convolution_param { kernel_size: 1 num"
    )
    (tmp_path / "net.prototxt").write_text(text)
    net = caffeinit.load(tmp_path / "net.prototxt")
    labels = (np.arange(300, dtype="f4") % 4).reshape(10, 1, 6, 5)
    np.savez(tmp_path / "both.npz", data=ROWS["data"], label=labels)
    (batch,) = caffeinit.read_images(net, str(tmp_path / "both.npz"), labels=True, scale=0.5, mean=[1, 2, 3])
    np.testing.assert_array_equal(batch["label"], labels)
    assert not np.array_equal(batch["data"], ROWS["data"])


def still(path, by, values=(1.0, 2.0)):
    """Write a model with an output that follows from an array alone, and one that an If makes of an input from within."""
    branches = [
        helper.make_graph(
            [helper.make_node(kind, ["x"], [out])], out, [], [helper.make_tensor_value_info(out, 1, None)]
        )
        for kind, out in (("Relu", "yes"), ("Neg", "no"))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Mul", ["anchors", "by"], ["still"]),
        helper.make_node("If", ["condition"], ["within"], then_branch=branches[0], else_branch=branches[1]),
    ]
    arrays = {"w": np.eye(2), "anchors": np.array(values), "by": np.array(by)}
    stored = [numpy_helper.from_array(np.asarray(a, np.float32), n) for n, a in arrays.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 2]) for n in ("x", "y", "within")]
    told = helper.make_tensor_value_info("still", TensorProto.FLOAT, None)
    stored.append(numpy_helper.from_array(np.array(True), "condition"))
    graph = helper.make_graph(nodes, "net", ends[:1], [*ends[1:], told], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_outputs_that_no_input_influences_are_compared_of_files_and_of_networks(tmp_path):
    one, other = still(tmp_path / "one.onnx", 1.0), still(tmp_path / "other.onnx", 3.0)
    rows = [{"x": np.ones((3, 2), np.float32)}]
    expected = {"y": 0.0, "within": 0.0, "still": 2.0}
    found = compare(OnnxFunction(one), OnnxFunction(other), rows)
    assert {d.name: d.relative for d in found.outputs} == expected
    found = compare_networks(caffeinit.load(one), caffeinit.load(other), rows)
    assert {d.name: d.relative for d in found.outputs} == expected
    assert not found.notes


def test_stored_numbers_that_are_none_are_the_same_as_themselves(tmp_path):
    path = still(tmp_path / "net.onnx", 1.0, values=(np.nan, 2.0))
    rows = [{"x": np.ones((3, 2), np.float32)}]
    assert compare(OnnxFunction(path), OnnxFunction(path), rows).same
    other = still(tmp_path / "other.onnx", 1.0, values=(0.0, 2.0))
    assert not compare(OnnxFunction(path), OnnxFunction(other), rows).same
