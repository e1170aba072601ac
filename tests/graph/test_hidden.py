"""Weights that are used again at every step, and what of them can be seen from the products that read them."""

import numpy as np

from caffeinit.graph import Graph
from caffeinit.graph.hidden import find_hidden, hide


def test_products_with_a_hidden_array_are_found_through_views_and_no_others_are():
    graph = Graph(17)
    graph.add_input("x", (4, 6))
    hidden, seen = (graph.add_initializer(name, np.ones((6, 6), np.float32)) for name in ("hidden", "seen"))
    turned = graph.op("Transpose", hide(graph, hidden), perm=[1, 0])
    joined = graph.op("Concat", seen, seen, axis=0)
    for value in (turned, graph.op("Transpose", seen, perm=[1, 0]), graph.op("Transpose", joined, perm=[1, 0])):
        graph.op("MatMul", "x", value)
    assert find_hidden(graph) == {turned: "hidden"}
