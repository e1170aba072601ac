"""Rates on a device are those of the ordinary way; the device is the CPU here."""

import math

import numpy as np
import pytest

from caffeinit.gradients.resident import ResidentGradients
from caffeinit.statistics.rates import RateProbe
from tests.engine.test_resident import MORE, RESIDENT
from tests.nets import NETS, pictures
from tests.onnxnets import MODELS, SHAPE, network_of


def probes(name):
    nets = {**NETS, **MORE}[name](), {**NETS, **MORE}[name]()
    nets[1].settings = RESIDENT
    return [RateProbe(net, pictures(num=7, batch=3)) for net in nets]


def assert_same_rates(network, a, b, rtol=1e-5):
    assert a.keys() == b.keys()
    for unit in network.units:
        if unit.key not in a or a[unit.key].diffs is None:
            continue
        mine, theirs = a[unit.key], b[unit.key]
        top = float(mine.column_rates.max())
        np.testing.assert_allclose(theirs.column_rates, mine.column_rates, rtol=rtol, atol=rtol * top)
        assert math.isclose(mine.rate, theirs.rate, rel_tol=rtol)
        weighted = (r.diffs.columns(np.linspace(1, 2, unit.num_channels)) for r in (theirs, mine))
        np.testing.assert_allclose(*weighted, rtol=rtol)


@pytest.mark.parametrize("name", sorted({*NETS, *MORE} - {"filtered"}))
def test_rates_are_those_of_the_ordinary_way(name):
    ordinary, resident = probes(name)
    assert isinstance(resident.run, ResidentGradients)
    assert_same_rates(ordinary.network, ordinary.measure(), resident.measure())


@pytest.mark.parametrize(
    ("name", "opset"), [(name, opset) for name, (_, known) in MODELS.items() for opset in known[-1:]]
)
def test_rates_of_newer_opsets_are_those_of_the_ordinary_way(name, opset):
    nets = [network_of(MODELS[name][0](opset)) for _ in range(2)]
    nets[1].settings = RESIDENT
    batch = {"input": np.random.default_rng(1).standard_normal((5, *SHAPE)).astype(np.float32)}
    ordinary, resident = (RateProbe(net, [batch]) for net in nets)
    assert isinstance(resident.run, ResidentGradients)
    assert_same_rates(nets[0], ordinary.measure(), resident.measure())


@pytest.mark.parametrize("num", [2, 7, 40])
def test_a_rough_look_is_at_the_same_pictures(num):
    nets = NETS["residual"](), NETS["residual"]()
    nets[1].settings = RESIDENT
    ordinary, resident = (RateProbe(net, pictures(num=num, batch=16)) for net in nets)
    assert_same_rates(nets[0], ordinary.measure(rough=True), resident.measure(rough=True))
    for mine, theirs in zip(ordinary.batches, resident.batches, strict=True):
        np.testing.assert_array_equal(theirs["data"], mine["data"])


# Squares of such gradients are beyond single precision: 1e-46 is nothing there, and 1e46 infinite.
@pytest.mark.parametrize("size", [1e-23, 1e23])
def test_gradients_may_have_any_size(size):
    ordinary, resident = probes("chain")
    nets = ordinary.network, resident.network
    before = resident.measure()
    for net in nets:
        net.params["conv2"][0][...] *= size  # conv1's gradient is as much larger or smaller
    a, b = ordinary.measure(), resident.measure()
    assert_same_rates(nets[0], a, b)
    assert 0.1 < a["conv1/param0"].rate / before["conv1/param0"].rate / size < 10
    for net in nets:
        net.params["conv2"][0][...] /= size
    assert_same_rates(nets[1], before, resident.measure(), rtol=1e-4)


def test_what_is_not_finite_has_no_rate():
    ordinary, resident = probes("chain")
    for probe in (ordinary, resident):
        probe.network.params["conv2"][0][0, 0, 0, 0] = np.nan
    a, b = ordinary.measure(), resident.measure()
    assert [math.isfinite(r.rate) for r in b.values()] == [math.isfinite(r.rate) for r in a.values()]
