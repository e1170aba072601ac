"""Numbers of a net's own text, or of an ONNX model's nodes, that may change with its weights: alpha of LRN.

A layer that is nearly homogeneous becomes homogeneous if such a number makes up for the scale of its input. The number
stands in the graph as an initializer beside the learned arrays; plans multiply it in place, all graphs that are lowered
from one net share it, and the source writes it back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx


@dataclasses.dataclass
class NetNumber:
    """One number.

    Attributes:
        layer: whose it is.
        field: its dotted name in the layer, "lrn_param.alpha".
        given: as the net has it.
        degree: with the layer's input scaled by a and the number by a ** -degree, the layer's output is scaled by a.
        array: float32, what the graph reads; a constant array times the number.
        kind: what `layer` is called in messages.
    """

    layer: str
    field: str
    given: float
    degree: float
    array: np.ndarray
    kind: str = "layer"
    _first: float = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self._first = self._any()

    def _any(self) -> float:
        return float(self.array.reshape(-1)[0]) if self.array.size else 0.0

    @property
    def now(self) -> float:
        """The number as it is now, a single-precision one."""
        return float(np.float32(self.given * (self._any() / self._first))) if self._first else self.given

    @property
    def is_changed(self) -> bool:
        """Whether it is another one than the net has."""
        return self._any() != self._first


def shortest(number: float) -> str:
    """Return the shortest text that single precision reads as this number."""
    return str(np.float32(number))


class _Graph(Protocol):
    @property
    def net_numbers(self) -> Mapping[str, NetNumber]: ...
    @property
    def nearly_homogeneous(self) -> Mapping[str, str]: ...
    def ancestors(self, values: Sequence[str], stop: Sequence[str]) -> list[onnx.NodeProto]: ...


def number_behind(graph: _Graph, top: str) -> str | None:
    """Return the initializer that can make up for the scale of a nearly homogeneous layer's input; None without one."""
    nodes = graph.ancestors([top], [graph.nearly_homogeneous[top]])
    return next((i for node in nodes for i in node.input if i in graph.net_numbers), None)
