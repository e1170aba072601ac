"""From an ONNX model to a Graph that computes what the file computes, in single precision and with every type known.

- Constant nodes are arrays like initializers; what they hold can be learned.
- Inputs that are not of single precision are fed as such, and cast to what the net reads.
- Inputs that take one picture without an axis for it have one here.
- Nodes with subgraphs are calls of functions (`calls`); functions of the model are inlined.
- Nodes that no output depends on are left out: what they read is free of them.
- An operator that onnxruntime does not have, or not at this opset or for these types, is left out with all that follows
  from it; what it reads counts as an output.
- Types that onnx cannot infer, behind operators of other domains and subgraphs, are found by a run. One run does not tell
  how many entries others have where the data choose.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.checker import ValidationError
from onnx.shape_inference import InferenceError

from caffeinit.engine.kernels import without_kernel
from caffeinit.engine.onnxrun import known_operators
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.graph import OPSET, Graph, Shape, attribute
from caffeinit.graph.folding import known_value
from caffeinit.graph.inference import IR_VERSION
from caffeinit.graph.nodes import SUBGRAPHS, captured, node_label, nodes_within, operator_of, subgraphs
from caffeinit.graph.opsets import raised
from caffeinit.graph.readable import NUMBERS, in_its_place, told_by
from caffeinit.graph.sizes import MOST_NUMBERS
from caffeinit.graph.units import array_view
from caffeinit.model.network import Skipped
from caffeinit.onnxfile import calls
from caffeinit.onnxfile.misfit import misfit
from caffeinit.onnxfile.plain import Plain
from caffeinit.onnxfile.shapes import is_one_picture

# Operators whose later versions take the same settings and do something else.
_OTHER_MEANING = ("Softmax", "LogSoftmax", "Hardmax", "Resize", "BatchNormalization", "Dropout")
NOT_TENSORS = "takes no tensor of numbers"
_CHOOSING = ("Compress", "NonMaxSuppression", "NonZero", "Unique")  # put out as many entries as the data choose


@dataclass
class Built:
    """A graph, what it was built from and could not be taken into it, and which nodes no output depends on.

    Attributes:
        handed: value that counts as an output because an operator that cannot run reads it -> that node's label.
        replaced: outputs that are no numbers -> what stands for them among the graph's, in words.
        still: what computes the outputs that no input influences; None where there are none.
    """

    graph: Graph
    plain: Plain
    skipped: list[Skipped] = field(default_factory=list)
    idle: list[onnx.NodeProto] = field(default_factory=list)
    handed: dict[str, str] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    still: Graph | None = None


def build_graph(plain: Plain, shapes: Mapping[str, Shape]) -> Built:
    """Return the graph at these input shapes.

    Raises:
        CaffeinitError: a node does not fit what it reads.
        FormatError: the graph is damaged.
    """
    try:
        return _Builder(plain, shapes, foreign=True).build()
    except CaffeinitError:
        if not any(_is_foreign(n, plain.versions) for node in plain.graph.node for n in nodes_within(node)):
            raise
    # onnxruntime may know an operator by name and not have it for the processor.
    return _Builder(plain, shapes, foreign=False).build()


def _is_foreign(node: onnx.NodeProto, versions: Mapping[str, int]) -> bool:
    """Tell whether ONNX itself does not know an operator."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    return bool(domain) or not onnx.defs.has(node.op_type, versions[""], domain)


def _checked_at(node: onnx.NodeProto, opset: int) -> int:
    """Return the opset whose form a node is held against: a later one where ONNX has withdrawn the operator for a while."""
    later = range(opset, onnx.defs.onnx_opset_version() + 1)
    return next((v for v in later if not onnx.defs.get_schema(node.op_type, v, "").deprecated), opset)


def _is_of_today(node: onnx.NodeProto, opset: int) -> bool:
    """Tell whether a node of a subgraph means in our graph's opset what it does in its own: it is run as it stands."""
    if opset >= OPSET or node.domain or not onnx.defs.has(node.op_type, opset, ""):
        return True
    if node.op_type in _OTHER_MEANING:
        return onnx.defs.get_schema(node.op_type, OPSET).since_version <= opset
    context = onnx.checker.C.CheckerContext()
    context.ir_version, context.opset_imports = IR_VERSION, {"": OPSET}
    try:
        if not any(True for _ in subgraphs(node)):
            onnx.checker.check_node(node, context)
    except ValidationError:
        return False
    return True


