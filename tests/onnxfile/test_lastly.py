"""Factors that normalisations multiply by one over the deviation first: a unit with the shift that comes at the end."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.inspection import inspect_files
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor

CHANNELS = 5


def write(path, turned=False, more=""):
    """Write conv1 -> x * (1 / deviation * factors) + shifts, along channels -> relu -> conv2.

    Args:
        turned: exchange the operands of both products.
        more: what else there is: "reader" or "output" of the factors' product, or other "factors" of x.
    """
    b = Maker()
    x = b.conv("x", "conv1", 3, CHANNELS)
    x = b.op("Sub", x, b.op("ReduceMean", x, out="mean", axes=[1]), out="apart")
    variance = b.op("ReduceMean", b.op("Mul", x, x, out="squares"), out="variance", axes=[1])
    b.initializers.append(tensor("small", np.float32([1e-5])))
    root = b.op("Sqrt", b.op("Add", variance, "small", out="sum"), out="root")
    names = [b.array(f"norm.{n}", 1, CHANNELS, 1, 1) for n in ("factors", "shifts")]
    first = [b.op("Reciprocal", root, out="one"), names[0]]
    scaled = b.op("Mul", *(reversed(first) if turned else first), out="scaled")
    if more == "factors":
        x = b.op("Mul", x, b.array("others", 1, CHANNELS, 1, 1), out="twice")
    last = [x, scaled]
    x = b.op("Mul", *(reversed(last) if turned else last), out="product")
    x = b.op("Relu", b.op("Add", x, names[1], out="normal"), out="relu")
    if more == "reader":
        x = b.op("Mul", x, scaled, out="more")
    if more == "output":
        b.outputs.append("scaled")
    b.conv(x, "conv2", CHANNELS, 4, out="y")
    return b.save(path)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", ["equalize", EXACT])
def test_factors_and_shifts_are_one_unit(mode, turned, tmp_path):
    path, out = write(tmp_path / "net.onnx", turned), tmp_path / "out.onnx"
    net, x = load(path), batch(8)
    assert [u.initializers for u in net.units][1] == ["norm.factors", "norm.shifts"]
    result = caffeinit.rescale(net, {"x": x}, **options_of(mode))
    net.save(out)
    assert onnx.load(out).graph.node == onnx.load(path).graph.node
    assert_same_function(path, out, "x", batch(3), tolerance=0 if mode == EXACT else 1e-5)
    if mode == "equalize":
        assert result.units[1].done == "equalized"
        found = load(out).forward({"x": x}, ["normal"])["normal"]
        np.testing.assert_allclose(found.std((0, 2, 3), dtype=np.float64), 1, rtol=1e-5)  # single precision


def test_init_lets_what_is_standardised_have_any_scale(tmp_path):
    result = caffeinit.init(load(write(tmp_path / "net.onnx")), {"x": batch(8)})
    assert result.rate_spread < 1e-3
    assert not any("held" in unit.done for unit in result.units[:-1])


def test_inspection_shows_all_nodes_with_their_shapes(tmp_path):
    found = inspect_files(write(tmp_path / "net.onnx"))
    assert all(layer.tops for layer in found.layers)


@pytest.mark.parametrize("more", ["reader", "output", "factors"])
def test_factors_stay_where_more_hangs_on_them(more, tmp_path):
    path, out = write(tmp_path / "net.onnx", more=more), tmp_path / "out.onnx"
    net = load(path)
    assert ["norm.factors", "norm.shifts"] not in [u.initializers for u in net.units]
    caffeinit.rescale(net, {"x": batch(8)}, mode="equalize")
    net.save(out)
    assert_same_function(path, out, "x", batch(3))
