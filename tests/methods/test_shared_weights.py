"""A weight that is used twice, and whose two outputs can be scaled apart: what is told of them is what they are."""

import numpy as np
import pytest

import caffeinit
from caffeinit.apply.plan import Plan, apply
from caffeinit.methods.restoring import find_restorer
from tests.modes import EXACT, options_of
from tests.scales.test_sums import INPUT, classifier, conv, pictures, relaxed_of, relu, total


def branch(name):
    """Return a branch of a net; both have the filters of the second convolution, without a bias."""
    return f"""
layer {{ name: "first_{name}" type: "Convolution" bottom: "data" top: "first_{name}"
  convolution_param {{ num_output: 6 kernel_size: 3 }} }}
layer {{ name: "relu_{name}" type: "ReLU" bottom: "first_{name}" top: "first_{name}" }}
layer {{ name: "shared_{name}" type: "Convolution" bottom: "first_{name}" top: "shared_{name}" param {{ name: "filters" }}
  convolution_param {{ num_output: 5 kernel_size: 3 bias_term: false }} }}
layer {{ name: "score_{name}" type: "InnerProduct" bottom: "shared_{name}" top: "score_{name}"
  inner_product_param {{ num_output: 4 }} }}
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text('input: "data" input_shape { dim: 8 dim: 3 dim: 10 dim: 9 }' + branch("a") + branch("b"))
    net = caffeinit.load(path)
    rng = np.random.default_rng(0)
    for arrays in net.params.values():
        for array in arrays:
            array[...] = rng.standard_normal(array.shape) * rng.uniform(0.2, 2)
    net.params["first_a"][0][...] *= 7
    net.missing = []
    return net


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT, "normalize"])
def test_what_is_told_is_what_both_outputs_together_are(net, mode):
    x = {"data": np.random.default_rng(1).standard_normal((16, 3, 10, 9)).astype(np.float32)}
    result = caffeinit.rescale(net, x, **options_of(mode))
    for unit, measured in zip(result.units, caffeinit.measure(net, x).units, strict=True):
        np.testing.assert_allclose(unit.after.channel_stds, measured.stats.channel_stds, rtol=1e-4)
        np.testing.assert_allclose(unit.after.channel_means, measured.stats.channel_means, rtol=1e-4, atol=1e-5)


def test_both_outputs_count_where_they_are_brought_to_one_deviation(net):
    x = {"data": np.random.default_rng(1).standard_normal((16, 3, 10, 9)).astype(np.float32)}
    caffeinit.rescale(net, x, mode="equalize")
    found = net.forward(x, ["shared_a", "shared_b"])
    logs = [np.log(found[name].std(axis=(0, 2, 3))) for name in ("shared_a", "shared_b")]
    np.testing.assert_allclose(np.mean(logs), 0, atol=0.01)
    assert np.abs(logs).max() < 0.3


def tied():
    """A residual net that multiplies all its branches by the same factors, however large they and their sums are."""
    text, below = conv("c", "data") + relu("c"), "c"
    for i in range(4):
        text += conv(f"a{i}", below) + relu(f"a{i}") + conv(f"b{i}", f"a{i}")
        text += f'layer {{ name: "g{i}" type: "Scale" bottom: "b{i}" top: "g{i}" param {{ name: "g" }} }}\n'
        text, below = text + total(f"e{i}", below, f"g{i}") + relu(f"e{i}"), f"e{i}"
    return text + classifier(below)


def test_what_is_used_at_several_scales_keeps_the_factors_that_are_planned_for_it(tmp_path):
    (tmp_path / "net.prototxt").write_text(INPUT + tied())
    net = caffeinit.load(tmp_path / "net.prototxt")
    caffeinit.init(net, [pictures()], balanced=False)
    relaxed = relaxed_of(net)
    (unit,) = (u for u in net.units if len(u.uses) > 1)
    assert relaxed.why_unrestored(unit)
    assert not any(relaxed.why_unrestored(u) for u in net.units if u is not unit)
    restorer = find_restorer(net, [{"data": pictures()}], relaxed.why_unrestored, least=0)
    branches = [relaxed.system.labels[u.uses[0].output].ravel() for u in net.units if u.name.startswith("b")]
    logs = np.repeat([-2.0, 2.0, 0.0, 1.0], [len(labels) for labels in branches])
    plan = Plan(relaxed.system, relaxed.system.expand(relaxed.system.unknowns_for(np.concatenate(branches), logs)))
    restorer.prepare(np.ones(1))
    apply(net, plan)
    wanted = net.params["g0"][0].copy()
    restorer.restore({u.key: plan.factors(net.graph, u) for u in net.units}, np.ones(1))
    np.testing.assert_array_equal(net.params["g0"][0], wanted)
