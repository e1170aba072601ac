"""Whether a model takes any number of pictures at once, and how shapes that spell the batch out are freed of it.

Many files declare a batch of 1 and spell it out in targets of Reshape, and many compute these targets from Shape. First,
targets are written so that they mean the same at the declared batch and do not spell it out. Then the graph is looked at
with two batch sizes: what follows from shapes and is the same in both is a constant. What is the same for every picture
is repeated without counting them (`spread`), and values with the pictures on another axis are turned (`picturesfirst`).
Where all values then follow the batch along axis 0, and no operator joins pictures along it, any size will do; otherwise
the net is run with the batch that it was made for. Only our graph changes, never the file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph, attribute
from caffeinit.graph.folding import known_value
from caffeinit.graph.rowwise import joins_rows
from caffeinit.onnxfile.build import settle_types
from caffeinit.onnxfile.picturesfirst import StuckError, pictures_first
from caffeinit.onnxfile.resized import resized_freely
from caffeinit.onnxfile.spread import spread_joined, spread_repeated
from caffeinit.onnxfile.strided import ordered_view
from caffeinit.ops.base import rewritten

_TARGETS = {"Reshape": 1, "Expand": 1}  # operator -> which input tells the shape of its output
_FACTOR = 3
_ROUNDS = 2  # what has been settled leaves arrays behind it, which may be repeated for each picture
Inputs = list[str | np.ndarray]


def free_batch(graph: Graph, is_declared: bool, where: str) -> Graph:
    """Return the graph without batch sizes in it and with `batch_axis_free` set, or the same one where that cannot be.

    Args:
        is_declared: the file itself leaves the batch open.
    """
    sizes = {s[0] if s else 0 for s in graph.inputs.values()}
    if len(sizes) != 1 or 0 in sizes:
        return graph
    try:
        moving = graph.moving_values()
        plain = _changed(graph, lambda node: _unspelt(node, graph, moving, is_declared), _joined_or_viewed)
        settle_types(plain, where)
        free, twin = plain, _larger(plain, where)
        for _ in range(_ROUNDS):
            free = _without_batch(free, twin)
            settle_types(free, where)
            _drop_unread(free)
            twin = _larger(free, where)
            if _follows(free, twin):
                break
        else:
            free = pictures_first(free, twin)
            settle_types(free, where)
            twin = _larger(free, where)
        if _follows(free, twin) and (is_declared or not joins_rows(free)):
            free.batch_axis_free = True
            return free
    except (CaffeinitError, KeyError, StuckError):
        pass  # at another batch, its nodes do not go together
    return graph


def _without_batch(graph: Graph, twin: Graph) -> Graph:
    """Return the graph without what is worked out from the batch, as far as that can be said for any batch."""
    ways = (spread_repeated, resized_freely, ordered_view)
    return _changed(
        graph,
        lambda node: _unshaped(node, graph, twin),
        lambda node, made, old, moving: any(way(node, made, old, moving, twin) for way in ways),
        lambda node: _settled(node, graph, twin),
    )


def _larger(graph: Graph, where: str) -> Graph:
    """Return the graph for a batch `_FACTOR` times as large.

    Raises:
        CaffeinitError: it does not go together then.
    """
    other = graph.emptied(graph.opset)
    for name, shape in graph.inputs.items():
        other.inputs[name] = (shape[0] * _FACTOR, *shape[1:])
        other.set_shape(name, other.inputs[name], graph.input_types[name])
    for node in graph.nodes:
        other.append(node)
    settle_types(other, where)
    return other


def _changed(
    graph: Graph,
    inputs: Callable[[onnx.NodeProto], Inputs | None],
    spread: Callable[[onnx.NodeProto, Graph, Graph, set[str]], bool],
    values: Callable[[onnx.NodeProto], np.ndarray | None] = lambda node: None,
) -> Graph:
    """Return a graph in which nodes read other inputs, or are arrays, where the functions return some.

    Args:
        spread: appends something else in a node's place, and tells whether it did.
    """
    moving = graph.moving_values()
    made = graph.emptied(graph.opset)
    for node in graph.nodes:
        moves = any(o in moving for o in node.output)
        array = values(node) if moves and len(node.output) == 1 else None
        place = _TARGETS.get(node.op_type) if moves and not node.domain else None
        has_target = place is not None and len(node.input) > place and node.input[place] and node.input[0] in moving
        other = inputs(node) if array is None and has_target else None
        if array is not None:
            made.add_initializer(node.output[0], array)
        elif other is not None:
            rewritten(node, made, other, without=["allowzero"])  # a 0 in the new target copies
        elif not spread(node, made, graph, moving):
            made.append(node)
    return made


def _drop_unread(graph: Graph) -> None:
    """Leave out the arithmetic of shapes that nothing reads any more."""
    real = [o for n in graph.nodes for o in n.output if o and graph.elem_type(o) == TensorProto.FLOAT]
    graph.drop(0, [*graph.outputs, *real])


def _follows(graph: Graph, other: Graph) -> bool:
    """Tell whether all values that depend on inputs have the batch on axis 0, and nothing else of it; verdicts may not."""
    for value in graph.moving_values() - _judging(graph):
        if not graph.is_typed(value) or not other.is_typed(value):
            return False
        one, two = graph.shape(value), other.shape(value)
        if not one or -1 in one or -1 in two or two != (one[0] * _FACTOR, *one[1:]):
            return False
    return True


def _judging(graph: Graph) -> set[str]:
    """Return the verdicts, and what is made on the way to them and read by nothing else: a loss is one number for all."""
    inside = [node for top, below in graph.verdicts.items() for node in graph.ancestors([top], below)]
    known, readers = {id(node) for node in inside}, graph.consumers()
    made = {o for node in inside for o in node.output if all(id(r) in known for r in readers.get(o, ()))}
    return made - ({*graph.outputs} - graph.verdicts.keys())


def _unspelt(node: onnx.NodeProto, graph: Graph, moving: Collection[str], is_declared: bool) -> Inputs | None:
    """Return the inputs of a node whose constant target spells the batch out, with one that does not.

    Args:
        is_declared: a target that leaves another axis open takes several pictures as the file says, joined along that axis.
    """
    target, source = known_value(graph, node.input[_TARGETS[node.op_type]]), graph.shape(node.input[0])
    if target is None or node.input[_TARGETS[node.op_type]] in moving:
        return None
    dims = [int(d) for d in target]
    if node.op_type == "Expand" or not dims or dims[0] < 1 or _is_empty(node, dims):
        return None
    if source and dims[0] == source[0]:
        # As many rows as a sequence has steps, and no pictures: (T * N, C) taken apart again.
        are_steps = is_declared and -1 in dims and dims[0] != graph.batch_size()
        return None if are_steps else _with_target(node, [0, *dims[1:]])
    if -1 in dims or 0 in dims:
        return None if is_declared else _with_target(node, [-1, *graph.shape(node.output[0])[1:]])
    return _with_target(node, [-1, *dims[1:]])


def _settled(node: onnx.NodeProto, graph: Graph, twin: Graph) -> np.ndarray | None:
    """Return what a node makes where it follows from shapes and is the same at both batch sizes."""
    one, two = (known_value(g, node.output[0]) for g in (graph, twin))
    same = one is not None and two is not None and one.shape == two.shape and bool(np.array_equal(one, two))
    return one if same else None


def _unshaped(node: onnx.NodeProto, graph: Graph, twin: Graph) -> Inputs | None:
    """Return the inputs of a node whose target is computed from the batch, with one that leaves it open."""
    one, two = (known_value(g, node.input[_TARGETS[node.op_type]]) for g in (graph, twin))
    shapes = [g.shape(node.input[0]) for g in (graph, twin)]
    if one is None or two is None or one.shape != two.shape or np.array_equal(one, two):
        return None
    target = [int(d) for d in one]
    if _is_empty(node, target):
        return None
    changed = [i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b]
    for i in changed:
        # Axes are counted from the end in Expand, from the front in Reshape.
        at = i + len(shapes[0]) - len(target) if node.op_type == "Expand" else i
        copies = 0 <= at < len(shapes[0]) and (one[i], two[i]) == (shapes[0][at], shapes[1][at])
        if copies:
            target[i] = 1 if node.op_type == "Expand" else 0
        elif node.op_type == "Reshape" and (known := _known_rest(target, i, node, graph, twin)) is not None:
            target = known
        else:
            return None
    return _with_target(node, target)


def _known_rest(target: list[int], place: int, node: onnx.NodeProto, graph: Graph, twin: Graph) -> list[int] | None:
    """Return a target that leaves one axis open, and that alone; None where another one is not the same in both graphs."""
    shapes = [g.shape(node.output[0]) for g in (graph, twin)]
    rest = [i for i, d in enumerate(target) if d == -1 and i != place]
    if any(shapes[0][i] != shapes[1][i] for i in rest) or target[place] == -1:
        return None
    return [-1 if i == place else shapes[0][i] if i in rest else d for i, d in enumerate(target)]


def _joined_or_viewed(node: onnx.NodeProto, made: Graph, graph: Graph, moving: set[str]) -> bool:
    """Append what does not spell the batch out in place of a node that does; tell whether it was one."""
    ways = (spread_joined, ordered_view, resized_freely)
    return any(way(node, made, graph, moving) for way in ways)


def _is_empty(node: onnx.NodeProto, target: list[int]) -> bool:
    """Tell whether a target asks for an extent of 0, where a 0 in it does not copy one."""
    return bool(attribute(node, "allowzero", 0)) and 0 in target


def _with_target(node: onnx.NodeProto, target: list[int]) -> Inputs:
    inputs: Inputs = list(node.input)
    inputs[_TARGETS[node.op_type]] = np.asarray(target, np.int64)
    return inputs


def declares_batch(inputs: Collection[onnx.ValueInfoProto]) -> bool:
    """Tell whether a file leaves axis 0 of all its inputs open."""
    dims = [v.type.tensor_type.shape.dim for v in inputs]
    return all(d and d[0].dim_value < 1 for d in dims)
