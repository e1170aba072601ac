"""Gradients where a slope is not finite, or is none: at a norm, a root or a factor of 0 they are numbers, never NaN."""

import numpy as np
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph

ROWS = [[0.0, 0.0, 0.0], [3.0, 0.0, -4.0]]


def gradient(x, build, dy=1.0):
    """Return the gradient of x at top diffs of dy."""
    graph = Graph()
    graph.add_input("x", x.shape)
    y = build(graph, "x")
    diff = graph.add_input("dy", graph.shape(y))
    found = append_backward(graph, {y: diff}, ["x"])["x"]
    session = compile_graph(graph, [y, found], Settings(threads=1))
    result = session.run({"x": x, "dy": np.full(graph.shape(y), dy, np.float32)})
    assert np.isfinite(result[y]).all()
    return result[found]


def op(kind, *more, **attributes):
    return lambda graph, x: graph.op(kind, x, *more, **attributes)


def written_out(graph, x):
    """Return the norm as exporters of other frameworks write it."""
    return graph.op("Sqrt", graph.op("ReduceSumSquare", x, axes=[1], keepdims=1))


def normalised(graph, x):
    """Return x / max(norm, epsilon), as torch's normalize."""
    norm = graph.op("ReduceL2", x, axes=[1], keepdims=1)
    return graph.op("Div", x, graph.op("Max", norm, 1e-12))


def bounded_log(graph, x):
    return graph.op("Clip", graph.op("Log", graph.op("Abs", x)), -5.0)


# With p = 2, (1 - y * sum(y)) / 5 of y = (0.6, 0, -0.8).
CASES = [
    (op("ReduceL2", axes=[1]), ROWS, [[0, 0, 0], [0.6, 0, -0.8]]),
    (written_out, ROWS, [[0, 0, 0], [0.6, 0, -0.8]]),
    (op("LpNormalization", axis=1, p=2), ROWS, [[0, 0, 0], [0.2 + 0.12 * 0.2, 0.2, 0.2 - 0.16 * 0.2]]),
    (op("LpNormalization", axis=1, p=1), ROWS, [[0, 0, 0], [8 / 49, 1 / 7, 6 / 49]]),
    (normalised, ROWS[1:], [[0.2 + 0.12 * 0.2, 0.2, 0.2 - 0.16 * 0.2]]),
    (op("Sqrt"), [[0.0, 4.0]], [[0, 0.25]]),
    (op("Pow", 0.5), [[0.0, 4.0]], [[0, 0.25]]),
    (op("Pow", 0.0), [[0.0, 4.0]], [[0, 0]]),
    (op("Pow", 3.0), [[0.0, 2.0]], [[0, 12]]),
    (op("Pow", np.float32([0.5, 1.0, 2.0])), [[0.0, 0.0, 0.0]], [[0, 1, 0]]),
    (op("ReduceProd", axes=[1]), [[2, 3, 4], [0, 3, 4], [0, 3, 0]], [[12, 8, 6], [12, 0, 0], [0, 0, 0]]),
    (op("ReduceProd", keepdims=0), [[2, 0.0, 4]], [[0, 8, 0]]),
    (bounded_log, [[0.0, 2.0]], [[0, 0.5]]),
]


@pytest.mark.parametrize(("build", "x", "wanted"), CASES)
def test_gradients_at_zero_are_finite(build, x, wanted):
    x = np.asarray(x, np.float32)
    found = gradient(x, build)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(gradient(x, build, dy=0.0), np.zeros_like(x))
