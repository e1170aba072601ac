"""A linear map between the channels of each group of a kept value, and an affine map of each channel after it.

Like `Affine` it is made in place, or by whoever reads the value next: there it is a convolution that looks at one place.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from caffeinit.engine.affine import Affine, take_positive
from caffeinit.graph import Graph


@dataclass(frozen=True)
class Mixing(Affine):
    """x * scale + shift of what a matrix makes of each group's channels, and max(x, 0) after it where `rectify` says so.

    Attributes:
        matrix: (groups, C / groups, C / groups), applied first.
    """

    matrix: np.ndarray = field(kw_only=True)

    def __call__(self, pieces: Iterable[np.ndarray], *, pool: Executor | None = None) -> None:
        """Change arrays in place; see `Affine`."""
        mix = partial(self._mix, self._scaled())
        for piece in pieces:
            axis = self.axis % piece.ndim
            whole = piece.ndim < 3 or axis == 0
            views = [np.moveaxis(piece, axis, 0)] if whole else [np.moveaxis(p, axis - 1, 0) for p in piece]
            list(pool.map(mix, views) if pool else map(mix, views))

    def _scaled(self) -> np.ndarray:
        """Return the matrix with the scale in it, float32."""
        groups, channels = self.matrix.shape[:2]
        scaled = self.matrix * self.scale.reshape(groups, channels, 1).astype(np.float64)
        return scaled.astype(np.float32)

    def _mix(self, matrix: np.ndarray, values: np.ndarray) -> None:
        """Change a view (C, ...) in place."""
        groups, channels = matrix.shape[:2]
        for group in range(groups):
            part = slice(group * channels, (group + 1) * channels)
            mixed = matrix[group] @ values[part].reshape(channels, -1)
            mixed += self.shift[part, None]
            if self.rectify:
                take_positive(mixed)
            values[part] = mixed.reshape(values[part].shape)

    def add_to(self, graph: Graph, value: str, name: str) -> None:
        """Append the nodes that make it of `value`; the result is called `name`."""
        if self.is_cheap(graph.shape(value)):
            self.add_cheaply(graph, value, name)
            return
        rank = len(graph.shape(value))
        axis = self.axis % rank
        last = [a for a in range(rank) if a != axis] + [axis]
        x = value if axis == rank - 1 else graph.op("Transpose", value, perm=last)
        x = graph.op("Add", graph.op("MatMul", x, self._whole()), self.shift)
        if axis != rank - 1:
            x = graph.op("Transpose", x, perm=[int(a) for a in np.argsort(last)])
        graph.op("Relu" if self.rectify else "Identity", x, name=name)

    def _whole(self) -> np.ndarray:
        """Return the matrix of all channels, (C, C) float32: a row of them times it is a row of the result."""
        scaled = self._scaled()
        groups, channels = scaled.shape[:2]
        whole = np.zeros((groups, channels, groups, channels), np.float32)
        for group in range(groups):
            whole[group, :, group] = scaled[group].T
        return whole.reshape(groups * channels, -1)

    def add_cheaply(self, graph: Graph, value: str, name: str) -> None:
        """Append a convolution over one place, where `is_cheap` holds; the result is called `name`."""
        scaled = self._scaled()
        groups, channels = scaled.shape[:2]
        ones = (1,) * (len(graph.shape(value)) - 2)
        weight = np.ascontiguousarray(scaled.reshape(groups * channels, channels, *ones))
        x = graph.op("Conv", value, weight, self.shift, group=groups, name=None if self.rectify else name)
        if self.rectify:
            graph.op("Relu", x, name=name)
