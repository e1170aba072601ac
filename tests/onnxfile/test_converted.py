"""A Caffe net and what `convert` makes of it are the same net: the same pictures give both the same scales."""

import numpy as np
import onnx
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


PICTURES = np.random.default_rng(1).standard_normal((8, 3, 12, 10)).astype(np.float32)


def both(folder, text):
    """Return a net with weights, and the file that `convert` makes of it."""
    (folder / "net.prototxt").write_text(text)
    caffe = load(folder / "net.prototxt")
    caffeinit.init(caffe, {"data": PICTURES}, balanced=False)
    spread(caffe)
    export_onnx(caffe, folder / "net.onnx")
    return caffe, load(folder / "net.onnx")


SHARED = "".join(f'param {{ lr_mult: 0 name: "sums{i}" }} ' for i in range(3))
NETS = {
    "plain": NET,
    "two norms that are one": NET.partition('layer { name: "joined"')[0]
    + f"""
layer {{ name: "other" type: "Convolution" bottom: "conv1" top: "other"
        convolution_param {{ num_output: 4 kernel_size: 1 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "norm1" type: "BatchNorm" bottom: "left" top: "left" {SHARED} }}
layer {{ name: "norm2" type: "BatchNorm" bottom: "other" top: "other" {SHARED} }}
layer {{ name: "fc1" type: "InnerProduct" bottom: "left" top: "fc1"
        inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc2" type: "InnerProduct" bottom: "other" top: "fc2"
        inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
""",
    # LRN's k and the factors that a BatchNorm lacks are one array of ones.
    "constants in common": NET.replace(
        'layer { name: "fc1" type: "InnerProduct" bottom: "joined"',
        'layer { name: "lrn" type: "LRN" bottom: "joined" top: "lrn" }\n'
        'layer { name: "norm" type: "BatchNorm" bottom: "lrn" top: "norm" }\n'
        'layer { name: "fc1" type: "InnerProduct" bottom: "norm"',
    ),
    # Pictures are fed one by one in both, though the file could be freed of the batch.
    "a batch that is spelt out": NET.replace("dim: 2 dim: 3", "dim: 1 dim: 3").replace(
        'layer { name: "fc1" type: "InnerProduct" bottom: "joined"',
        'layer { name: "rows" type: "Reshape" bottom: "joined" top: "rows"\n'
        "        reshape_param { shape { dim: 1 dim: 9 dim: 4 dim: -1 } } }\n"
        'layer { name: "back" type: "Reshape" bottom: "rows" top: "back"\n'
        "        reshape_param { shape { dim: 1 dim: 9 dim: 10 dim: 8 } } }\n"
        'layer { name: "fc1" type: "InnerProduct" bottom: "back"',
    ),
}


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT, "normalize"])
@pytest.mark.parametrize("text", NETS.values(), ids=NETS)
def test_both_forms_of_a_net_get_the_same_scales(text, mode, tmp_path):
    caffe, other = both(tmp_path, text)
    results = [caffeinit.rescale(net, PICTURES, **options_of(mode)) for net in (caffe, other)]
    assert [u.kind for u in caffe.units] == [u.kind for u in other.units]
    assert caffe.graph.batch_axis_free == other.graph.batch_axis_free
    for one, two, first, second in zip(caffe.units, other.units, *(r.units for r in results), strict=True):
        assert first.done.partition("held: ")[0] == second.done.partition("held: ")[0]
        for attribute in ("weight", "bias", "mean"):
            a, b = getattr(one, attribute), getattr(two, attribute)
            if a is not None and attribute != "mean":
                # The two graphs are run by the same operators; rates and deviations differ by rounding alone.
                np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


# What the net ends with instead of "fc2", whose numbers other files might have worked out.
FEW = {
    "one factor": (
        'layer { name: "one" type: "Convolution" bottom: "joined" top: "one" '
        "convolution_param { num_output: 1 kernel_size: 1 } }"
        'layer { name: "norm" type: "BatchNorm" bottom: "one" top: "one" }'
        'layer { name: "factor" type: "Scale" bottom: "one" top: "one" scale_param { bias_term: true } }'
    ),
    "factors along places": 'layer { name: "rows" type: "Scale" bottom: "joined" top: "rows" scale_param { axis: 2 } }',
}


@pytest.mark.parametrize("more", FEW.values(), ids=FEW)
def test_what_a_net_has_learned_is_known_however_few_numbers_it_is(more, tmp_path):
    caffe, other = both(tmp_path, NET.partition('layer { name: "fc1"')[0] + more)
    assert [(u.kind, u.num_channels) for u in other.units] == [(u.kind, u.num_channels) for u in caffe.units]


