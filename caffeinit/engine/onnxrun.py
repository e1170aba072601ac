"""Running an ONNX file as another program would: nothing of our graph, only what is on the disk."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper
from onnx.shape_inference import InferenceError

from caffeinit.engine.device import Device
from caffeinit.engine.failures import ORT_ERRORS, NotImplementedThere, explained
from caffeinit.engine.kernels import has_kernel
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.graph.layouts import is_one_picture
from caffeinit.graph.nodes import captured, check_made_once, check_names, nodes_within, operator_of
from caffeinit.graph.places import Places, find_places, is_squashed
from caffeinit.graph.readable import NUMBERS, in_its_place, innermost_type, told_by
from caffeinit.graph.sizes import MOST_FED
from caffeinit.storage.files import check_regular_file

_BESIDE = "session.model_external_initializers_file_folder_path"  # where weights outside the model lie
_RARE = {TensorProto.DOUBLE, TensorProto.BFLOAT16}  # types that onnxruntime has few operators for


@functools.cache
def known_operators() -> frozenset[tuple[str, str]]:
    """Return domain and name of all operators that onnxruntime knows of; it may lack them for the processor."""
    schemas = ort.capi.onnxruntime_pybind11_state.get_all_operator_schema()
    return frozenset((s.domain, s.name) for s in schemas)


class OnnxFile:
    """An ONNX file in a session of its own."""

    def __init__(self, path: str | PathLike[str], threads: int = 0) -> None:
        self._session = Device().start(fspath(path), _options(threads))

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Return output -> array."""
        return dict(zip(outputs, self._session.run(list(outputs), dict(feeds)), strict=True))


