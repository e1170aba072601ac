"""Nodes that hold others, or stand for others, with these in their place, so that rules of operators see through them.

- An If whose condition follows from shapes and stored whole numbers alone, and is the same for any batch that the file
  takes, always takes one branch. Exporters write one where they cannot tell how many axes a value has (squeeze). Where
  the file leaves other sizes open, another branch may be taken at others than those given; that is told.
- Operators that ONNX itself defines by other operators, and that have no rule (Attention, RotaryEmbedding, ...), or that
  onnxruntime does not have (Swish from opset 25 on).

Only what is computed with changes; the file keeps its nodes. What stands inside them stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
import onnx.inliner
from onnx import AttributeProto, TensorProto, helper, numpy_helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from caffeinit.engine.kernels import has_kernel
from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph, Shape
from caffeinit.graph.folding import constant_node, known_value
from caffeinit.graph.inference import IR_VERSION
from caffeinit.graph.nodes import INSIDE, captured, name_of, operator_of
from caffeinit.graph.rules import find_rule
from caffeinit.onnxfile import calls
from caffeinit.onnxfile.plain import Plain
from caffeinit.onnxfile.shapes import declared_shape, is_one_picture
from caffeinit.patterns import first_of

_OTHER_BATCH, _OTHER_SIZE = 3, 2  # times as many pictures, and as large ones, where the file leaves that open


def laid_open(plain: Plain, shapes: Mapping[str, Shape]) -> Plain:
    """Return the model with such nodes replaced, as far as that can be told at these input shapes."""
    if not any(_may_open(node, plain.versions[""]) for node in plain.graph.node):
        return plain
    try:
        return _Opener(plain, shapes).opened()
    except _OutOfOrderError:  # a node reads what is made behind it: told where the graph is built
        return plain


class _OutOfOrderError(Exception):
    """A node reads what nothing makes before it."""


def _may_open(node: onnx.NodeProto, opset: int) -> bool:
    return (node.op_type == "If" and node.domain in ("", "ai.onnx")) or _has_body(node, opset)


def _has_body(node: onnx.NodeProto, opset: int) -> bool:
    """Tell whether ONNX defines an operator by others, and it is known and run by these alone."""
    if node.domain not in ("", "ai.onnx") or not onnx.defs.has(node.op_type, opset, ""):
        return False
    schema = onnx.defs.get_schema(node.op_type, opset, "")
    if not (schema.has_function or schema.has_context_dependent_function):  # type: ignore[attr-defined]
        return False
    return find_rule(node) is None or not has_kernel(node, {"": opset}, [TensorProto.FLOAT] * len(node.input))


class _Opener:
    def __init__(self, plain: Plain, shapes: Mapping[str, Shape]) -> None:
        self.plain = plain
        self.opset = plain.versions[""]
        self.arrays, self.inside = dict(plain.arrays), dict(plain.inside)
        self.defaults = {v.name for v in plain.graph.input if v.name in plain.arrays}
        self.nodes: list[onnx.NodeProto] = []
        top = plain.graph.node
        self.named = {*plain.arrays, *(v.name for v in plain.graph.input), *(o for node in top for o in node.output)}
        self.labels = {node.name for node in top}
        self.there = {*plain.arrays, *(v.name for v in plain.graph.input)}
        self.sized: dict[str, None] = {}  # Ifs that may take another branch at other sizes than these
        self.graphs = [self._empty(shapes, 1, 1)]
        if any(0 in _open_axes(v) for v in plain.inputs):
            self.graphs.append(self._empty(shapes, _OTHER_BATCH, 1))
        self.larger = self._empty(shapes, 1, _OTHER_SIZE)

    def _empty(self, shapes: Mapping[str, Shape], batch: int, size: int) -> Graph:
        """Return a graph of the inputs and arrays; axes that the file leaves open are so many times as long."""
        graph = Graph(self.opset)
        for value in self.plain.inputs:
            shape = list(shapes[value.name][-3:] if is_one_picture(value) else shapes[value.name])
            for axis in _open_axes(value):
                shape[axis] *= size if axis else batch
            if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type:
                graph.add_input(value.name, tuple(shape), value.type.tensor_type.elem_type)
        for name, array in self.arrays.items():
            graph.add_initializer(name, array)
        return graph

    def opened(self) -> Plain:
        for node in self.plain.graph.node:
            self._put(node)
        graph = onnx.GraphProto()
        graph.CopyFrom(self.plain.graph)
        del graph.node[:]
        graph.node.extend(self.nodes)
        note = f"at other sizes of pictures than these, another branch may be taken of {first_of(list(self.sized))}"
        notes = [*self.plain.notes, *([note] if self.sized else [])]
        return replace(self.plain, graph=graph, arrays=self.arrays, inside=self.inside, notes=notes)

    def _put(self, node: onnx.NodeProto) -> None:
        """Append a node, or what stands in its place."""
        if (branch := self._branch(node)) is not None:
            self._put_inside(node, branch)
        elif (body := self._body(node)) is None or not self._put_same(node, body):
            self._append(node)

    def _append(self, node: onnx.NodeProto) -> None:
        if any(name and name not in self.there for name in (*node.input, *captured(node))):
            raise _OutOfOrderError
        self.there.update(node.output)
        self.nodes.append(node)
        for graph in (*self.graphs, self.larger):
            graph.append(node)

    def _take_back(self, begun: int) -> None:
        """Take back what was appended once there were so many nodes."""
        del self.nodes[begun:]
        for graph in (*self.graphs, self.larger):
            graph.drop(begun)

    def _put_same(self, node: onnx.NodeProto, body: onnx.GraphProto) -> bool:
        """Append a body, if what it makes has the types that the node states; not all bodies do with a single picture."""
        begun = len(self.nodes)
        self._append(node)
        stated = [_types(graph, node.output) for graph in self.graphs]
        self._take_back(begun)
        self._put_inside(node, body)
        if stated == [_types(graph, node.output) for graph in self.graphs]:
            return True
        self._take_back(begun)
        return False

    def _put_inside(self, node: onnx.NodeProto, body: onnx.GraphProto) -> None:
        for inner in self._inlined(node, body):
            self._put(inner)

    # --- an If --------------------------------------------------------------------------------------------------

    def _branch(self, node: onnx.NodeProto) -> onnx.GraphProto | None:
        """Return the branch that an If always takes; None where that cannot be told."""
        if node.op_type != "If" or node.domain not in ("", "ai.onnx") or len(node.input) != 1:
            return None
        if not self._is_of_shapes(node.input[0]):
            return None
        found = {self._truth(graph, node.input[0]) for graph in self.graphs}
        truth = found.pop() if len(found) == 1 else None
        wanted = "then_branch" if truth else "else_branch"
        branches = [e.g for e in node.attribute if e.name == wanted and e.type == AttributeProto.GRAPH]
        if truth is None or len(branches) != 1 or len(branches[0].output) != len(node.output):
            return None
        branch = branches[0]
        if branch.input or branch.sparse_initializer or not all(map(_is_stored, branch.initializer)):
            return None
        if self._truth(self.larger, node.input[0]) is not truth:
            self.sized[name_of(node)] = None
        return branch

    def _is_of_shapes(self, value: str) -> bool:
        """Tell whether a value follows from shapes and stored whole numbers; real numbers may be learned, and change."""
        pending, seen = [value], {value}
        while pending:
            name = pending.pop()
            node = self.graphs[0].producer(name)
            if node is None:
                array = self.arrays.get(name)
                if array is None or array.dtype.kind not in "iub" or name in self.defaults:
                    return False
            elif node.op_type not in ("Shape", "Size"):
                pending += (below := {i for i in node.input if i} - seen)
                seen |= below
        return True

    @staticmethod
    def _truth(graph: Graph, value: str) -> bool | None:
        try:
            known = known_value(graph, value)
        except (CaffeinitError, InferenceError, ValidationError, KeyError):
            return None
        return bool(known.reshape(())) if known is not None and known.size == 1 else None

    # --- a function of ONNX's own -------------------------------------------------------------------------------

    def _body(self, node: onnx.NodeProto) -> onnx.GraphProto | None:
        """Return what ONNX defines a node as, over its own inputs and outputs; None where it has no such definition."""
        graph = self.graphs[0]
        if not _has_body(node, self.opset):
            return None
        names = [name for name in dict.fromkeys(node.input) if name]
        types = _types(graph, names)
        if types is None:
            return None
        inputs = [helper.make_tensor_value_info(n, k, [None] * len(s)) for n, (k, s) in zip(names, types, strict=True)]
        outputs = [onnx.ValueInfoProto(name=o) for o in node.output if o]
        alone = helper.make_graph([_with_defaults(node, self.opset)], "body", inputs, outputs)
        model = helper.make_model(alone, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=IR_VERSION)
        try:
            inline: Callable[..., onnx.ModelProto] = onnx.inliner.inline_selected_functions
            found = inline(model, [("", node.op_type)], inline_schema_functions=True)
        except Exception:  # the inliner raises whatever its C++ does; the operator runs as it stands
            return None
        is_same = [(o.domain, o.version) for o in found.opset_import] == [("", self.opset)] and not found.functions
        return found.graph if is_same and all(n.op_type != node.op_type for n in found.graph.node) else None

    # --- either -------------------------------------------------------------------------------------------------

    def _inlined(self, node: onnx.NodeProto, body: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
        """Yield a graph's nodes under names of their own; what it puts out is what the node did."""
        names: dict[str, str] = {}
        prefix = "" if node.op_type == "If" else f"{next(filter(None, node.output))}{INSIDE}/"
        for tensor in body.initializer:
            self._keep(node, self._name(tensor.name, prefix, names), np.asarray(numpy_helper.to_array(tensor)))
        own = {*node.input, *node.output} if prefix else set()
        for inner in body.node:
            copy = calls.renamed(inner, names)
            outputs = [o if not o or o in own else self._name(o, prefix, names) for o in inner.output]
            copy.output[:] = outputs
            copy.name = "" if inner.name in self.labels else inner.name  # onnxruntime takes no name twice
            self.labels.add(copy.name)
            array = constant_node(inner) if inner.op_type == "Constant" and not inner.domain else None
            if array is None:
                yield copy
            else:
                self._keep(node, outputs[0], np.array(array))
        for inner_name, name in zip((v.name for v in body.output), node.output, strict=False):
            if name and inner_name != name:
                yield helper.make_node("Identity", [names.get(inner_name, inner_name)], [name])

    def _name(self, name: str, prefix: str, names: dict[str, str]) -> str:
        """Return under which name the model has a value from inside; its own where that is free."""
        free = f"{prefix}{name}"
        while free in self.named:
            free += "@"
        self.named.add(free)
        names[name] = free
        return free

    def _keep(self, node: onnx.NodeProto, name: str, array: np.ndarray) -> None:
        """Take an array from inside a node."""
        self.arrays[name] = array
        self.there.add(name)
        self.inside[name] = f'stands inside {operator_of(node)} "{node.name or node.output[0]}"'
        for graph in (*self.graphs, self.larger):
            graph.add_initializer(name, array)


