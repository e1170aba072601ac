"""The energies, sums of squares, that terms of sums have, and what comes back to values: measured on some pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients.reverse import append_backward
from caffeinit.model.graph import Graph
from caffeinit.model.network import Network
from caffeinit.ops.building import reduced
from caffeinit.scales.labels import Labels
from caffeinit.scales.mixtures import Edge

_PICTURES = 4  # on which energies are measured


class Energies:
    """What measures energies: compiled once, and reads the learned arrays anew each time."""

    def __init__(
        self, network: Network, heads: Collection[str], asked: Sequence[Edge], labels: Mapping[str, Labels]
    ) -> None:
        """Compile a graph with gradients that computes the energies that are asked for."""
        self.asked = asked
        self._network = network
        graph = network.graph.copy()
        noise = {head: graph.add_input(graph.fresh("noise"), graph.shape(head)) for head in heads}
        back = [edge for edge in asked if edge[0] == "diff"]
        parts: dict[tuple[str, str], list[str]] = {}
        try:
            append_backward(graph, noise, list(dict.fromkeys(value for _, value, _ in back)), parts)
        except GradientError:  # where no gradient passes, nothing has a rate that depends on it
            parts = {}
        wanted = {edge: parts[edge[1:]] for edge in back if edge[1:] in parts}
        wanted |= {edge: [edge[2]] for edge in asked if edge[0] == "value"}
        wanted |= {edge: [_centred(graph, edge[2], labels)] for edge in asked if edge[0] == "deviation"}
        self._squares = {
            edge: [graph.op("ReduceSumSquare", v, keepdims=0) for v in values] for edge, values in wanted.items()
        }
        names = [name for of in self._squares.values() for name in of]
        self._session = compile_graph(graph, names, network.settings, fed=network.learned)
        self._shapes = {name: graph.shape(name) for name in self._session.inputs}

    def measure(self, batch: Mapping[str, np.ndarray]) -> dict[Edge, float]:
        """Return the energies on some pictures of a batch."""
        free = self._network.graph.batch_axis_free
        feeds = {name: array[:_PICTURES] if free and array.ndim else array for name, array in batch.items()}
        pictures = len(next(iter(feeds.values())))
        rng = np.random.default_rng(0)
        for name in self._session.inputs:
            if name not in feeds:
                first, *rest = self._shapes[name]
                size = (pictures, *rest) if free else (first, *rest)
                feeds[name] = rng.standard_normal(size, np.float32)
        found = self._session.run({name: feeds[name] for name in self._session.inputs})
        return {edge: sum(float(found[name]) for name in of) for edge, of in self._squares.items()}


def _centred(graph: Graph, value: str, labels: Mapping[str, Labels]) -> str:
    """Append what a value deviates from the means of its channels."""
    axes = [axis for axis, size in enumerate(labels[value].shape) if size == 1]
    return graph.op("Sub", value, reduced(graph, "ReduceMean", value, axes)) if axes else value
