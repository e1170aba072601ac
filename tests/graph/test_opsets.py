"""Graphs of older opsets and shapes spelt out as arithmetic."""

import numpy as np
import pytest

from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph
from caffeinit.graph.folding import known_value
from caffeinit.graph.opsets import raised
from caffeinit.scales.classes import find_scales
from tests.nets import NetBuilder
from tests.ops.checks import doubles, evaluate
from tests.scales.test_classes import assert_kept_in_double


def spelt_out():
    """Return a graph that flattens as torch.onnx does at opset 11: Shape, Gather, Unsqueeze, Concat, Reshape."""
    graph = Graph(11)
    x = graph.op("Conv", graph.add_input("x", (2, 3, 4, 4)), np.ones((5, 3, 1, 1), np.float32), name="conv")
    size = graph.op("Gather", graph.op("Shape", x), np.asarray(0), axis=0)
    parts = [graph.op("Unsqueeze", part, axes=[0]) for part in (size, np.asarray(-1))]
    graph.op("Reshape", x, graph.op("Concat", *parts, axis=0, name="target"), name="flat")
    return graph


def test_what_follows_from_shapes_is_known_and_stays_in_the_graph():
    graph = raised(spelt_out())
    assert known_value(graph, "target").tolist() == [2, -1]
    assert graph.shape("flat") == (2, 80)
    assert known_value(graph, "conv") is None
    assert [n.op_type for n in graph.nodes][-2:] == ["Concat", "Reshape"]
    assert np.unique(find_scales(graph, []).labels["flat"], return_counts=True)[1].tolist() == [16] * 5


def test_a_raised_graph_computes_the_same_with_the_same_names():
    graph = Graph(9)
    x = graph.add_input("x", (2, 3, 4, 6))
    x = graph.op("Clip", x, min=0.0, max=0.7, name="relu6")
    x = graph.op("Upsample", x, np.float32([1, 1, 2, 2]), mode="nearest", name="up")
    x = graph.op("Pad", x, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.25, name="pad")
    x = graph.op("Slice", x, starts=[1], ends=[7], axes=[3], name="cut")
    x = graph.op("Dropout", x, ratio=0.3, name="drop")
    graph.op("Softmax", x, axis=2, name="share")
    new = raised(graph)
    assert new.opset == 17
    data = np.random.default_rng(0).uniform(-1, 1, (2, 3, 4, 6))
    wanted = np.clip(data, 0, 0.7).repeat(2, 2).repeat(2, 3)
    wanted = np.exp(np.pad(wanted, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=0.25)[..., 1:7])
    wanted /= wanted.sum((2, 3), keepdims=True)
    (found,) = evaluate(doubles(new, ["share"]), ["share"], {"x": data})
    np.testing.assert_allclose(found, wanted, rtol=1e-6)  # the limits are stored in single precision
    assert {o for n in graph.nodes for o in n.output} <= {o for n in new.nodes for o in n.output}


def test_the_largest_of_older_opsets_is_that_over_all_axes_from_the_given_one_on():
    graph = Graph(11)
    graph.op("Hardmax", graph.add_input("x", (2, 3, 4)), axis=1, name="largest")
    data = np.random.default_rng(0).standard_normal((2, 3, 4))
    (found,) = evaluate(doubles(raised(graph), ["largest"]), ["largest"], {"x": data})
    np.testing.assert_array_equal(found, data == data.max((1, 2), keepdims=True))


def test_statistics_for_each_place_are_spelt_out():
    graph = Graph(7)
    rng = np.random.default_rng(0)
    scale, bias, mean, variance = rng.uniform(0.5, 2, (4, 3, 4, 5)).astype(np.float32)
    x = graph.add_input("x", (2, 3, 4, 5))
    graph.op("BatchNormalization", x, scale, bias, mean, variance, spatial=0, epsilon=0.25, name="normal")
    data = rng.standard_normal((2, 3, 4, 5))
    (found,) = evaluate(doubles(raised(graph), ["normal"]), ["normal"], {"x": data})
    np.testing.assert_allclose(found, (data - mean) / np.sqrt(variance + 0.25) * scale + bias, rtol=1e-6)


def test_newer_graphs_are_left_alone_and_ancient_ones_refused():
    graph = Graph(20)
    assert raised(graph) is graph
    with pytest.raises(CaffeinitError, match="version_converter"):
        raised(Graph(6))


