"""Heads: the last values that a net computes before it judges them.

Change rates are taken on them ("the last value before loss or softmax layers", Krähenbühl et al., ICLR 2016, section 3):
a softmax, a sigmoid that is an output, a loss, an arg max or a list of detections says something about the head, and has
a gradient that vanishes or none at all. Entries that the data choose, however many, are such a list up to where something
learned reads them: the head is what they were chosen from. What follows from other heads with nothing learned on the way,
as boxes do that are decoded from what scores are in as well, is no head beside them. In what order the numbers of a head
are looked through is nothing of the head's.
"""

from __future__ import annotations

from collections.abc import Collection

import onnx

from caffeinit.graph.graph import Graph
from caffeinit.graph.varying import followers

_CHOICES = ("ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK")
_JUDGES = ("Sigmoid", "Softmax", "LogSoftmax", "Hardmax", *_CHOICES)
_VIEWS = tuple("Reshape Transpose Flatten Identity Squeeze Unsqueeze Concat Split Slice Gather Cast".split())


def find_heads(graph: Graph, learned: Collection[str]) -> list[str]:
    """Return the heads that depend on a net input and on a learned array, in the order of the net's outputs."""
    moving = graph.moving_values()
    trained = followers(graph, learned)
    heads: dict[str, None] = {}
    chosen = _chosen(graph, trained & moving, trained - moving)
    for output in graph.outputs or graph.unused():
        for value in _before_verdicts(graph, output, chosen):
            if value in trained and value in moving and graph.elem_type(value) == onnx.TensorProto.FLOAT:
                heads[value] = None
    following = _following(graph, heads, moving, trained - moving)
    return [head for head in heads if head not in following]


def chosen_from(graph: Graph, learned: Collection[str], output: str) -> tuple[str, ...]:
    """Return the heads that a list of entries that the data choose is made from with nothing learned on the way.

    Returns:
        Their names; none where `output` is no such list, or learned arrays have part in it above its heads.
    """
    moving, trained = graph.moving_values(), followers(graph, learned)
    arrays = trained - moving
    if _has_known_shape(graph, output) and output not in _chosen(graph, trained & moving, arrays):
        return ()
    alone = graph.copy()
    alone.outputs = [output]
    heads = find_heads(alone, learned)
    is_plain = not any(i in arrays for node in graph.ancestors([output], heads) for i in node.input)
    return tuple(heads) if is_plain else ()


def _following(graph: Graph, heads: Collection[str], moving: Collection[str], arrays: Collection[str]) -> set[str]:
    """Return the values that follow from heads alone: no other moving values, and no learned arrays."""
    found: set[str] = set()
    for node in graph.nodes:
        varying = [i for i in node.input if i in moving]
        if varying and all(i in heads or i in found for i in varying) and not any(i in arrays for i in node.input):
            found.update(o for o in node.output if o)
    return found


def _chosen(graph: Graph, varying: Collection[str], arrays: Collection[str]) -> set[str]:
    """Return the values that follow from a choice among `varying` ones with nothing learned on the way: lists."""
    found: set[str] = set()
    for node in graph.nodes:
        is_choice = node.op_type in _CHOICES and any(i in varying for i in node.input)
        if (is_choice or any(i in found for i in node.input)) and not any(i in arrays for i in node.input):
            found.update(o for o in node.output if o)
    return found


def _before_verdicts(graph: Graph, value: str, chosen: Collection[str]) -> list[str]:
    """Return the values that stand before the verdicts which `value` follows from; itself if there are none."""
    found: dict[str, None] = {}
    pending, seen = [value], {value}
    while pending:
        current = pending.pop(0)
        below = _judged(graph, current, chosen)
        if below is None:
            found[_in_first_order(graph, current)] = None
            continue
        pending += [v for v in dict.fromkeys(below) if v not in seen]
        seen.update(below)
    return list(found)


def _in_first_order(graph: Graph, value: str) -> str:
    """Return what a value has all numbers of, some axes turned round, as where the last of equal numbers is looked for."""
    node = graph.producer(value)
    while (
        node is not None and node.op_type == "Slice" and not node.domain and _has_shape_of(graph, value, node.input[0])
    ):
        value = node.input[0]
        node = graph.producer(value)
    return value


def _judged(graph: Graph, value: str, chosen: Collection[str]) -> list[str] | None:
    """Return what `value` is a verdict on, looking through changes of form alone; None if it is none."""
    if value in graph.verdicts:
        return graph.verdicts[value]
    node = graph.producer(value)
    if node is None:
        return None
    moving = [i for i in node.input if i and graph.depends_on_input(i)]
    if node.op_type in _JUDGES or value in chosen or not _has_known_shape(graph, value):
        return moving
    if node.op_type not in _VIEWS:
        return None
    below = [_judged(graph, i, chosen) for i in moving]
    if all(b is None for b in below):
        return None
    return [v for i, b in zip(moving, below, strict=True) for v in ([i] if b is None else b)]


def _has_shape_of(graph: Graph, value: str, other: str) -> bool:
    return all(_has_known_shape(graph, v) for v in (value, other)) and graph.shape(value) == graph.shape(other)


def _has_known_shape(graph: Graph, value: str) -> bool:
    try:
        return -1 not in graph.shape(value)
    except KeyError:
        return False
