"""What there is to know of an ONNX model before it is run: nodes, shapes, parameters, cost, and what can be rescaled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import onnx

from caffeinit.graph import Graph, Shape
from caffeinit.graph.nodes import INSIDE, node_label
from caffeinit.graph.units import Unit, Use
from caffeinit.inspection.found import FileReport, Inspection, LayerReport, unfinite_notes
from caffeinit.methods.redraw import holding_reason, keeping_reason
from caffeinit.model.network import Network
from caffeinit.onnxfile.learning import is_table
from caffeinit.onnxfile.source import OnnxSource, load_onnx
from caffeinit.scales.free import report_scales


def inspect_onnx(
    path: str | PathLike[str], input_shapes: Mapping[str, Shape] | None = None, scales: bool = False
) -> Inspection:
    """Look at an ONNX model; see `inspection.inspect_files`.

    Raises:
        CaffeinitError: it is none, or does not tell its inputs' shapes.
    """
    network = load_onnx(path, input_shapes)
    source = network.source
    assert isinstance(source, OnnxSource)
    model = source.file.model
    nodes = {node_label(node) for node in source.plain.graph.node}  # what is left out of these stands beside them
    found = Inspection(
        files=[_file(Path(path), model), *(_file(Path(f.path), None) for f in source.file.data_files.values())],
        inputs=network.inputs,
        layers=[_layer(node, network, source) for node in source.plain.graph.node],
        mismatches=[],
        missing=[],
        unused=[],
        notes=[
            *network.notes,
            *(f"{s.name}: {s.reason}" for s in network.skipped if s.name not in nodes),
            *unfinite_notes(network.params),
        ],
        units=network.units,
    )
    if scales:
        found.scales = report_scales(
            network.graph,
            network.units,
            network.learned,
            lambda unit: holding_reason(unit, network.learned),
            place=network.place,
        )
    return found


def _file(path: Path, model: onnx.ModelProto | None) -> FileReport:
    """Return the report on the model's file, or on a data file beside it."""
    form = "numbers of an ONNX model"
    if model is not None:
        opsets = ", ".join(f"{o.domain or 'ai.onnx'} {o.version}" for o in model.opset_import)
        producer = f", by {model.producer_name} {model.producer_version}".rstrip() if model.producer_name else ""
        form = f"ONNX model, operators of {opsets}, IR {model.ir_version}{producer}"
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileReport(str(path), form, digest, path.stat().st_size)


def _layer(node: onnx.NodeProto, network: Network, source: OnnxSource) -> LayerReport:
    graph = network.graph
    unit = next((u for u in network.units if any(_own(v) in node.output for s in u.uses for v in _ends(s))), None)
    kept = keeping_reason(unit, network.learned) if unit else {}
    blocked = {s.name: s.reason for s in network.skipped if not graph.producer(node.output[0])}
    arrays = source.plain.arrays
    params = [arrays[i].shape for i in node.input if i in network.learned or is_table(arrays.get(i))]
    return LayerReport(
        name=node.name or node.output[0],
        type=node.op_type,
        tops=[graph.shape(o) for o in node.output if o and graph.is_typed(o)],
        params=params,
        macs=_macs(node, graph, unit),
        unit=unit.kind if unit else "",
        reason=blocked.get(node_label(node), "") or (kept.get(unit.name, "") if unit else ""),
    )


def _ends(use: Use) -> tuple[str, str]:
    """Return what the first node of a use makes, and the last."""
    return use.node.output[0], use.output


def _own(value: str) -> str:
    """Return the value of the file that one of our graph stands for."""
    return value.partition(INSIDE)[0]


def _macs(node: onnx.NodeProto, graph: Graph, unit: Unit | None) -> int:
    """Return the multiply-adds of a convolution, matrix product or recurrent operator at the graph's batch size."""
    if unit is not None and node.op_type in ("LSTM", "GRU", "RNN"):
        steps = math.prod(graph.shape(unit.uses[0].output)[:-1])
        return steps * sum(graph.initializers[i].size for i in node.input[1:3] if i in graph.initializers)
    made = graph.producer(node.output[0]) if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") else None
    while made is not None and made.op_type in ("Mul", "Add", "Sub") and made.op_type != node.op_type:
        made = graph.producer(made.input[0])  # gains and biases that the graph has behind it
    if made is None or made.op_type != node.op_type:
        return 0
    node = made
    x, weight, y = (graph.shape(v) for v in (*node.input[:2], node.output[0]))
    if -1 in (*x, *weight, *y):
        return 0
    if node.op_type == "Conv":
        return math.prod(y) * math.prod(weight[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(weight[1:])
    return math.prod(y) * x[-2 if node.op_type == "Gemm" and _is_turned(node) else -1]


def _is_turned(node: onnx.NodeProto) -> bool:
    return any(entry.name == "transA" and entry.i for entry in node.attribute)