def _with_defaults(node: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    """Return a node that states all its settings: a body has none in place of one that is not there."""
    copy, given = onnx.NodeProto(), {entry.name for entry in node.attribute}
    copy.CopyFrom(node)
    settings = onnx.defs.get_schema(node.op_type, opset, "").attributes
    usual = (a.default_value for name, a in settings.items() if name not in given)  # type: ignore[attr-defined]
    copy.attribute.extend(entry for entry in usual if entry.name)
    return copy


def _types(graph: Graph, values: Iterable[str]) -> list[tuple[int, Shape]] | None:
    """Return the element types and shapes of values; None where they cannot be told."""
    try:
        return [(graph.elem_type(v), graph.shape(v)) for v in values if v]
    except (CaffeinitError, InferenceError, ValidationError, KeyError):
        return None


def _is_stored(tensor: TensorProto) -> bool:
    """Tell whether a tensor's numbers stand in the model itself."""
    return tensor.data_location != TensorProto.EXTERNAL and tensor.data_type != TensorProto.STRING


def _open_axes(value: onnx.ValueInfoProto) -> list[int]:
    """Return the axes whose extents an input leaves open, 0 that of the pictures."""
    return [axis for axis, dim in enumerate(declared_shape(value)) if not isinstance(dim, int)]
