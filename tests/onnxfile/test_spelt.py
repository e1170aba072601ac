"""Response normalisation that a model spells out lets scales pass as an LRN layer does; nothing else is taken for it."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
from caffeinit.export import export_onnx
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 16 dim: 16 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "norm1" type: "LRN" bottom: "conv1" top: "norm1"
        lrn_param { local_size: 3 alpha: 0.5 beta: BETA norm_region: REGION } }
layer { name: "conv2" type: "Convolution" bottom: "norm1" top: "conv2"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu2" type: "ReLU" bottom: "conv2" top: "conv2" }
layer { name: "fc" type: "InnerProduct" bottom: "conv2" top: "fc"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
PICTURES = np.random.default_rng(1).standard_normal((16, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("region", ["WITHIN_CHANNEL", "ACROSS_CHANNELS k: 2"])
@pytest.mark.parametrize("beta", [0.75, 0.5, 1.0, 0.6])
def test_a_net_and_its_export_come_to_one_rate(beta, region, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET.replace("BETA", str(beta)).replace("REGION", region))
    caffe = load(tmp_path / "net.prototxt")
    caffeinit.init(caffe, PICTURES, balanced=False)
    export_onnx(caffe, tmp_path / "net.onnx")
    other = load(tmp_path / "net.onnx")
    assert len(other.graph.nearly_homogeneous) == 1
    one, two = (caffeinit.rescale(net, PICTURES, mode="normalize") for net in (caffe, other))
    assert two.rate_spread < 0.02
    assert two.rate_spread == pytest.approx(one.rate_spread, abs=1e-3)
    for a, b in zip(caffe.units, other.units, strict=True):
        np.testing.assert_allclose(b.weight, a.weight, rtol=1e-3, atol=1e-4 * np.abs(a.weight).max())


@pytest.mark.parametrize("producer", ["caffeinit", "another"])
def test_what_adds_neighbours_up_is_no_unit(producer, tmp_path):
    (tmp_path / "net.prototxt").write_text(NET.replace("BETA", "0.75").replace("REGION", "ACROSS_CHANNELS k: 2"))
    caffe = load(tmp_path / "net.prototxt")
    caffeinit.init(caffe, PICTURES, balanced=False)
    export_onnx(caffe, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.producer_name = producer
    onnx.save(model, tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert not net.skipped
    assert [unit.num_channels for unit in net.units] == [unit.num_channels for unit in caffe.units]


def test_what_a_normalisation_is_made_of_is_no_bias_that_changes(tmp_path):
    (tmp_path / "net.prototxt").write_text(NET.replace("BETA", "0.75").replace("REGION", "ACROSS_CHANNELS k: 2"))
    caffe = load(tmp_path / "net.prototxt")
    caffeinit.init(caffe, PICTURES, balanced=False)
    export_onnx(caffe, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    model.producer_name = ""
    first, inside, *_ = (n for n in model.graph.node if n.op_type == "Conv")
    first.input[2] = inside.input[2]  # exporters store equal arrays once
    onnx.save(model, tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert net.learned[first.input[2]].held == "is also part of a normalisation across neighbours"
    told = caffeinit.rescale(net, PICTURES, mode="normalize")
    net.save(tmp_path / "out.onnx")
    measured = caffeinit.measure(load(tmp_path / "out.onnx"), PICTURES)
    assert measured.rate_spread == pytest.approx(told.rate_spread, abs=1e-3)


def spelt(**changes):
    """Return two convolutions with a normalisation across channels between them, as exporters spell it out."""
    given = {
        "divided": "r",
        "alpha": 0.3,
        "k": 1.0,
        "beta": 0.75,
        "squared": ("r", "r"),
        "pool": "AveragePool",
    } | changes
    b = Maker(shape=("N", 3, 8, 6))
    for name in ("alpha", "k", "beta"):
        b.initializers.append(numpy_helper.from_array(np.array(given[name], np.float32), name))
    for name, values in {"axis": [1], "pads": [0, 0, 1, 0, 0, 0, 0, 1, 0, 0]}.items():
        b.initializers.append(numpy_helper.from_array(np.array(values, np.int64), name))
    b.op("Relu", b.conv("x", "conv1", 3, 6), out="r")
    b.op("Abs", "r", out="other")
    x = b.op("Unsqueeze", b.op("Mul", *given["squared"], out="squares"), "axis", out="u")
    x = b.op(given["pool"], b.op("Pad", x, "pads", out="p"), out="m", kernel_shape=[3, 1, 1], strides=[1, 1, 1])
    x = b.op("Add", b.op("Mul", b.op("Squeeze", x, "axis", out="s"), "alpha", out="a"), "k", out="t")
    x = b.op("Div", given["divided"], b.op("Pow", x, "beta", out="d"), out="n")
    b.conv(x, "conv2", 6, 4, out="y")
    return b


def test_normalisation_across_channels_is_known_with_its_padding(tmp_path):
    net = load(spelt().save(tmp_path / "net.onnx"))
    assert net.graph.nearly_homogeneous == {"n": "r"}
    result = caffeinit.rescale(net, {"x": PICTURES[:, :, :8, :6]}, mode="normalize")
    assert result.rate_spread < 0.02


@pytest.mark.parametrize(
    "changes",
    [
        {"divided": "other"},
        {"squared": ("r", "other")},
        {"k": -1.0},
        {"k": 0.0},
        {"alpha": -0.3},
        {"beta": -0.75},
        {"pool": "MaxPool"},
    ],
    ids=str,
)
def test_what_is_no_normalisation_is_not_taken_for_one(changes, tmp_path):
    net = load(spelt(**changes).save(tmp_path / "net.onnx"))
    assert not net.graph.nearly_homogeneous


@pytest.mark.parametrize("direct", [True, False])
def test_a_layer_is_one_only_where_nothing_inside_of_it_is_read(direct, tmp_path):
    b = spelt()
    b.outputs = ["y", "a" if direct else "z"]
    if not direct:
        b.conv("a", "conv3", 6, 4, out="z")
    net = load(b.save(tmp_path / "net.onnx"))
    assert not net.graph.nearly_homogeneous
    assert caffeinit.rescale(net, {"x": PICTURES[:, :, :8, :6]}, mode="normalize").units


def test_the_function_is_kept_in_preserving_modes(tmp_path):
    path, out = spelt().save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net, small = load(path), PICTURES[:, :, :8, :6]
    caffeinit.rescale(net, {"x": small})
    net.save(out)
    assert_same_function(path, out, "x", small)
