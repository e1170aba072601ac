"""Tensors within nodes whose numbers lie in data files: they stay, and their files go along."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffeinit
from caffeinit.batch.fingerprints import external_files
from caffeinit.errors import FormatError, WeightsError
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, info, tensor

KERNEL = np.random.default_rng(7).standard_normal((5, 5, 1, 1)).astype(np.float32)


def beside(array, folder, location="within.bin"):
    """Return a tensor whose numbers are in a data file, behind 64 other bytes."""
    found = tensor("k", array)
    (folder / location).write_bytes(bytes(64) + found.raw_data)
    found.ClearField("raw_data")
    found.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "64")):
        found.external_data.add(key=key, value=value)
    return found


def in_a_branch(b, x, kernel):
    low = b.op("Constant", out="low", value_float=0.0)
    flag = b.op("Greater", b.op("ReduceMax", x, out="top", keepdims=0), low, out="flag")
    conv = helper.make_node("Conv", [x, "k"], ["then"])
    then = helper.make_graph([conv], "then", [], [info("then", None)], [kernel])
    other = helper.make_graph([helper.make_node("Identity", [x], ["else"])], "else", [], [info("else", None)])
    b.nodes.append(helper.make_node("If", [flag], ["if"], "if", then_branch=then, else_branch=other))
    return "if"


def in_a_function(b, x, kernel):
    b.domains["mine"] = 1
    nodes = [helper.make_node("Constant", [], ["k"], value=kernel), helper.make_node("Conv", ["v", "k"], ["r"])]
    b.functions.append(helper.make_function("mine", "Kernel", ["v"], ["r"], nodes, [helper.make_opsetid("", 17)]))
    return b.op("Kernel", x, out="called", domain="mine")


def net_with(make, kernel, path):
    b = Maker()
    x = b.op("Relu", b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 5), out="r2")
    b.conv(make(b, x, kernel), "conv3", 5, 4, out="y")
    return b.save(path)


@pytest.mark.parametrize("make", [in_a_branch, in_a_function])
def test_their_files_go_along_with_what_is_written(make, tmp_path):
    source, folder = tmp_path / "a", tmp_path / "b"
    source.mkdir()
    folder.mkdir()
    path = net_with(make, beside(KERNEL, source), source / "net.onnx")
    assert external_files(path) == ["within.bin"]
    net = load(path)
    caffeinit.rescale(net, batch(4)[:1], mode="equalize")
    for out, name in ((folder / "out.onnx", "within.bin"), (source / "out.onnx", "out.onnx.within.bin")):
        net.save(out)
        assert external_files(out) == [name]
        assert (out.parent / name).read_bytes() == (source / "within.bin").read_bytes()
        assert out.read_bytes() != path.read_bytes()
        assert_same_function(path, out, "x", batch(1))


def test_no_other_folder_is_read(tmp_path):
    (tmp_path / "a").mkdir()
    path = net_with(in_a_branch, beside(KERNEL, tmp_path, "../within.bin"), tmp_path / "a" / "net.onnx")
    with pytest.raises(FormatError, match=r"within a node.*only the model's own folder is read"):
        load(path)


def test_files_that_are_cut_off_are_refused(tmp_path):
    path = net_with(in_a_branch, beside(KERNEL[:1], tmp_path), tmp_path / "net.onnx")
    (tmp_path / "within.bin").write_bytes(bytes(80))
    with pytest.raises(WeightsError, match=r"within a node.*has 80 bytes"):
        load(path)


def test_an_array_that_shares_its_numbers_with_one_stays(tmp_path):
    path = net_with(in_a_branch, beside(KERNEL, tmp_path), tmp_path / "net.onnx")
    model = onnx.load(path, load_external_data=False)
    bias = next(t for t in model.graph.initializer if t.name == "conv1.bias")
    shared = beside(KERNEL, tmp_path)
    shared.name, shared.dims[:] = bias.name, bias.dims
    bias.CopyFrom(shared)
    onnx.save(model, path)
    assert "shares its numbers in the data file" in load(path).learned["conv1.bias"].held


def test_a_constant_in_half_precision_is_a_weight_like_others(tmp_path):
    b = Maker()
    kernel = beside(KERNEL.astype(np.float16), tmp_path)
    half = b.op("Cast", b.conv("x", "conv1", 3, 5), out="half", to=TensorProto.FLOAT16)
    b.nodes.append(helper.make_node("Constant", [], ["kernel"], value=kernel))
    b.op("Cast", b.op("Conv", half, "kernel", out="c"), out="y", to=TensorProto.FLOAT)
    path = b.save(tmp_path / "net.onnx")
    np.testing.assert_array_equal(load(path).params["kernel"][0], KERNEL.astype(np.float16))
