"""What every row of the operators' tables is asked.

Graphs are evaluated twice: by onnx's reference implementation in double precision, where central differences tell the
truth to 1e-9 or so, and by onnxruntime in single precision, as the program runs them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import OPSET, Graph
from caffeinit.graph.opsets import raised
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.walk import Scales
from tests.ops.reference import NEW_OPS

# The opsets behind ours that onnx knows and onnxruntime 1.29 runs; operators change their forms in them.
LATER = range(OPSET + 1, min(onnx.defs.onnx_opset_version(), 26) + 1)


@dataclass(frozen=True)
class Operand:
    """An operand that is differentiated: uniform numbers between two bounds.

    `moves` tells a graph input, whose axis 0 is the batch, from an initializer.
    """

    shape: tuple[int, ...]
    low: float = -2.0
    high: float = 2.0
    moves: bool = True


def param(*shape, low=-2.0, high=2.0):
    return Operand(shape, low, high, moves=False)


@dataclass
class Case:
    """One operator with its operands: shapes (inputs with a batch on axis 0), `Operand`s, or constant arrays."""

    op: str
    operands: list
    attributes: dict = field(default_factory=dict)
    outputs: int = 1
    opset: int = OPSET
    is_bound: bool = False  # the graph spells the batch out, or axis 0 is none
    since: tuple[int, ...] = ()  # the version of onnx whose reference first computes the row as the operator is defined

    def __str__(self):
        words = "-".join(f"{k}{v}" for k, v in self.attributes.items())
        words += f"-opset{self.opset}" * (self.opset != OPSET)
        shapes = "-".join(str(getattr(o, "shape", o)) for o in self.operands)
        return f"{self.op}-{shapes}-{words}".replace(" ", "")[:90]


def case(op, *operands, outputs=1, is_bound=False, opset=OPSET, since=(), **attributes):
    given = [Operand(o) if isinstance(o, tuple) else o for o in operands]
    return Case(op, given, attributes, outputs, opset, is_bound, since)


@dataclass
class Built:
    graph: Graph
    wrt: list[str]
    tops: list[str]
    grads: list[str]


def skip_newer(row: Case) -> None:
    """Skip a row whose opset the installed onnx does not know, or whose operator its reference computes wrongly."""
    if tuple(int(n) for n in onnx.__version__.split(".")[: len(row.since)]) < row.since:
        pytest.skip(f"the reference of onnx {onnx.__version__} is wrong here")
    if row.opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"onnx {onnx.__version__} does not know opset {row.opset}")


def forward_graph(row: Case) -> tuple[Graph, list[str], list[str]]:
    """Return a graph of the operator, the operands that are differentiated, and all results; raised to opset 17."""
    graph, wrt, results = written_graph(row)
    return raised(graph), wrt, results


def written_graph(row: Case) -> tuple[Graph, list[str], list[str]]:
    """Return the same in the form of the row's opset."""
    graph = Graph(row.opset)
    graph.batch_axis_free = not row.is_bound
    names, wrt = [], []
    rng = np.random.default_rng(3)
    for i, operand in enumerate(row.operands):
        if not isinstance(operand, Operand):
            names.append(operand)
            continue
        name = f"x{i}"
        if operand.moves:
            graph.add_input(name, operand.shape)
        else:
            graph.add_initializer(name, _draw(rng, operand, operand.shape))
        names.append(name)
        wrt.append(name)
    results = graph.ops(row.op, *names, outputs=row.outputs, **row.attributes)
    return graph, wrt, results


def build(row: Case) -> Built:
    """Return a graph of the operator and its gradients, with a top diff as input for every real output."""
    graph, wrt, results = forward_graph(row)
    tops = [y for y in results if graph.elem_type(y) == TensorProto.FLOAT]
    diffs = {y: graph.add_input(f"d{y}", graph.shape(y)) for y in tops}
    grads = append_backward(graph, diffs, wrt)
    return Built(graph, wrt, tops, [grads[w] for w in wrt])


def _draw(rng, operand, shape):
    return rng.uniform(operand.low, operand.high, shape).astype(np.float32)


def feeds_for(row: Case, built: Built, forward: ReferenceEvaluator, extra: int) -> dict[str, np.ndarray]:
    """Return values for operands and top diffs, with `extra` more images than the graph was made with."""
    rng = np.random.default_rng(4 + extra)
    feeds = {n: built.graph.initializers[n] for n in built.wrt if n in built.graph.initializers}
    for i, operand in enumerate(row.operands):
        if isinstance(operand, Operand) and operand.moves:
            rows = [n + extra for n in operand.shape[:1]]  # none of a single number
            feeds[f"x{i}"] = _draw(rng, operand, (*rows, *operand.shape[1:]))
    for top, value in zip(built.tops, evaluate(forward, built.tops, feeds), strict=True):
        feeds[f"d{top}"] = rng.standard_normal(value.shape).astype(np.float32)
    return feeds


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with every real number in double precision."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    kept = {i for n in model.graph.node if n.op_type == "Resize" for i in n.input[1:3]}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", numpy_helper.from_array(np.zeros(1))))
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    return model


def doubles(graph: Graph, outputs: list[str], extra_inputs: tuple[str, ...] = ()) -> ReferenceEvaluator:
    """Return an evaluator of `outputs` in double precision; `extra_inputs` are initializers that are fed."""
    part = graph.part(outputs, extra_inputs)
    return ReferenceEvaluator(to_double(part.to_model()), new_ops=NEW_OPS)


def evaluate(evaluator: ReferenceEvaluator, outputs: list[str], feeds: dict) -> list[np.ndarray]:
    known = set(evaluator.input_names)
    wide = {n: np.asarray(a, np.float64) for n, a in feeds.items() if n in known}
    return [np.asarray(a) for a in evaluator.run(outputs, wide)]


