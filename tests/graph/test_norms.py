"""Statistics of BatchNormalizations are taken up however the file holds their arrays."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch

WAYS = ["as it is", "Identity", "Reshape", "Transpose", "Cast"]


@pytest.mark.parametrize("mode", ["equalize", "normalize"])
@pytest.mark.parametrize("way", WAYS)
def test_statistics_are_seen_through_plain_views(way, mode, tmp_path):
    b = Maker()
    x = b.conv("x", "conv1", 3, 6)
    for name in ("s", "t"):
        b.array(name, 6)
    arrays = {"m": np.linspace(-1, 1, 6, dtype=np.float32), "v": np.linspace(0.5, 2, 6, dtype=np.float32)}
    for name, array in arrays.items():
        stored = array.astype(np.float16) if way == "Cast" else array.reshape(1, 6) if way == "Reshape" else array
        b.initializers.append(numpy_helper.from_array(stored, name))
    b.initializers.append(numpy_helper.from_array(np.array([6]), "six"))
    read = ["m", "v"]
    if way in WAYS[1:]:
        more, settings = (
            (["six"] if way == "Reshape" else []),
            ({"to": onnx.TensorProto.FLOAT} if way == "Cast" else {}),
        )
        read = [b.op(way, name, *more, out=f"{name}2", **settings) for name in read]
    x = b.op("Relu", b.op("BatchNormalization", x, "s", "t", *read, out="norm"), out="relu")
    b.conv(x, "conv2", 6, 4, out="y")
    onnx.save(b.model(), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    result = caffeinit.rescale(net, batch(16), mode=mode)
    first, norm, _ = result.units
    assert (first.name, norm.name) == ("conv1.weight", "s")
    assert (first.done, norm.done) == (("equalized",) * 2 if mode == "equalize" else ("normalised", "statistics set"))
    net.save(tmp_path / "out.onnx")
    if mode == "equalize" and way != "Cast":
        assert_same_function(tmp_path / "net.onnx", tmp_path / "out.onnx", "x", batch())
    found = caffeinit.measure(load(tmp_path / "out.onnx"), batch(16))
    np.testing.assert_allclose(found.units[0].stats.channel_stds, first.after.channel_stds, rtol=1e-3)


@pytest.mark.parametrize("role", ["scale", "bias"])
def test_a_number_that_is_not_the_norms_own_is_not_taken_for_one_or_zero(role, tmp_path):
    """One array is the shift of an InstanceNormalization and the scale, or shift, of a BatchNormalization."""
    b = Maker(shape=("N", 1, 8, 6))
    own, shared = b.array("own", 1), b.array("shared", 1)
    arrays = {"m": [0.3], "v": [2.0], "w1": [[[[1.5]]]], "w2": [[[[-0.4]]]], "w3": [[[[0.7]]]]}
    b.initializers += [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in arrays.items()]
    x = b.op("InstanceNormalization", "x", b.array("first", 1), shared, out="instance")
    b.op("Floor", x, out="floor")
    pair = (shared, own) if role == "scale" else (own, shared)
    x = b.op("BatchNormalization", b.op("Conv", x, "w1", out="conv1"), *pair, "m", "v", out="norm")
    b.op("Conv", b.op("Abs", b.op("Conv", x, "w2", out="conv2"), out="abs"), "w3", out="y")
    b.outputs.append("floor")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    pictures = batch(16, (1, 8, 6))
    net = load(path)
    result = caffeinit.rescale(net, pictures, mode="normalize")
    net.save(out)
    wanted = OnnxFile(out, threads=1).run({"x": pictures}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": pictures}, ["y"])["y"], wanted, rtol=1e-4, atol=1e-5)
    values = net.forward({"x": pictures}, ["conv1", "norm", "conv2", "y"])
    told = {unit.name: unit.after.channel_stds for unit in result.units if unit.after is not None}
    assert told.keys() >= {"w1", "w2", "w3"}
    for name, value in (("w1", "conv1"), ("m", "norm"), ("w2", "conv2"), ("w3", "y")):
        if name in told:
            np.testing.assert_allclose(values[value].std(), told[name], rtol=1e-3)