def test_operators_that_nobody_knows_are_named_and_hold_what_they_touch():
    graph = Graph()
    weight = graph.add_initializer("w", np.ones((5, 3, 1, 1), np.float32))
    x = graph.op("Conv", graph.add_input("x", (2, 3, 4, 4)), weight)
    x = graph.op("Fancy", x, domain="com.example", name="strange")
    graph.op("Relu", graph.op("Add", x, 1.0))
    system = find_scales(graph, ["w"])
    assert system.num_unknowns == 0
    assert system.unknown_operators == ['com.example.Fancy that makes "strange"']


def test_what_follows_from_learned_arrays_is_that_of_now():
    graph = Graph()
    gamma = graph.add_initializer("gamma", np.zeros(4, np.float32))
    view = graph.op("Neg", graph.op("Reshape", gamma, [1, 4, 1, 1]))
    assert not known_value(graph, view).any()
    graph.initializers["gamma"][...] = 2
    assert (known_value(graph, view) == -2).all()


def resized(graph, x):
    """Return x at twice its size, as tf2onnx and paddle write it: sizes from Shape, Slice, Cast, Mul, Cast, Concat."""
    shape = graph.op("Shape", x)
    lead, places = graph.op("Slice", shape, [0], [2], [0]), graph.op("Slice", shape, [2], [4], [0])
    twice = graph.op("Cast", graph.op("Mul", graph.op("Cast", places, to=1), np.float32([2, 2])), to=7)
    sizes = graph.op("Concat", lead, twice, axis=0)
    return graph.op("Resize", x, "", "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric")


def cut(graph, x):
    """Return the left half, its bounds computed; and back to the full width with zeros of a computed shape."""
    width = graph.op("Gather", graph.op("Shape", x), np.asarray(3))
    half = graph.op("Unsqueeze", graph.op("Div", width, np.asarray(2)), [0])
    left = graph.op("Slice", x, [0], half, [3])
    zeros = graph.op("ConstantOfShape", graph.op("Shape", left))
    return graph.op("Concat", left, graph.op("Expand", zeros, graph.op("Shape", left)), axis=3)


def masked(graph, x):
    """Return x where a running number along the last axis is below a bound, else 0."""
    width = graph.op("Gather", graph.op("Shape", x), np.asarray(3))
    places = graph.op("Range", np.asarray(0), width, np.asarray(1))
    return graph.op("Where", graph.op("Less", places, np.asarray(5)), x, np.float32(0))


def last_channels_first(graph, x):
    """Return x with its channels last, padded there and pooled over its places, as keras2onnx leaves it."""
    x = graph.op("Pad", graph.op("Transpose", x, perm=[0, 2, 3, 1]), np.asarray([0, 1, 1, 0, 0, 1, 1, 0]))
    pooled = graph.op("Squeeze", graph.op("ReduceMean", x, axes=[1, 2], keepdims=1), [1])
    return graph.op("Transpose", graph.op("Unsqueeze", pooled, [1]), perm=[0, 3, 1, 2])


@pytest.mark.parametrize("make", [resized, cut, masked, last_channels_first])
@pytest.mark.parametrize("rectify", [True, False])
def test_computed_settings_let_scales_and_gradients_pass(make, rectify):
    b = NetBuilder(shape=(2, 4, 8, 8))
    x = b.conv("data", "first", 6)
    x = make(b.graph, b.relu(x) if rectify else x)
    net = b.finish(b.conv(x, "last", 3))
    assert assert_kept_in_double(net).num_unknowns == 6
    feeds = {"data": np.random.default_rng(0).standard_normal((2, 4, 8, 8)).astype(np.float32)}
    (out,) = net.outputs
    # The objective is linear in the last weight: <gradient, weight> is what it adds to the objective.
    diff = np.random.default_rng(1).standard_normal(net.graph.shape(out)).astype(np.float32)
    weight, bias = net.params["last"]
    found = net.backward(feeds, {out: diff})
    value = float((net.forward(feeds, [out])[out] * diff).sum())
    given = float((found.params["last"][0] * weight).sum() + (found.params["last"][1] * bias).sum())
    assert abs(given - value) <= 1e-4 * np.abs(diff).sum()
    if not rectify:  # then it is linear in the first, too, but for what the last bias adds
        first = sum(float((g * a).sum()) for g, a in zip(found.params["first"], net.params["first"], strict=True))
        rest = float((found.params["last"][1] * bias).sum())
        assert abs(first + rest - value) <= 1e-4 * np.abs(diff).sum()
