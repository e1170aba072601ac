"""Values with as many rows as the data choose, in a graph whose shapes were stated with all of them."""

from __future__ import annotations

from collections.abc import Iterable

from caffeinit.graph import Graph


def open_rows(graph: Graph, chosen: Iterable[str]) -> None:
    """State that nobody knows how many rows `chosen` values have, nor those made of them that have as many."""
    opened: dict[str, int] = {}  # value -> its rows when all are chosen
    pending = set(chosen)
    for node in graph.nodes:
        rows = {opened[i] for i in node.input if i in opened}
        for value in filter(None, node.output):
            if not rows and value not in pending:
                continue
            shape = graph.shape(value)
            if value in pending or (shape and shape[0] in rows):
                opened[value] = shape[0]
    for value in opened:
        graph.set_shape(value, (-1, *graph.shape(value)[1:]), graph.elem_type(value))
