"""Nets and pictures that leave something undefined: it is said plainly, the rest is done, and no NaN is left behind."""

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError
from tests.nets import NETS, NetBuilder, pictures

KEEPING = ["preserve", "equalize", "balance", "fp16"]
RATED = ["preserve", "balance", "normalize"]


def is_finite(net):
    return all(np.isfinite(a).all() for arrays in net.params.values() for a in arrays)


def copies(net):
    return {name: [a.copy() for a in arrays] for name, arrays in net.params.items()}


def changed(net, before):
    return [n for n, old in before.items() if any((a != b).any() for a, b in zip(old, net.params[n], strict=True))]


@pytest.mark.parametrize("mode", RATED)
def test_a_unit_whose_gradient_is_zero_has_no_rate_and_the_rest_is_done(mode):
    net = NETS["inception"]()
    # Nothing comes through the ReLU behind it, whatever its own output does, and it stays so: what reads it is zero, too.
    net.params["reduce"][1][...] = -1e3
    net.params["three"][0][...] = 0
    before = copies(net)
    result = caffeinit.rescale(net, pictures(), mode=mode)
    assert any("reduce has no rate: no gradient reaches it on these pictures" in note for note in result.notes)
    assert any("three has no rate: its weights are all zero" in note for note in result.notes)
    assert {"stem", "one"} <= {*changed(net, before)}
    assert result.rate_spread < result.rate_spread_before
    assert not net.params["three"][0].any()
    assert is_finite(net)


@pytest.mark.parametrize("mode", [*KEEPING, "normalize"])
def test_a_layer_of_zeros_stays_one(mode):
    net = NETS["chain"]()
    for array in net.params["conv1"]:
        array *= 1e6  # more than half precision holds
    for array in net.params["conv2"]:
        array[...] = 0
    before = copies(net)
    result = caffeinit.rescale(net, pictures(), mode=mode)
    report = next(u for u in result.units if u.name == "conv2")
    assert len(report.dead) == 6
    assert any("dead channels" in note and "conv2" in note for note in result.notes)
    assert not net.params["conv2"][0].any()
    assert "conv1" in changed(net, before) or mode == "balance"  # its gradient is zero, so that nothing is asked of it
    assert is_finite(net)


def masked_net():
    """Return a net whose output needs a second input, which no unit reads."""
    builder = NetBuilder()
    builder.graph.add_input("mask", (4, 5))
    score = builder.product(builder.relu(builder.conv("data", "conv1", 8)), "ip1", 5)
    return builder.finish(builder.graph.op("Mul", score, "mask"))


@pytest.mark.parametrize("mode", [*KEEPING, "normalize"])
def test_an_input_without_which_no_output_is_known_is_asked_for(mode):
    net = masked_net()
    before = copies(net)
    with pytest.raises(CaffeinitError, match="nothing for input mask"):
        caffeinit.rescale(net, pictures(), mode=mode)
    assert not changed(net, before)


@pytest.mark.parametrize("mode", KEEPING)
def test_a_net_with_nothing_free_keeps_its_bytes(mode):
    builder = NetBuilder()
    x = builder.graph.op("Sigmoid", builder.conv("data", "conv1", 3))
    net = builder.finish(builder.graph.op("Sigmoid", builder.product(x, "ip1", 3)))
    before = copies(net)
    result = caffeinit.rescale(net, pictures(), mode=mode)
    assert any("no scale in the net is free" in note for note in result.notes)
    assert all("its output is held" in unit.reason + unit.done for unit in result.units)
    assert not changed(net, before)


@pytest.mark.parametrize("mode", [*KEEPING, "normalize"])
@pytest.mark.parametrize("where", ["weights", "overflow", "pictures"])
def test_values_that_are_not_finite_are_refused_and_named(where, mode):
    net, batches = NETS["chain"](), pictures()
    if where == "weights":
        net.params["conv2"][0][0, 0, 0, 0] = np.nan
    elif where == "overflow":
        net.params["conv1"][0][...] *= 1e30
        net.params["conv2"][0][...] *= 1e30
    else:
        batches[2]["data"][1, 2, 3, 4] = np.nan
    before = copies(net)
    if (where, mode) == ("overflow", "normalize"):  # layer by layer: below the second one all is in order by then
        caffeinit.rescale(net, batches, mode=mode)
        assert is_finite(net)
        return
    named = r"not finite|input \"data\": holds NaN"
    with pytest.raises(CaffeinitError, match=named):
        caffeinit.rescale(net, batches, mode=mode)
    if mode != "normalize":  # that one works layer by layer; what it has done may not be saved
        np.testing.assert_equal(copies(net), before)


def test_drawing_from_pictures_that_are_not_finite_is_refused():
    net, batches = NETS["chain"](), pictures()
    batches[0]["data"][1, 2, 3, 4] = np.inf
    for method in ("gaussian", "pca", "kmeans"):
        with pytest.raises(CaffeinitError, match="holds NaN or infinite"):
            caffeinit.init(net, batches, method=method)
