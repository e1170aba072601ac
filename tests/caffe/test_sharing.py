"""Which arrays and entries a layer may have, and what those that share one may state."""

import numpy as np
import pytest

import caffeinit
from tests.caffe.test_source import CONV, LOSS, PRODUCT, input_layer, load


def refused(tmp_path, text):
    """Return layer -> why it cannot run."""
    return {s.name: s.reason for s in load(tmp_path, text).skipped}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("param { lr_mult: 1 } param { lr_mult: 2 } param { lr_mult: 0 }", "has 3 param entries for 2 array(s)"),
        ("loss_weight: 1 loss_weight: 0", "has 2 loss_weight for 1 top(s)"),
        ("propagate_down: true propagate_down: false", "has 2 propagate_down for 1 bottom(s)"),
    ],
)
def test_more_entries_than_there_are_arrays_or_blobs_are_refused(tmp_path, more, words):
    layer = CONV.replace("convolution_param", f"{more} convolution_param")
    assert words in refused(tmp_path, input_layer(1, 3, 8, 8) + layer)["conv"]


def test_a_loss_without_a_top_may_have_a_weight(tmp_path):
    loss = LOSS.replace('top: "loss"', "loss_weight: 2")
    assert not refused(tmp_path, input_layer(1, 3, 8, 8) + input_layer(1, name="label") + CONV + PRODUCT + loss)


def test_data_has_no_arrays(tmp_path):
    data = input_layer(1, 3, 8, 8).replace("input_param", "param { lr_mult: 0 } input_param")
    assert "has 1 param entries for 0 array(s)" in refused(tmp_path, data)["data"]


def twins(first, second):
    """Return a net of two products with one weight, and what each states on it."""
    return input_layer(2, 6) + "".join(
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "data" top: "{name}" '
        f'param {{ name: "w" {more} }} inner_product_param {{ num_output: 3 bias_term: false }} }}\n'
        for name, more in (("a", first), ("b", second))
    )


@pytest.mark.parametrize("rate", ["lr_mult", "decay_mult"])
def test_a_shared_array_that_is_to_be_trained_in_two_ways_is_refused(tmp_path, rate):
    words = f'shares parameter "w" with layer "a", but states {rate} 2, not 1'
    assert words in refused(tmp_path, twins(f"{rate}: 1", f"{rate}: 2"))["b"]
    assert not refused(tmp_path, twins(f"{rate}: 2", f"{rate}: 2"))


@pytest.mark.parametrize("stated", [("lr_mult: 0", ""), ("", "lr_mult: 0")])
def test_any_of_those_that_share_an_array_switches_its_training_off(tmp_path, stated):
    assert [u.frozen for u in load(tmp_path, twins(*stated)).units] == [True]


@pytest.mark.parametrize("mode", ["preserve", "equalize"])
def test_what_is_told_of_one_unit_at_places_of_different_scales_is_what_is_measured(tmp_path, mode):
    """Without a bias nothing ties what the second place puts out to what the first does."""
    same = 'param { name: "w" } convolution_param { num_output: 4 kernel_size: 3 pad: 1 bias_term: false }'
    layers = "".join(
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {same} }}\n'
        f'layer {{ name: "r{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'
        for name, bottom in (("a", "conv"), ("b", "a"))
    )
    net = load(tmp_path, input_layer(1, 3, 8, 8) + CONV + layers + PRODUCT.replace("conv", "b"))
    x = np.random.default_rng(0).standard_normal((8, 3, 8, 8)).astype("f4")
    caffeinit.init(net, [x], normalized=False)
    told = {u.name: u.after for u in caffeinit.rescale(net, [x], mode=mode).units}
    for unit in caffeinit.measure(net, [x]).units:
        np.testing.assert_allclose(told[unit.name].channel_stds, unit.stats.channel_stds, rtol=1e-5)
        assert told[unit.name].max_abs == pytest.approx(unit.stats.max_abs, rel=1e-5)
