"""Which arrays and entries a layer may have, and what those that share one may state."""

import pytest

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
