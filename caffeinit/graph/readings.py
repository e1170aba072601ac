"""What is made of a unit's arrays otherwise than by that unit: of a table of words that is a matrix at the end, too."""

from __future__ import annotations

from collections.abc import Sequence

from caffeinit.graph.graph import Graph
from caffeinit.graph.units import Unit


def other_readings(graph: Graph, units: Sequence[Unit]) -> dict[str, list[str]]:
    """Return initializer of a unit -> the values that nodes other than those of its units make of it and of inputs.

    What is made of arrays alone is looked through.
    """
    own: dict[int, set[str]] = {}
    for unit in units:
        for use in unit.uses:
            for node in (use.node, graph.producer(use.output)):
                own.setdefault(id(node), set()).update(unit.initializers)
    moving = graph.moving_values()
    behind = {name: {name} for unit in units for name in unit.initializers}
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        read = set().union(*(behind.get(value, ()) for value in node.input)) - own.get(id(node), set())
        for made in node.output if read else ():
            if made in moving:
                for name in read:
                    found.setdefault(name, []).append(made)
            elif made:
                behind[made] = read
    return found
