"""What a Sub takes off is a bias with the other sign, behind whatever multiplies."""

import numpy as np
import pytest

import caffeinit
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch


def subtracting(kind):
    b = Maker()
    if kind == "Conv":
        x = b.op("Conv", "x", b.array("w", 5, 3, 3, 3), out="c")
    elif kind == "ConvTranspose":
        x = b.op("ConvTranspose", "x", b.array("w", 3, 5, 3, 3), out="c")
    else:
        x = b.op("Mul", b.conv("x", "conv1", 3, 5), b.array("w", 1, 5, 1, 1), out="c")
    x = b.op("Relu", b.op("Sub", x, b.array("shift", 1, 5, 1, 1), out="less"), out="r")
    b.conv(x, "last", 5, 4, out="y")
    return b


@pytest.mark.parametrize("mode", ["preserve", "normalize"])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "Mul"])
def test_what_is_taken_off_belongs_to_the_unit_before_it(kind, mode, tmp_path):
    path = subtracting(kind).save(tmp_path / "net.onnx")
    net = load(path)
    unit = next(u for u in net.units if u.name == "w")
    assert (unit.initializers, unit.beta, unit.uses[0].output) == (["w", "shift"], -1, "less")
    result = caffeinit.rescale(net, batch(12), mode=mode, balanced=mode == "preserve")
    (done,) = (u for u in result.units if u.name == "w")
    assert done.done
    net.save(tmp_path / "out.onnx")
    if mode == "preserve":
        assert_same_function(path, tmp_path / "out.onnx", "x", batch())
    else:
        made = load(tmp_path / "out.onnx").forward({"x": batch(12)}, ["less"])["less"].swapaxes(0, 1).reshape(5, -1)
        np.testing.assert_allclose(made.mean(1), 0.1, atol=1e-4)  # sums of some hundreds of numbers
        np.testing.assert_allclose(made.std(1), 1, rtol=1e-4)


def test_what_something_is_taken_off_is_no_bias(tmp_path):
    b = Maker()
    x = b.op("Sub", b.array("shift", 1, 5, 1, 1), b.conv("x", "conv1", 3, 5), out="less")
    b.conv(b.op("Relu", x, out="r"), "last", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    assert [u.name for u in net.units] == ["conv1.weight", "last.weight"]
    assert all("shift" not in u.initializers for u in net.units)
