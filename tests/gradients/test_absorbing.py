"""Convolutions that take up normalisation, factors and shifts behind them."""

import numpy as np
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.gradients.absorbing import absorbed
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph


def net(bias=True):
    """A Conv with all that it can take up, a Relu, and a Conv with a factor."""
    rng = np.random.default_rng(0)
    graph = Graph()
    graph.batch_axis_free = True
    graph.add_input("x", (2, 3, 6, 5))
    shapes = {"w": (4, 3, 3, 2), "v": (5, 2, 1, 1), "b": (4,), "gamma": (4,), "beta": (4,), "mean": (4,)}
    shapes |= {"factor": (4, 1, 1), "shift": (1, 4, 1, 1), "last": (1, 5, 1, 1)}
    for name, shape in shapes.items():
        graph.add_initializer(name, rng.uniform(-1, 1, shape).astype(np.float32))
    graph.add_initializer("variance", rng.uniform(0.5, 2, 4).astype(np.float32))
    y = graph.op("Conv", "x", "w", *(["b"] if bias else []), name="conv")
    y = graph.op("BatchNormalization", y, "gamma", "beta", "mean", "variance", name="bn")
    y = graph.op("Add", "shift", graph.op("Mul", y, "factor", name="scaled"), name="shifted")
    half = graph.op("Slice", graph.op("Relu", y), [0], [2], [1])
    graph.op("Mul", graph.op("Conv", half, "v"), "last", name="y")
    return graph


def gradients(graph, wanted):
    graph.add_input("dy", graph.shape("y"))
    found = append_backward(graph, {"y": "dy"}, wanted)
    rng = np.random.default_rng(1)
    given = {n: rng.standard_normal(graph.inputs[n]).astype(np.float32) for n in ("x", "dy")}
    results = compile_graph(graph, ["y", *found.values()], Settings(threads=1)).run(given)
    return {"y": results["y"]} | {name: results[gradient] for name, gradient in found.items()}


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_stay(bias):
    plain, taken = net(bias), absorbed(net(bias), ["y"])
    assert [n.op_type for n in taken.nodes if taken.depends_on_input(n.output[0])] == ["Conv", "Relu", "Slice", "Conv"]
    wanted = ["x", *(n for n in plain.initializers if "const" not in n and (bias or n != "b"))]
    expected, found = gradients(plain, wanted), gradients(taken, wanted)
    for name, array in expected.items():
        # Sums of some hundred products in another order.
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5 * np.abs(array).max(), err_msg=name)


@pytest.mark.parametrize(
    ("kept", "ops"), [("conv", ["Conv", "BatchNormalization", "Mul", "Add"]), ("bn", ["Conv", "Mul", "Add"])]
)
def test_what_is_asked_for_is_kept(kept, ops):
    taken = absorbed(net(), [kept, "y"])
    moving = [n for n in taken.nodes if taken.depends_on_input(n.output[0])]
    assert [n.op_type for n in moving][: len(ops)] == ops
    assert any(kept in n.output for n in moving)


def test_what_depends_on_the_input_or_is_read_twice_is_not_taken_up():
    graph = Graph()
    graph.add_input("x", (2, 3, 4, 4))
    graph.add_initializer("w", np.ones((3, 3, 1, 1), np.float32))
    gate = graph.op("ReduceMean", "x", axes=[0, 2, 3])
    gated = graph.op("Mul", graph.op("Conv", "x", "w"), gate)
    twice = graph.op("Conv", gated, "w")
    graph.op("Add", graph.op("Mul", twice, np.ones((3, 1, 1), np.float32)), twice)
    assert [n.op_type for n in absorbed(graph, []).nodes] == [n.op_type for n in graph.nodes]
