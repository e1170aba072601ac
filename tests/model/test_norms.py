"""Statistics of BatchNormalizations are taken up however the file holds their arrays."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
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
