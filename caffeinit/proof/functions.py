"""Nets as functions from inputs to any of their values: what can be compared with each other and with ONNX files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.graph.heads import chosen_from, find_heads
from caffeinit.graph.places import Places, find_places, is_squashed
from caffeinit.graph.readable import NUMBERS
from caffeinit.model.network import Network
from caffeinit.proof.verify import TOLERANCE, Difference

Values = Mapping[str, np.ndarray]
Run = Callable[[Values], dict[str, np.ndarray]]


class Function(Protocol):
    """One side of a comparison.

    Attributes:
        label: how messages name it.
        inputs: input -> its axes.
        outputs: what the side puts out.
        rows: pictures that it takes at a time: 1 where any number is fine, 0 where a batch must stay as it is.
        replaced: outputs that are no numbers -> what stands for them among `outputs`, in words.
    """

    @property
    def label(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, Sequence[int | None]]: ...
    @property
    def outputs(self) -> Sequence[str]: ...
    @property
    def rows(self) -> int: ...
    @property
    def replaced(self) -> Mapping[str, str]: ...

    def values(self, given: Collection[str]) -> list[str]:
        """Return the values that these inputs determine and influence, in the order of the graph."""

    def fixed(self) -> list[str]:
        """Return the outputs that no input influences."""

    def is_of_all(self, output: str) -> bool:
        """Tell whether an output is one number for all pictures of a batch, whose size the side states."""

    def judged(self, output: str) -> list[str]:
        """Return the values that an output judges, as a loss does; none where that is not known."""

    def places(self, output: str) -> Places | None:
        """Return what an output tells the places of, if it does."""

    def is_squashed(self, output: str) -> bool:
        """Tell whether a sigmoid puts an output out."""

    def chosen_from(self, output: str) -> tuple[str, ...]:
        """Return the values that an output's entries are chosen from, where that is known."""

    def compile(self, values: Sequence[str]) -> Run:
        """Return what computes these values from a batch."""


def differences(function: Function, names: Sequence[str], tolerance: float = TOLERANCE) -> list[Difference]:
    """Return what takes in by how much some values of a function differ from those of another."""
    return [
        Difference(
            name,
            places=function.places(name),
            squashed=function.is_squashed(name),
            tolerance=tolerance,
            chosen_from=function.chosen_from(name),
        )
        for name in names
    ]


class ToldFunction:
    """A file as a function, of whose outputs the network that it was loaded as tells what they judge."""

    def __init__(self, file: Function, network: Network) -> None:
        self._file, self._told = file, NetFunction(network, file.label)
        self.label, self.inputs, self.outputs, self.rows = file.label, file.inputs, file.outputs, file.rows
        self.values, self.fixed, self.places, self.compile = file.values, file.fixed, file.places, file.compile
        self.is_squashed, self.is_of_all, self.replaced = file.is_squashed, file.is_of_all, file.replaced

    def judged(self, output: str) -> list[str]:
        """Return the values that an output judges."""
        return self._told.judged(output) if output in self._told.outputs else []

    def chosen_from(self, output: str) -> tuple[str, ...]:
        """Return the values that an output's entries are chosen from, if the data choose them."""
        return self._told.chosen_from(output) if output in self._told.outputs else ()


class NetFunction:
    """A network as a function from inputs to any of its values."""

    def __init__(self, network: Network, label: str) -> None:
        self._network = network
        self.label = label
        self.inputs: Mapping[str, Sequence[int | None]] = network.graph.inputs
        self.outputs = network.graph.outputs or network.graph.unused()
        self.rows = int(network.graph.batch_axis_free)
        self.replaced: Mapping[str, str] = network.replaced

    def values(self, given: Collection[str]) -> list[str]:
        """Return the values that these inputs determine and influence, in the order of the graph."""
        graph = self._network.graph
        moving, unknown = set(given), set(graph.inputs) - set(given)
        for node in graph.nodes:
            if any(i in unknown for i in node.input):
                unknown.update(node.output)
            elif any(i in moving for i in node.input):
                moving.update(node.output)
        made = [o for node in graph.nodes for o in node.output if o in moving and o]
        return [o for o in made if not graph.is_typed(o) or graph.elem_type(o) in NUMBERS]

    def fixed(self) -> list[str]:
        """Return the outputs that no input influences."""
        graph, still = self._network.graph, self._network.still
        moving = graph.moving_values()
        own = [o for o in self.outputs if o not in moving and graph.producer(o) is not None]
        return [*own, *(still.outputs if still is not None else ())]

    def is_of_all(self, output: str) -> bool:
        """Return whether that is so: of no output, for batches are fed in the size that a net states."""
        return False

    def judged(self, output: str) -> list[str]:
        """Return the values that an output judges, as a loss does."""
        graph = self._network.graph.copy()
        graph.outputs = [output]
        return find_heads(graph, self._network.unit_arrays)

    def places(self, output: str) -> Places | None:
        """Return what an output tells the places of, if it does."""
        return find_places(output, self._network.graph.producer)

    def is_squashed(self, output: str) -> bool:
        """Tell whether a sigmoid puts an output out."""
        return is_squashed(output, self._network.graph.producer)

    def chosen_from(self, output: str) -> tuple[str, ...]:
        """Return the values that an output's entries are chosen from, if the data choose them."""
        return chosen_from(self._network.graph, self._network.learned, output)

    def compile(self, values: Sequence[str]) -> Run:
        """Return what computes these values from a batch."""
        still = self._network.still
        graph = still if still is not None and {*values} <= {*still.outputs} else self._network.graph
        session = compile_graph(graph, values, self._network.settings)
        return lambda batch: session.run({n: batch[n] for n in session.inputs})
