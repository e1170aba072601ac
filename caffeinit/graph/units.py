"""The units of a network: where it multiplies by arrays that it has learned.

Units are found on the ONNX graph, whatever file it came from. A learned array may reach its node through Reshape,
Transpose and the like; those are followed with numpy views, so that writing into a unit's `weight` writes into the
array itself, in the layout of the file.

Three kinds: *affine* (Conv, ConvTranspose, Gemm, MatMul; a learned Add or Sub right after belongs to it), *channel* (a
learned factor and/or shift per channel: Caffe's Scale and Bias) and *norm* (BatchNormalization with stored statistics).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from caffeinit.arithmetic.factors import multiply, shortened
from caffeinit.graph.folding import known_value
from caffeinit.graph.graph import Graph, Shape, attribute
from caffeinit.graph.products import PRODUCTS, PictureAxes, Product, why_no_weight

_AFFINE = ("Conv", "ConvTranspose", *PRODUCTS)


@dataclass(frozen=True)
class Learned:
    """Where an initializer comes from.

    Attributes:
        layer: name of the layer (Caffe) or of the initializer itself (ONNX).
        index: blob number within the layer.
        role: as in `caffe.layers.base.Param`.
        frozen: the net's author switched its training off (lr_mult 0).
        filler: the prototxt's filler, or None.
        sharer: a layer that shares the array and cannot run; empty if there is none.
        held: why the array has to stay as it is in any case; empty if it need not.
    """

    layer: str
    index: int
    role: str = "weight"
    frozen: bool = False
    filler: object | None = None
    sharer: str = ""
    held: str = ""


@dataclass
class Use:
    """One place where a unit stands in the graph: `output` = unit(`input`), channels on `axis` of the output."""

    node: onnx.NodeProto
    input: str
    output: str
    axis: int

    @property
    def side(self) -> int:
        """Which of its operands an affine unit's node has the weight in."""
        return 0 if self.node.input[0] != self.input else 1


@dataclass
class Unit:
    """One unit with views of its arrays; writing into them changes the network.

    Attributes:
        name: of the layer (Caffe) or of its first array (ONNX), and no other unit's.
        layer: the layer, or the array, that users choose it by.
        key: what is known of a unit is kept by this: its first initializer or, where an earlier unit has that, its name.
        kind: "affine", "channel" or "norm".
        uses: all places that share the arrays, in graph order.
        weight: affine: (group, O/group, I/group, *kernel); channel and norm: (C,) factors, or None.
        bias: (O,) or None.
        mean, variance, factor: norm only; the stored statistics are mean / factor and variance / factor.
        epsilon: norm only.
        initializers: the initializers behind the arrays.
        frozen: some array's training is switched off.
        alpha, beta: what a node multiplies by weight and bias beside the values themselves: those of Gemm, and a beta of
            -1 where a Sub takes the bias off. Uses have one beta; alpha is that of the first.
    """

    name: str
    kind: str
    uses: list[Use]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    mean: np.ndarray | None = None
    variance: np.ndarray | None = None
    factor: np.ndarray | None = None
    epsilon: float = 0.0
    initializers: list[str] = field(default_factory=list)
    frozen: bool = False
    layer: str = ""
    key: str = ""
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def num_channels(self) -> int:
        """Output channels."""
        if self.kind == "affine":
            assert self.weight is not None
            return int(self.weight.shape[0] * self.weight.shape[1])
        arrays = [a for a in (self.weight, self.bias, self.mean) if a is not None]
        return len(arrays[0])

    def rescale(self, scale: np.ndarray, shift: np.ndarray, threads: int = 0) -> None:
        """Change the arrays so that the output becomes scale * output + shift, per channel.

        Args:
            scale, shift: (O,) float64. A unit without bias cannot shift: `shift` must then be 0.
            threads: 0 for one per core.
        """
        scale = shortened(scale)
        if self.weight is not None:
            rows = (
                scale.reshape(self.weight.shape[:2] + (1,) * (self.weight.ndim - 2)) if self.kind == "affine" else scale
            )
            multiply(self.weight, rows, threads=threads)
        else:
            assert np.all(scale == 1)
        if self.bias is not None:
            self.bias[...] = self.bias * scale.astype(np.float64) + shift / self.beta
        else:
            assert not np.any(shift)


