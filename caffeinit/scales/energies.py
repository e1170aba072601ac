"""The energies, sums of squares, that terms of sums have, and what comes back to values: measured on some pictures."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from caffeinit.engine.session import compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import joins_rows
from caffeinit.graph.sizes import count_pictures, scaled_rows
from caffeinit.model.network import Network
from caffeinit.ops.building import reduced
from caffeinit.scales.mixtures import Edge

_PICTURES = 4  # on which energies are measured


class Energies:
    """What measures energies: compiled once, and reads the learned arrays anew each time."""

    def __init__(self, network: Network, heads: Collection[str], asked: Sequence[Edge]) -> None:
        """Compile a graph with gradients that computes the energies that are asked for."""
        self.asked = asked
        self._network = network
        graph = network.graph.copy()
        noise = {head: graph.add_input_like(head, "noise") for head in heads}
        parts = {(head, ""): [value] for head, value in noise.items()}
        back = list(dict.fromkeys(edge.value for edge in asked if edge.kind in ("part", "diff")))
        try:
            diffs = append_backward(graph, noise, back, parts)
        except GradientError:  # where no gradient passes, nothing has a rate that depends on it
            diffs = {}
        self._squares: dict[Edge, list[str]] = {}
        for edge in dict.fromkeys(edge._replace(group=None) for edge in asked):
            if edge.kind == "part":
                values = parts.get((edge.value, edge.source), [])
            else:
                values = [diffs[edge.value]] if edge.kind == "diff" and edge.value in diffs else []
                values = [edge.value] if edge.kind in ("value", "deviation") else values
            if values:
                self._squares[edge] = [_squared(graph, value, edge) for value in values]
        names = [name for of in self._squares.values() for name in of]
        self._session = compile_graph(graph, names, network.settings, fed=network.learned)
        self._rows = graph.batch_size()
        self._is_cut = graph.batch_axis_free and not joins_rows(graph.part(names))
        self._shapes = {name: graph.shape(name) for name in self._session.inputs}

    def measure(self, batch: Mapping[str, np.ndarray], weights: Mapping[str, np.ndarray]) -> dict[Edge, float]:
        """Return the energies on some pictures of a batch.

        Args:
            weights: first output of a unit's node -> (I,) squares of its weights for each input channel.
        """
        graph = self._network.graph
        feeds = {name: array[:_PICTURES] if self._is_cut and array.ndim else array for name, array in batch.items()}
        pictures = count_pictures(graph, feeds) if graph.batch_axis_free else self._rows
        rng = np.random.default_rng(0)
        for name in self._session.inputs:
            if name not in feeds:
                shape = scaled_rows(self._shapes[name], pictures, self._rows)
                feeds[name] = rng.standard_normal(shape, np.float32)
        found = self._session.run({name: feeds[name] for name in self._session.inputs})
        wholes = {
            edge: np.sum([_spread(found[name], edge).ravel() for name in of], axis=0)
            for edge, of in self._squares.items()
        }
        for edge, energies in wholes.items():
            weighs = edge.kind in ("value", "deviation") and edge.source in weights
            if weighs and weights[edge.source].shape == energies.shape:
                wholes[edge] = energies * weights[edge.source]
        return {
            edge: _taken(wholes[whole], edge) for edge in self.asked if (whole := edge._replace(group=None)) in wholes
        }


def _spread(energies: np.ndarray, edge: Edge) -> np.ndarray:
    """Return the energies of all elements; rows that are channels, too, as behind a Flatten, are there once a picture."""
    shape = _last(edge.shape, energies.ndim)
    if energies.ndim and len(energies) > shape[0] > 1:
        energies = energies.reshape(-1, shape[0], *energies.shape[1:]).sum(0)
    return np.broadcast_to(energies, shape)


def _taken(energies: np.ndarray, edge: Edge) -> float:
    """Return the energy of the elements that count."""
    chosen = energies if edge.group is None else energies[np.frombuffer(edge.group, np.int64)]
    return float(chosen.sum(dtype=np.float64))


def _squared(graph: Graph, value: str, edge: Edge) -> str:
    """Append the sums of squares of a value over the axes along which the elements are not told apart."""
    rank = len(graph.shape(value))
    axes = [axis for axis, size in enumerate(_last(edge.shape, rank)) if size == 1]
    if edge.kind == "deviation" and axes:
        value = graph.op("Sub", value, reduced(graph, "ReduceMean", value, axes))
    return reduced(graph, "ReduceSumSquare", value, axes) if axes else graph.op("Mul", value, value)


def _last(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Return a shape with so many axes: its last ones, or more of size 1 before."""
    return ((1,) * rank + shape)[len(shape) :]