class OnnxFunction:
    """An ONNX file as a function from inputs to any of its values.

    Attributes:
        label: how messages name it.
        inputs: input -> its axes; None where the file leaves one open.
        outputs: as the file declares them, but for those that are no numbers: what they are made of stands for them.
        replaced: those -> what stands for them, in words.
        rows: pictures that it takes at a time; 1 where it takes any number.
    """

    def __init__(self, path: str | PathLike[str], threads: int = 0, device: Device | None = None) -> None:
        """Read the file.

        Raises:
            FormatError: it is no ONNX file.
        """
        self.label = fspath(path)
        self._path = Path(path)
        self._threads = threads
        self._device = device or Device()
        try:
            self._model = onnx.load(fspath(check_regular_file(path)), load_external_data=False)
        except OSError as error:
            raise FormatError(f"{self.label}: cannot be read: {error}") from None
        except DecodeError:
            raise FormatError(f"{self.label}: is no ONNX model, or one that is damaged or cut off") from None
        graph = self._model.graph
        if not graph.node:
            raise FormatError(f"{self.label}: is no ONNX model: it holds no graph of any nodes")
        check_names(self._model, self.label)
        stored = {a.name for a in graph.initializer} | {a.values.name for a in graph.sparse_initializer}
        check_made_once(graph, stored, self.label)
        fed = [v for v in graph.input if v.name not in stored]
        for value in fed:
            if math.prod(axis or 1 for axis in _axes(value)) > MOST_FED:
                shape = tuple(axis or "?" for axis in _axes(value))
                raise FormatError(
                    f'{self.label}: input "{value.name}" is {shape}, which no memory holds; it is damaged'
                )
        self.inputs = {v.name: [1, *axes] if is_one_picture(axes := _axes(v)) else axes for v in fed}
        self._alone = {v.name for v in fed if is_one_picture(_axes(v))}
        self._types = {v.name: v.type.tensor_type.elem_type for v in fed}
        self._kinds = _kinds(self._model)
        self.outputs, self.replaced = self._readable_outputs()
        self._of_all: dict[str, bool] = {}
        self.rows = next((axes[0] for axes in self.inputs.values() if axes and axes[0]), 1)

    def values(self, given: Collection[str]) -> list[str]:
        """Return the values that these inputs determine and influence, in the order of the graph."""
        moving: dict[str, None] = dict.fromkeys(given)
        unknown = set(self.inputs) - set(given)
        for node in self._model.graph.node:
            read = (*node.input, *captured(node))
            if any(i in unknown for i in read):
                unknown.update(node.output)
            elif any(i in moving for i in read):
                moving.update(dict.fromkeys(o for o in node.output if o))
        return [value for value in moving if value not in given and self._is_readable(value)]

    def _is_readable(self, value: str) -> bool:
        return self._type(value) in {*NUMBERS, TensorProto.UNDEFINED}

    def _type(self, value: str) -> int:
        return innermost_type(self._kinds.get(value, onnx.TypeProto()))

    def _readable_outputs(self) -> tuple[list[str], dict[str, str]]:
        """Return the outputs, others in place of those that are no numbers, and what stands for which of these."""
        names = [v.name for v in self._model.graph.output]
        known, made = {*self.values(self.inputs)}, self._producers()
        told = {n: told_by(n, made.get, known.__contains__) for n in names if not self._is_readable(n)}
        kept = [value for name in names for value in told.get(name, [name])]
        words = {n: in_its_place(n, self._type(n), by) for n, by in told.items()}
        return list(dict.fromkeys(kept)), words

    def fixed(self) -> list[str]:
        """Return the outputs that no input influences."""
        moving = {*self.values(list(self.inputs)), *self.inputs}
        return [output for output in self.outputs if output not in moving]

    def is_of_all(self, output: str) -> bool:
        """Tell whether an output is one number for all pictures of a batch, whose size the file states."""
        if output not in self._of_all:
            is_stated = any(axes and axes[0] for axes in self.inputs.values())
            self._of_all[output] = is_stated and output in self.values(list(self.inputs)) and self._is_number(output)
        return self._of_all[output]

    def _is_number(self, value: str) -> bool:
        """Tell whether a value has no axes; found by a run where the file does not tell, and states all its inputs."""
        kind = self._kinds.get(value, onnx.TypeProto()).tensor_type
        if kind.HasField("shape"):
            return not kind.shape.dim
        shapes = {name: [axis or 0 for axis in axes] for name, axes in self.inputs.items()}
        if not all(shape and all(shape) for shape in shapes.values()):
            return False
        feeds = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        try:
            found: object = self.compile([value])(feeds)[value]
        except CaffeinitError:
            return False  # zeros are no pictures; what fails on pictures is told where they are compared
        return isinstance(found, np.ndarray | np.generic) and found.ndim == 0

    def judged(self, output: str) -> list[str]:
        """Return nothing: a file does not tell which of its values an output judges."""
        return []

    def places(self, output: str) -> Places | None:
        """Return what an output tells the places of, if it does."""
        return find_places(output, self._producers().get)

    def is_squashed(self, output: str) -> bool:
        """Tell whether a sigmoid puts an output out."""
        return is_squashed(output, self._producers().get)

    def _producers(self) -> dict[str, onnx.NodeProto]:
        return {o: node for node in self._model.graph.node for o in node.output}

    def chosen_from(self, output: str) -> tuple[str, ...]:
        """Return nothing, as `judged` does."""
        return ()

    def obstacle(self) -> str:
        """Return why onnxruntime cannot run the file as it is, for its operators or types; empty if it can."""
        model = self._model
        outermost = [*model.graph.node, *(n for function in model.functions for n in function.node)]
        nodes = [inner for node in outermost for inner in nodes_within(node)]
        known = known_operators() | {(f.domain, f.name) for f in model.functions}
        unknown = dict.fromkeys(operator_of(n) for n in nodes if (_domain(n), n.op_type) not in known)
        if unknown:
            return f"onnxruntime does not have its operator{'s' * (len(unknown) > 1)} {', '.join(unknown)}"
        rare = "onnxruntime lacks its operators for its types"
        if TensorProto.BFLOAT16 in self._types.values():
            return rare  # numpy has no such arrays to feed
        versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
        lacking = [n for n in model.graph.node if not has_kernel(n, versions, [self._type(i) for i in n.input])]
        types = {*self._types.values(), *(a.data_type for a in model.graph.initializer)}
        if lacking and _RARE.isdisjoint(types):
            names = ", ".join(dict.fromkeys(map(operator_of, lacking)))
            return f"onnxruntime cannot run {names} of opset {versions['']}"
        if _RARE.isdisjoint(types) and not any(map(_domain, nodes)):
            return ""
        try:
            self._start(self.outputs)
        except NotImplementedThere:
            return rare
        except ORT_ERRORS:
            pass  # told where the file is compiled
        return ""

    def compile(self, values: Sequence[str]) -> CompiledPart:
        """Return what computes these values from those inputs that they depend on."""
        with explained("set up", self.label):
            session = self._start(values)
        names = [i.name for i in session.get_inputs()]
        types = {name: _numpy_type(self._types[name]) for name in names}
        inputs = {name: self.inputs[name] for name in names}
        return CompiledPart(session, inputs, types, values, self.label, self._alone)

    def _start(self, values: Sequence[str]) -> ort.InferenceSession:
        options = _options(self._threads)
        options.add_session_config_entry(_BESIDE, fspath(self._path.resolve().parent))
        part = _part(self._model, values)
        return self._device.start(part.SerializeToString(), options)


