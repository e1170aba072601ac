"""Weights that a model computes from an array and a gain for each output: the gains take up scales, in the file itself."""

import math

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.inspection import inspect_files
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor


def ints(b, *values):
    b.initializers.append(tensor(f"ints{len(b.initializers)}", np.asarray(values, np.int64)))
    return b.initializers[-1].name


def op(b, kind, *inputs, **attributes):
    return b.op(kind, *inputs, out=f"{kind}{len(b.nodes)}", **attributes)


def standardized(b, name, inputs, outputs):
    """As torch exports the convolutions of normalizer-free nets: by BatchNormalization of the rows."""
    rows = op(b, "Reshape", b.array(f"{name}.weight", outputs, inputs, 3, 3), ints(b, 1, outputs, -1))
    mean = op(b, "ReduceMean", rows, axes=[0, 2], keepdims=0)
    apart = op(b, "Sub", rows, op(b, "ReduceMean", rows, axes=[0, 2], keepdims=1))
    variance = op(b, "ReduceMean", op(b, "Mul", apart, apart), axes=[0, 2], keepdims=0)
    b.initializers.append(tensor(f"{name}.zeros", np.zeros(outputs, np.float32)))
    row = op(b, "BatchNormalization", rows, b.array(f"{name}.gain", outputs), f"{name}.zeros", mean, variance)
    return op(b, "Reshape", row, ints(b, outputs, inputs, 3, 3))


def normalized(b, name, inputs, outputs):
    """Weight normalisation: v times gain / |v|."""
    v = b.array(f"{name}.weight", outputs, inputs, 3, 3)
    size = op(b, "ReduceL2", v, axes=[1, 2, 3], keepdims=1)
    return op(b, "Mul", v, op(b, "Div", b.array(f"{name}.gain", outputs, 1, 1, 1), size))


def doubly(b, name, inputs, outputs):
    """The square of the gain: no factor that a scale could go into."""
    square = op(b, "Mul", b.array(f"{name}.gain", outputs, 1, 1, 1), f"{name}.gain")
    return op(b, "Mul", b.array(f"{name}.weight", outputs, inputs, 3, 3), square)


def turned(b, name, inputs, outputs):
    """The gain lies along the inputs."""
    return op(b, "Mul", b.array(f"{name}.weight", outputs, inputs, 3, 3), b.array(f"{name}.gain", 1, inputs, 1, 1))


def shifted(b, name, inputs, outputs):
    """The gain is also added."""
    weight = op(b, "Mul", b.array(f"{name}.weight", outputs, inputs, 3, 3), b.array(f"{name}.gain", outputs, 1, 1, 1))
    return op(b, "Add", weight, f"{name}.gain")


def read_twice(b, name, inputs, outputs):
    """The gain is read for something else, too."""
    weight = normalized(b, name, inputs, outputs)
    b.more = op(b, "ReduceMax", f"{name}.gain", keepdims=0)
    return weight


def write(weight, path, bias=True, size=5):
    """Write conv1 -> relu -> conv2 -> relu -> conv3, of which conv2 has a computed weight."""
    b = Maker()
    b.more = None
    x = op(b, "Relu", b.conv("x", "conv1", 3, 5))
    arrays = [weight(b, "conv2", 5, size), *([b.array("conv2.bias", size)] if bias else [])]
    x = b.op("Conv", x, *arrays, out="conv2", pads=[1] * 4)
    x = op(b, "Mul", x, b.more) if b.more else x
    b.conv(op(b, "Relu", x), "conv3", size, 4, out="y")
    return b.save(path)


