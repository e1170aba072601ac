"""Outputs whose differences do not mean what those of other numbers do: places, and what a sigmoid puts out.

Places tell which of some numbers are the largest, as ArgMax, ArgMin and TopK do. A place is another one or it is not; by
how much it differs means nothing. Where the numbers at both places are the same but for rounding, which of them comes
first is chance, and no sign of another function.

A sigmoid is computed as one half and something: however small what it puts out, it comes in steps of 6e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from caffeinit.graph.graph import attribute
from caffeinit.graph.nodes import VIEWS

_VIEWS = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten")


@dataclass(frozen=True)
class Places:
    """What an output tells the places of: the value, and the axis along which its numbers are ranked."""

    value: str
    axis: int

    def tied(self, numbers: np.ndarray, one: np.ndarray, other: np.ndarray, tolerance: float) -> np.ndarray:
        """Tell for all places whether the numbers there are the same within a part of their picture's largest.

        Args:
            numbers: the value.
            one, other: the output on two sides, of one shape.
        Returns:
            Truth values in the outputs' shape.
        """
        axis = self.axis % numbers.ndim
        shape = (*numbers.shape[:axis], -1, *numbers.shape[axis + 1 :])
        size = numbers.shape[axis]
        found = [x.astype(np.int64).reshape(shape) for x in (one, other)]
        if any(((x < -size) | (x >= size)).any() for x in found):
            return np.zeros(one.shape, bool)
        a, b = (np.take_along_axis(numbers, x % size, axis).astype(np.float64) for x in found)
        largest = (
            np.abs(numbers).max(tuple(range(1, numbers.ndim)), keepdims=True) if numbers.ndim > 1 else abs(numbers)
        )
        with np.errstate(invalid="ignore"):
            near: np.ndarray = (a == b) | (np.abs(a - b) <= tolerance * np.asarray(largest, np.float64))
        return near.reshape(one.shape)


def find_places(output: str, producer: Callable[[str], onnx.NodeProto | None]) -> Places | None:
    """Return what an output tells the places of; None if it tells none, as far as that is seen.

    Args:
        producer: returns the node that makes a value.
    """
    while (node := producer(output)) is not None and not node.domain:
        if node.op_type in ("ArgMax", "ArgMin"):
            return Places(node.input[0], attribute(node, "axis", 0))
        if node.op_type == "TopK" and len(node.output) > 1 and node.output[1] == output:
            return Places(node.input[0], attribute(node, "axis", -1))
        if node.op_type not in _VIEWS:
            return None
        output = node.input[0]
    return None


def is_squashed(output: str, producer: Callable[[str], onnx.NodeProto | None]) -> bool:
    """Tell whether an output is what a sigmoid puts out, looking through plain views.

    Args:
        producer: returns the node that makes a value.
    """
    while (node := producer(output)) is not None and not node.domain and node.op_type in (*VIEWS, "Cast"):
        output = node.input[0]
    return node is not None and not node.domain and node.op_type == "Sigmoid"
