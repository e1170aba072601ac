"""Corrections of kept values: in place, as plain nodes, and as those that are cheap on a CPU, they are the same map."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from caffeinit.engine.abreast import Abreast
from caffeinit.engine.affine import BLOCKED, Affine, with_corrections
from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph

SHAPES = [((3, 5), 1), ((4, 3, 5), 1), ((2, BLOCKED, 7, 9), 1), ((2, 8, 60, 300), 1), ((3, 4, 6), 2), ((5, 2, 3, 3), 0)]


def drawn(shape, axis, rectify):
    rng = np.random.default_rng(0)
    scale, shift = rng.standard_normal((2, shape[axis])).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32), Affine(scale, shift, axis, rectify)


def wanted(values, affine):
    broad = [-1 if a == affine.axis else 1 for a in range(values.ndim)]
    exact = values.astype(np.float64) * affine.scale.reshape(broad) + affine.shift.reshape(broad)
    return np.maximum(exact, 0) if affine.rectify else exact


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_in_place(shape, axis, threads, rectify):
    values, affine = drawn(shape, axis, rectify)
    expected = wanted(values, affine)
    turned = np.asfortranarray(values)
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        affine([values, turned], pool=pool if threads else None)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(turned, values)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_as_nodes_before_the_first_reader(shape, axis, rectify):
    values, affine = drawn(shape, axis, rectify)
    graph = Graph()
    graph.add_input("x", shape)
    graph.outputs = [graph.op("Identity", "x", name="y")]
    for cheaply in {False, affine.is_cheap(shape)}:
        other, renamed = with_corrections(graph, {"x": affine}, cheaply=cheaply)
        found = Session(other, Settings()).run({renamed["x"]: values})["y"]
        np.testing.assert_allclose(found, wanted(values, affine), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rectify", [False, True])
def test_a_stage_corrects_what_it_is_given_part_by_part(rectify):
    rng = np.random.default_rng(0)
    values, affine = drawn((5, BLOCKED, 6, 7), 1, rectify)
    graph = Graph()
    graph.batch_axis_free = True
    graph.add_input("x", values.shape)
    graph.outputs = [graph.op("Conv", "x", rng.standard_normal((4, BLOCKED, 3, 3), np.float32), name="y")]
    into = {"y": np.full((5, 4, 4, 5), np.nan, np.float32)}
    given = values.copy()
    with ThreadPoolExecutor(2) as pool:
        stage = Abreast(graph, Settings(threads=2), pool, {"x": affine})
        list(stage.run_parts({"x": given}, into, lambda parts: None, lambda made: None))
        whole = stage.run({"x": given}, {"y": np.empty_like(into["y"])})["y"]
    np.testing.assert_array_equal(given, values)  # what is kept stays as it was
    np.testing.assert_array_equal(into["y"], whole)
    affine([values])
    plain = Session(graph, Settings()).run({"x": values})["y"]
    np.testing.assert_allclose(whole, plain, rtol=1e-5, atol=1e-5)