class _Builder:
    def __init__(
        self, plain: Plain, shapes: Mapping[str, Shape], foreign: bool, lacking: frozenset[str] = frozenset()
    ) -> None:
        self.plain = plain
        self.shapes = shapes
        self.foreign = foreign  # whether operators of other domains are run
        self.lacking = lacking  # what nodes make that onnxruntime has no code for
        self.graph = Graph(plain.versions[""])
        self.graph.domains = {d: v for d, v in plain.versions.items() if d}
        self.named = {*plain.arrays, *(o for node in plain.graph.node for o in node.output)}
        self.instead: dict[str, str] = {}  # input -> the value that is read in its place
        self.lost: dict[str, str] = {}  # value that cannot be computed -> why
        self.skipped: list[Skipped] = []
        self.handed: dict[str, str] = {}  # what operators that cannot run read -> the first of them
        self.needed = calls.needed_nodes(plain.graph)
        self.idle: list[onnx.NodeProto] = []
        self.unmade: set[str] = set()  # what those make

    def build(self) -> Built:
        for value in self.plain.inputs:
            self._input(value)
        for name, array in self.plain.arrays.items():
            self.graph.add_initializer(name, array)
        for number, node in enumerate(self.plain.graph.node):
            self._node(number, node)
        try:
            graph = raised(self.graph)
        except (InferenceError, ValidationError) as error:
            raise CaffeinitError(f"{self.plain.where}: shapes in it do not go together: {_line(error)}") from None
        _check_made(graph, self.plain.where)
        unknown = _infer_types(graph, self.plain.where)
        if lacking := {o for node in without_kernel(graph) for o in node.output if o}:
            return _Builder(self.plain, self.shapes, self.foreign, self.lacking | lacking).build()
        _find_types(graph, unknown)
        own = {v.name for v in self.plain.graph.output}
        handed = {value: label for value, label in self.handed.items() if value not in own}
        built = Built(graph, self.plain, self.skipped, self.idle, handed)
        graph.outputs = self._outputs(graph, built.replaced)
        built.still = self._still(graph)
        return built

    def _input(self, value: onnx.ValueInfoProto) -> None:
        kind = value.type.tensor_type.elem_type
        if not value.type.HasField("tensor_type") or kind in (TensorProto.STRING, TensorProto.UNDEFINED):
            self.lost[value.name] = f'input "{value.name}" {NOT_TENSORS}'
            return
        shape = self.shapes[value.name]
        self.graph.add_input(value.name, (1, *shape) if is_one_picture(value) and len(shape) == 3 else shape)
        read = value.name
        if is_one_picture(value):
            read = self.graph.op("Reshape", read, list(shape[-3:]), name=self._unused(f"{value.name}@alone"))
        if kind != TensorProto.FLOAT:
            read = self.graph.op("Cast", read, name=self._unused(f"{value.name}@cast"), to=kind)
        if read != value.name:
            self.instead[value.name] = read

    def _unused(self, name: str) -> str:
        """Return a name that the model itself has given to nothing."""
        while name in self.named:
            name += "@"
        return name

    def _node(self, number: int, node: onnx.NodeProto) -> None:
        if node.domain == "ai.onnx" or any(name in self.instead for name in (*node.input, *captured(node))):
            node = calls.renamed(node, self.instead)
            node.domain = "" if node.domain == "ai.onnx" else node.domain
        read = [i for i in (*node.input, *captured(node)) if i]
        for name in read:
            if name not in self.lost and name not in self.unmade and not self._is_there(name):
                raise FormatError(
                    f'{self.plain.where}: {node_label(node)} reads "{name}", which nothing makes before it'
                )
        self._check(node)
        if number not in self.needed:
            self.idle.append(node)
            self.unmade.update(node.output)
            return
        reason = self._obstacle(node) or next((self.lost[i] for i in read if i in self.lost), "")
        if reason:
            self.skipped.append(Skipped(node_label(node), reason))
            self.lost |= dict.fromkeys((o for o in node.output if o), f"depends on {node_label(node)}")
            self.handed |= {i: node_label(node) for i in read if i not in self.lost and i not in self.handed}
            return
        if any(True for _ in subgraphs(node)):
            node, function = calls.as_call(node, number, {"": self.graph.opset, **self.graph.domains})
            self.graph.domains.setdefault(SUBGRAPHS, 1)
            self.graph.functions.append(function)
        elif _is_idle_cast(node, self.graph):
            node = helper.make_node("Identity", node.input, node.output, node.name)
        self.graph.append(node)

    def _check(self, node: onnx.NodeProto) -> None:
        """Refuse a node that is none of its operator."""
        if _is_foreign(node, self.plain.versions) or any(True for _ in subgraphs(node)):
            return
        context = onnx.checker.C.CheckerContext()
        context.ir_version, context.opset_imports = IR_VERSION, {"": _checked_at(node, self.graph.opset)}
        try:
            onnx.checker.check_node(node, context)
        except (ValidationError, UnicodeDecodeError) as error:
            raise FormatError(f"{self.plain.where}: {node_label(node)} is damaged: {_line(error)}") from None

    def _is_there(self, name: str) -> bool:
        graph = self.graph
        return name in graph.inputs or name in graph.initializers or graph.producer(name) is not None

    def _obstacle(self, node: onnx.NodeProto) -> str:
        """Return why a node cannot be run; empty if it can."""
        if any(o in self.lacking for o in node.output):
            version = self.plain.versions.get(node.domain, 1)
            return f"onnxruntime cannot run its operator {operator_of(node)} of opset {version}"
        for inner in nodes_within(node):
            name = operator_of(inner)
            if _is_foreign(inner, self.plain.versions) and (inner.domain, inner.op_type) not in known_operators():
                return f"onnxruntime does not have its operator {name}"
            if inner.domain and not self.foreign and _is_foreign(inner, self.plain.versions):
                return f"onnxruntime cannot run its operator {name}"
            if inner is not node and not _is_of_today(inner, self.graph.opset):
                return (
                    f"its subgraph has {name} in the form of opset {self.graph.opset}; convert the model first: "
                    f"onnx.version_converter.convert_version(model, {OPSET})"
                )
        return ""

    def _outputs(self, graph: Graph, replaced: dict[str, str]) -> list[str]:
        """Return what the net puts out as far as it can be computed, and what goes into operators that cannot run.

        Args:
            replaced: gets the outputs that are no numbers -> what stands for them, in words.
        """
        moving = graph.moving_values() - {*graph.inputs}

        def is_readable(value: str) -> bool:
            return value in moving and graph.is_typed(value) and graph.elem_type(value) in NUMBERS

        wanted = [v.name for v in self.plain.graph.output if v.name in moving]
        unlike = [name for name in wanted if not is_readable(name)]
        # Words, sequences and maps are not looked at; what they are made of is.
        told = {name: told_by(name, graph.producer, is_readable) for name in unlike}
        replaced |= {n: in_its_place(n, graph.elem_type(n), by) for n, by in told.items() if graph.is_typed(n)}
        wanted = [*(n for n in wanted if n not in told), *(value for by in told.values() for value in by)]
        return [n for n in dict.fromkeys([*wanted, *self.handed]) if n in moving]

    def _still(self, graph: Graph) -> Graph | None:
        """Return what computes the outputs that no input influences; None where there are none."""
        moving = graph.moving_values()
        made = [v.name for v in self.plain.graph.output if v.name not in moving and graph.producer(v.name) is not None]
        readable = [name for name in made if graph.is_typed(name) and graph.elem_type(name) in NUMBERS]
        return graph.part(readable) if readable else None