def check_gradient(row: Case) -> None:
    """Hold the gradients of a row against central differences and onnxruntime, at two batch sizes."""
    skip_newer(row)
    built = build(row)
    check_built(built, (0,) if row.is_bound else (0, 1), functools.partial(feeds_for, row, built))


def check_built(built: Built, extras: Sequence[int], feeds_for: Callable[[ReferenceEvaluator, int], dict]) -> None:
    """Hold gradients against central differences and onnxruntime.

    Args:
        extras: how many images more than the graph was made with are fed.
        feeds_for: returns operands and top diffs, given an evaluator of the results and one of `extras`.
    """
    params = tuple(w for w in built.wrt if w in built.graph.initializers)
    outputs = list(dict.fromkeys(built.grads))
    session = compile_graph(built.graph, outputs, Settings(threads=1))
    backward = doubles(built.graph, outputs, params)
    forward = doubles(built.graph, built.tops, params)
    for extra in extras:
        feeds = feeds_for(forward, extra)
        # onnxruntime has the parameters built in; the double graph takes them as inputs, to move them.
        single = session.run({n: a for n, a in feeds.items() if n in session.inputs})
        double = dict(zip(outputs, evaluate(backward, outputs, feeds), strict=True))
        for wanted, name in zip(built.wrt, built.grads, strict=True):
            assert double[name].shape == feeds[wanted].shape, wanted
            assert single[name].shape == feeds[wanted].shape, wanted
            # Single precision against double: sums of a few hundred products.
            scale = max(1e-3, np.abs(double[name]).max())
            np.testing.assert_allclose(single[name], double[name], rtol=0, atol=1e-4 * scale)
        _check_differences(built, feeds, double, forward)


def _check_differences(built: Built, feeds, double, forward) -> None:
    rng = np.random.default_rng(5)
    step = 1e-6
    v = {w: rng.standard_normal(feeds[w].shape) for w in built.wrt}
    for wanted, name in zip(built.wrt, built.grads, strict=True):
        ends = [
            evaluate(forward, built.tops, feeds | {wanted: feeds[wanted].astype(np.float64) + sign * step * v[wanted]})
            for sign in (1, -1)
        ]
        slope = sum(
            float(np.sum((a - b) / (2 * step) * feeds[f"d{y}"])) for y, a, b in zip(built.tops, *ends, strict=True)
        )
        given = float(np.sum(double[name] * v[wanted]))
        size = float(np.sum(np.abs(double[name] * v[wanted]))) + abs(slope) + 1e-3
        # Constants are stored in single precision (6e-8); the differences themselves are good to 1e-9 or so.
        assert abs(given - slope) <= 1e-6 * size, (wanted, given, slope)


def check_forward(row: Case) -> None:
    """Hold onnxruntime on the operator as it was written against the reference on its raised form."""
    skip_newer(row)
    written, wrt, results = written_graph(row)
    graph, _, _ = forward_graph(row)
    rng = np.random.default_rng(8)
    feeds = {f"x{i}": _draw(rng, o, o.shape) for i, o in enumerate(row.operands) if isinstance(o, Operand) and o.moves}
    session = compile_graph(written, results, Settings(threads=1))
    single = session.run({n: a for n, a in feeds.items() if n in session.inputs})
    feeds |= {w: graph.initializers[w] for w in wrt if w in graph.initializers}
    double = evaluate(doubles(graph, results, tuple(w for w in wrt if w in graph.initializers)), results, feeds)
    for name, wanted in zip(results, double, strict=True):
        assert single[name].shape == wanted.shape
        scale = max(1e-3, np.abs(wanted).max(initial=0))
        np.testing.assert_allclose(single[name], wanted, rtol=0, atol=1e-5 * scale)  # single precision


def check_scale(row: Case, by_row: bool = False) -> int:
    """Scale a row's operands as its rule allows, hold the results against what the rule says; return what was free.

    Args:
        by_row: factors vary along axis 0, too, as where a Transpose has brought channels there.
    """
    skip_newer(row)
    graph, wrt, results = forward_graph(row)
    params = [w for w in wrt if w in graph.initializers]
    moving = [w for w in wrt if w in graph.inputs] or params
    learned = [p for p in params if p not in moving]
    scales = Scales(graph, learned)
    for name in moving:
        shape = graph.shape(name)
        scales.values[name] = scales.constraints.fresh(shape if by_row or not shape else (1, *shape[1:]))
    for node in graph.nodes:
        if any(i in scales.values for i in node.input):
            scales.visit(node)
    scales.close()
    system = ScaleSystem(scales.values, scales.links, scales.first_uses(), scales.constraints)
    rng = np.random.default_rng(6)
    feeds = {w: graph.initializers[w] for w in params} | {
        f"x{i}": rng.uniform(o.low, o.high, o.shape)
        for i, o in enumerate(row.operands)
        if isinstance(o, Operand) and o.moves
    }
    unknowns = rng.uniform(-0.5, 0.5, system.num_unknowns)
    factors = {name: np.exp(system.expand(unknowns)[labels]) for name, labels in system.labels.items()}
    scaled = feeds | {m: feeds[m] * factors[m] for m in moving} | system.rescaled(graph, unknowns)
    evaluator = doubles(graph, results, tuple(params))
    before, after = (evaluate(evaluator, results, f) for f in (feeds, scaled))
    for result, one, other in zip(results, before, after, strict=True):
        # Double precision.
        np.testing.assert_allclose(other, one * factors[result], rtol=1e-9, atol=1e-9, err_msg=result)
    return system.num_unknowns
