"""Graphs run in segments compute what one session computes, with the weights of few nodes at a time."""

import numpy as np
import pytest

from caffeinit.engine.segments import Segments, cut
from caffeinit.engine.session import Session, Settings
from tests.nets import NetBuilder


def net():
    b = NetBuilder()
    x = b.relu(b.conv("data", "one", 6))
    y = b.relu(b.conv(x, "two", 6))
    z = b.scale(b.graph.op("Add", x, b.conv(y, "three", 6)), "four")
    return b.finish(b.product(b.relu(z), "five", 7)), [x, y]


@pytest.mark.parametrize("most", [1, 2000, 1 << 20])
def test_segments_compute_the_same(most):
    network, inner = net()
    graph = network.graph.part([*inner, *network.outputs])
    feeds = {"data": np.random.default_rng(0).standard_normal((4, 3, 12, 10)).astype(np.float32)}
    wanted = Session(graph, Settings(threads=1)).run(feeds)
    segments = Segments(graph, Settings(threads=1), most)
    into = {name: np.empty_like(array) for name, array in wanted.items()}
    for target in ({}, into):
        found = segments.run(feeds, target)
        assert list(found) == list(wanted)
        for name, array in found.items():
            np.testing.assert_allclose(array, wanted[name], rtol=1e-5, atol=1e-5)
            assert not target or array is into[name]


def test_no_segment_has_more_weights_than_asked_for():
    network, _ = net()
    graph = network.graph.part(network.outputs)
    sizes = []
    for segment in cut(graph, 2000):
        arrays = graph.part(segment.outputs, segment.inputs).initializers
        sizes.append(sum(a.nbytes for a in arrays.values() if a.dtype == np.float32))
    largest = max(a.nbytes for a in graph.initializers.values())
    assert len(sizes) == 3
    assert all(size <= 2000 + 100 or size <= largest + 100 for size in sizes)