def _is_idle_cast(node: onnx.NodeProto, graph: Graph) -> bool:
    """Tell whether a node casts an array to single precision that is of single precision by now: a plain view."""
    if node.op_type != "Cast" or node.domain or attribute(node, "to") != TensorProto.FLOAT:
        return False
    found = array_view(graph, node.input[0])
    return found is not None and found[1].dtype == np.float32


def settle_types(graph: Graph, where: str) -> None:
    """Find the types of all values; those that onnx cannot infer by a run.

    Raises:
        CaffeinitError: a node does not fit what it reads, or onnxruntime cannot run it.
    """
    _find_types(graph, _infer_types(graph, where))


def _infer_types(graph: Graph, where: str) -> list[str]:
    """Return the values whose types onnx cannot infer."""
    unknown: list[str] = []
    for node in graph.nodes:
        try:
            unknown += [o for o in node.output if o and not graph.is_typed(o)]
        except (InferenceError, ValidationError) as error:
            raise CaffeinitError(f"{where}: {node_label(node)} {_unfit(node, graph, _line(error))}") from None
        if why := misfit(node, graph):
            raise CaffeinitError(f"{where}: {node_label(node)} {_unfit(node, graph, why)}")
        _check_sizes(node, graph, where)
    return unknown


def _find_types(graph: Graph, unknown: Sequence[str]) -> None:
    """Find the types of values by a run."""
    if not unknown:
        return
    rng = np.random.default_rng(0)
    session = compile_graph(graph, unknown, Settings(threads=1))
    feeds = {n: rng.random(graph.inputs[n], np.float32) for n in session.inputs}
    chosen = _chosen(graph)
    for name, array in session.run(feeds).items():
        if isinstance(array, np.ndarray) and array.dtype.kind in "fiub":
            shape = (-1,) * array.ndim if name in chosen else array.shape
            graph.set_shape(name, shape, helper.np_dtype_to_tensor_dtype(array.dtype))


