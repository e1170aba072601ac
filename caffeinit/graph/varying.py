"""Which values vary with the numbers of others; what follows from their shapes alone does not."""

from __future__ import annotations

from collections.abc import Iterable

from caffeinit.graph.graph import Graph


def followers(graph: Graph, values: Iterable[str]) -> set[str]:
    """Return the values that depend on one of `values`, and not on its shape alone; with these themselves."""
    reached = set(values)
    for node in graph.nodes:
        if node.op_type not in ("Shape", "Size") and any(i in reached for i in node.input):
            reached.update(o for o in node.output if o)
    return reached
