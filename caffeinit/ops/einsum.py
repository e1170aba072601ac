"""Sums of products by index letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx

from caffeinit.errors import GradientError
from caffeinit.model.graph import Graph, attribute
from caffeinit.ops.base import Diffs, OpRule, op_rule, single
from caffeinit.ops.building import expand_like

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
            diffs.append(diff)
        return diffs


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
