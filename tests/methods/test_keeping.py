"""What a normalising pass keeps is little, and what it makes of it is what a plain forward makes."""

import numpy as np
import pytest

from caffeinit.methods.keeping import keep_little
from caffeinit.methods.within import normalize
from tests.methods.test_within import measured
from tests.nets import NetBuilder, pictures

SIZE = (4, 3, 12, 10)


def pool(b, x):
    return b.graph.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])


def pooled_after_scale(sign):
    """A convolution whose maxima are read, behind a factor of this sign in one channel."""
    b = NetBuilder(SIZE)
    x = b.scale(b.norm(b.conv("data", "first", 5), "norm"), "scale")
    gamma = b.graph.initializers["scale/param0"]
    gamma[...] = np.abs(gamma)
    gamma[2] *= sign
    return b.finish(b.conv(pool(b, b.relu(x)), "second", 4))


def wide():
    """Small convolutions that make much of little: on the pictures, behind each other, behind a sum, and read twice."""
    b = NetBuilder(SIZE)
    x = b.relu(b.conv("data", "first", 16))
    x = b.relu(b.conv(x, "narrow", 4))
    y = b.graph.op(
        "Add", b.norm(b.conv(x, "wide", 16, kernel=1, pad=0), "norm"), b.conv(x, "beside", 16, kernel=1, pad=0)
    )
    x = b.relu(b.conv(b.relu(y), "narrow again", 4, bias=False))
    z = b.conv(x, "twice", 16, kernel=1, pad=0)
    return b.finish(b.conv(pool(b, z), "third", 4), b.conv(z, "fourth", 4))


NETS = {
    "pooled": lambda: pooled_after_scale(1),
    "not pooled": lambda: pooled_after_scale(-1),
    "wide": wide,
}


def plan(net, wanted=(), whole=()):
    values = {use.output: unit for unit in net.units for use in unit.uses if unit.kind == "affine"}
    following = {u.uses[0].input: [u] for u in net.units if u.kind != "affine"}
    return keep_little(net.graph, values, following, wanted, whole)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch", [12, 5])
def test_units_are_normalised_whatever_is_kept(name, batch):
    net, batches = NETS[name](), pictures(batch=batch)
    normalize(net, batches, beta=0.1)
    again = measured(net, batches)
    for unit in net.units:
        np.testing.assert_allclose(again[unit.name].std, 1, atol=1e-4, err_msg=unit.name)
        if unit.bias is not None:
            np.testing.assert_allclose(again[unit.name].mean, 0.1, atol=1e-4, err_msg=unit.name)


def test_maxima_are_kept_where_no_factor_turns_the_order_round():
    assert list(plan(NETS["pooled"]()).pooled) == ["first"]
    assert not plan(NETS["not pooled"]()).pooled


def test_what_is_cheap_is_computed_again():
    assert list(plan(wide()).again) == ["first", "wide", "beside", "twice"]


def test_what_is_wanted_as_it_is_stays():
    net = NETS["pooled"]()
    relu = next(n.output[0] for n in net.graph.nodes if n.op_type == "Relu")
    assert not plan(net, wanted=[relu]).pooled
    assert not plan(net, whole=["first"]).pooled
    net = wide()
    relu = next(n.output[0] for n in net.graph.nodes if n.op_type == "Relu")
    assert "first" not in plan(net, wanted=[relu]).again
    assert not {"first", "twice"} & plan(net, whole=["first", "twice"]).again.keys()


def test_an_output_of_the_net_is_kept():
    b = NetBuilder(SIZE)
    x = b.conv("data", "first", 16)
    net = b.finish(x, b.conv(pool(b, x), "second", 4))
    kept = plan(net)
    assert not kept.again
    assert not kept.pooled


def test_indices_of_maxima_are_those_of_what_is_pooled():
    b = NetBuilder(SIZE)
    x = b.relu(b.conv("data", "first", 4))
    maxima, places = b.graph.ops("MaxPool", x, outputs=["maxima", "places"], kernel_shape=[2, 2], strides=[2, 2])
    net = b.finish(maxima, places)
    assert not plan(net).pooled


def test_less_is_kept_than_what_is_measured():
    net, batches = wide(), pictures()
    _, peak = normalize(net, batches)
    count = sum(len(b["data"]) for b in batches)
    widest = 4 * count * np.prod(net.graph.shape("first")[1:])
    assert peak < 0.8 * widest
