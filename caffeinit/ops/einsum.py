"""Sums of products by index letters."""

from __future__ import annotations

import math
from collections.abc import Container
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.errors import GradientError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.nodes import INSIDE
from caffeinit.graph.rules import Diffs, OpRule, op_rule
from caffeinit.ops.base import single
from caffeinit.ops.building import expand_like, unbroadcast

if TYPE_CHECKING:
    from caffeinit.scales.walk import Scales


@op_rule("Einsum")
class Einsum(OpRule):
    """y = a sum of products by index letters."""

    def scale(self, node: onnx.NodeProto, scales: Scales) -> None:
        """A product has the product of the scales; all that is summed over has one scale, operand by operand."""
        try:
            terms, result = _letters(node)
        except GradientError:
            scales.barrier(node)
            return
        factors = []
        for term, value in zip(terms, node.input, strict=True):
            if not scales.is_moving(value):
                continue
            summed = [axis for axis, letter in enumerate(term) if letter not in result]
            labels = scales.collapse(value, summed)
            order = [term.index(letter) for letter in result if letter in term]
            sizes = [labels.shape[term.index(letter)] if letter in term else 1 for letter in result]
            factors.append(labels.transpose([*order, *summed]).reshape(sizes))
        scales.put(node.output[0], scales.constraints.combine(*((1.0, labels) for labels in factors)))

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """A product with a matrix, whose sides may be several axes each, or a convolution of 1x1."""
        product = _Product.of(node, graph, moving)
        if product is None:
            return False
        if product.is_convolution:
            product.append_convolution(made)
        else:
            product.append_matrix(made)
        return True

    def is_rowwise(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first letter is the same in the result and in all that moves."""
        return "." not in str(attribute(node, "equation")) and not self.joins_rows(node, graph)

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axes do not have the letter that the result's has."""
        terms, arrow, result = str(attribute(node, "equation")).replace(" ", "").partition("->")
        moving = [t for t, i in zip(terms.split(","), node.input, strict=True) if graph.depends_on_input(i)]
        return not arrow or any(t[:1] != result[:1] for t in moving)

    def gradient(self, node: onnx.NodeProto, graph: Graph, dys: Diffs) -> list[str | None]:
        """Exchange the operand's letters with the result's; along letters that stand nowhere else all get the same."""
        terms, result = _letters(node)
        diffs: list[str | None] = []
        for index, (own, value) in enumerate(zip(terms, node.input, strict=True)):
            others = [i for i in range(len(terms)) if i != index]
            known = set(result).union(*(terms[i] for i in others))
            kept = "".join(letter for letter in own if letter in known)
            swapped = ",".join([result, *(terms[i] for i in others)]) + "->" + kept
            diff = graph.op("Einsum", single(dys), *(node.input[i] for i in others), equation=swapped)
            if kept != own:
                missing = [axis for axis, letter in enumerate(own) if letter not in known]
                diff = expand_like(graph, graph.op("Unsqueeze", diff, missing), value)
            diffs.append(unbroadcast(graph, diff, value))
        return diffs


@dataclass
class _Product:
    """An Einsum that sums over some axes of a value and an array, and has the array's other axes in their place.

    Attributes:
        top: the node's output.
        x, weight: the value and the array.
        x_letters, result: letters of the value and of the output.
        summed, outs: letters of the array that are summed over, and that are not, in its order.
        is_turned: the array has those that are not summed over first.
        sizes: extent of each letter.
    """

    top: str
    x: str
    weight: str
    x_letters: str
    result: str
    summed: str
    outs: str
    is_turned: bool
    sizes: dict[str, int]

    @classmethod
    def of(cls, node: onnx.NodeProto, graph: Graph, moving: Container[str]) -> _Product | None:
        """Return what a node does; None if it is something else."""
        try:
            terms, result = _letters(node)
        except GradientError:
            return None
        fixed = [side for side, value in enumerate(node.input) if value not in moving]
        if len(terms) != 2 or len(fixed) != 1 or any(graph.elem_type(v) != TensorProto.FLOAT for v in node.input):
            return None
        (x, weight), (letters, own) = ((pair[1 - fixed[0]], pair[fixed[0]]) for pair in (node.input, terms))
        summed = "".join(a for a in own if a in letters)
        outs = "".join(a for a in own if a not in letters)
        rest = [a for a in letters if a not in own]
        is_plain = summed and outs and rest and own in (summed + outs, outs + summed)
        if not is_plain or set(result) != {*rest, *outs} or len(result) != len(rest) + len(outs):
            return None
        sizes = {
            a: n for v, term in zip(node.input, terms, strict=True) for a, n in zip(term, graph.shape(v), strict=True)
        }
        return cls(node.output[0], x, weight, letters, result, summed, outs, own.startswith(outs), sizes)

    @property
    def is_convolution(self) -> bool:
        """Whether it puts output channels in the place of input channels, before axes of places."""
        is_one = len(self.summed) == len(self.outs) == 1 and 3 <= len(self.x_letters) <= 5
        return (
            is_one
            and self.x_letters[1] == self.summed
            and self.result == self.x_letters.replace(self.summed, self.outs)
        )

    def append_convolution(self, made: Graph) -> None:
        """Append a convolution of 1x1."""
        kernel = self.weight if self.is_turned else self._op(made, "Transpose", self.weight, perm=[1, 0])
        ones = [1] * (len(self.x_letters) - 2)
        kernel = self._op(
            made, "Reshape", kernel, np.asarray([*self._extents(self.outs + self.summed), *ones], np.int64)
        )
        made.op("Conv", self.x, kernel, kernel_shape=ones, name=self.top)

    def append_matrix(self, made: Graph) -> None:
        """Append a product with a matrix, with operands in the shapes that it takes, and its result in that of the node."""
        rest = "".join(a for a in self.result if a not in self.outs)
        order = rest + self.summed
        x = self.x
        if order != self.x_letters:
            x = self._op(made, "Transpose", x, perm=[self.x_letters.index(a) for a in order])
        if len(self.summed) > 1:
            x = self._op(made, "Reshape", x, self._target(rest, math.prod(self._extents(self.summed))))
        matrix = self.weight
        sides = [self.outs, self.summed] if self.is_turned else [self.summed, self.outs]
        if len(self.summed + self.outs) > 2:
            matrix = self._op(
                made, "Reshape", matrix, np.asarray([math.prod(self._extents(s)) for s in sides], np.int64)
            )
        if self.is_turned:
            matrix = self._op(made, "Transpose", matrix, perm=[1, 0])
        steps: list[tuple[str, np.ndarray | None, list[int] | None]] = []
        if len(self.outs) > 1:
            steps.append(("Reshape", self._target(rest, *self._extents(self.outs)), None))
        if rest + self.outs != self.result:
            steps.append(("Transpose", None, [(rest + self.outs).index(a) for a in self.result]))
        y = made.op("MatMul", x, matrix, name=self._name(made) if steps else self.top)
        for number, (kind, target, perm) in enumerate(steps, 1):
            name = self._name(made) if number < len(steps) else self.top
            y = made.op(kind, y, *([] if target is None else [target]), perm=perm, name=name)

    def _extents(self, letters: str) -> list[int]:
        return [self.sizes[a] for a in letters]

    def _target(self, rest: str, *last: int) -> np.ndarray:
        """Return a shape whose first axes are those that are neither summed over nor new; the first of all is copied."""
        return np.asarray([0, *self._extents(rest[1:]), *last], np.int64)

    def _name(self, made: Graph) -> str:
        return made.fresh(f"{self.top}{INSIDE}")

    def _op(self, made: Graph, kind: str, *inputs: str | np.ndarray, perm: list[int] | None = None) -> str:
        return made.op(kind, *inputs, perm=perm, name=self._name(made))


def _letters(node: onnx.NodeProto) -> tuple[list[str], str]:
    """Return the letters of an Einsum's operands and of its result.

    Raises:
        GradientError: not each axis of an operand has a letter of its own.
    """
    equation = str(attribute(node, "equation")).replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    if "." in equation or any(len(set(t)) != len(t) for t in letters):
        raise GradientError(f"Einsum {equation}")
    if not arrow:
        result = "".join(sorted(letter for letter in set(terms) - {","} if terms.count(letter) == 1))
    return letters, result
