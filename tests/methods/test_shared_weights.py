"""A weight that is used twice, and whose two outputs can be scaled apart: what is told of them is what they are."""

import numpy as np
import pytest

import caffeinit
from tests.modes import EXACT, options_of


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
