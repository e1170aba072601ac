"""Sizes that no machine holds: refused by the layer's name before anything is allocated."""

import numpy as np
import pytest

import caffeinit
from caffeinit.caffe.layers.base import MAX_COUNT
from caffeinit.calibration import read_calibration
from caffeinit.errors import CaffeinitError, OptionError

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { %s } } }\n'
SMALL = INPUT % "dim: 1 dim: 3 dim: 12 dim: 10"


def layer(kind, settings="", bottoms='bottom: "data"'):
    return f'layer {{ name: "it" type: "{kind}" {bottoms} top: "out" {settings} }}\n'


def blocked(tmp_path, text):
    (tmp_path / "net.prototxt").write_text(text)
    return {s.name: s.reason for s in caffeinit.load(tmp_path / "net.prototxt").skipped}


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        (INPUT % "dim: 1 dim: 3 dim: 1099511627776 dim: 10", "data", "at most 2147483647 numbers"),
        (INPUT % "dim: 1 dim: 2147483647 dim: 2147483647", "data", "at most 2147483647 numbers"),
        (INPUT % "dim: 1 dim: -5 dim: 4", "data", "negative extents"),
        (INPUT % ("dim: 1 " * 33), "data", "33 axes"),
        (SMALL + layer("Convolution", "convolution_param { num_output: 4294967295 kernel_size: 3 }"), "it", "numbers"),
        (
            SMALL + layer("Convolution", "convolution_param { num_output: 4 kernel_size: 3 pad: 4000000000 }"),
            "it",
            "80",
        ),
        (
            SMALL + layer("Deconvolution", "convolution_param { num_output: 3 kernel_size: 2 stride: 2000000000 }"),
            "it",
            "numbers",
        ),
        (SMALL + layer("InnerProduct", "inner_product_param { num_output: 6000000 }"), "it", "parameter 0"),
        (SMALL + layer("Tile", "tile_param { axis: 2 tiles: 2000000000 }"), "it", "numbers"),
        (SMALL + layer("Interp", "interp_param { zoom_factor: 2000000000 }"), "it", "numbers"),
        (SMALL + layer("Embed", "embed_param { input_dim: 2000000000 num_output: 2000000 }"), "it", "parameter 0"),
        (SMALL + layer("SPP", "spp_param { pyramid_height: 4000000000 }"), "it", "8 x 8 bins are too many"),
        (SMALL + layer("Parameter", "parameter_param { shape { dim: -4 } }", ""), "it", "extents from 0"),
        (SMALL + layer("Parameter", "parameter_param { shape { dim: 1099511627776 } }", ""), "it", "numbers"),
        (
            INPUT % "dim: 1 dim: 1 dim: 100 dim: 100" + layer("Im2col", "convolution_param { kernel_size: 100 }"),
            "it",
            "a kernel of 10000 places is too large",
        ),
        (
            INPUT % "dim: 1 dim: 3 dim: 9000 dim: 9000"
            + layer(
                "PriorBox", "prior_box_param { min_size: 3 aspect_ratio: [2, 3] }", 'bottom: "data" bottom: "data"'
            ),
            "it",
            "numbers",
        ),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value)[-40:],
)
def test_what_no_blob_can_hold_is_refused(tmp_path, text, where, words):
    assert words in blocked(tmp_path, text)[where]


def test_the_largest_blob_is_no_obstacle(tmp_path):
    assert not blocked(tmp_path, INPUT % f"dim: 1 dim: {MAX_COUNT}" + layer("ReLU"))


def test_a_net_without_any_input_says_so(tmp_path):
    (tmp_path / "net.prototxt").write_text(INPUT % "dim: 1 dim: 0 dim: 4 dim: 4" + layer("ReLU"))
    with pytest.raises(CaffeinitError, match='shape of input "data" is not known'):
        read_calibration(caffeinit.load(tmp_path / "net.prototxt"), np.zeros((2, 3, 4, 4), np.float32))


def test_options_for_pictures_are_refused_where_a_net_takes_none(tmp_path):
    text = 'layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 2 } }'
    (tmp_path / "net.prototxt").write_text(INPUT % "dim: 1 dim: 10" + text)
    net = caffeinit.load(tmp_path / "net.prototxt")
    with pytest.raises(
        OptionError, match=r"scale is for pictures, \(N, C, H, W\), and the net takes none: data \(1, 10\)"
    ):
        read_calibration(net, np.zeros((2, 10), np.float32), scale=7.0)
