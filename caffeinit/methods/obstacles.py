"""Which units cannot be normalised in turn, and what has to wait for those that can.

A pass corrects one unit after another. What reads a unit's arrays beside its own nodes (a table of words that is also the
matrix at the end, filters that are also squared and summed) changes with them, so that it is computed once they are
corrected. Where the unit's own input is made of it, there is no such turn, and the unit stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from caffeinit.graph import Graph
from caffeinit.graph.units import Unit
from caffeinit.model.network import Network


class Turns:
    """In what order units can be corrected, found as they are taken one by one.

    Attributes:
        after: value -> the values with whose correction arrays change that it is made of.
    """

    def __init__(self, network: Network) -> None:
        self.after: dict[str, list[str]] = {}
        self._graph = network.graph
        self._units = network.units
        self._readings = network.other_readings
        self._inputs: dict[str, list[str]] = {}  # output of a unit with several uses -> what all these read

    def obstacle(self, unit: Unit) -> str:
        """Return why a unit cannot be normalised after those that were taken; empty if it can."""
        if is_fed_back(self._graph, unit):
            return "its weights are used again on a value that depends on their first use"
        made = self._made_of(unit)
        if len(unit.uses) == 1 and not made:
            return ""
        below = self._below(use.input for use in unit.uses)
        if not below.isdisjoint(made):
            return "what it reads is made of its own arrays, which are read in another way there"
        if len(unit.uses) > 1:
            for other in self._units:
                shares = not set(unit.initializers).isdisjoint(other.initializers)
                if other is not unit and shares and any(use.output in below for use in other.uses):
                    return f"one of its uses depends on {other.name}, which shares an array with it"
            if any(use.output in below for use in unit.uses):
                return "one of its uses depends on another by way of others that are used several times"
        return ""

    def take(self, unit: Unit, value: str) -> None:
        """Let all that is made of a unit's arrays in another way wait for the value with which they are corrected."""
        for made in self._made_of(unit):
            self.wait(made, [value])
        if len(unit.uses) > 1:
            self._inputs.update((use.output, [u.input for u in unit.uses]) for use in unit.uses)

    def wait(self, made: str, values: Iterable[str]) -> None:
        """Let one value wait until others are corrected."""
        self.after.setdefault(made, []).extend(values)

    def _made_of(self, unit: Unit) -> list[str]:
        return [made for name in unit.initializers for made in self._readings.get(name, ())]

    def _below(self, values: Iterable[str]) -> set[str]:
        """Return what has to be there before these values are, and these."""
        found: set[str] = set()
        pending = list(values)
        while pending:
            new = {o for node in self._graph.ancestors(pending) for o in node.output}.union(pending) - found
            found |= new
            pending = [v for o in new for v in (*self.after.get(o, ()), *self._inputs.get(o, ())) if v not in found]
        return found


def is_fed_back(graph: Graph, unit: Unit) -> bool:
    """Tell whether what a unit reads somewhere depends on what it puts out elsewhere."""
    if len(unit.uses) == 1:
        return False
    below = {o for node in graph.ancestors([use.input for use in unit.uses]) for o in node.output}
    return any(use.output in below for use in unit.uses)


def reads_itself(network: Network, unit: Unit) -> bool:
    """Tell whether what a unit reads is made of its own arrays, other than by its own nodes."""
    made = {value for name in unit.initializers for value in network.other_readings.get(name, ())}
    below = network.graph.ancestors(use.input for use in unit.uses) if made else []
    return any(output in made for node in below for output in node.output)
