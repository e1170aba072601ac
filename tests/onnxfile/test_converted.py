"""A Caffe net and what `convert` makes of it are the same net: the same pictures give both the same scales."""

import numpy as np
import pytest

import caffeinit
from caffeinit.export import export_onnx
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import load

NET = """
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 12 dim: 10 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv1" top: "conv1" }
layer { name: "scale" type: "Scale" bottom: "conv1" top: "conv1" scale_param { bias_term: true } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "left" type: "Convolution" bottom: "conv1" top: "left"
        convolution_param { num_output: 4 kernel_size: 3 pad: 1 group: 2 weight_filler { type: "xavier" } } }
layer { name: "right" type: "Convolution" bottom: "conv1" top: "right"
        convolution_param { num_output: 5 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "joined" type: "Concat" bottom: "left" bottom: "right" top: "joined" }
layer { name: "relu2" type: "ReLU" bottom: "joined" top: "joined" }
layer { name: "fc1" type: "InnerProduct" bottom: "joined" top: "fc1"
        inner_product_param { num_output: 8 weight_filler { type: "xavier" } } }
layer { name: "relu3" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
"""


def spread(net, seed=0):
    """Give each output channel of the affine units a size of its own."""
    rng = np.random.default_rng(seed)
    for unit in net.units:
        if unit.kind == "affine":
            unit.rescale(rng.uniform(0.3, 3, unit.num_channels), rng.standard_normal(unit.num_channels))


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT, "normalize"])
def test_both_forms_of_a_net_get_the_same_scales(mode, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET)
    pictures = np.random.default_rng(1).standard_normal((8, 3, 12, 10)).astype(np.float32)
    caffe = load(tmp_path / "net.prototxt")
    caffeinit.init(caffe, pictures, balanced=False)
    spread(caffe)
    export_onnx(caffe, tmp_path / "net.onnx")
    other = load(tmp_path / "net.onnx")
    results = [caffeinit.rescale(net, pictures, **options_of(mode)) for net in (caffe, other)]
    assert [u.kind for u in caffe.units] == [u.kind for u in other.units]
    for one, two, first, second in zip(caffe.units, other.units, *(r.units for r in results), strict=True):
        assert first.done == second.done
        for attribute in ("weight", "bias", "mean"):
            a, b = getattr(one, attribute), getattr(two, attribute)
            if a is not None and attribute != "mean":
                # The two graphs are run by the same operators; rates and deviations differ by rounding alone.
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())