def arrays(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def deviations(path, x):
    """Return what conv2 has in the file as it was written, by onnxruntime alone."""
    model = onnx.load(path)
    model.graph.output.append(onnx.ValueInfoProto(name="conv2"))
    onnx.save(model, path.with_suffix(".open.onnx"))
    values = OnnxFile(path.with_suffix(".open.onnx"), threads=1).run({"x": x}, ["conv2"])["conv2"]
    return values.std((0, 2, 3), dtype=np.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weight", [standardized, normalized])
def test_gains_take_up_scales(weight, bias, tmp_path):
    path, out = write(weight, tmp_path / "net.onnx", bias), tmp_path / "out.onnx"
    net, x = load(path), batch(8)
    result = caffeinit.rescale(net, {"x": x}, mode="equalize")
    assert {u.name: u.done for u in result.units}["conv2.gain"] == "equalized"
    net.save(out)
    np.testing.assert_allclose(deviations(out, x), 1, rtol=1e-5)
    assert_same_function(path, out, "x", batch(3))
    before, after = arrays(path), arrays(out)
    np.testing.assert_array_equal(after["conv2.weight"], before["conv2.weight"])


@pytest.mark.parametrize("weight", [standardized, normalized])
def test_init_makes_their_channels_alike_and_counts_no_rate_of_theirs(weight, tmp_path):
    net, x, out = load(write(weight, tmp_path / "net.onnx")), batch(8), tmp_path / "out.onnx"
    result = caffeinit.init(net, {"x": x}, balanced=False)
    net.save(out)
    np.testing.assert_allclose(deviations(out, x), 1, rtol=1e-4)
    (left,) = [u for u in result.units if u.kind == "affine" and u.reason]
    assert left.reason.endswith("in the graph, not stored, but for its gain")
    result = caffeinit.rescale(load(out), {"x": x})
    assert result.rate_spread < 1e-3
    assert any(note.endswith(f"is trained in their place: {left.name}") for note in result.notes)


@pytest.mark.parametrize("bias", [True, False])
def test_inspection_counts_them_as_other_convolutions(bias, tmp_path):
    found = inspect_files(write(normalized, tmp_path / "net.onnx", bias), scales=True)
    convs = [layer for layer in found.layers if layer.type == "Conv"]
    assert [c.macs for c in convs] == [
        math.prod(c.tops[0]) * inputs * 9 for c, inputs in zip(convs, (3, 5, 5), strict=True)
    ]


@pytest.mark.parametrize("weight", [doubly, turned, shifted, read_twice])
def test_what_is_no_factor_of_each_output_stays(weight, tmp_path):
    path, out = write(weight, tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, x = load(path), batch(8)
    result = caffeinit.rescale(net, {"x": x}, mode="equalize")
    assert "conv2.gain" not in {u.name for u in result.units}
    net.save(out)
    assert_same_function(path, out, "x", batch(3))
    np.testing.assert_array_equal(arrays(out)["conv2.gain"], arrays(path)["conv2.gain"])


def test_powers_of_two_move_no_bit(tmp_path):
    path, out = write(standardized, tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    caffeinit.rescale(net, {"x": batch(8)}, **options_of(EXACT))
    net.save(out)
    assert not np.array_equal(arrays(out)["conv2.gain"], arrays(path)["conv2.gain"])
    one, other = (OnnxFile(p, threads=1).run({"x": batch(3)}, ["y"])["y"] for p in (path, out))
    np.testing.assert_array_equal(one, other)


def test_a_gain_that_shifts_another_weight_stays_where_it_is(tmp_path):
    """As exporters leave zeros of one length in one array: here it is a gain, there what is added to rows."""
    b = Maker()
    x = op(b, "Conv", "x", standardized(b, "conv1", 3, 5), b.array("conv1.bias", 5), pads=[1] * 4)
    weight = standardized(b, "conv2", 5, 5)
    next(n for n in b.nodes if "conv2.zeros" in n.input).input[2] = "conv1.gain"
    x = op(b, "Conv", op(b, "Relu", x), weight, b.array("conv2.bias", 5), pads=[1] * 4)
    b.conv(op(b, "Relu", x), "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, x = load(path), batch(4)
    wanted = OnnxFile(path, threads=1).run({"x": x}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert "conv1.gain" not in {u.name for u in net.units}
    caffeinit.rescale(net, {"x": x}, mode="equalize")
    net.save(out)
    assert_same_function(path, out, "x", batch(3))


def normalized_along(b, axis, *shape):
    """Weight normalisation with outputs along an axis of the weight."""
    size = op(b, "ReduceL2", b.array("v", *shape), axes=[a for a in range(len(shape)) if a != axis], keepdims=1)
    gains = b.array("gain", *(n if a == axis else 1 for a, n in enumerate(shape)))
    return op(b, "Mul", op(b, "Div", "v", size), gains)


def gemm(b, x):
    return b.op("Gemm", op(b, "Flatten", x), normalized_along(b, 0, 6, 240), b.array("bias", 6), out="mid", transB=1)


def matmul(b, x):
    weight = op(b, "Transpose", normalized_along(b, 0, 6, 5), perm=[1, 0])
    x = op(b, "MatMul", op(b, "Transpose", x, perm=[0, 2, 3, 1]), weight)
    return op(b, "Transpose", b.op("Add", x, b.array("bias", 6), out="mid"), perm=[0, 3, 1, 2])


def deconvolution(b, x):
    return b.op("ConvTranspose", x, normalized_along(b, 1, 5, 6, 2, 2), b.array("bias", 6), out="mid", strides=[2, 2])


@pytest.mark.parametrize("middle", [gemm, matmul, deconvolution])
def test_gains_of_products_and_deconvolutions_are_units_as_well(middle, tmp_path):
    b = Maker()
    y = op(b, "Relu", middle(b, op(b, "Relu", b.conv("x", "conv1", 3, 5))))
    if middle is gemm:
        b.op("Reshape", op(b, "MatMul", y, b.array("last", 6, 4)), ints(b, -1, 4, 1, 1), out="y")
    else:
        b.conv(y, "last", 6, 4, out="y")
    path, out, x = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx", batch(8)
    for done, run in (
        ("equalized", lambda net: caffeinit.rescale(net, {"x": x}, mode="equalize")),
        ("normalised", lambda net: caffeinit.rescale(net, {"x": x}, mode="normalize", balanced=False)),
    ):
        net = load(path)
        result = run(net)
        assert {u.name: u.done for u in result.units}["gain"] == done
        net.save(out, force=True)
        again = {u.name: u.stats.channel_stds for u in caffeinit.measure(load(out), {"x": x}).units}
        np.testing.assert_allclose(again["gain"], 1, rtol=1e-4)
        np.testing.assert_array_equal(arrays(out)["v"], arrays(path)["v"])
        if done == "equalized":
            assert_same_function(path, out, "x", batch(3))