class CompiledPart:
    """A part of an ONNX file, ready to run; see `OnnxFunction.compile`."""

    def __init__(
        self,
        session: ort.InferenceSession,
        inputs: Mapping[str, Sequence[int | None]],
        types: Mapping[str, np.dtype | None],
        values: Sequence[str],
        label: str,
        alone: Collection[str],
    ) -> None:
        """Take a session; `alone`: inputs that take a picture without an axis for more."""
        self._session = session
        self._alone = alone
        self._values = list(values)
        self._label = label
        self._inputs = list(inputs)
        self._types = dict(types)
        self._rows = next((axes[0] for axes in inputs.values() if axes and axes[0]), None)

    def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute the values for one batch; in pieces where the file spells its batch size out.

        Inputs of other numbers of rows, as steps of a sequence and its first state, are one run as they are.
        """
        feeds = {name: _as_type(batch[name], self._types[name]) for name in self._inputs}
        if not feeds:
            return self._run(feeds)
        count, *others = {len(array) for array in feeds.values()}
        if others or self._rows in (None, count):
            return self._run(feeds)
        pieces = []
        for start in range(0, count, self._rows):
            rows = np.minimum(np.arange(start, start + self._rows), count - 1)  # the last piece is filled up
            found = self._run({name: array[rows] for name, array in feeds.items()})
            there = min(self._rows, count - start)
            pieces.append({n: _first(a, there, self._rows) for n, a in found.items()})
        return {n: _joined([p[n] for p in pieces]) for n in self._values}

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        given = {name: array[0] if name in self._alone else array for name, array in feeds.items()}
        with explained("run", self._label):
            return dict(zip(self._values, self._session.run(self._values, given), strict=True))


def _first(value: Any, count: int, rows: int) -> Any:
    """Return what of a value belongs to the first pictures; sequences stay whole."""
    return value[: len(value) * count // rows] if isinstance(value, np.ndarray) and value.ndim else value


def _joined(pieces: list[Any]) -> Any:
    """Return arrays one behind the other, anything else as a list."""
    if all(isinstance(p, np.ndarray) for p in pieces):
        return np.concatenate([np.atleast_1d(p) for p in pieces])
    return pieces


def _domain(node: onnx.NodeProto) -> str:
    """Return the domain of a node's operator; empty for ONNX's own."""
    return "" if node.domain == "ai.onnx" else node.domain


def _part(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """Return the part of a model that computes these values, with them as its outputs."""
    wanted = set(values)
    kept = []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(i for a in node.attribute for g in (a.g, *a.graphs) for n in g.node for i in n.input)
    known = {v.name: v for v in (*model.graph.output, *model.graph.value_info)}
    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    part.graph.name = model.graph.name
    part.graph.node.extend(reversed(kept))
    part.graph.initializer.extend(a for a in model.graph.initializer if a.name in wanted)
    part.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    part.graph.input.extend(v for v in model.graph.input if v.name in wanted)
    part.graph.output.extend(known.get(name, onnx.ValueInfoProto(name=name)) for name in values)
    return part


def _kinds(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Return the types of a model's values, as far as the model tells them or they follow from it."""
    graph = model.graph
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    bare.graph.node.extend(graph.node)
    stored = [(a.name, a.data_type) for a in graph.initializer]
    stored += [(a.values.name, a.values.data_type) for a in graph.sparse_initializer]
    listed = {v.name for v in graph.input}
    bare.graph.input.extend(graph.input)
    bare.graph.input.extend(helper.make_tensor_value_info(n, kind, None) for n, kind in stored if n not in listed)
    bare.graph.output.extend(graph.output)
    bare.graph.value_info.extend(graph.value_info)
    try:
        found = onnx.shape_inference.infer_shapes(bare).graph
    except (InferenceError, ValueError, RuntimeError):  # onnxruntime will say what does not go together
        found = bare.graph
    return {v.name: v.type for v in (*found.input, *found.value_info, *found.output)}


def _axes(value: onnx.ValueInfoProto) -> list[int | None]:
    return [d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim]


def _numpy_type(elem_type: int) -> np.dtype | None:
    """Return the type of arrays that an input takes; None where it takes no numbers."""
    if elem_type in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))


def _as_type(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Return an array as an input takes it, as ONNX's Cast would make it."""
    with np.errstate(invalid="ignore", over="ignore"):
        return array if dtype is None else array.astype(dtype, copy=False)


def _options(threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what it says of an error is told by the error, too
    return options
