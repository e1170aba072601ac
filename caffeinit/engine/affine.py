"""An affine map of each channel of a kept value, and a ReLU after it: made in place, or by whoever reads the value next.

Kept values are corrected instead of being computed again. Beside the work of a stage that reads it anyway, a correction
costs a third of what it takes to go through the memory for it once more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from caffeinit.graph import Graph, Shape

_BLOCK_ELEMENTS = 1 << 16  # of float32, which stay in the cache for the few passes over them
_ZEROS = np.zeros(_BLOCK_ELEMENTS, np.float32)
BLOCKED = 16  # onnxruntime's blocked layout takes numbers of channels that are multiples of it


@dataclass(frozen=True)
class Affine:
    """x * scale + shift for channels on `axis`, (C,) float32 each, and max(x, 0) after it where `rectify` says so."""

    scale: np.ndarray
    shift: np.ndarray
    axis: int
    rectify: bool = False

    def __call__(self, pieces: Iterable[np.ndarray], *, pool: Executor | None = None) -> None:
        """Change arrays in place.

        Args:
            pool: threads to share the work among.
        """
        for piece in pieces:
            blocks = _blocks(piece, self.axis % piece.ndim)
            list(pool.map(self._change, blocks) if pool else map(self._change, blocks))

    def _change(self, at: tuple[np.ndarray, slice, int]) -> None:
        values, channels, trailing = at
        np.multiply(values, self.scale[channels].reshape(-1, *(1,) * trailing), out=values)
        np.add(values, self.shift[channels].reshape(-1, *(1,) * trailing), out=values)
        if self.rectify:
            take_positive(values)

    def add_to(self, graph: Graph, value: str, name: str) -> None:
        """Append the nodes that make it of `value`; the result is called `name`."""
        rank = len(graph.shape(value))
        trailing = (1,) * (rank - self.axis % rank - 1)
        x = graph.op("Mul", value, self.scale.reshape(-1, *trailing))
        x = graph.op("Add", x, self.shift.reshape(-1, *trailing), name=None if self.rectify else name)
        if self.rectify:
            graph.op("Relu", x, name=name)

    def is_cheap(self, shape: Shape) -> bool:
        """Tell whether a stage on a CPU makes it for less than going through the memory for it alone."""
        return len(shape) > 2 and self.axis == 1

    def add_cheaply(self, graph: Graph, value: str, name: str) -> None:
        """Append the nodes that make it of `value` on a CPU, where `is_cheap` holds; the result is called `name`.

        With a ReLU that is a convolution of each channel by itself, which onnxruntime makes in its blocked layout together
        with the ReLU; without, or where the channels don't fit that layout, a BatchNormalization.
        """
        shape, last = graph.shape(value), None if self.rectify else name
        if self.rectify and len(shape) == 4 and shape[1] % BLOCKED == 0:
            x = graph.op("Conv", value, self.scale.reshape(-1, 1, 1, 1), self.shift, group=len(self.scale))
        else:
            zeros, ones = np.zeros_like(self.shift), np.ones_like(self.scale)
            x = graph.op("BatchNormalization", value, self.scale, self.shift, zeros, ones, epsilon=0.0, name=last)
        if self.rectify:
            graph.op("Relu", x, name=name)


def with_corrections(
    part: Graph, corrections: Mapping[str, Affine], *, cheaply: bool = False
) -> tuple[Graph, dict[str, str]]:
    """Return a graph that corrects some of its inputs first, and {input: what it is called now}.

    Args:
        cheaply: as is cheap on a CPU; `is_cheap` has to hold for all.
    """
    corrections = {name: affine for name, affine in corrections.items() if name in part.inputs}
    if not corrections:
        return part, {}
    other, renamed = part.emptied(part.opset, typed=True), {}
    for name, affine in corrections.items():
        shape = other.inputs.pop(name)
        kept, kind = other.fresh(f"{name}/kept"), other.input_types.pop(name)
        renamed[name] = other.add_input(kept, shape, kind, name in part.still)
        add = affine.add_cheaply if cheaply else affine.add_to
        add(other, renamed[name], name)
    for node in part.nodes:
        other.append(node)
    return other, renamed


def take_positive(values: np.ndarray) -> None:
    """Take max(x, 0) in place; numpy is four times as fast on two arrays as on an array and a number."""
    if not values.flags.c_contiguous:
        np.maximum(values, np.float32(0), out=values)
        return
    flat = values.reshape(-1)
    for start in range(0, flat.size, _ZEROS.size):
        piece = flat[start : start + _ZEROS.size]
        np.maximum(piece, _ZEROS[: piece.size], out=piece)


def _blocks(values: np.ndarray, axis: int) -> Iterator[tuple[np.ndarray, slice, int]]:
    """Yield views of an activation, the channels that they hold, and how many axes come after these."""
    everything, trailing = slice(None), values.ndim - axis - 1
    if values.ndim <= 2 or axis == 0:
        yield values, everything, trailing
        return
    step = max(1, _BLOCK_ELEMENTS // max(math.prod(values.shape[2:]), 1))
    for picture in values:
        if axis != 1:
            yield picture, everything, trailing
            continue
        for start in range(0, values.shape[1], step):
            channels = slice(start, start + step)
            yield picture[channels], channels, trailing