def array_view(graph: Graph, value: str) -> tuple[str, np.ndarray] | None:
    """Return (initializer, view of it in the form in which `value` has it), or None where it is not a plain view."""
    chain: list[onnx.NodeProto] = []
    while value not in graph.initializers:
        node = graph.producer(value)
        if node is None or node.op_type not in _VIEWS:
            return None
        chain.append(node)
        value = node.input[0]
    view = graph.initializers[value]
    for node in reversed(chain):
        view = _apply_view(graph, node, view)
    return (value, view) if np.shares_memory(view, graph.initializers[value]) or view.size == 0 else None


_VIEWS = ("Reshape", "Transpose", "Identity", "Squeeze", "Unsqueeze", "Flatten")


def _apply_view(graph: Graph, node: onnx.NodeProto, array: np.ndarray) -> np.ndarray:
    if node.op_type == "Transpose":
        return array.transpose(attribute(node, "perm", list(range(array.ndim))[::-1]))
    return array.reshape(graph.shape(node.output[0]))


def grouped_view(node: onnx.NodeProto, array: np.ndarray, side: int = 1) -> np.ndarray | None:
    """Return what an affine node reads as its weight in the form (group, O/group, I/group, *kernel); None if it has none.

    Args:
        array: as the node reads it: its weight, or the gradient of it.
        side: which operand of the node it is.
    """
    if node.op_type in PRODUCTS:
        return Product.of(node, side).grouped(array)
    group = attribute(node, "group", 1)
    grouped = array.reshape(group, array.shape[0] // group, *array.shape[1:])
    return grouped if node.op_type == "Conv" else grouped.swapaxes(1, 2)


def find_units(graph: Graph, learned: Mapping[str, Learned], makers: Mapping[str, str] | None = None) -> list[Unit]:
    """Return all units in graph order; nodes that share all their arrays make one unit with several uses.

    Of these, a matrix that is also read turned, and a bias with another factor, make a unit of their own.

    Args:
        makers: value -> layer that makes it, where there are layers; units that share some arrays bear their names.
    """
    finder = _Finder(graph, learned)
    for node in graph.nodes:
        finder.visit(node)
    units = list(finder.units.values())
    _tell_apart(units, learned, makers or {})
    return units


def _tell_apart(units: Sequence[Unit], learned: Mapping[str, Learned], makers: Mapping[str, str]) -> None:
    """Give each unit a name and a key of its own."""
    names: set[str] = set()
    keys: set[str] = set()
    for unit in units:
        first, use = unit.initializers[0], unit.uses[0]
        if unit.name in names:
            layer = makers.get(use.output, use.output.rpartition("/")[0])
            own = [layer] if layer in makers.values() else []
            if unit.name in makers.values():  # a layer with several units
                own.append(f"{unit.name} (blob {learned[first].index})")
            own.append(f"{unit.name} ({use.node.name or use.node.output[0]})")
            unit.name = next(name for name in own if name not in names)
            unit.layer = layer if unit.name == layer else unit.layer
        unit.key = next(key for key in (first, unit.name, f"{unit.name} ({use.output})") if key not in keys)
        names.add(unit.name)
        keys.add(unit.key)


class _Finder:
    def __init__(self, graph: Graph, learned: Mapping[str, Learned]) -> None:
        self.graph = graph
        self.learned = learned
        self.readers = graph.consumers()
        self.moving = graph.moving_values()
        self.units: dict[tuple[float | str, ...], Unit] = {}
        self.pictures = PictureAxes(graph)
        self.taken: set[int] = set()  # ids of nodes that belong to a unit already

    def visit(self, node: onnx.NodeProto) -> None:
        if id(node) in self.taken:
            return
        unit = (
            self._affine(node)
            if node.op_type in _AFFINE
            else self._norm(node)
            if node.op_type == "BatchNormalization"
            else self._channel(node)
            if node.op_type in ("Mul", "Add")
            else None
        )
        if unit is None or len({*unit.initializers}) < len(unit.initializers):
            return  # what multiplies and is added, too, can be set for one of these alone
        known = self.units.setdefault((*unit.initializers, unit.beta, *_rows(unit)), unit)
        if known is not unit:
            known.uses += unit.uses

    def _view(self, value: str) -> tuple[str, np.ndarray] | None:
        found = array_view(self.graph, value) if value else None
        return found if found and found[0] in self.learned else None

    def _unit(
        self,
        kind: str,
        uses: list[Use],
        initializers: list[str],
        weight: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> Unit:
        sources = [self.learned[i] for i in initializers]
        layer = next((s for s in sources if s.role == "scale"), sources[0]).layer
        return Unit(
            name=layer,
            layer=layer,
            kind=kind,
            uses=uses,
            initializers=initializers,
            frozen=any(s.frozen for s in sources if s.role in ("weight", "scale")),
            weight=weight,
            bias=bias,
        )

    def _affine(self, node: onnx.NodeProto) -> Unit | None:
        product = self._product(node) if node.op_type in PRODUCTS else None
        side = product.side if product else 1
        weight = self._view(node.input[side])
        grouped = grouped_view(node, weight[1], side) if weight else None
        if weight is None or grouped is None or (node.op_type in PRODUCTS and product is None):
            return None
        output = node.output[0]
        axis = len(self.graph.shape(output)) + product.output_axis if product else 1
        bias_value = product.bias if product else (*node.input, "")[2]
        bias, added = self._view(bias_value), array_view(self.graph, bias_value) if bias_value else None
        if bias_value and bias is None and (added is None or added[1].any()):
            return None
        if product and bias and _single_axis(bias[1].shape, self.graph.shape(output), axis) != axis:
            return None
        initializers, after = [weight[0]], None if bias else self._bias_after(output, axis)
        if after:
            output, bias = after[0].output[0], after[1]
        if bias:
            initializers.append(bias[0])
        flat = bias[1].reshape(-1) if bias else None
        if flat is not None and len(flat) != grouped.shape[0] * grouped.shape[1]:
            return None
        unit = self._unit("affine", [Use(node, node.input[1 - side], output, axis)], initializers, grouped, flat)
        if product:
            unit.alpha, unit.beta = product.alpha, product.beta
        return self._with_bias_after(unit, after)

    def _product(self, node: onnx.NodeProto) -> Product | None:
        """Return how a node multiplies by a learned array; None if it does not, or in a form that makes no unit."""
        for side in (1, 0):
            x = node.input[1 - side]
            if self._view(node.input[side]) and (side == 1 or x in self.moving):
                if why_no_weight(self.graph, node, side, self.pictures):
                    return None
                return Product.of(node, side, len(self.graph.shape(x)))
        return None

    def _bias_after(self, value: str, axis: int) -> tuple[onnx.NodeProto, tuple[str, np.ndarray]] | None:
        """Return the Add of a learned shift per channel, or the Sub of one, that alone reads `value`."""
        readers = self.readers.get(value, [])
        if len(readers) != 1 or readers[0].op_type not in ("Add", "Sub") or value in self.graph.outputs:
            return None
        if readers[0].op_type == "Sub" and readers[0].input[0] != value:
            return None
        found = self._per_channel(readers[0], value, axis)
        return (readers[0], found[0]) if found and found[1] == axis else None

    def _with_bias_after(self, unit: Unit, after: tuple[onnx.NodeProto, tuple[str, np.ndarray]] | None) -> Unit:
        """Return a unit that has the bias that a node behind it adds, if there is one, or takes off."""
        if after:
            self.taken.add(id(after[0]))
            unit.beta = -1.0 if after[0].op_type == "Sub" else 1.0
        return unit

    def _per_channel(
        self, node: onnx.NodeProto, moving: str, single: int = 1
    ) -> tuple[tuple[str, np.ndarray], int] | None:
        """Return the learned operand of an elementwise node as ((initializer, (C,) view), channel axis).

        Args:
            single: the axis of a channel that is the only one.
        """
        others = [i for i in node.input if i != moving]
        found = self._view(others[0]) if len(others) == 1 else None
        if found is None or not self.graph.is_typed(node.output[0]):
            return None
        shape = self.graph.shape(node.output[0])
        axis = _single_axis(found[1].shape, shape, single)
        return ((found[0], found[1].reshape(-1)), axis) if axis is not None else None

    def _channel(self, node: onnx.NodeProto) -> Unit | None:
        moving = [i for i in node.input if i in self.moving]
        found = self._per_channel(node, moving[0]) if len(moving) == 1 else None
        if found is None:
            return None
        (name, array), axis = found
        output, initializers, bias = node.output[0], [name], None
        if node.op_type == "Add":
            use = Use(node, moving[0], output, axis)
            return self._unit("channel", [use], initializers, bias=array)
        if after := self._bias_after(output, axis):
            output, bias = after[0].output[0], after[1][1]
            initializers.append(after[1][0])
        use = Use(node, moving[0], output, axis)
        return self._with_bias_after(self._unit("channel", [use], initializers, weight=array, bias=bias), after)

    def _norm(self, node: onnx.NodeProto) -> Unit | None:
        if len(node.output) > 1 and any(node.output[1:]):
            return None
        roles = {self.learned[i].role: i for v in node.input[3:5] for i in self._sources(v)}
        if not {"mean", "variance"} <= set(roles):
            return None
        arrays = {role: self.graph.initializers[roles[role]].reshape(-1) for role in roles}
        weight, bias = self._view(node.input[1]), self._view(node.input[2])
        if not (weight or self._is_all(node.input[1], 1)) or not (bias or self._is_all(node.input[2], 0)):
            return None  # what is not the unit's own is taken for 1 and 0
        names = [roles[r] for r in ("mean", "variance", "factor") if r in roles]
        names += [v[0] for v in (weight, bias) if v]
        unit = self._unit("norm", [Use(node, node.input[0], node.output[0], 1)], names)
        unit.mean, unit.variance, unit.factor = arrays["mean"], arrays["variance"], arrays.get("factor")
        unit.weight, unit.bias = weight[1] if weight else None, bias[1] if bias else None
        unit.epsilon = attribute(node, "epsilon", 1e-5)
        return unit

    def _is_all(self, value: str, number: float) -> bool:
        """Tell whether a value is known to be one number everywhere."""
        found = known_value(self.graph, value)
        return found is not None and bool((found == number).all())

    def _sources(self, value: str) -> list[str]:
        """Return the learned initializers that a value is computed from."""
        names = {value, *(i for n in self.graph.ancestors([value]) for i in n.input)}
        return [i for i in names if i in self.learned]


def _rows(unit: Unit) -> tuple[int, ...]:
    """Return how the channels of an affine unit lie in its array: a matrix that is also read turned is two units."""
    if unit.kind != "affine" or unit.weight is None:
        return ()
    group, rows = unit.weight.shape[:2]
    return (group, rows, unit.weight.strides[1] if rows > 1 else 0)


def _single_axis(operand: Shape, result: Shape, single: int = 1) -> int | None:
    """Return the one axis of `result` along which a broadcast operand varies; None if there are several.

    Args:
        single: the axis to be returned where it varies along none and this one has size 1.
    """
    padded = (1,) * (len(result) - len(operand)) + tuple(operand)
    axes = [i for i, d in enumerate(padded) if d != 1]
    if len(axes) == 1 and padded[axes[0]] == result[axes[0]]:
        return axes[0]
    if not axes and len(result) > single and result[single] == 1:
        return single
    return None
