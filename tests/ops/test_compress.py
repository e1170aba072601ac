"""Compress whose condition follows from what it picks from: how much it keeps is known at run time only."""

import numpy as np
import pytest

from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from caffeinit.scales.walk import Scales
from tests.ops.checks import Built, case, check_built, evaluate, forward_graph

SHAPE = (5, 3, 4)


def picked(axis):
    """Return a graph of the squares of those slices of x, (5, 3, 4), whose mean is positive."""
    graph = Graph()
    graph.add_input("x", SHAPE)
    others = [a for a in range(3) if a != axis]
    means = "x" if axis is None else graph.op("ReduceMean", "x", axes=others)
    condition = graph.op("Greater", graph.op("Reshape", means, [-1]), 0.0)
    kept = graph.op("Compress", "x", condition, axis=axis)
    return graph, graph.op("Mul", kept, kept)


@pytest.mark.parametrize("axis", [0, 1, 2, None])
def test_the_gradient_is_the_slope_where_the_data_choose(axis):
    graph, top = picked(axis)
    x = np.random.default_rng(0).uniform(-2, 2, SHAPE).astype(np.float32)
    diff = graph.add_input(f"d{top}", graph.shape(top))
    built = Built(graph, ["x"], [top], [append_backward(graph, {top: diff}, ["x"])["x"]])

    def feeds(forward, extra):
        (y,) = evaluate(forward, [top], {"x": x})
        assert 0 < y.size < x.size  # some slices stay, some go
        return {"x": x, diff: np.random.default_rng(1).standard_normal(y.shape).astype(np.float32)}

    check_built(built, [0], feeds)


def test_all_along_the_axis_has_one_scale_where_the_data_choose():
    """The walk holds values of unknown extents; a net that states them gets the rule's answer."""
    graph, _ = picked(1)
    node = next(n for n in graph.nodes if n.op_type == "Compress")
    scales = Scales(graph, [])
    labels = scales.values["x"] = scales.constraints.fresh((1, *SHAPE[1:]))
    graph.set_shape(node.output[0], SHAPE)
    scales.visit(node)
    assert scales.values[node.output[0]].shape == (1, 1, 4)
    tied = {
        tuple(pair) for one, other in scales.constraints.ties for pair in zip(one.tolist(), other.tolist(), strict=True)
    }
    assert {b for _, b in tied} | {a for a, _ in tied} == set(labels.reshape(-1).tolist())


def test_an_extent_that_a_constant_condition_leaves_is_known():
    for row, shape in [
        (case("Compress", (2, 3, 4), np.array([True, False, True]), axis=1), (2, 2, 4)),
        (case("Compress", (2, 3, 4), np.array([False, True, True]), axis=-1), (2, 3, 2)),
        (case("Compress", (2, 3, 4), np.ones(30, bool)), (24,)),
    ]:
        graph, _, (result,) = forward_graph(row)
        assert graph.shape(result) == shape
    graph, top = picked(1)
    assert graph.shape(top) == (5, -1, 4)
