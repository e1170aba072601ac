"""What makes a unit where little is known of the values."""

import numpy as np
import pytest

from caffeinit.graph import Graph
from caffeinit.graph.units import Learned, find_units


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_an_array_is_no_unit_where_the_axes_of_what_it_joins_are_not_known(kind):
    graph = Graph()
    graph.add_input("x", (2, 6))
    for name in ("matrix", "joined"):
        graph.add_initializer(name, np.ones((6, 6) if name == "matrix" else 6, np.float32))
    graph.op(kind, graph.op("MatMul", graph.op("Unknown", "x", domain="of.others"), "matrix"), "joined", name="y")
    assert find_units(graph, {name: Learned(name, 0) for name in ("matrix", "joined")}) == []
