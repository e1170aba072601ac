"""Values that do not have the pictures on their first axis, as transformers make them, with that axis brought there.

Packed attention turns (N, T, 3, heads, width) into (3, N, heads, T, width) and takes it apart; other nets run over
sequences as (T, N, C). What the engine keeps is cut along the first axis, so that such values are made with the pictures
there, under other names, until the net itself brings them back. Only operators that do nothing across pictures, and of
which it is known how they move, are taken; where another reads such a value, the net is run with the batch that it was
made for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx

from caffeinit.graph import Graph, Shape, attribute
from caffeinit.graph.folding import known_value
from caffeinit.ops.base import rewritten

_EACH = ("Identity", "Cast", "Relu", "Erf", "Sigmoid", "Tanh", "Sqrt", "Neg", "Add", "Sub", "Mul", "Div")


class StuckError(Exception):
    """A value cannot be brought into the form."""


def pictures_first(graph: Graph, twin: Graph) -> Graph:
    """Return the graph with the pictures on axis 0 of all values.

    Args:
        graph, twin: the same nodes, at two batch sizes.
    Raises:
        StuckError: that cannot be had.
        KeyError: of some value the shape is not known.
    """
    return _Mover(graph, twin).graph()


class _Mover:
    def __init__(self, graph: Graph, twin: Graph) -> None:
        self.old, self.twin = graph, twin
        self.made = graph.emptied(graph.opset)
        self.moving = graph.moving_values()
        self.held: dict[str, str] = {}  # value -> the same with its pictures first
        self.rows: dict[str, int] = {}  # of these, those whose rows are (T, N) made one, and (N, T) here -> T

    def graph(self) -> Graph:
        for node in self.old.nodes:
            turned = [i for i in node.input if i in self.held]
            if not turned and (node.output[0] not in self.moving or node.op_type != "Transpose" or node.domain):
                self.made.append(node)
            elif not node.domain and any(i in self.rows for i in turned):
                self.on_rows(node)
            elif node.domain or (step := _STEPS.get(node.op_type)) is None:
                raise StuckError(node.op_type)
            else:
                step(self, node)
        if any(name in self.held for name in self.old.outputs):
            raise StuckError("an output")
        return self.made

    def axis(self, value: str) -> int:
        """Return the axis of a value that follows the batch."""
        one, two = self.old.shape(value), self.twin.shape(value)
        changed = [a for a, (m, n) in enumerate(zip(one, two, strict=True)) if m != n]
        if len(changed) != 1:
            raise StuckError(value)
        return changed[0]

    def output(self, value: str) -> str:
        """Return the name under which a value is made: its own where the pictures are on its first axis."""
        if self.axis(value) == 0:
            return value
        self.held[value] = self.made.fresh(value)
        return self.held[value]

    def put(self, node: onnx.NodeProto, inputs: Sequence[str | np.ndarray], **attributes: Any) -> None:
        """Append a node that makes the outputs with their pictures first."""
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [self.output(o) for o in node.output]
        rewritten(copy, self.made, inputs, **attributes)

    def constant(self, value: str) -> np.ndarray:
        array = None if value in self.moving else known_value(self.old, value)
        if array is None:
            raise StuckError(value)
        return array

    def transpose(self, node: onnx.NodeProto) -> None:
        x = node.input[0]
        rank, batch = len(self.old.shape(x)), self.axis(x)
        perm = attribute(node, "perm", list(range(rank))[::-1])
        source = _order(rank, batch if x in self.held else 0)
        wanted = _order(rank, perm.index(batch))
        self.put(node, [self.held.get(x, x)], perm=[source.index(perm[a]) for a in wanted])

    def along(self, node: onnx.NodeProto) -> None:
        """Gather by constant places, or Split."""
        x = node.input[0]
        batch = self.axis(x)
        axis = attribute(node, "axis", 0) % len(self.old.shape(x))
        if axis == batch or any(i in self.moving for i in node.input[1:]):
            raise StuckError(node.op_type)
        self.put(node, [self.held[x], *node.input[1:]], axis=_behind(axis, batch))

    def at_tuples(self, node: onnx.NodeProto) -> None:
        """GatherND by constant tuples: the axes that they name are made one, of which Gather takes places."""
        x = node.input[0]
        shape, batch, tuples = self.old.shape(x), self.axis(x), self.constant(node.input[1])
        named = shape[: tuples.shape[-1]]
        if attribute(node, "batch_dims", 0) or batch < len(named):
            raise StuckError(node.op_type)
        rest = [n for a, n in enumerate(shape) if a >= len(named) and a != batch]
        joined = self.made.op("Reshape", self.held[x], np.asarray([0, math.prod(named), *rest], np.int64))
        places = np.ravel_multi_index(tuple(np.moveaxis(tuples % named, -1, 0)), named)
        self.made.op("Gather", joined, places, axis=1, name=self.output(node.output[0]))

    def slice(self, node: onnx.NodeProto) -> None:
        x = node.input[0]
        batch, rank = self.axis(x), len(self.old.shape(x))
        starts, ends, *more = (self.constant(i) for i in node.input[1:])
        axes = [int(a) % rank for a in (more[0] if more else range(len(starts)))]
        if batch in axes:
            raise StuckError(node.op_type)
        moved = np.asarray([_behind(a, batch) for a in axes], np.int64)
        self.put(node, [self.held[x], starts, ends, moved, *more[1:]])

    def squeeze(self, node: onnx.NodeProto) -> None:
        x = node.input[0]
        batch, rank = self.axis(x), len(self.old.shape(x))
        axes = [int(a) % rank for a in self.constant(node.input[1] if len(node.input) > 1 else "")]
        if batch in axes:
            raise StuckError(node.op_type)
        self.put(node, [self.held[x], np.asarray([_behind(a, batch) for a in axes], np.int64)])

    def unsqueeze(self, node: onnx.NodeProto) -> None:
        y = node.output[0]
        rank, batch = len(self.old.shape(y)), self.axis(y)
        axes = [int(a) % rank for a in self.constant(node.input[1])]
        self.put(node, [self.held[node.input[0]], np.asarray([_behind(a, batch) for a in axes], np.int64)])

    def each(self, node: onnx.NodeProto) -> None:
        """What is done number by number."""
        rank = len(self.old.shape(node.output[0]))
        batch = self.axis(node.output[0])
        for name in node.input:
            shape = self.old.shape(name)
            is_alike = name in self.held and len(shape) == rank and self.axis(name) == batch
            # A constant must lie along axes that stay where they are.
            is_behind = name not in self.moving and len(_trimmed(shape)) < rank - batch
            if not is_alike and not is_behind:
                raise StuckError(name)
        self.put(node, [self.held.get(i, i) for i in node.input])

    def product(self, node: onnx.NodeProto) -> None:
        """(..., N, ..., C) times a matrix (C, D)."""
        x, matrix = node.input
        if x not in self.held or matrix in self.moving or len(self.old.shape(matrix)) != 2:
            raise StuckError(node.op_type)
        if self.axis(x) == len(self.old.shape(x)) - 1:
            raise StuckError(x)
        self.put(node, [self.held[x], matrix])

    def reshape(self, node: onnx.NodeProto) -> None:
        """Take axes behind the pictures apart or join them; also into the axis of the pictures, as heads are."""
        x, y = node.input[0], node.output[0]
        old, new = self.old.shape(x), self.old.shape(y)
        batch = self.axis(x)
        if self.joins_steps(x, y):
            self.rows[y] = old[0]
            self.held[y] = self.made.fresh(y)
            self.made.append(self.to_shape(self.held[x], (-1, *new[1:]), self.held[y]))
            return
        if self.axis(y) != batch or old[:batch] != new[:batch]:
            raise StuckError(node.op_type)
        before, rest = old[:batch], new[batch + 1 :]
        name = self.output(y)
        m, n = old[batch], new[batch]
        if n == m:
            self.made.append(self.to_shape(self.held[x], (0, *before, *rest), name))
        elif n % m == 0:
            self.swap(self.held[x], (0, *before, n // m, *rest), batch + 1, 1, (-1, *before, *rest), name)
        elif m % n == 0:
            self.swap(self.held[x], (-1, m // n, *before, *old[batch + 1 :]), 1, batch + 1, (0, *before, *rest), name)
        else:
            raise StuckError(node.op_type)

    def joins_steps(self, x: str, y: str) -> bool:
        """Tell whether (T, N, ...) becomes (T * N, ...), as torch's attention does before its last matrix."""
        shapes = [(g.shape(x), g.shape(y)) for g in (self.old, self.twin)]
        return self.axis(x) == 1 and all(new[:1] == (old[0] * old[1],) for old, new in shapes)

    def on_rows(self, node: onnx.NodeProto) -> None:
        """What is done row by row, and taking the rows apart again."""
        x, y = node.input[0], node.output[0]
        steps = {self.rows.get(i) for i in node.input if i in self.moving}
        length = steps.pop()
        if steps or length is None:
            raise StuckError(node.op_type)
        if node.op_type == "Reshape":
            shapes = [(g.shape(x), g.shape(y)) for g in (self.old, self.twin)]
            if any(new[:2] != (length, old[0] // length) for old, new in shapes):
                raise StuckError(node.op_type)
            self.made.append(self.to_shape(self.held[x], (-1, length, *self.old.shape(y)[2:]), self.output(y)))
            return
        rows = [len(self.old.shape(i)) for i in node.input if i in self.moving]
        others = [self.old.shape(i) for i in node.input if i and i not in self.moving]
        is_each = node.op_type in _EACH and all(len(_trimmed(shape)) < min(rows) for shape in others)
        is_product = node.op_type in ("Gemm", "MatMul") and x in self.rows and not attribute(node, "transA", 0)
        # A third operand of Gemm has a number for each channel, and not for each row.
        if not is_each and not (is_product and all(len(_trimmed(shape)) < 2 for shape in others[1:])):
            raise StuckError(node.op_type)
        self.rows[y], self.held[y] = length, self.made.fresh(y)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.output[:] = [self.held[y]]
        rewritten(copy, self.made, [self.held.get(i, i) for i in node.input])

    def swap(self, value: str, apart: Shape, source: int, target: int, joined: Shape, name: str) -> None:
        """Take an axis apart, bring a part to another place and join it there."""
        perm = list(range(len(apart)))
        perm.insert(target, perm.pop(source))
        split = self.made.op("Reshape", value, np.asarray(apart, np.int64))
        self.made.append(self.to_shape(self.made.op("Transpose", split, perm=perm), joined, name))

    def to_shape(self, value: str, dims: Shape, name: str) -> onnx.NodeProto:
        target = self.made.constant(np.asarray(dims, np.int64))
        return onnx.helper.make_node("Reshape", [value, target], [name])


def _order(rank: int, first: int) -> list[int]:
    """Return the axes with one of them first."""
    return [first, *(a for a in range(rank) if a != first)]


def _trimmed(shape: Shape) -> Shape:
    """Return a shape without the axes of size 1 in front."""
    return shape[next((a for a, n in enumerate(shape) if n != 1), len(shape)) :]


def _behind(axis: int, batch: int) -> int:
    """Return where another axis lies once that of the pictures is the first."""
    return axis + 1 if axis < batch else axis


_STEPS: dict[str, Callable[[_Mover, onnx.NodeProto], None]] = {
    "Transpose": _Mover.transpose,
    "Gather": _Mover.along,
    "GatherND": _Mover.at_tuples,
    "Split": _Mover.along,
    "Slice": _Mover.slice,
    "Squeeze": _Mover.squeeze,
    "Unsqueeze": _Mover.unsqueeze,
    "Reshape": _Mover.reshape,
    "MatMul": _Mover.product,
    **dict.fromkeys(_EACH, _Mover.each),
}
