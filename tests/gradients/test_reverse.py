"""The reverse walk: what Caffe's backward pass gives, and what is refused."""

import re

import numpy as np
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from tests.caffe.test_golden import CASES, group, load_case
from tests.conftest import GOLDEN

WITH_GRADIENT = [name for name in CASES if "topdiff" in str(np.load(GOLDEN / "layers" / f"{name}.npz").files)]


@pytest.mark.parametrize("name", WITH_GRADIENT)
def test_gradients_are_what_caffe_computed(name):
    net, archive = load_case(name)
    graph = net.graph.copy()
    diffs = {top: graph.add_input(f"diff/{top}", array.shape) for top, array in group(archive, "topdiff/").items()}
    expected = {}
    for key, array in group(archive, "paramdiff/").items():
        layer, index = key.rsplit("/", 1)
        value = next(v for v in net.learned if graph.initializers[v] is net.params[layer][int(index)])
        # Caffe does not train stored statistics; with respect to them our gradient is the mathematical one.
        if net.learned[value].role not in ("mean", "variance", "factor"):
            expected[value] = array
    # Nor does it send a gradient to the markers of where a sequence continues.
    markers = {"x2"} if name == "lstm" else set()
    expected |= {n: a for n, a in group(archive, "indiff/").items() if n not in markers}
    found = append_backward(graph, diffs, list(expected))
    given = group(archive, "in/") | {d: archive[f"topdiff/{top}"] for top, d in diffs.items()}
    session = compile_graph(graph, list(dict.fromkeys(found.values())), Settings(threads=1))
    results = session.run({n: a for n, a in given.items() if n in session.inputs})
    for value, array in expected.items():
        # The order of sums of a few thousand products.
        tolerance = 1e-4 * np.abs(array).max()
        np.testing.assert_allclose(results[found[value]].reshape(array.shape), array, rtol=0, atol=tolerance)


def diamond():
    graph = Graph()
    graph.batch_axis_free = True
    graph.add_input("x", (2, 3))
    graph.add_input("dy", (2, 3))
    a, b, c = (graph.op("Mul", "x", factor) for factor in (2.0, 3.0, 5.0))
    graph.op("Sum", a, graph.op("Add", b, c), "x", name="y")
    return graph


def test_paths_that_meet_are_summed():
    graph = diamond()
    found = append_backward(graph, {"y": "dy"}, ["x"])
    dy = np.ones((4, 3), np.float32)
    result = compile_graph(graph, [found["x"]], Settings(threads=1)).run({"dy": dy})
    np.testing.assert_array_equal(result[found["x"]], 11 * dy)


def test_only_nodes_on_the_way_stay():
    graph = diamond()
    graph.add_initializer("w", np.ones((3,), np.float32))
    graph.op("Mul", "y", "w", name="z")
    before = len(graph.nodes)
    append_backward(graph, {"z": "dy"}, ["w"])
    assert [n.op_type for n in graph.nodes[before:]] == ["Mul", "ReduceSum", "Shape", "Reshape"]


def test_a_value_that_no_top_depends_on_has_zeros():
    graph = diamond()
    graph.add_input("other", (2, 5))
    found = append_backward(graph, {"y": "dy"}, ["other"])
    result = compile_graph(graph, [found["other"]], Settings(threads=1)).run({"other": np.ones((3, 5), np.float32)})
    np.testing.assert_array_equal(result[found["other"]], np.zeros((3, 5)))


def regions(graph):
    places = graph.op("Unsqueeze", "x", [2, 3])
    pooled = graph.op("MaxRoiPool", places, np.zeros((2, 5), np.float32), name="middle", pooled_shape=[1, 1])
    return graph.op("Flatten", pooled)


def filtered(graph):
    """Append rows that the data choose, though the net states how many they are, as Caffe's do."""
    kept = graph.op("Compress", "x", graph.op("Greater", graph.op("Reshape", "x", [-1]), 0.0), name="middle", axis=0)
    graph.set_shape(kept, (2, 3))
    return kept


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (regions, 'MaxRoiPool ("middle"): values at places that are computed are not differentiated'),
        (filtered, 'Compress ("middle"): how many values it keeps depends on the data, and the net states a number'),
        (lambda graph: graph.op("Atan", "x", name="middle"), 'Atan ("middle"): the operator is not known'),
    ],
)
def test_a_gradient_through_what_has_none_is_refused(middle, words):
    graph = diamond()
    graph.op("Mul", middle(graph), 2.0, name="z")
    with pytest.raises(GradientError, match=re.escape(words)):
        append_backward(graph, {"z": "dy"}, ["x"])
    # Asked of values beside that path, all is well.
    append_backward(graph, {"y": "dy"}, ["x"])


@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_of_equal_maxima_takes_the_gradient(stride):
    rng = np.random.default_rng(7)
    x = rng.integers(0, 2, (2, 3, 7, 6)).astype(np.float32)
    graph = Graph()
    graph.batch_axis_free = True
    graph.add_input("x", x.shape)
    y = graph.op("MaxPool", "x", kernel_shape=[3, 2], strides=[stride, stride], pads=[1, 0, 1, 1])
    dy = rng.standard_normal(graph.shape(y)).astype(np.float32)
    graph.add_input("dy", dy.shape)
    found = append_backward(graph, {y: "dy"}, ["x"])["x"]
    expected = np.zeros((2, 3, 9, 7), np.float32)
    wide = np.pad(x, ((0, 0), (0, 0), (1, 1), (0, 1)), constant_values=-1)
    for index in np.ndindex(*dy.shape):
        image, channel, row, column = index[0], index[1], stride * index[2], stride * index[3]
        window = wide[image, channel, row : row + 3, column : column + 2]
        down, right = np.unravel_index(window.argmax(), window.shape)
        expected[image, channel, row + down, column + right] += dy[index]
    result = compile_graph(graph, [found], Settings(threads=1)).run({"x": x, "dy": dy})[found]
    # Sums of at most six numbers in another order.
    np.testing.assert_allclose(result, expected[:, :, 1:8, :6], rtol=0, atol=1e-5)
