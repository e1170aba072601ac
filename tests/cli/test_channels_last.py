"""Caffe nets with an input (N, H, W, C), as those that are converted from TensorFlow have it."""

import numpy as np

import caffeinit
from tests.cli.conftest import NET


def test_a_net_that_begins_with_a_permute_takes_channels_last(cli, place):
    turned = NET.replace("dim: 3 dim: 12 dim: 10", "dim: 12 dim: 10 dim: 3").replace(
        'bottom: "data"', 'bottom: "turned"'
    )
    permute = (
        'layer { name: "t" type: "Permute" bottom: "data" top: "turned" permute_param { order: 0 order: 3 ORDER } }'
    )
    head, tail = turned.split('layer { name: "conv1"')
    found = {}
    for name, order in (("last", "order: 1 order: 2"), ("mixed", "order: 2 order: 1")):
        text = head + permute.replace("ORDER", order) + 'layer { name: "conv1"' + tail
        (place / f"{name}.prototxt").write_text(text)
        found[name] = cli(
            "init", place / f"{name}.prototxt", "--images", place / "pictures", "-o", place / f"{name}.caffemodel"
        )
    assert (
        cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "plain.caffemodel").code == 0
    )
    assert (found["last"].code, found["mixed"].code) == (0, 1)
    assert (
        "3 channels, but the net's input has 12; such data is given as an array (.npy) of (N, 12, H, W)"
        in found["mixed"].err
    )
    one, other = (caffeinit.load(place / "net.prototxt", place / f"{n}.caffemodel").params for n in ("plain", "last"))
    for layer, arrays in one.items():
        for a, b in zip(arrays, other[layer], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # sums in another order
