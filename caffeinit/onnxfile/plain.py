"""An ONNX file's model made ready for computing: functions inlined, constants taken out, single precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto

from caffeinit.errors import FormatError
from caffeinit.graph.folding import constant_node
from caffeinit.graph.nodes import check_made_once, check_outputs
from caffeinit.graph.opsets import check_opset
from caffeinit.graph.remarks import Remarks
from caffeinit.onnxfile import calls
from caffeinit.onnxfile.container import MOST_NODES, Container
from caffeinit.onnxfile.shapes import check_declared
from caffeinit.onnxfile.single import rounding_notes, to_single, types_to_change
from caffeinit.onnxfile.tensors import Tensor


@dataclass
class Plain:
    """A model made ready for computing: functions inlined, constants taken out, single precision.

    Attributes:
        graph: nodes, inputs and outputs.
        versions: of the operator sets.
        arrays: initializers and constants.
        inside: those of them that stand inside a node, once it is laid open -> why they stay.
        notes: what holds for some inputs only, or is not computed as the file says.
        remarks: what a file of `convert` tells beside ONNX.
        is_ours: it is of `convert`, which hides states' weights and tells by names what was learned.
    """

    where: str
    graph: onnx.GraphProto
    versions: dict[str, int]
    arrays: dict[str, np.ndarray]
    inside: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    remarks: Remarks = field(default_factory=Remarks)
    is_ours: bool = False

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What has to be fed: inputs without a default."""
        return [v for v in self.graph.input if v.name not in self.arrays]


def read_plain(file: Container) -> Plain:
    """Return the model made ready for computing."""
    where, model = str(file.path), file.model
    versions = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in model.opset_import}
    if not versions and model.ir_version < 3:
        versions[""] = 1
    if "" not in versions:
        raise FormatError(f"{where}: states no version of ONNX's operators (opset_import); it is damaged")
    check_opset(versions[""], where)
    newest = onnx.defs.onnx_opset_version()
    if versions[""] > newest:
        raise FormatError(
            f"{where}: is of opset {versions['']}, and the newest that onnx {onnx.__version__} knows is {newest}"
        )
    if model.functions:
        model = _inlined(model, where)
        versions |= {o.domain: o.version for o in model.opset_import if o.domain not in ("", "ai.onnx")}
    check_made_once(model.graph, [*file.initializers, *file.sparse], where)
    check_outputs(model.graph, [*file.initializers, *file.sparse], where)
    check_declared(model.graph.input, file.stored, where)
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    types = types_to_change(graph)
    arrays: dict[str, np.ndarray] = {}
    keeps_doubles = TensorProto.DOUBLE not in types
    for name, tensor in file.tensors.items():
        arrays[name] = _numbers(tensor, keeps_doubles)
    for name, sparse in file.sparse.items():
        arrays[name] = sparse.filled(_numbers(sparse.values, keeps_doubles))
    notes = rounding_notes(graph)
    to_single(graph, types)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and node.output[0] not in arrays:
            try:
                array = constant_node(node)
            except (TypeError, ValueError, KeyError) as error:
                raise FormatError(f'{where}: the Constant "{node.output[0]}" cannot be read: {error}') from None
            if array is not None:
                arrays[node.output[0]] = np.array(array)
    kept = [n for n in graph.node if not (n.op_type == "Constant" and n.output[0] in arrays)]
    del graph.node[:]
    graph.node.extend(kept)
    is_ours = file.model.producer_name == "caffeinit"
    remarks = Remarks.read(file.model) if is_ours else Remarks()
    return Plain(where, graph, versions, arrays, notes=notes, remarks=remarks, is_ours=is_ours)


def _numbers(tensor: Tensor, keeps_doubles: bool) -> np.ndarray:
    """Return a tensor's numbers as the graph computes with them."""
    return tensor.exact() if keeps_doubles and tensor.elem_type == TensorProto.DOUBLE else tensor.array()


def _inlined(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    if (size := calls.inlined_size(model)) > MOST_NODES:
        raise FormatError(
            f"{where}: its functions call each other until they are {size} nodes, more than any real net has"
        )
    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises whatever its C++ does
        raise FormatError(f"{where}: its functions cannot be put in place of their calls: {error}") from None
