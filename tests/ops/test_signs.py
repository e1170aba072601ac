"""Which values are known to be positive: guards against slopes that are not finite are left out for them alone."""

import numpy as np
import pytest

from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from caffeinit.ops.signs import is_never_negative, is_positive


def averaged(graph, x, kernel=1.0, bias=1.0):
    """Return what LRN divides by: a convolution of squares."""
    weight = np.full((2, 2, 1, 1), kernel, np.float32)
    return graph.op("Conv", graph.op("Mul", x, x), weight, np.full(2, bias, np.float32), kernel_shape=[1, 1])


def pooled(graph, x):
    return graph.op("AveragePool", graph.op("Mul", x, x), kernel_shape=[1, 1])


POSITIVE = [
    averaged,
    lambda graph, x: graph.op("Sqrt", graph.op("Sqrt", averaged(graph, x))),
    lambda graph, x: graph.op("Add", graph.op("Relu", x), 0.5),
    lambda graph, x: graph.op("Add", 1e-5, graph.op("ReduceSumSquare", x, axes=[1])),
    lambda graph, x: graph.op("Mul", averaged(graph, x), graph.op("Add", graph.op("Abs", x), 1.0)),
    lambda graph, x: graph.op(
        "Add", graph.op("Mul", graph.op("AveragePool", graph.op("Mul", x, x), kernel_shape=[1, 1]), 0.1), 1.0
    ),
]
NOT_POSITIVE = [
    lambda graph, x: x,
    lambda graph, x: graph.op("Sqrt", x),
    lambda graph, x: graph.op("Relu", x),
    lambda graph, x: graph.op("Mul", x, x),
    lambda graph, x: graph.op("Add", x, 1.0),
    lambda graph, x: graph.op("Add", graph.op("Relu", x), 0.0),
    lambda graph, x: graph.op("Add", graph.op("Relu", x), 1e-42),  # below single precision's normal numbers
    lambda graph, x: graph.op("Add", graph.op("Relu", x), -1.0),
    lambda graph, x: averaged(graph, x, kernel=-1.0),
    lambda graph, x: averaged(graph, x, bias=0.0),
    lambda graph, x: averaged(graph, x, bias=-1.0),
    lambda graph, x: graph.op("Mul", averaged(graph, x), x),
    lambda graph, x: graph.op("Mul", x, graph.op("Abs", x)),
]


def built(build):
    graph = Graph()
    graph.add_input("x", (1, 2, 3, 3))
    return graph, build(graph, "x")


@pytest.mark.parametrize("build", POSITIVE)
def test_values_above_zero_are_known(build):
    graph, value = built(build)
    assert is_positive(graph, value)
    assert is_never_negative(graph, value)


@pytest.mark.parametrize("build", NOT_POSITIVE)
def test_others_are_not(build):
    graph, value = built(build)
    assert not is_positive(graph, value)


@pytest.mark.parametrize(("build", "guards"), [(averaged, 0), (lambda graph, x: graph.op("Mul", x, x), 2)])
def test_a_root_is_guarded_where_it_may_be_of_zero(build, guards):
    graph, value = built(build)
    root = graph.op("Sqrt", value)
    diff = graph.add_input("dy", graph.shape(root))
    append_backward(graph, {root: diff}, ["x"])
    assert sum(node.op_type == "Where" for node in graph.nodes) == guards


def test_sums_of_sums_are_looked_at_once_each():
    graph = Graph()
    graph.add_input("x", (1, 2, 3, 3))
    value, other = graph.op("Relu", "x"), graph.op("Abs", "x")
    for _ in range(2000):
        value, other = graph.op("Add", value, other), graph.op("Add", other, value)
    assert not is_positive(graph, graph.op("Add", value, 1.0))  # too far below, and not 2 to the power of 2000 steps
