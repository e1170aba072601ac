"""A small ONNX graph that can be built, looked at and cut into parts.

Lowering, gradients, statistics and scale rules all speak this one form: a list of `onnx.NodeProto` in topological
order, graph inputs, and initializers that stay numpy arrays (never copied into protobuf). A value is a `str` name; its
element type and shape are inferred on demand with onnx's own shape inference. Shapes are concrete, taken at the batch
size the graph was made for; nodes made with `reshape` do not spell the batch size out, so that the same graph runs
with any batch size when `batch_axis_free` says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from caffeinit.graph.inference import IR_VERSION, infer_types, tensor_type
from caffeinit.graph.netnumbers import NetNumber
from caffeinit.graph.nodes import rewired

OPSET = 17

Shape = tuple[int, ...]
Operand = str | float | int | Sequence[int] | np.ndarray


class Graph:
    """One ONNX graph under construction.

    Attributes:
        nodes: in topological order.
        inputs: graph input -> shape; element types are in `input_types` (float32 unless stated).
        still: inputs that keep their shape whatever the batch is.
        outputs: values that a caller wants; empty means that every value nobody uses counts.
        initializers: value -> numpy array. Parameter arrays are shared with `Network.params`, never copied.
        batch_axis_free: True when axis 0 of every input is the batch and no node spells its size out.
        verdicts: values that judge others (losses, accuracies, detections) -> the values that they judge.
        nearly_homogeneous: values that follow another's scale approximately -> that value (LRN).
        net_numbers: initializers that stand for a number of the net's own text.
        folded: what `folding.known_value` has worked out.
        recurrent: products' operands that are used again at every step -> the array that they are taken from.
        held: values whose scale must stay where the function is kept -> why, beside the outputs.
        domains, functions: versions of other operator sets than ONNX's own, and what nodes of functions stand for.
    """

    def __init__(self, opset: int = OPSET) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, Shape] = {}
        self.input_types: dict[str, int] = {}
        self.still: set[str] = set()
        self.outputs: list[str] = []
        self.initializers: dict[str, np.ndarray] = {}
        self.batch_axis_free = False
        self.verdicts: dict[str, list[str]] = {}
        self.nearly_homogeneous: dict[str, str] = {}
        self.net_numbers: dict[str, NetNumber] = {}
        self.folded: dict[str, np.ndarray | None] = {}
        self.recurrent: dict[str, str] = {}
        self.held: dict[str, str] = {}
        self.domains: dict[str, int] = {}
        self.functions: list[onnx.FunctionProto] = []
        self.scope = ""
        self._types: dict[str, onnx.TypeProto] = {}
        self._producers: dict[str, onnx.NodeProto] = {}
        self._constants: dict[tuple[str, Shape, bytes], str] = {}
        self._names: set[str] = set()
        self._counts: dict[str, int] = {}  # stem -> the last number given to it

    # --- building -----------------------------------------------------------------------------------------------

    def add_input(self, name: str, shape: Shape, elem_type: int = TensorProto.FLOAT, is_still: bool = False) -> str:
        """Declare a graph input and return its name; `is_still`: its shape is the same for any batch."""
        self._claim(name)
        self.inputs[name], self.input_types[name] = tuple(shape), elem_type
        self.still |= {name} if is_still else set()
        self._types[name] = tensor_type(elem_type, shape)
        return name

    def add_input_like(self, value: str, name: str) -> str:
        """Declare an input for numbers shaped like a value, and return what it is called."""
        return self.add_input(self.fresh(name), self.shape(value), is_still=self._is_still(value))

    def _is_still(self, value: str) -> bool:
        return value in self.still or not self.depends_on_input(value)

    def add_initializer(self, name: str, array: np.ndarray) -> str:
        """Add an array under a name of the caller's; the array is shared, not copied."""
        self._claim(name)
        self.initializers[name] = array
        return name

    def constant(self, value: Operand) -> str:
        """Return the value name of a constant; equal small constants are stored once.

        A Python float becomes float32, a Python int or a sequence of ints becomes int64; arrays keep their type.
        """
        if isinstance(value, str):
            return value
        if isinstance(value, float):
            array = np.asarray(value, np.float32)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        else:
            array = np.asarray(value, np.int64)
        key = (array.dtype.str, array.shape, array.tobytes() if array.nbytes <= 4096 else b"")
        if key[2] and key in self._constants:
            return self._constants[key]
        name = self.fresh("const")
        self.initializers[name] = array
        if key[2]:
            self._constants[key] = name
        return name

    def op(self, op_type: str, *inputs: Operand, name: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the output's name.

        Args:
            inputs: value names ("" for an absent optional input) or constants, see `constant`.
            name: name of the output; by default a fresh one below the current scope.
            attributes: as in the ONNX operator's specification; None leaves one out.
        """
        return self.ops(op_type, *inputs, outputs=[name or self.fresh(op_type)], domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Operand, outputs: int | Sequence[str], domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node with several outputs and return their names; see `op`."""
        names = [self.fresh(op_type) for _ in range(outputs)] if isinstance(outputs, int) else list(outputs)
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(op_type, [self.constant(i) for i in inputs], names, domain=domain, **given)
        self.append(node)
        return names

    def append(self, node: onnx.NodeProto) -> None:
        """Append a finished node; its outputs become known values."""
        self.nodes.append(node)
        for output in node.output:
            if output:
                self._names.add(output)
                self._producers[output] = node

    def reshape(self, value: str, dims: Sequence[int]) -> str:
        """Reshape to `dims` without spelling out the batch size.

        `dims` is the full concrete target. A leading dimension equal to the source's is copied (0);
        otherwise it is left to be inferred (-1), since it is the one that varies with the batch.
        """
        source = self.shape(value)
        target = [int(d) for d in dims]
        if tuple(target) == source:
            return value
        if target:
            target[0] = 0 if source and source[0] == target[0] else -1
        return self.op("Reshape", value, np.asarray(target, np.int64))

    def mask(self, condition: str) -> str:
        """Return a boolean value as zeros and ones of float32."""
        return self.op("Cast", condition, to=TensorProto.FLOAT)

    def rename(self, old: str, new: str, since: int = 0) -> None:
        """Give the value `old` the name `new` in the nodes from index `since` on (its producer must be among them)."""
        self._claim(new)
        for node in self.nodes[since:]:
            for field in (node.input, node.output):
                for index, name in enumerate(field):
                    if name == old:
                        field[index] = new
        self._producers[new] = self._producers.pop(old)
        if old in self._types:
            self._types[new] = self._types.pop(old)

    def drop(self, start: int, needed: Iterable[str] = ()) -> None:
        """Take back all nodes from index `start` on, but for those that the values `needed` follow from."""
        kept = {id(n) for n in self.ancestors(needed)}
        for node in self.nodes[start:]:
            if id(node) not in kept:
                for output in node.output:
                    self._producers.pop(output, None)
                    self._types.pop(output, None)
        self.nodes[start:] = [n for n in self.nodes[start:] if id(n) in kept]

    def fresh(self, stem: str) -> str:
        """Return a value name that is not in use yet."""
        base = f"{self.scope}/{stem}" if self.scope else stem
        name, count = base, self._counts.get(base, 1)
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._counts[base] = count
        self._names.add(name)
        return name

    def _claim(self, name: str) -> None:
        assert not any(name in known for known in (self._producers, self.inputs, self.initializers)), name
        self._names.add(name)

    # --- looking ------------------------------------------------------------------------------------------------

    def producer(self, value: str) -> onnx.NodeProto | None:
        """Return the node that makes `value`; None for graph inputs, initializers and unknown names."""
        return self._producers.get(value)

    def consumers(self) -> dict[str, list[onnx.NodeProto]]:
        """Return value -> nodes that read it, in order."""
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.input):
                if name:
                    readers.setdefault(name, []).append(node)
        return readers

    def moving_values(self) -> set[str]:
        """Return the values that depend on a graph input; the others follow from initializers alone."""
        moving = set(self.inputs)
        for node in self.nodes:
            if any(i in moving for i in node.input):
                moving.update(o for o in node.output if o)
        return moving

    def depends_on_input(self, value: str) -> bool:
        """Tell whether a value follows from a graph input, not from initializers alone."""
        pending, seen = [value], {value}
        for name in pending:  # the nearest first: an input may be near where much lies behind other ways
            if name in self.inputs:
                return True
            node = self.producer(name)
            for source in node.input if node else ():
                if source not in seen:
                    seen.add(source)
                    pending.append(source)
        return False

    def shape(self, value: str) -> Shape:
        """Return the concrete shape of a value; a dimension that depends on the data is -1.

        Raises:
            KeyError: no such value, or its rank cannot be known.
        """
        if value in self.initializers:
            return self.initializers[value].shape
        tensor = self._type(value).tensor_type
        if not tensor.HasField("shape"):
            raise KeyError(f"rank of {value} is not known")
        return tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)

    def elem_type(self, value: str) -> int:
        """Return the ONNX element type of a value."""
        if value in self.initializers:
            return helper.np_dtype_to_tensor_dtype(self.initializers[value].dtype)
        return self._type(value).tensor_type.elem_type

    def is_typed(self, value: str) -> bool:
        """Tell whether a value's element type and rank are known; they are not behind an operator that nobody knows."""
        is_known = any(value in known for known in (self._types, self.initializers, self._producers))
        tensor = self._type(value).tensor_type if is_known else onnx.TypeProto.Tensor()
        return bool(tensor.elem_type) and tensor.HasField("shape")

    def set_shape(self, value: str, shape: Shape, elem_type: int = TensorProto.FLOAT) -> None:
        """State a value's type where the caller knows it (a blob's shape as the layer infers it)."""
        self._types[value] = tensor_type(elem_type, shape)

    def _type(self, value: str) -> onnx.TypeProto:
        if value in self._types:
            return self._types[value]
        if value in self.initializers:
            array = self.initializers[value]
            return tensor_type(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        # Walk down iteratively: nets are deeper than Python's recursion limit.
        pending = [self._producers[value]]
        while pending:
            node = pending[-1]
            missing = [i for i in node.input if i and i not in self._types and i not in self.initializers]
            if missing:
                pending.extend(self._producers[i] for i in missing)
                continue
            pending.pop()
            self._infer(node)
        return self._types[value]

    def _infer(self, node: onnx.NodeProto) -> None:
        found = infer_types(self, node, {i: self._type(i) for i in node.input if i})
        for output in node.output:
            if output:
                self._types[output] = found.get(output, onnx.TypeProto())

    # --- cutting and writing ------------------------------------------------------------------------------------

    def ancestors(self, values: Iterable[str], stop: Iterable[str] = ()) -> list[onnx.NodeProto]:
        """Return the nodes needed to compute `values`, in graph order, taking the values in `stop` as given."""
        seen = set(stop)
        pending = [v for v in values if v not in seen]
        needed: set[int] = set()
        while pending:
            node = self._producers.get(pending.pop())
            if node is not None and id(node) not in needed:
                needed.add(id(node))
                pending += [i for i in node.input if i not in seen]
        return [node for node in self.nodes if id(node) in needed]

    def part(self, outputs: Sequence[str], inputs: Iterable[str] = ()) -> Graph:
        """Return the graph that computes `outputs` from the values `inputs` (and graph inputs where they are needed).

        Nodes and arrays are shared with this graph.
        """
        given = list(inputs)
        piece = Graph(self.opset)
        piece.domains, piece.functions = self.domains, self.functions
        piece.nodes, piece.outputs = self.ancestors(outputs, given), list(outputs)
        piece.batch_axis_free = self.batch_axis_free
        read = {i for node in piece.nodes for i in node.input if i} | set(outputs)
        for name in (n for n in (*given, *(i for i in self.inputs if i not in given)) if n in read):
            piece.add_input(name, self.shape(name), self.elem_type(name), self._is_still(name))
        piece.initializers = {n: a for n, a in self.initializers.items() if n in read and n not in piece.inputs}
        piece._producers = {o: n for n in piece.nodes for o in n.output if o}
        piece._types.update({n: t for n, t in self._types.items() if n in piece._producers})
        piece._names = set(self._names)
        return piece

    def without(self, removed: Iterable[onnx.NodeProto], instead: Mapping[str, str]) -> Graph:
        """Return a graph that lacks some nodes and reads other values where theirs were read.

        Args:
            instead: value -> the value to be read in its place.
        """
        gone = {id(node) for node in removed}
        other = self.copy()
        other.nodes = [rewired(node, instead) for node in self.nodes if id(node) not in gone]
        other._producers = {o: n for n in other.nodes for o in n.output if o}
        other.outputs = [instead.get(name, name) for name in self.outputs]
        return other

    def emptied(self, opset: int, typed: bool = False) -> Graph:
        """Return a graph of an opset with the same inputs, arrays and names in use, and no nodes; `typed`: their types."""
        other = self.copy()
        other.opset, other.nodes, other._producers, other.folded = opset, [], {}, {}
        other._types = {n: t for n, t in self._types.items() if typed or n in self.inputs}
        other._names |= {o for node in self.nodes for o in node.output}
        return other

    def copy(self) -> Graph:
        """Return an independent graph that shares arrays and nodes; appending to it leaves this one alone."""
        other = Graph(self.opset)
        other.__dict__.update({k: v.copy() if hasattr(v, "copy") else v for k, v in self.__dict__.items()})
        return other

    def to_model(self, embed: Mapping[str, np.ndarray] | None = None, name: str = "caffeinit") -> onnx.ModelProto:
        """Return an ONNX model of the graph.

        Args:
            embed: initializers to store inside the model; default all. Others are the caller's: inputs or external data.
        """
        arrays, outputs = self.initializers if embed is None else embed, self.outputs or self.unused()
        called = {(n.domain, n.op_type) for n in self.nodes}
        return helper.make_model(
            helper.make_graph(
                self.nodes,
                name,
                [self._value_info(n, is_input=True) for n in self.inputs],
                [self._value_info(n, is_input=False) for n in outputs],
                [numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in arrays.items()],
            ),
            opset_imports=[helper.make_opsetid(d, v) for d, v in {"": self.opset, **self.domains}.items()],
            functions=[f for f in self.functions if (f.domain, f.name) in called],
            ir_version=IR_VERSION,
            producer_name="caffeinit",
        )

    def batch_size(self) -> int:
        """Return how many pictures the shapes are for."""
        return max(1, next((shape[0] for name, shape in self.inputs.items() if shape and name not in self.still), 1))

    def unused(self) -> list[str]:
        """Return the values that no node reads, in order."""
        read = {i for node in self.nodes for i in node.input}
        return [o for node in self.nodes for o in node.output if o and o not in read]

    def _value_info(self, name: str, is_input: bool) -> onnx.ValueInfoProto:
        if not is_input and not self.is_typed(name):
            return onnx.ValueInfoProto(name=name)  # onnxruntime finds out
        dims: list[Any] = [d if d >= 0 else None for d in self.shape(name)]
        if self.batch_axis_free and not is_input:
            # Only the rank: onnxruntime would warn where a run's batch differs from the one we inferred with.
            dims = [None] * len(dims)
        elif self.batch_axis_free and dims and name not in self.still:
            # What has the same name shares memory in onnxruntime: other rows than those of the batch are not "N".
            dims[0] = "N" if dims[0] == self.batch_size() else None
        return helper.make_tensor_value_info(name, self.elem_type(name), dims)


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute as a Python value (bytes as str), or `default` where it is not set."""
    for entry in (e for e in node.attribute if e.name == name):
        value = helper.get_attribute_value(entry)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        return list(value) if entry.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value
    return default
