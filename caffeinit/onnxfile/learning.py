"""Which arrays of an ONNX model are weights, what each is for, and which have to stay as they are.

An ONNX file does not say what was learned, but for the names in files of `convert`. Learned is what stands where a unit has
its arrays: weights and biases of Conv, ConvTranspose, Gemm and MatMul with an Add or Sub after it, factors and shifts per
channel, and BatchNormalization's four arrays. A filter that is the same for all channels, each of which it is applied to
alone, was not; nor was one that counts from 0 on, with which detectors take the mean of a distribution, or one along places
(`positions.py`); nor were waves, with which nets for sound begin.
A weight that is computed in the graph (DequantizeLinear, ConstantOfShape, ...) is worked out once, so that its unit can be
measured, and stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.arithmetic.factors import is_zero
from caffeinit.engine.session import Settings, compile_graph
from caffeinit.graph import Graph
from caffeinit.graph.nodes import node_label
from caffeinit.graph.nounits import AGAIN, VALUES
from caffeinit.graph.products import PRODUCTS, PictureAxes, Product, why_no_weight
from caffeinit.graph.units import Learned, Unit, array_view, find_units, grouped_view
from caffeinit.graph.varying import followers
from caffeinit.model.network import Skipped
from caffeinit.onnxfile.numbers import has_one_channel
from caffeinit.onnxfile.positions import along_positions
from caffeinit.ops.base import rewritten

_CONSTANT = re.compile(r"const(_[0-9]+)?")
_PARAMETER = re.compile(r"param[0-9]+(_[0-9]+)?")
_SHORTEST = 8  # numbers of a wave; what is shorter may be waves by chance
_WAVE = 1e-4  # of the largest number: what rounding makes of waves
_AFFINE = ("Conv", "ConvTranspose", *PRODUCTS)
_ROLES = {
    "BatchNormalization": ("", "scale", "bias", "mean", "variance"),
    **dict.fromkeys(("Conv", "ConvTranspose"), ("", "weight", "bias")),
    "Gemm": ("weight", "weight", "bias"),  # of the two operands, the one that is an array
    "MatMul": ("weight", "weight"),
    "Add": ("bias", "bias"),
    "Sub": ("", "bias"),
    "Mul": ("scale", "scale"),
}


def work_out(graph: Graph) -> tuple[Graph, dict[str, Learned]]:
    """Return the graph with arrays in place of weights that it computes from arrays, and what these are."""
    wanted: dict[str, str] = {}
    moving = graph.moving_values()
    for node in graph.nodes:
        if not any(o in moving for o in node.output):
            continue  # arithmetic of arrays
        for name, role in _arrays_of(node):
            if name in graph.recurrent:
                continue
            is_fixed = name not in moving and name not in graph.initializers and graph.is_typed(name)
            if (
                role
                and is_fixed
                and node.op_type in (*_AFFINE, "BatchNormalization")
                and array_view(graph, name) is None
            ):
                wanted[name] = maker_of(graph, name)
    if not wanted:
        return graph, {}
    values = compile_graph(graph, list(wanted), Settings(threads=1)).run({})
    made = graph.emptied(graph.opset)
    made.batch_axis_free = graph.batch_axis_free
    fresh = {name: made.fresh(name) for name in wanted}
    for name, new in fresh.items():
        made.add_initializer(new, np.array(values[name], np.float32))
    for node in graph.nodes:
        if node.op_type in (*_AFFINE, "BatchNormalization") and any(i in fresh for i in node.input):
            rewritten(node, made, [fresh.get(i, i) for i in node.input])
        else:
            made.append(node)
        for output in node.output:
            if output:
                made.set_shape(output, graph.shape(output), graph.elem_type(output))
    reasons = {name: f"is computed by {kind} in the graph, not stored" for name, kind in wanted.items()}
    return made, {new: Learned(name, 0, held=reasons[name]) for name, new in fresh.items()}


def maker_of(graph: Graph, name: str) -> str:
    """Return the operator that a value comes from, looking through plain views."""
    node = graph.producer(name)
    while node is not None and node.op_type in ("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten"):
        below = graph.producer(node.input[0])
        if below is None:
            break
        node = below
    return node.op_type if node is not None else ""


def _arrays_of(node: onnx.NodeProto) -> Iterator[tuple[str, str]]:
    """Yield (value, role) for what a node may read of learned arrays."""
    for name, role in zip(node.input, _ROLES.get(node.op_type, ()) if not node.domain else (), strict=False):
        if name and role:
            yield name, role


def find_learned(
    graph: Graph,
    changeable: Collection[str],
    held: Mapping[str, str],
    computed: Mapping[str, Learned],
    named: Collection[str] = (),
    frozen: Collection[str] = (),
) -> dict[str, Learned]:
    """Return initializer -> what it is, for all that belong to units.

    Args:
        changeable: initializers whose numbers can be written back.
        held: initializer -> why it has to stay.
        computed: from `work_out`.
        named: initializers that were learned, as their names tell, whatever their shapes and numbers are.
        frozen: initializers whose training is switched off.
    """
    candidates: dict[str, Learned] = {}
    moving = graph.moving_values()
    single = {n.output[0] for n in graph.nodes if n.op_type in PRODUCTS and _has_one_channel(graph, n, moving)}
    single |= {o for n in graph.nodes for o in n.output if has_one_channel(o)}
    bare = {n.output[0] for n in graph.nodes if _makes_one_channel_without_bias(graph, n, moving)}
    formulas: set[str] = set()
    placed = along_positions(graph)
    varying, inside = followers(graph, graph.inputs), inside_layers(graph)
    for node in graph.nodes:
        if not any(o in varying for o in node.output) or id(node) in inside:
            continue  # arithmetic of arrays, and of shapes, such as anchors; and of normalisations
        for value, role in _arrays_of(node):
            name = _behind(graph, value)
            if (value in placed and name not in named) or (role == "weight" and _why_fixed(node, graph)):
                continue
            array = graph.initializers.get(name) if name else None
            is_stored = name in changeable or name in held or name in computed
            if array is None or array.dtype != np.float32 or not is_stored:
                continue
            is_bias = node.op_type in ("Add", "Sub") and not bare.isdisjoint(node.input)
            is_known = name in named or is_bias or not single.isdisjoint(node.input)
            if array.size == 1 and node.op_type in ("Add", "Sub", "Mul") and not is_known:
                formulas.add(name)  # its number, and not that of a layer with a single output
                continue
            known = computed.get(name, Learned(name, 0, frozen=name in frozen, held=held.get(name, "")))
            candidates.setdefault(name, replace(known, role=role))
    candidates = {name: of for name, of in candidates.items() if name not in formulas}
    shared = _shared_zeros(find_units(graph, candidates)).difference(named)
    candidates = {name: of for name, of in candidates.items() if name not in shared}
    used = {name for unit in find_units(graph, candidates) for name in unit.initializers}
    return {name: of for name, of in candidates.items() if name in used}


def inside_layers(graph: Graph) -> set[int]:
    """Return the ids of the nodes that make up normalisations across neighbours, which learn nothing."""
    return {id(n) for top, x in graph.nearly_homogeneous.items() for n in graph.ancestors([top], [x])}


def _why_fixed(node: onnx.NodeProto, graph: Graph) -> str:
    """Return why the numbers of a convolution or a product were not learned; empty where they may have been."""
    views = [view for value in node.input[:2] if (view := array_view(graph, value))] if node.op_type in _AFFINE else []
    if any(_counts_up(array) for _, array in views):
        return "its weight counts from 0 on, and was not learned"
    found = array_view(graph, node.input[1]) if node.op_type in ("Conv", "ConvTranspose") else None
    filters = grouped_view(node, found[1]) if found else None
    if (
        filters is not None
        and filters.shape[2] * len(filters) == 1
        and _are_waves(filters.reshape(filters.shape[1], -1))
    ):
        return "its weight is a Fourier transform, which nobody learned"
    if filters is None or len(filters) == 1 or filters.shape[1:3] != (1, 1) or filters[0].size == 1:
        return ""
    is_one = bool(filters[0].any() and (filters == filters[:1]).all())
    return "its weight is one filter for all channels, which nobody learned" if is_one else ""


def _counts_up(array: np.ndarray) -> bool:
    """Tell whether the numbers of an array are 0, 1, 2 and so on."""
    return array.size > 2 and array.flat[1] == 1 and np.array_equal(array.reshape(-1), np.arange(array.size))


def _are_waves(rows: np.ndarray) -> bool:
    """Tell whether rows are the real parts of a Fourier transform, its imaginary ones, or both, under any window.

    Whatever the window, cosines have cos (k + 1) t + cos (k - 1) t = 2 cos t cos k t, and sines the same.
    """
    count, length = rows.shape
    own = length // 2 + 1
    if length < _SHORTEST or count not in (own, 2 * own) or not rows.any():
        return False
    waves = rows.reshape(-1, own, length).astype(np.float64)
    step = 2 * np.cos(2 * np.pi * np.arange(length) / length)
    apart = waves[:, 2:] + waves[:, :-2] - step * waves[:, 1:-1]
    return bool(np.abs(apart).max() <= _WAVE * np.abs(waves).max())


def _shared_zeros(units: Collection[Unit]) -> set[str]:
    """Return the arrays of zeros that several units add.

    Exporters store equal arrays once, as the biases of a net that nobody has trained. As they cannot be shifted by one unit
    without another, they stay zeros, which any scale leaves so: these units have no bias.
    """
    zeros = Counter(u.initializers[-1] for u in units if u.kind != "norm" and u.bias is not None and is_zero(u.bias))
    return {name for name, count in zeros.items() if count > 1}


def _has_one_channel(graph: Graph, node: onnx.NodeProto, moving: Collection[str]) -> bool:
    """Tell whether a product is one with an array that has a single output."""
    fixed = [side for side, value in enumerate(node.input[:2]) if value not in moving]  # an Einsum may read one alone
    if len(fixed) != 1 or not all(graph.is_typed(v) for v in (node.input[1 - fixed[0]], node.output[0])):
        return False
    product, shape = Product.of(node, fixed[0], len(graph.shape(node.input[1 - fixed[0]]))), graph.shape(node.output[0])
    return -product.output_axis <= len(shape) and shape[product.output_axis] == 1


def _makes_one_channel_without_bias(graph: Graph, node: onnx.NodeProto, moving: Collection[str]) -> bool:
    """Tell whether a convolution with an array has a single output channel, and adds nothing to it."""
    if node.op_type not in ("Conv", "ConvTranspose") or node.domain or any(node.input[2:]):
        return False
    if node.input[1] in moving or node.output[0] not in moving or not graph.is_typed(node.output[0]):
        return False
    return graph.shape(node.output[0])[1] == 1


def is_constant(name: str) -> bool:
    """Tell whether an array of a file that we wrote is a constant of a layer, by its name; it was not learned."""
    return _CONSTANT.fullmatch(name.rpartition("/")[2]) is not None


def is_parameter(name: str) -> bool:
    """Tell whether an array of a file that we wrote is one that a layer has learned, by its name."""
    return _PARAMETER.fullmatch(name.rpartition("/")[2]) is not None


def _behind(graph: Graph, value: str) -> str:
    found = array_view(graph, value)
    return found[0] if found else ""


def not_units(graph: Graph, units: Collection[Unit]) -> list[Skipped]:
    """Return the products with arrays, and normalisations with one array in two places, that are no units, and why."""
    known = {id(use.node) for unit in units for use in unit.uses} | inside_layers(graph)
    moving, pictures = graph.moving_values(), PictureAxes(graph)
    found = [Skipped(name, AGAIN) for name in dict.fromkeys(graph.recurrent.values())]
    tables = {n.input[0]: None for n in graph.nodes if n.op_type == "Gather" and n.input[1] in moving}
    found += [Skipped(name, VALUES) for name in tables if is_table(graph.initializers.get(name))]
    for node in graph.nodes:
        kinds = (*_AFFINE, "Einsum", "BatchNormalization")
        if node.op_type not in kinds or node.domain or id(node) in known or node.output[0] not in moving:
            continue
        if twice := _roles_of_one_array(graph, node):
            why = f"its {' and its '.join(twice)} are one array, which cannot be set for one of these alone"
            found.append(Skipped(node_label(node), why))
            continue
        if node.op_type == "BatchNormalization":  # with statistics of its own, or none that are stored
            continue
        if not graph.recurrent.keys().isdisjoint(node.input):
            continue
        fixed = [
            side for side, value in enumerate(node.input[:2]) if value not in moving
        ]  # an Einsum may read one alone
        if fixed:
            why = _why_no_unit(graph, node, fixed[0], pictures)
            found.append(Skipped(node_label(node), why))
    return found


def _roles_of_one_array(graph: Graph, node: onnx.NodeProto) -> list[str]:
    """Return what one array is for a node at the same time, such as its scale and its variance; nothing as a rule."""
    roles: dict[str, list[str]] = {}
    for value, role in _arrays_of(node):
        if name := _behind(graph, value):
            roles.setdefault(name, []).append(role)
    return next((own for own in roles.values() if len(own) > 1), [])


def is_table(array: np.ndarray | None) -> bool:
    """Tell whether an array is one of real numbers along several axes: few such were not learned."""
    return array is not None and array.dtype.kind == "f" and sum(n > 1 for n in array.shape) > 1


def idle_units(nodes: Iterable[onnx.NodeProto]) -> list[Skipped]:
    """Return those of the nodes that no output depends on whose weights are left alone for that."""
    kinds = (*_AFFINE, "BatchNormalization")
    return [Skipped(node_label(n), "no output depends on it") for n in nodes if n.op_type in kinds and not n.domain]


def _why_no_unit(graph: Graph, node: onnx.NodeProto, side: int, pictures: PictureAxes) -> str:
    is_product = node.op_type in PRODUCTS
    if side == 0 and not is_product:
        return "its kernel depends on the net's input"
    if node.op_type == "Einsum":
        return "its equation is no product with one matrix"
    if why := _why_fixed(node, graph):
        return why
    if graph.elem_type(node.input[side]) != TensorProto.FLOAT:
        return "its weight is not of single or half precision"
    if is_product and (why := why_no_weight(graph, node, side, pictures)):
        return why
    what = "third input" if node.op_type == "Gemm" else "bias"
    return f"its {what} is no stored array of one number per channel"
