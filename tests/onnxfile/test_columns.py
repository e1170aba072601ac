"""Products with the weight on the left, whose pictures are columns of what they read."""

import numpy as np
import onnx
import pytest

import caffeinit
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, info

MODES = ["preserve", "equalize", "balance", EXACT, "normalize", "init"]


def save(path, kind, shift):
    """Write rows -> fc1 -> relu -> turned -> fc2 x rows -> turned back."""
    b = Maker(shape=["N", 6])
    x = b.op("Gemm", "x", b.array("fc1", 8, 6), b.array("shift1", 8), out="h", transB=1)
    x = b.op("Transpose", b.op("Relu", x, out="relu"), out="columns", perm=[1, 0])
    shifts = [b.array("shift2", 5, 1)] if shift else []
    b.op("Transpose", b.op(kind, b.array("fc2", 5, 8), x, *shifts, out="g"), out="y", perm=[1, 0])
    model = b.model()
    model.graph.output[0].CopyFrom(info("y", [None] * 2))
    onnx.save(model, path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("kind", "shift"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_rates_and_scales_are_known_through_them(kind, shift, mode, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    save(path, kind, shift)
    rows = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    net = load(path)
    result = caffeinit.init(net, rows) if mode == "init" else caffeinit.rescale(net, rows, **options_of(mode))
    net.save(out)
    assert all(unit.done for unit in result.units)
    if mode not in ("equalize", EXACT):
        assert result.rate_spread < 1e-2
    if mode not in ("normalize", "init"):
        assert_same_function(path, out, "x", rows)


@pytest.mark.parametrize(("kind", "shift"), [("Gemm", True), ("Gemm", False), ("MatMul", False)])
def test_their_gradients_are_those_of_the_product(kind, shift, tmp_path):
    save(tmp_path / "net.onnx", kind, shift)
    net, rng = load(tmp_path / "net.onnx"), np.random.default_rng(0)
    rows, top = rng.standard_normal((4, 6)).astype(np.float32), rng.standard_normal((4, 5)).astype(np.float32)
    hidden = net.forward({"x": rows}, ["relu"])["relu"]
    found = net.backward({"x": rows}, {"y": top}).params
    np.testing.assert_allclose(found["fc2"][0], top.T @ hidden, rtol=0, atol=1e-5)
    below = (top @ net.params["fc2"][0]) * (hidden > 0)
    np.testing.assert_allclose(found["fc1"][0], below.T @ rows, rtol=0, atol=1e-4)
    if shift:
        np.testing.assert_allclose(found["shift2"][0], top.sum(0)[:, None], rtol=0, atol=1e-5)
