"""Graphs of older opsets and shapes spelt out as arithmetic."""

import numpy as np
import pytest

from caffeinit.errors import CaffeinitError
from caffeinit.folding import known_value
from caffeinit.graph import Graph
from caffeinit.opsets import raised
from caffeinit.scales import find_scales
from tests.ops.checks import doubles, evaluate


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
    assert system.unknown_operators == ["Fancy strange"]
