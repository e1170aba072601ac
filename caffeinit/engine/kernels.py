"""Which nodes onnxruntime can run on the processor: each kind is set up once, by itself.

A version of ONNX may know operators, and types for them, that onnxruntime has no code for; nothing but a session tells. It
takes half a millisecond.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from caffeinit.engine.device import Device
from caffeinit.engine.failures import ORT_ERRORS, NotImplementedThere
from caffeinit.graph import Graph
from caffeinit.graph.inference import IR_VERSION
from caffeinit.graph.nodes import subgraphs


def has_kernel(node: onnx.NodeProto, versions: Mapping[str, int], kinds: Sequence[int]) -> bool:
    """Tell whether onnxruntime has code for a node, as far as that can be told of the node alone.

    Args:
        versions: of the operator sets.
        kinds: element types of what it reads; those that are not known are 0, and nothing is told then.
    """
    read = [(name, kind) for name, kind in zip(node.input, kinds, strict=True) if name]
    if any(kind == TensorProto.UNDEFINED for _, kind in read) or any(True for _ in subgraphs(node)):
        return True
    names = {name: f"x{number}" for number, name in enumerate(dict.fromkeys(name for name, _ in read))}
    plain = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    plain.input[:] = [names.get(name, "") for name in node.input]
    plain.output[:] = [f"y{number}" if name else "" for number, name in enumerate(node.output)]
    plain.attribute.extend(node.attribute)
    inputs = sorted({(names[name], kind) for name, kind in read})
    return _starts(plain.SerializeToString(deterministic=True), tuple(inputs), tuple(sorted(versions.items())))


@functools.lru_cache(maxsize=4096)
def _starts(node: bytes, inputs: tuple[tuple[str, int], ...], versions: tuple[tuple[str, int], ...]) -> bool:
    alone = onnx.NodeProto.FromString(node)
    graph = helper.make_graph(
        [alone],
        "alone",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in inputs],
        [onnx.ValueInfoProto(name=name) for name in alone.output if name],
    )
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        Device().start(model.SerializeToString(), options)
    except NotImplementedThere:
        return False
    except ORT_ERRORS:
        pass  # by itself, without shapes and arrays, it means nothing; what is wrong with it is told elsewhere
    return True


def without_kernel(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that onnxruntime has no code for."""
    versions = {"": graph.opset, **graph.domains}
    called = {(f.domain, f.name) for f in graph.functions}
    return [
        node
        for node in graph.nodes
        if (node.domain, node.op_type) not in called
        and not has_kernel(node, versions, [_kind(graph, name) for name in node.input])
    ]


def _kind(graph: Graph, value: str) -> int:
    return graph.elem_type(value) if value and graph.is_typed(value) else TensorProto.UNDEFINED
