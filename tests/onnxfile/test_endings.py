"""The factors and shifts that LayerNormalization and its kin end with are units like those of a Mul and an Add."""

import numpy as np
import onnx
import pytest

import caffeinit
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, rescaled, tensor

CHANNELS = 6  # the width of what the convolutions make, too, so that the last axis has as many

# operator -> opset, attributes, has a shift
OPERATORS = {
    "LayerNormalization": (17, {}, True),
    "InstanceNormalization": (17, {}, True),
    "GroupNormalization": (21, {"num_groups": 2}, True),
    "RMSNormalization": (23, {}, False),
}
ON_LAST_AXIS = ("LayerNormalization", "RMSNormalization")


def write(path, kind, factors=None, shifts=None, **changed):
    """Return the file of conv1 -> normalisation -> relu -> conv2, its channels where the operator has them."""
    opset, attributes, has_shift = OPERATORS[kind]
    b = Maker(shape=(1, 3, 8, 6))
    b.domains[""] = opset
    x = b.conv("x", "conv1", 3, CHANNELS)
    if kind in ON_LAST_AXIS:
        x = b.op("Transpose", x, out="last", perm=[0, 2, 3, 1])
    rng = np.random.default_rng(2)
    factors = rng.uniform(0.3, 3, CHANNELS).astype(np.float32) if factors is None else factors
    shifts = rng.standard_normal(factors.shape).astype(np.float32) if shifts is None else shifts
    b.initializers += [tensor("norm.weight", factors), tensor("norm.bias", shifts)]
    names = ["norm.weight", "norm.bias"] if has_shift else ["norm.weight"]
    x = b.op("Relu", b.op(kind, x, *names, out="normal", **(attributes | changed)), out="relu")
    if kind in ON_LAST_AXIS:
        x = b.op("Transpose", x, out="second", perm=[0, 3, 1, 2])
    b.conv(x, "conv2", CHANNELS, 4, out="y")
    return b.save(path)


@pytest.mark.parametrize("kind", OPERATORS)
def test_their_channels_are_free(kind, tmp_path):
    path, out = write(tmp_path / "net.onnx", kind), tmp_path / "out.onnx"
    done, _ = rescaled(path, out)
    assert done["norm.weight"] == "equalized"
    assert f"held: {kind}" in done["conv1.weight"]
    assert_same_function(path, out, "x", batch(1))
    net = load(out)
    found = np.concatenate([net.forward({"x": row[None]}, ["normal"])["normal"] for row in batch(8)])
    others = (0, 1, 2) if kind in ON_LAST_AXIS else (0, 2, 3)
    np.testing.assert_allclose(found.std(others), 1, rtol=1e-5)  # single precision


@pytest.mark.parametrize("kind", OPERATORS)
def test_the_node_stays_one_in_the_file(kind, tmp_path):
    path, out = write(tmp_path / "net.onnx", kind), tmp_path / "out.onnx"
    rescaled(path, out)
    assert [n.op_type for n in onnx.load(out).graph.node] == [n.op_type for n in onnx.load(path).graph.node]


@pytest.mark.parametrize("kind", OPERATORS)
def test_powers_of_two_move_no_bit(kind, tmp_path):
    path, out = write(tmp_path / "net.onnx", kind), tmp_path / "out.onnx"
    net = load(path)
    caffeinit.rescale(net, {"x": batch(8)}, **options_of(EXACT))
    net.save(out)
    assert_same_function(path, out, "x", batch(1), tolerance=0)


LEFT = {
    "ones and zeros over groups": ("InstanceNormalization", np.ones(CHANNELS), np.zeros(CHANNELS), {}),
    "a factor for each place": ("LayerNormalization", np.full((6, CHANNELS), 2.0), None, {"axis": 2}),
}


@pytest.mark.parametrize("name", LEFT)
def test_others_are_no_units(name, tmp_path):
    kind, factors, shifts, attributes = LEFT[name]
    arrays = [a if a is None else a.astype(np.float32) for a in (factors, shifts)]
    net = load(write(tmp_path / "net.onnx", kind, *arrays, **attributes))
    assert [u.name for u in net.units] == ["conv1.weight", "conv2.weight"]
