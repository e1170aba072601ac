"""Rates of change: what the paper defines, computed picture by picture."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError
from caffeinit.rates import RateProbe, rate_spread
from tests.nets import NETS, NetBuilder, pictures


@pytest.mark.parametrize("name", NETS)
def test_rates_are_the_roots_of_squared_gradients_over_squared_weights(name):
    net, batches = NETS[name](), pictures()
    probe = RateProbe(net, batches[:2])
    rates = probe.measure()
    sums: dict[str, np.ndarray] = {}
    for batch, noise in zip(probe.batches, probe._noise, strict=True):
        diffs = {head: noise[probe._diffs[head]] for head in probe.heads}
        found = net.backward(batch, diffs).params
        for unit in net.units:
            if unit.kind == "affine":
                sums[unit.name] = sums.get(unit.name, 0) + found[unit.name][0].astype(float) ** 2
    for unit in net.units:
        if unit.kind != "affine":
            continue
        weights = net.params[unit.name][0].astype(float)
        rate = np.sqrt(sums[unit.name].sum() / 8 / (weights**2).sum())
        np.testing.assert_allclose(rates[unit.initializers[0]].rate, rate, rtol=1e-5)


def test_column_rates_are_those_of_the_weights_that_read_one_channel():
    net, batches = NETS["inception"](), pictures()
    probe = RateProbe(net, batches[:1])
    rates = probe.measure()
    diffs = {head: probe._noise[0][probe._diffs[head]] for head in probe.heads}
    gradient = net.backward(batches[0], diffs).params["last"][0].astype(float)
    weights = net.params["last"][0].astype(float)
    expected = np.sqrt((gradient**2).sum((0, 2, 3)) / 4 / (weights**2).sum((0, 2, 3)))
    found = rates[net.units[4].initializers[0]]
    assert net.units[4].name == "last"
    np.testing.assert_allclose(found.column_rates, expected, rtol=1e-5)
    alive = expected[expected > 0]
    np.testing.assert_allclose(found.rate_cvar, alive.std() / alive.mean(), rtol=1e-4)


def test_the_same_pictures_and_noise_give_the_same_rates():
    net = NETS["residual"]()
    one, other = (RateProbe(net, pictures()[:1]).measure() for _ in range(2))
    assert {k: r.rate for k, r in one.items()} == {k: r.rate for k, r in other.items()}


def test_a_unit_without_weights_or_gradient_has_no_rate():
    net = NETS["chain"]()
    net.params["ip2"][0][...] = 0
    found = RateProbe(net, pictures()[:1]).measure()
    rates = {unit.name: found[unit.initializers[0]] for unit in net.units}
    assert np.isinf(rates["ip2"].rate)
    assert rates["conv1"].rate == 0
    assert not rates["conv1"].is_measured
    assert not rates["ip2"].is_measured


def test_a_net_without_an_output_that_weights_decide_is_refused():
    builder = NetBuilder()
    builder.conv("data", "conv1", 3)
    net = builder.finish(builder.relu("data"))
    with pytest.raises(CaffeinitError, match="no rates"):
        RateProbe(net, pictures()[:1]).measure()


def test_a_net_of_factors_alone_has_no_rates_and_nothing_is_run_for_them():
    builder = NetBuilder()
    net = builder.finish(builder.graph.op("Mul", "data", builder.array("scale", 0, (3, 1, 1), "scale")))
    assert [unit.kind for unit in net.units] == ["channel"]
    with pytest.raises(CaffeinitError, match="no convolution and no product of matrices with weights"):
        RateProbe(net, pictures()[:1])


def test_where_no_gradient_comes_through_the_reason_is_told():
    builder = NetBuilder()
    x = builder.conv("data", "conv1", 3)
    y = builder.graph.op("Compress", x, np.ones(4, bool), axis=0)
    net = builder.finish(y)
    with pytest.raises(CaffeinitError, match=r"no gradient reaches weights: there is no gradient through Compress"):
        RateProbe(net, pictures()[:1])


def test_the_spread_is_the_largest_distance_from_the_mean_of_logarithms():
    assert rate_spread([1.0, np.e, np.e**5]) == pytest.approx(3)
    assert rate_spread([2.0, 0.0, np.nan]) == 0


def test_frozen_units_and_losses_do_not_count(tmp_path):
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
    layer { name: "a" type: "Convolution" bottom: "data" top: "a" param { lr_mult: 0 } param { lr_mult: 0 }
            convolution_param { num_output: 4 kernel_size: 3 } }
    layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 3 } }
    layer { name: "prob" type: "Softmax" bottom: "b" top: "prob" }"""
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    net = caffeinit.load(path)
    x = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype("f4")
    net.params["a"][0][...] = np.random.default_rng(1).standard_normal(net.params["a"][0].shape)
    assert RateProbe(net, [{"data": x}]).heads == ["b"]
    result = caffeinit.init(net, [x], layers=["b"])
    assert result.rate_spread == 0
