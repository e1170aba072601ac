"""Channels of kept values mixed: in place, as plain nodes, and as a convolution, it is the same map."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from caffeinit.engine.affine import with_corrections
from caffeinit.engine.mixing import Mixing
from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph

SHAPES = [((3, 6), 1), ((4, 6, 5), 1), ((2, 32, 7, 9), 1), ((3, 4, 6), 2), ((6, 2, 3, 3), 0), ((2, 3, 4, 6), -1)]


def drawn(shape, axis, groups, rectify):
    rng = np.random.default_rng(0)
    channels = shape[axis]
    scale, shift = rng.standard_normal((2, channels)).astype(np.float32)
    matrix = rng.standard_normal((groups, channels // groups, channels // groups))
    return rng.standard_normal(shape).astype(np.float32), Mixing(scale, shift, axis, rectify, matrix=matrix)


def wanted(values, mixing):
    channels = mixing.matrix.shape[1]
    rows = np.moveaxis(values.astype(np.float64), mixing.axis, 0)
    mixed = np.concatenate(
        [np.tensordot(m, rows[g * channels : (g + 1) * channels], 1) for g, m in enumerate(mixing.matrix)]
    )
    broad = (-1, *[1] * (values.ndim - 1))
    exact = mixed * mixing.scale.reshape(broad) + mixing.shift.reshape(broad)
    return np.moveaxis(np.maximum(exact, 0) if mixing.rectify else exact, 0, mixing.axis)


@pytest.mark.parametrize("rectify", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_in_place_and_as_nodes_it_is_one_map(shape, axis, groups, rectify):
    values, mixing = drawn(shape, axis, groups, rectify)
    expected = wanted(values, mixing)
    graph = Graph()
    graph.add_input("x", shape)
    graph.outputs = [graph.op("Identity", "x", name="y")]
    for cheaply in {False, mixing.is_cheap(shape)}:
        other, renamed = with_corrections(graph, {"x": mixing}, cheaply=cheaply)
        found = Session(other, Settings()).run({renamed["x"]: values})["y"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    turned, alone = np.asfortranarray(values), values.copy()
    with ThreadPoolExecutor(2) as pool:
        mixing([values, turned], pool=pool)
    mixing([alone])
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(turned, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(alone, values)
