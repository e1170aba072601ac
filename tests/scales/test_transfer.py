"""Curves along which layers that are nearly homogeneous pass scales on, held to what the layers do."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

import caffeinit
from caffeinit.methods.between import scale_system
from caffeinit.scales.transfer import Curves, measure_transfers
from tests.nets import NetBuilder, pictures


def lrn_net(folder, size, outputs, kernel):
    """Return a net of a convolution, LRN, and an inner product, for two pictures of 3 channels."""
    text = f"""
    layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: [2, 3, {size}, {size}] }} }} }}
    layer {{ name: "a" type: "Convolution" bottom: "data" top: "a"
      convolution_param {{ num_output: {outputs} kernel_size: {kernel} }} }}
    layer {{ name: "n" type: "LRN" bottom: "a" top: "n" lrn_param {{ local_size: 3 alpha: 1 beta: 0.75 }} }}
    layer {{ name: "b" type: "InnerProduct" bottom: "n" top: "b" inner_product_param {{ num_output: 3 }} }}"""
    (folder / "net.prototxt").write_text(text)
    return caffeinit.load(folder / "net.prototxt")


def test_lrn_passes_scales_on_by_the_curve_that_is_its_own(tmp_path):
    net = lrn_net(tmp_path, size=6, outputs=4, kernel=3)
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype("f4")
    caffeinit.init(net, [x], balanced=False)
    system = scale_system(net, lambda unit: "", ["b"], relaxed=True)
    (bond,) = system.bonds
    curve = measure_transfers(net, {"data": x}, [bond])

    def size(factor):
        scaled = net.params["a"][0].copy(), net.params["a"][1].copy()
        for array in net.params["a"]:
            array *= factor
        found = np.sqrt((net.forward({"data": x})["n"].astype(float) ** 2).mean())
        for array, old in zip(net.params["a"], scaled, strict=True):
            array[...] = old
        return found

    for scale in np.array([[-3.0], [-0.7], [0.4], [2.6]]):
        assert curve.values(scale) == pytest.approx(np.log(size(np.exp(*scale)) / size(1.0)), abs=0.02)
    assert curve.values.slope(-12) == pytest.approx(1, abs=1e-2)  # small values pass as they are
    assert curve.values.slope(12) == pytest.approx(1 - 2 * 0.75, abs=1e-2)  # large ones are divided by |x| ** (2 beta)


def test_lrn_passes_gradients_back_by_the_curve_that_is_its_own(tmp_path):
    net = lrn_net(tmp_path, size=24, outputs=3, kernel=1)
    x = np.random.default_rng(1).standard_normal((2, 3, 24, 24)).astype("f4")
    noise = np.random.default_rng(0).standard_normal(x.shape, "f4")  # theirs: few places make up much of such a sum
    weight = net.params["a"][0]
    weight[...] = np.eye(3).reshape(weight.shape)
    curve = measure_transfers(net, {"data": x}, scale_system(net, lambda unit: "", ["b"], relaxed=True).bonds)

    def size(factor):
        weight[...] = factor * np.eye(3).reshape(weight.shape)
        found = net.backward({"data": x}, {"n": noise}).inputs["data"] / factor
        return np.linalg.norm(found.astype(float))

    for scale in np.array([[-3.0], [-0.7], [0.4], [2.6]]):
        grown = np.log(size(np.exp(*scale)) / size(1.0))
        assert curve.diffs(scale) == pytest.approx(grown + scale - curve.values(scale), abs=0.03)
        assert curve.moved(scale).diffs(-scale) == pytest.approx(-curve.diffs(scale), abs=1e-9)
        assert curve.moved(scale).values.slope(0.3) == pytest.approx(curve.values.slope(scale + 0.3), abs=1e-9)
    assert curve.diffs.slope(-12) == pytest.approx(0, abs=1e-2)
    assert curve.diffs.slope(12) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize(("op_type", "is_linear", "is_cut"), [("Clip", False, True), ("Elu", True, False)])
def test_only_what_cuts_values_off_has_a_highest_scale(op_type, is_linear, is_cut):
    b = NetBuilder()
    limits = (0.0, 6.0) if op_type == "Clip" else ()
    net = b.finish(b.product(b.graph.op(op_type, b.conv("data", "a", 8), *limits), "b", 3))
    found = measure_transfers(net, pictures()[0], scale_system(net, lambda unit: "", net.outputs, relaxed=True).bonds)
    assert found.is_linear == is_linear
    assert np.isfinite(found.highest) == is_cut
    if is_cut:
        assert found.values.slope(found.highest - 0.2) > 0.5 > found.values.slope(found.highest + 0.2)
        assert found.moved(np.ones(1)).highest == found.highest  # counted as before


def test_lrn_has_no_highest_scale_though_outputs_shrink(tmp_path):
    net = lrn_net(tmp_path, size=6, outputs=4, kernel=3)
    x = np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype("f4")
    found = measure_transfers(net, {"data": x}, scale_system(net, lambda unit: "", ["b"], relaxed=True).bonds)
    assert found.highest == np.inf


def test_curves_are_those_of_their_layers_each():
    scales = np.linspace(-12, 12, 25)
    splines = [CubicSpline(scales, f(scales)) for f in (np.sin, np.cos, np.tanh)]
    curves = Curves(CubicSpline(scales, np.stack([s(scales) for s in splines], axis=-1)), np.array([0.4, -0.3, 1.1]))
    at = np.array([2.3, -5.1, 0.0])
    for spline, value, slope, origin, by in zip(splines, curves(at), curves.slope(at), curves.origin, at, strict=True):
        assert value == pytest.approx(spline(origin + by) - spline(origin), abs=1e-12)
        assert slope == pytest.approx(spline(origin + by, 1), abs=1e-12)
    outside = curves(np.full(3, 20.0)) - curves(12 - curves.origin)  # straight on
    np.testing.assert_allclose(outside, [s(12, 1) * (8 + o) for s, o in zip(splines, curves.origin, strict=True)])
