"""A network as an ONNX file that other programs can run.

Values bear Caffe's blob names. Where the graph allows it, axis 0 of inputs and outputs is the symbolic "N". The file is
checked by onnx's own checker and run once before it gets its name; with a free batch it is run at two batch sizes, and
the axes in which the outputs then differ are the ones left open.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Container, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import CaffeinitError
from caffeinit.graph import Graph
from caffeinit.graph.norms import find_statistic, stored_factor
from caffeinit.graph.remarks import Remarks
from caffeinit.model.network import Network
from caffeinit.storage.files import check_target, replacing_all

MOST_EMBEDDED = 1_900_000_000  # bytes; protobuf's limit is 2 GiB for the whole file
TOLERANCE = 1e-4  # of a value's largest number; the file and `Network.forward` run the same operators
_ALIGNMENT = 4096
_ALWAYS_INSIDE = 1024  # bytes; shape inference reads the small arrays, and only inside the model

Arrays = dict[str, np.ndarray]
Dims = list[int | str | None]


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        inputs, outputs: value -> its axes; "N" is the batch, None depends on the data.
        difference: largest difference from `Network.forward`, as a part of the value's largest number.
        data: the file beside the model that holds the weights; None where they are inside.
    """

    opset: int
    inputs: dict[str, Dims]
    outputs: dict[str, Dims]
    difference: float
    data: Path | None = None


def export_onnx(
    network: Network, path: str | PathLike[str], origin: str = "", force: bool = False, most: int = MOST_EMBEDDED
) -> Exported:
    """Write a network as an ONNX file.

    Args:
        origin: what the file says it was made from.
        most: bytes of weights above which they go to a file beside the model, PATH.data.
    Raises:
        CaffeinitError: nothing can be computed, the file does not pass onnx's checker, or it computes something else.
        OutputError: the target exists or cannot be written.
    """
    path = check_target(path, force)
    if not network.outputs:
        reasons = "; ".join(f'layer "{s.name}": {s.reason}' for s in network.skipped[:3])
        raise CaffeinitError(f"the net has no output that can be computed{': ' if reasons else ''}{reasons}")
    graph = _settled(network.graph.part(network.outputs), network.learned)
    runs = [(feeds, network.forward(feeds, graph.outputs)) for feeds in _feeds(graph)]
    beside = sum(a.nbytes for a in graph.initializers.values()) > most
    data = path.with_name(path.name + ".data") if beside else None
    small = {n: a for n, a in graph.initializers.items() if not beside or a.nbytes <= _ALWAYS_INSIDE}
    model = _describe(graph.to_model(embed=small), origin)
    _remarks(network, graph).write(model)
    _state_outputs(model, runs, graph)
    with replacing_all([path] if data is None else [data, path], force) as places:
        temporary = places[-1]
        if data is not None:
            large = {n: a for n, a in graph.initializers.items() if n not in small}
            _write_beside(model, large, places[0])
        onnx.save_model(model, temporary, format="protobuf")
        difference = _check(temporary, runs)
        if data is not None:
            _point_to(model, data.name)
            onnx.save_model(model, temporary, format="protobuf")
    inputs, outputs = ({v.name: _dims(v) for v in values} for values in (model.graph.input, model.graph.output))
    return Exported(graph.opset, inputs, outputs, difference, data)


def _settled(graph: Graph, learned: Container[str]) -> Graph:
    """Return the graph with numbers in place of what it works out from others: not all programs take that.

    What follows from learned arrays stays, so that these are in the file, but for the statistics of BatchNormalization.
    """
    made, constants = graph.copy(), _constants(graph, learned)
    instead = _put_statistics(graph, made)
    if constants:
        for name, array in compile_graph(graph, constants, Settings(threads=1)).run({}).items():
            instead[name] = made.add_initializer(made.fresh("const"), array)
    return made.without((), instead).part(graph.outputs) if instead else graph


def _put_statistics(graph: Graph, made: Graph) -> dict[str, str]:
    """Put statistics in place of the sums that Caffe stores, and return the value that was read -> the array's name."""
    instead = dict[str, str]()
    for node in graph.nodes:
        for value in node.input[3:5] if node.op_type == "BatchNormalization" else ():
            found = find_statistic(graph, node, value)
            if found is None or found.factor is None or value in instead:
                continue
            name = found.initializer
            array = graph.initializers[name] * np.float32(stored_factor(graph, node))
            if name in instead.values() and not np.array_equal(array, made.initializers[name]):
                name = made.fresh(name)  # layers that share the sums and count on another number
            made.initializers[name] = array
            instead[value] = name
    return instead


def _constants(graph: Graph, learned: Container[str]) -> list[str]:
    """Return the values that follow from constants alone and are read by what depends on inputs."""
    moving, fixed = graph.moving_values(), {n for n in graph.initializers if n not in learned}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if any(o in moving for o in node.output):
            found |= dict.fromkeys(i for i in node.input if i in fixed and i not in graph.initializers)
        elif all(i in fixed for i in node.input if i):
            fixed.update(o for o in node.output if o)
    return list(found)


