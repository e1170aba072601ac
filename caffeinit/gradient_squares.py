"""What rates are made from: values of a graph with gradients, and what their squares add up to.

The gradient of a weight is asked for, or made from rows where few rows go through a matrix product. What follows from
the learned arrays alone is computed once for all pieces of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx

from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph
from caffeinit.mapped import ScratchArrays
from caffeinit.products import PRODUCTS, Product
from caffeinit.squares import ArraySquares, ProductSquares, Squares
from caffeinit.units import Use, grouped_view

PREPARED_BYTES = 1 << 28  # of a large net's weights no second copy is held; the rest is computed for each piece


class Prepared:
    """What of a graph follows from changing arrays alone (turned kernels, folded factors), as arrays.

    The pieces share it, so that it is computed once for each measurement and not once for each piece.
    """

    def __init__(self, graph: Graph, settings: Settings, changing: Collection[str]) -> None:
        """Prepare; `changing`: the initializers that change from one measurement to the next."""
        self._changing = changing
        self._settings = replace(settings, threads=1)
        names = _following(graph, changing)
        self.arrays = {n: np.empty(graph.shape(n), _dtype(graph, n)) for n in names}
        self._session = Session(graph.part(names), self._settings, fed=changing) if names else None

    def refresh(self) -> None:
        """Compute the arrays from the changing ones as they now are."""
        if self._session:
            self._session.run({}, into=self.arrays)

    def compile(self, graph: Graph) -> Session:
        """Return the session that computes a graph's outputs with these arrays, on one thread: pieces run side by side."""
        rest = graph.part(graph.outputs, self.arrays)
        for name, array in self.arrays.items():
            del rest.inputs[name]
            rest.initializers[name] = array
        return Session(rest, self._settings, fed=[*self._changing, *self.arrays])


def _following(graph: Graph, changing: Iterable[str]) -> list[str]:
    """Return the values that follow from changing arrays and constants alone and are read by what depends on pictures."""
    moving = graph.moving_values()
    fixed = set(changing)
    for node in graph.nodes:
        if not any(o in moving for o in node.output) and any(i in fixed for i in node.input):
            fixed.update(o for o in node.output if o)
    read = (i for n in graph.nodes if any(o in moving for o in n.output) for i in n.input)
    found, room = [], PREPARED_BYTES
    for name in dict.fromkeys(read):
        if name in fixed and graph.producer(name) and -1 not in (shape := graph.shape(name)):
            size = math.prod(shape) * _dtype(graph, name).itemsize
            if size <= room:
                found.append(name)
                room -= size
    return found


def _dtype(graph: Graph, value: str) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(graph.elem_type(value)))


@dataclass
class GradientSource:
    """Where the gradient of one use of a weight comes from.

    A matrix product's is made from its rows, where they are few; others are asked for.
    """

    use: Use
    differentiated: str
    rows: str = ""
    gradient: str = ""

    @classmethod
    def of(cls, graph: Graph, use: Use) -> GradientSource:
        """Return the cheaper source of the two."""
        node, shape = use.node, graph.shape(use.input)
        if node.op_type in PRODUCTS:
            product = Product.of(node, use.side, len(shape))
            num_rows = math.prod(shape[:-1])
            is_plain = product.side == 1 and product.input_axis == -1 and product.alpha == 1
            if is_plain and 2 * num_rows <= min(graph.shape(node.input[1])):
                return cls(use, node.output[0], rows=use.input)
        return cls(use, node.input[use.side])

    @property
    def values(self) -> list[str]:
        """The values to be computed."""
        return [self.gradient, self.rows] if self.rows else [self.gradient]


def gradient_squares(
    sources: Sequence[GradientSource], values: Mapping[str, np.ndarray], place: ScratchArrays | None = None
) -> Squares:
    """Return the squares of the sum of all uses' gradients.

    Args:
        place: for rows of products that are not to be kept in memory.
    """
    if not is_product(sources):
        return ArraySquares(gradient_sum(sources, values))
    diffs, rows = (
        np.concatenate([values[v].reshape(-1, values[v].shape[-1]) for v in names])
        for names in ([s.gradient for s in sources], [s.rows for s in sources])
    )
    return ProductSquares(diffs, rows, place)


def is_product(sources: Sequence[GradientSource]) -> bool:
    """Tell whether no gradient of the weight's own shape is formed."""
    return all(s.rows for s in sources)


def gradient_sum(sources: Sequence[GradientSource], values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the sum of all uses' gradients, (group, O/group, I/group, *kernel)."""
    total = None
    for source in {s.differentiated: s for s in sources}.values():  # the gradient of a value sums over its uses
        array = _grouped(source, values)
        total = array if total is None else total + array
    assert total is not None
    return total


def _grouped(source: GradientSource, values: Mapping[str, np.ndarray]) -> np.ndarray:
    array = values[source.gradient]
    if source.rows:
        diffs, rows = (values[v].reshape(-1, values[v].shape[-1]) for v in source.values)
        return np.asarray((diffs.T @ rows)[None])
    view = grouped_view(source.use.node, array, source.use.side)
    assert view is not None
    return view