TOLD = {
    "a loss": (
        'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 2 } } }'
        'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }'
    ),
    "boxes": "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "joined" top: "{name}" '
        f"convolution_param {{ num_output: {outputs} kernel_size: 1 }} }}"
        f'layer {{ name: "{name}_rows" type: "Permute" bottom: "{name}" top: "{name}_rows" '
        "permute_param { order: 0 order: 2 order: 3 order: 1 } }"
        f'layer {{ name: "{name}_flat" type: "Flatten" bottom: "{name}_rows" top: "{name}_flat" }}'
        for name, outputs in (("places", 4), ("scores", 2))
    )
    + (
        'layer { name: "priors" type: "PriorBox" bottom: "joined" bottom: "data" top: "priors" '
        "prior_box_param { min_size: 4 variance: 0.1 } }"
        'layer { name: "found" type: "DetectionOutput" bottom: "places_flat" bottom: "scores_flat" bottom: "priors" '
        'top: "found" detection_output_param { num_classes: 2 keep_top_k: 5 confidence_threshold: 0.01 '
        "code_type: CENTER_SIZE nms_param { nms_threshold: 0.45 top_k: 10 } } }"
    ),
    "training switched off": (
        'layer { name: "fc3" type: "InnerProduct" bottom: "fc2" top: "fc3" param { lr_mult: 0 } param { lr_mult: 0 } '
        "inner_product_param { num_output: 4 } }"
    ),
}


@pytest.mark.parametrize("more", TOLD.values(), ids=TOLD)
def test_what_onnx_has_no_words_for_is_told(more, tmp_path):
    nets = both(tmp_path, NET + more)
    assert all(net.graph.batch_axis_free for net in nets)
    one, two = (caffeinit.rescale(net, {"data": PICTURES}) for net in nets)
    done = [[unit.done.partition("held: ")[0] for unit in found.units] for found in (one, two)]
    assert done[1] == done[0]
    rates = [[unit.after.rate for unit in found.units if unit.kind == "affine"] for found in (one, two)]
    assert rates[1] == pytest.approx(rates[0], rel=1e-4)


def test_slopes_make_no_heads(tmp_path):
    """An ONNX file does not tell that a slope was learned, and no rate depends on what only slopes have part in."""
    ends = (
        'layer { name: "first" type: "PReLU" bottom: "data" top: "first" prelu_param { channel_shared: true } }'
        'layer { name: "last" type: "PReLU" bottom: "fc2" top: "last" }'
        'layer { name: "beside" type: "Reshape" bottom: "fc2" top: "beside" reshape_param { shape { dim: 0 dim: 3 } } }'
    )
    caffe, other = both(tmp_path, NET + ends)
    one, two = (caffeinit.rescale(net, PICTURES, mode="normalize") for net in (caffe, other))
    assert [u.after.rate for u in two.units if u.kind == "affine"] == pytest.approx(
        [u.after.rate for u in one.units if u.kind == "affine"], rel=1e-4
    )


def test_statistics_and_constants_are_numbers_in_the_file(tmp_path):
    """Not all programs take arithmetic of arrays: a siamese pair shares the sums that Caffe stores, and boxes are known."""
    pair = NET + "".join(
        f'layer {{ name: "bn{side}" type: "BatchNorm" bottom: "fc2" top: "bn{side}" '
        f"{''.join(f'param {{ lr_mult: 0 name: {chr(34)}s{i}{chr(34)} }} ' for i in range(3))} }}\n"
        for side in "ab"
    )
    boxes = (
        'layer { name: "prior" type: "PriorBox" bottom: "joined" bottom: "data" top: "prior" '
        "prior_box_param { min_size: 4 max_size: 8 variance: 0.1 } }\n"
        'layer { name: "moved" type: "Power" bottom: "prior" top: "moved" power_param { shift: 2 } }\n'
        'layer { name: "row" type: "Reshape" bottom: "moved" top: "row" reshape_param { shape { dim: 1 dim: -1 } } }\n'
        'layer { name: "mean" type: "Reduction" bottom: "row" top: "size" reduction_param { operation: MEAN axis: 1 } }\n'
        'layer { name: "scaled" type: "Scale" bottom: "data" bottom: "size" top: "scaled" scale_param { axis: 0 } }\n'
    )
    (tmp_path / "net.prototxt").write_text(pair + boxes.replace("dim: 1 dim: -1", "dim: 2 dim: -1"))
    caffe = load(tmp_path / "net.prototxt")
    rng = np.random.default_rng(0)
    for name in ("bn", "bna"):
        for array, numbers in zip(caffe.params[name], (rng.standard_normal, rng.random, None), strict=True):
            array[...] = 5.0 if numbers is None else numbers(array.shape)
    export_onnx(caffe, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    stored = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    assert {n.op_type for n in model.graph.node if all(i in stored for i in n.input if i)} == {
        "Reshape"
    }  # of Scale's arrays
    norms = [n for n in model.graph.node if n.op_type == "BatchNormalization"]
    for node, name in zip(norms, ("bn", "bna", "bna"), strict=True):
        for value, sums in zip(node.input[3:5], caffe.params[name], strict=False):
            np.testing.assert_array_equal(stored[value], sums * np.float32(0.2))
    assert [unit.name.partition("/")[0] for unit in load(tmp_path / "net.onnx").units if unit.kind == "norm"] == [
        "bn",
        "bna",
    ]