def _check_sizes(node: onnx.NodeProto, graph: Graph, where: str) -> None:
    """Refuse a node whose damaged settings ask for values of any size: nothing behind it could be worked out."""
    for shape in (graph.shape(o) for o in node.output if o and graph.is_typed(o)):
        if math.prod(shape) > MOST_NUMBERS:
            raise CaffeinitError(
                f"{where}: {node_label(node)} makes {shape}, which no memory holds; the file may be damaged"
            )


def _chosen(graph: Graph) -> set[str]:
    """Return the values that follow from entries of which the data choose how many there are."""
    moving, found = graph.moving_values(), set[str]()
    bodies = {(f.domain, f.name): f.node for f in graph.functions}
    for node in graph.nodes:
        inner = (n.op_type for top in bodies.get((node.domain, node.op_type), [node]) for n in nodes_within(top))
        is_choice = any(o in moving for o in node.output) and any(kind in _CHOOSING for kind in inner)
        if is_choice or any(i in found for i in node.input):
            found.update(o for o in node.output if o)
    return found


def _unfit(node: onnx.NodeProto, graph: Graph, why: str) -> str:
    """Return in words that a node does not fit what it reads, with that."""
    reads = ", ".join(f'"{name}" {_described(graph, name)}' for name in node.input if name)
    inputs = ", ".join(f"{name} {shape}" for name, shape in graph.inputs.items())
    return f"does not fit what it reads: {why}. It reads {reads}; the inputs are {inputs}"


def _described(graph: Graph, name: str) -> str:
    """Return a value's numbers where they are known and few, as those that tell a shape, else its own shape."""
    known = known_value(graph, name)
    if known is not None and known.size <= 8 and known.dtype.kind == "i":
        return f"= {known.tolist()}"
    try:
        return str(graph.shape(name))
    except KeyError:
        return "of unknown shape"


def _line(error: Exception) -> str:
    """Return what onnx says, in one line, without the name of its error."""
    return re.sub(r"^\[\w+\] ", "", " ".join(str(error).split()))[:300].rstrip(".")


def _check_made(graph: Graph, where: str) -> None:
    """Refuse a graph in which something is read that no node makes any more, as what old training saved for itself."""
    made = {"", *graph.inputs, *graph.initializers, *(o for node in graph.nodes for o in node.output)}
    for node in graph.nodes:
        if lost := [i for i in node.input if i not in made]:
            raise CaffeinitError(
                f'{where}: {node_label(node)} reads "{lost[0]}", which its operator does not give today'
            )
