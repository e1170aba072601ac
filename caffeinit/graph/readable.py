"""Outputs that are no numbers to be held against each other: words, and numbers of 8 or 4 bits with a point.

One rounding may make another word, or a step that is a tenth of the number; and of most such types there are no arrays in
numpy. What such an output is made of tells it: where that is kept, so is the output.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import onnx
from onnx import TensorProto

from caffeinit.graph.nodes import captured

NUMBERS = frozenset(
    getattr(TensorProto, name)
    for name in "FLOAT DOUBLE FLOAT16 BOOL INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


_INNER = {"sequence_type": "elem_type", "optional_type": "elem_type", "map_type": "value_type"}


def innermost_type(kind: onnx.TypeProto) -> int:
    """Return the element type of a value's tensors."""
    while (which := kind.WhichOneof("value")) in _INNER:
        kind = getattr(getattr(kind, which), _INNER[which])
    return kind.tensor_type.elem_type


def told_by(
    output: str, producer: Callable[[str], onnx.NodeProto | None], is_readable: Callable[[str], bool]
) -> list[str]:
    """Return the nearest values that an output is made of and that can be read.

    Args:
        producer: returns the node that makes a value.
        is_readable: tells whether a value can be read.
    """
    found: dict[str, None] = {}
    pending, seen = [output], {output}
    for name in pending:
        node = producer(name)
        for value in (*node.input, *captured(node)) if node is not None else ():
            if value and value not in seen:
                seen.add(value)
                (found.setdefault if is_readable(value) else pending.append)(value)
    return list(found)


def in_its_place(output: str, kind: int, instead: Collection[str]) -> str:
    """Return in words what is compared in the place of an output of an element type."""
    what = "words" if kind == TensorProto.STRING else f"numbers of type {TensorProto.DataType.Name(kind).lower()}"  # type: ignore[arg-type]
    told = f"; what it is made of is: {', '.join(instead)}" if instead else ""
    return f'output "{output}" holds {what}, which are not compared{told}'
