"""Caffe nets that read what convolutions make of several pictures, one after the other."""

import numpy as np
import pytest

import caffeinit
from caffeinit.export import export_onnx

STEPS, SEQUENCES = 3, 2
NET = """
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 6 dim: 3 dim: 8 dim: 8 }} }} }}
layer {{ name: "cont" type: "Input" top: "cont" input_param {{ shape {{ dim: {steps} dim: {sequences} }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param {{ num_output: 6 kernel_size: 3 }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "fc" type: "InnerProduct" bottom: "conv" top: "fc" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "relu2" type: "ReLU" bottom: "fc" top: "fc" }}
layer {{ name: "steps" type: "Reshape" bottom: "fc" top: "steps"
  reshape_param {{ shape {{ dim: {steps} dim: {sequences} }} axis: 0 num_axes: 1 }} }}
layer {{ name: "read" type: "{kind}" bottom: "steps" bottom: "cont" top: "read" recurrent_param {{ num_output: 4 }} }}
layer {{ name: "last" type: "InnerProduct" bottom: "read" top: "last"
  inner_product_param {{ num_output: 3 axis: 2 }} }}
"""


def load(folder, kind, steps=STEPS):
    """Return a net with badly scaled weights, and what it is fed, at so many steps."""
    pictures, side_by_side = STEPS * SEQUENCES, STEPS * SEQUENCES // steps
    (folder / "net.prototxt").write_text(NET.format(kind=kind, steps=steps, sequences=side_by_side))
    net, rng = caffeinit.load(folder / "net.prototxt"), np.random.default_rng(0)
    for arrays in net.params.values():
        for array in arrays:
            rows = rng.uniform(0.3, 3, (len(array),) + (1,) * (array.ndim - 1))
            array[...] = rng.standard_normal(array.shape) * rows / np.sqrt(np.prod(array.shape[1:]))
    net.save(folder / "net.caffemodel")
    return caffeinit.load(folder / "net.prototxt", folder / "net.caffemodel"), {
        "data": rng.standard_normal((pictures, 3, 8, 8)).astype(np.float32),
        "cont": np.array([[0, 0], [1, 1], [1, 0]], np.float32).reshape(steps, side_by_side),
    }


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_weights_that_read_a_sequence_are_a_unit_and_those_of_the_state_stay(kind, mode, tmp_path):
    net, given = load(tmp_path, kind)
    before = net.forward(given, ["last"])["last"]
    kept, moved = net.params["read"][2].copy(), net.params["read"][0].copy()
    result = caffeinit.rescale(net, given, mode=mode)
    np.testing.assert_array_equal(net.params["read"][2], kept)
    assert (net.params["read"][0] != moved).any()
    done = {unit.name: unit.done for unit in result.units}
    found = caffeinit.measure(net, given)
    if mode == "normalize":
        assert done["read"] == "normalised"
        np.testing.assert_allclose(next(u for u in found.units if u.name == "read").stats.channel_stds, 1, rtol=1e-3)
    else:
        assert done["read"].startswith("takes up its input's scales; its output is held")
        assert {done["conv"], done["fc"]} == {"equalized"}
        after = net.forward(given, ["last"])["last"]
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5 * np.abs(before).max())
    for unit, told in zip(found.units, result.units, strict=True):
        np.testing.assert_allclose(unit.stats.channel_stds, told.after.channel_stds, rtol=2e-3)


@pytest.mark.parametrize("mode", ["equalize", "normalize"])
@pytest.mark.parametrize(("kind", "steps"), [("LSTM", 3), ("LSTM", 1), ("RNN", 3)])
def test_its_export_gets_the_same_scales(kind, steps, mode, tmp_path):
    net, given = load(tmp_path, kind, steps)
    export_onnx(net, tmp_path / "net.onnx")
    other = caffeinit.load(tmp_path / "net.onnx")
    one, two = (caffeinit.rescale(n, given, mode=mode) for n in (net, other))
    assert [u.name for u in two.units] == [f"{layer}/param{i}" for layer, i in placed(net)]
    assert two.rate_spread_before == pytest.approx(one.rate_spread_before, rel=1e-4, nan_ok=True)
    for layer, index in placed(net):
        stored = other.params[f"{layer}/param{index}"][0]
        np.testing.assert_allclose(stored, net.params[layer][index], rtol=1e-3, atol=1e-5 * np.abs(stored).max())


def placed(net):
    """Return the layer and number of each unit's weight."""
    return [(of.layer, of.index) for of in (net.learned[unit.initializers[0]] for unit in net.units)]
