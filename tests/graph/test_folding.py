"""Values that follow from constants and shapes: each is worked out once, and anew where an array has been changed."""

import numpy as np

from caffeinit.graph import Graph
from caffeinit.graph.folding import known_value


def doubled(times):
    """Return a graph that doubles a number so many times, by adding it to itself, and the value it gives."""
    graph = Graph()
    graph.add_initializer("number", np.float32([1.5]))
    value = "number"
    for _ in range(times):
        value = graph.op("Add", value, value)
    return graph, value


def test_what_is_read_twice_is_worked_out_once():
    graph, value = doubled(60)  # 2 ** 60 sums otherwise
    np.testing.assert_array_equal(known_value(graph, value), np.float32([1.5 * 2**60]))


def test_what_follows_from_a_changed_array_is_worked_out_anew():
    graph, value = doubled(3)
    assert known_value(graph, value) == 12
    graph.initializers["number"][...] = 2
    assert known_value(graph, value) == 16


def test_what_is_found_belongs_to_the_one_who_asks():
    (graph, value), (other, same) = doubled(1), doubled(1)
    known_value(graph, value)[...] = 0
    assert known_value(other, same) == 3


def test_empty_arrays_are_known():
    graph = Graph()
    graph.add_initializer("none", np.zeros((0, 2), np.float32))
    assert known_value(graph, graph.op("Transpose", "none", perm=[1, 0])).shape == (2, 0)


def test_what_shapes_tell_of_another_size_is_known():
    graph = Graph()
    graph.add_input("x", (1, 3, 8, 6))
    sides = graph.op("Cast", graph.op("Slice", graph.op("Shape", "x"), np.int64([2]), np.int64([4])), to=1)
    factor = graph.op("Mul", graph.op("Reciprocal", graph.op("ReduceMin", sides, keepdims=0)), np.float32(12))
    np.testing.assert_array_equal(known_value(graph, graph.op("Floor", graph.op("Mul", sides, factor))), [16, 12])


def test_of_what_a_number_is_cast_like_only_the_type_counts():
    graph = Graph()
    graph.add_input("x", (1, 3, 8, 6))
    assert known_value(graph, graph.op("CastLike", graph.constant(np.int64(2)), "x")).dtype == np.float32
