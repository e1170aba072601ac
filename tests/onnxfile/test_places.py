"""Operators that move or look at places, in models: every channel before them keeps a scale of its own."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import caffeinit
from caffeinit.engine.device import Device
from caffeinit.engine.session import Settings
from caffeinit.methods.within import normalize
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor


def unpooled(b, x):
    """Return x with all but the largest of every 2x2 set to 0, as SegNet does."""
    attributes = {"kernel_shape": [2, 2], "strides": [2, 2]}
    b.nodes.append(helper.make_node("MaxPool", [x], ["largest", "places"], "pool", **attributes))
    return b.op("MaxUnpool", b.conv("largest", "inner", 5, 5), "places", out="unpooled", **attributes)


def sampled(b, x):
    """Return x at places that a layer of its own chooses."""
    grid = b.op("Tanh", b.conv("x", "where", 3, 2), out="grid")
    return b.op("GridSample", x, b.op("Transpose", grid, out="last", perm=[0, 2, 3, 1]), out="sampled")


def norms(b, x):
    return b.op("LpPool", x, out="norms", kernel_shape=[2, 2], strides=[2, 2])


def turned(b, x):
    b.initializers.append(tensor("lengths", np.full(6, 3)))
    rows = b.op("Transpose", x, out="rows", perm=[2, 3, 0, 1])
    rows = b.op("Reshape", rows, b.op("Constant", out="to", value_ints=[8, 6, -1]), out="flat")
    rows = b.op("ReverseSequence", rows, "lengths", out="turned")
    rows = b.op("Reshape", rows, b.op("Constant", out="back", value_ints=[8, 6, -1, 5]), out="apart")
    return b.op("Transpose", rows, out="restored", perm=[2, 3, 0, 1])


@pytest.mark.parametrize("make", [unpooled, sampled, norms, turned], ids=lambda f: f.__name__)
def test_channels_have_scales_of_their_own(make, tmp_path):
    b = Maker(shape=(3, 3, 8, 6))
    x = make(b, b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"))
    b.conv(b.op("Relu", b.conv(x, "conv2", 5, 5), out="r2"), "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, {"x": batch(3)}, mode="equalize")
    assert {u.name: u.done for u in result.units}["conv1.weight"] == "equalized"
    assert not any("no rule" in note for note in net.notes)
    net.save(out)
    assert_same_function(path, out, "x", batch(3))
    changed = [
        t.name
        for t, u in zip(onnx.load(path).graph.initializer, onnx.load(out).graph.initializer, strict=True)
        if t != u
    ]
    assert {"conv1.weight", "conv2.weight", "conv3.weight"} <= {*changed}


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("is_product", [False, True], ids=["convolution", "product"])
def test_places_of_a_whole_batch_are_not_taken_for_those_of_its_parts(is_product, resident, tmp_path):
    """Parts of a batch run side by side, and batches are merged before products: where places count, neither is done."""
    b = Maker(shape=("N", 3, 8, 6))
    x = unpooled(b, b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"))
    if is_product:
        x = b.op("Flatten", x, out="flat")
        b.outputs = [b.op("Gemm", x, b.array("ip.weight", 240, 4), out="ip")]
    else:
        b.outputs = [b.conv(x, "conv3", 5, 4)]
    path = b.save(tmp_path / "net.onnx")
    net = caffeinit.load(path)
    net.settings = Settings(threads=2, device=Device(resident=resident))
    batches = [{"x": part} for part in np.split(batch(24), 3)]
    units = normalize(net, batches)[0]
    assert [unit.reason for unit in units] == [""] * 3
    net.save(tmp_path / "out.onnx")
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    values = np.concatenate([session.run(None, feeds)[0] for feeds in batches])
    np.testing.assert_allclose(values.std(axis=(0, *range(2, values.ndim))), 1, rtol=1e-4)


def test_where_places_are_not_those_of_a_pooling_of_this_size_all_channels_have_one_scale(tmp_path):
    b = Maker(shape=(3, 3, 8, 6))
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    b.initializers.append(tensor("places", np.arange(3 * 5 * 8 * 6).reshape(3, 5, 8, 6)[:, ::-1].copy()))
    x = b.op("MaxUnpool", x, "places", out="moved", kernel_shape=[1, 1])
    b.conv(b.op("Relu", b.conv(x, "conv2", 5, 5), out="r2"), "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, {"x": batch(3)}, mode="equalize")
    assert result.units[0].done == "equalized as far as tied channels allow"
    net.save(out)
    assert_same_function(path, out, "x", batch(3))


@pytest.mark.parametrize("job", [caffeinit.init, caffeinit.rescale])
def test_units_before_chosen_places_and_those_that_choose_them_have_rates(job, tmp_path):
    b = Maker(shape=("N", 3, 8, 6))
    x = sampled(b, b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"))
    b.conv(b.op("Relu", b.conv(x, "conv2", 5, 5), out="r2"), "conv3", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    result = job(net, batch(16))
    found = caffeinit.measure(net, batch(16))
    assert {unit.name: unit.rate > 0 for unit in found.units} == dict.fromkeys(
        ["conv1.weight", "where.weight", "conv2.weight", "conv3.weight"], True
    )
    assert found.rate_spread == pytest.approx(result.rate_spread, abs=1e-3)