def _feeds(graph: Graph) -> list[Arrays]:
    """Return inputs to try: one set, or two of which the second has twice the batch."""
    rng = np.random.default_rng(0)
    sets = []
    for factor in (1, 2) if graph.batch_axis_free else (1,):
        shapes = {n: (s[0] * factor, *s[1:]) if s else s for n, s in graph.inputs.items()}
        # From 0 to 1: cut to whole numbers they are 0, a valid label, word or picture number.
        sets.append({n: rng.random(s, np.float32) for n, s in shapes.items()})
    return sets


def _describe(model: onnx.ModelProto, origin: str) -> onnx.ModelProto:
    model.producer_version = importlib.metadata.version("caffeinit")
    model.doc_string = f"Made from {origin}" if origin else ""
    return model


def _remarks(network: Network, graph: Graph) -> Remarks:
    """Return what the file would not tell of the net: what its losses judge, and what is not to be trained."""
    made = {*graph.inputs, *(o for node in graph.nodes for o in node.output)}
    # Of what a verdict is told from, boxes that only the picture's size determines are arrays in the file.
    judged = {top: [b for b in below if b in made] for top, below in network.graph.verdicts.items() if top in made}
    verdicts = {top: below for top, below in judged.items() if below}
    frozen = [name for unit in network.units for name in unit.initializers if network.learned[name].frozen]
    return Remarks(verdicts, [name for name in dict.fromkeys(frozen) if name in graph.initializers])


def _state_outputs(model: onnx.ModelProto, runs: list[tuple[Arrays, Arrays]], graph: Graph) -> None:
    """State the outputs' axes: those that all runs agree on as numbers."""
    batches = [{a.shape[0] for a in feeds.values() if a.ndim} for feeds, _ in runs]
    for index, name in enumerate(graph.outputs):
        shapes = [found[name].shape for _, found in runs]
        known = graph.shape(name)
        dims: Dims = [
            s if k >= 0 and all(o[i] == s for o in shapes) else None
            for i, (s, k) in enumerate(zip(shapes[0], known, strict=True))
        ]
        if (
            dims
            and dims[0] is None
            and known[0] >= 0
            and all({o[0]} == b for o, b in zip(shapes, batches, strict=True))
        ):
            dims[0] = "N"
        model.graph.output[index].CopyFrom(helper.make_tensor_value_info(name, graph.elem_type(name), dims))


def _dims(value: onnx.ValueInfoProto) -> Dims:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in value.type.tensor_type.shape.dim]


def _write_beside(model: onnx.ModelProto, arrays: Arrays, data: Path) -> None:
    """Write the arrays to a file of their own, and entries into the model that say where they lie in it."""
    with open(data, "wb") as file:
        for name, array in arrays.items():
            file.write(bytes(-file.tell() % _ALIGNMENT))
            tensor = model.graph.initializer.add(name=name, dims=array.shape)
            tensor.data_type = helper.np_dtype_to_tensor_dtype(array.dtype)
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": data.name, "offset": str(file.tell()), "length": str(array.nbytes)}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
            file.write(np.ascontiguousarray(array).tobytes())


def _point_to(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = name


def _check(path: Path, runs: list[tuple[Arrays, Arrays]]) -> float:
    """Return how far the file's outputs are from what they should be, as a part of their largest number.

    Raises:
        CaffeinitError: too far, or the file is not valid.
    """
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CaffeinitError(f"the ONNX file would not be valid, nothing was written: {error}") from None
    file = OnnxFile(path)
    worst = 0.0
    for feeds, wanted in runs:
        for name, found in file.run(feeds, list(wanted)).items():
            worst = max(worst, _difference(name, found, wanted[name]))
    return worst


def _difference(name: str, found: np.ndarray, wanted: np.ndarray) -> float:
    if found.shape != wanted.shape or not np.array_equal(np.isnan(found), np.isnan(wanted)):
        raise CaffeinitError(f'the ONNX file computes another "{name}" than the net, nothing was written')
    if not found.size:
        return 0.0
    with np.errstate(invalid="ignore"):
        apart = np.where(found == wanted, 0, np.abs(found - wanted))
    worst = float(np.nanmax(np.append(apart, 0)) / max(np.nanmax(np.append(np.abs(wanted), 0)), 1e-30))
    if not worst <= TOLERANCE:
        raise CaffeinitError(f"the ONNX file's \"{name}\" differs from the net's by {worst:.2g}, nothing was written")
    return worst


def missing_outputs(network: Network) -> Mapping[str, str]:
    """Return the net's outputs that cannot be computed -> why."""
    net: Any = getattr(network.source, "net", None)
    reasons = {s.name: s.reason for s in network.skipped}
    used = {b for entry in net.layers for b in entry.bottom} if net else set()
    return {
        top: f'layer "{entry.name}" ({entry.type}): {reasons[entry.name]}'
        for entry in (net.layers if net else [])
        if entry.name in reasons
        for top in entry.top
        if top not in used or top in entry.bottom
    }
