"""Heads: where the noise is put that stands for a gradient on what the net puts out."""

import numpy as np
import pytest

import caffeinit
from caffeinit.graph import Graph
from caffeinit.graph.heads import find_heads
from tests.nets import NetBuilder, pictures


def decoded(graph, x):
    """Return boxes, as detectors decode them from what their scores are in."""
    return graph.op("Mul", graph.op("Sub", graph.op("Mul", x, 2.0), 0.5), 8.0)


def net(made):
    """Return a net with sums and no norms, whose outputs are made from what its last layer puts out."""
    b = NetBuilder()
    x = b.conv("data", "stem", 8)
    for i in range(3):
        y = b.conv(b.relu(b.conv(b.relu(x), f"a{i}", 8)), f"b{i}", 8)
        x = b.graph.op("Add", x, y)
    return b.finish(*made(b, b.conv(b.relu(x), "last", 6)))


def judged(b, x):
    return [b.graph.op("Sigmoid", x)]


def detected(b, x):
    scores = b.graph.op("Sigmoid", x)
    return [decoded(b.graph, scores), scores]


def pooled(b, x):
    return [x, b.graph.op("GlobalAveragePool", x)]


CASES = {"judged": (judged, 1), "detected": (detected, 1), "pooled": (pooled, 1)}


@pytest.mark.parametrize(("made", "num_heads"), CASES.values(), ids=CASES)
def test_what_follows_from_another_head_alone_is_none(made, num_heads):
    found = net(made)
    assert len(find_heads(found.graph, found.learned)) == num_heads


@pytest.mark.parametrize("made", [detected, pooled])
def test_what_follows_from_a_head_alone_moves_no_weight_of_a_start(made):
    nets = [net(judged), net(made)]
    told = [caffeinit.init(n, list(pictures())) for n in nets]
    assert told[1].rate_spread == told[0].rate_spread
    for name, array in nets[0].graph.initializers.items():
        if name in nets[0].learned:
            np.testing.assert_array_equal(array, nets[1].graph.initializers[name])


def test_what_learned_arrays_or_other_values_have_part_in_is_a_head_of_its_own():
    graph = Graph()
    for name in ("x", "y"):
        graph.add_input(name, (1, 3))
    graph.add_initializer("w", np.ones((3, 3), np.float32))
    graph.add_initializer("v", np.ones((3, 3), np.float32))
    first = graph.op("MatMul", "x", "w")
    then = graph.op("MatMul", first, "v")
    beside = graph.op("Add", first, "y")
    graph.outputs = [first, then, beside, graph.op("Add", then, beside)]
    assert find_heads(graph, ["w", "v"]) == [first, then, beside]


@pytest.mark.parametrize("is_read", [False, True])
def test_entries_that_are_chosen_are_no_head_until_something_learned_reads_them(is_read):
    graph = Graph()
    graph.add_input("x", (4, 3))
    for name, outputs in (("boxes", 3), ("scores", 1), ("later", 2)):
        graph.add_initializer(name, np.ones((3, outputs), np.float32))
    boxes, scores = (graph.op("MatMul", "x", name) for name in ("boxes", "scores"))
    _, places = graph.ops("TopK", scores, np.int64([2]), axis=0, outputs=2)
    found = graph.op("Gather", boxes, graph.op("Squeeze", places, np.int64([1])))
    found = graph.op("Clip", decoded(graph, found), np.float32(0))
    graph.outputs = [graph.op("MatMul", found, "later") if is_read else found]
    assert find_heads(graph, ["boxes", "scores", "later"]) == (graph.outputs if is_read else [boxes, scores])


@pytest.mark.parametrize("end", [-9, 0], ids=["all of them", "all but the first"])
def test_numbers_are_the_same_head_in_any_order(end):
    """Caffe's ArgMax finds the last of equal numbers, and so does what `convert` writes: it begins at the end."""
    graph = Graph()
    graph.add_input("x", (4, 3))
    graph.add_initializer("w", np.ones((3, 6), np.float32))
    scores = graph.op("MatMul", "x", "w")
    backwards = graph.op("Slice", scores, [5], [end], [1], [-1])
    graph.outputs = [graph.ops("TopK", backwards, np.int64([1]), axis=1, outputs=2)[1]]
    assert find_heads(graph, ["w"]) == [backwards if end == 0 else scores]
