"""Recurrent operators, unrolled into the steps that they take, so that gradients and scales pass them.

All steps' products with the input are one product, whose weight is a unit's; that of the states is used again at every
step, and makes no unit. An operator whose number of steps the shapes do not tell, or that does more than ONNX's defaults
ask for (peepholes, clipped gates, sequences of several lengths, coupled gates), runs as it stands.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import onnx
from onnx import TensorProto

from caffeinit.graph import Graph, Operand, attribute
from caffeinit.graph.folding import known_value
from caffeinit.graph.nodes import INSIDE, name_of
from caffeinit.graph.rules import OpRule, op_rule

MOST_STEPS = 512  # of all directions; above, the unrolled graph has tens of thousands of nodes
_NUMBERS = {"alpha": "activation_alpha", "beta": "activation_beta"}
_REPEATING = ("Concat", "ConstantOfShape", "Expand", "Identity", "Reshape", "Slice", "Squeeze", "Tile", "Unsqueeze")
# Activation of a gate -> what it takes beside its input, with ONNX's defaults.
_ACTIVATIONS: dict[str, dict[str, float]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Elu": {"alpha": 1.0},
}


class Recurrent(OpRule):
    """Runs over a sequence (T, N, I), from its first to its last step, back, or both ways.

    Attributes:
        gates: how many blocks of rows weights and biases have.
        activations: those of one direction that ONNX takes where a node names none.
    """

    refusal = "recurrent operators with peepholes, clipped gates or sequences of several lengths are not differentiated"
    gates: ClassVar[int]
    activations: ClassVar[tuple[str, ...]]

    def joins_rows(self, node: onnx.NodeProto, graph: Graph) -> bool:
        """Where the first axis is that of the steps."""
        return not attribute(node, "layout", 0)

    def spell_plainly(self, node: onnx.NodeProto, graph: Graph, made: Graph, moving: Container[str]) -> bool:
        """Every step by itself, with all steps' products with the input before them."""
        sequence = _Sequence.of(node, graph, made, self.gates, self.activations)
        if sequence is None or sequence.x not in moving:
            return False
        inputs = self.input_products(sequence)
        ways = [self._way(sequence, number, inputs[number]) for number in range(sequence.directions)]
        sequence.put_outputs([outputs for outputs, _ in ways], [states for _, states in ways])
        return True

    def _way(self, of: _Sequence, number: int, inputs: list[str]) -> tuple[list[str], list[str | None]]:
        """Return the outputs of one direction, in the order of the sequence, and its last states."""
        states, outputs = of.first_states(number), []
        way = _Way(of, number, of.recurrent_weights(number))
        for x in reversed(inputs) if of.is_reversed(number) else inputs:
            states = self.step(way, x, states)
            assert states[0] is not None
            outputs.append(states[0])
        return (outputs[::-1] if of.is_reversed(number) else outputs), states

    def input_products(self, of: _Sequence) -> list[list[str]]:
        """Return for each direction every step's W x and the biases that are added to it, (N, gates * H)."""
        return of.products([of.bias(0, self.gates), of.bias(1, self.gates)])

    def step(self, way: _Way, x: str, states: list[str | None]) -> list[str | None]:
        """Return the states (N, H) after a step, the output first; None stands for zeros."""
        raise NotImplementedError


@dataclass
class _Sequence:
    """A node, the graph that gets its steps, and what it takes them with.

    Attributes:
        graph: has what the node reads.
        made: gets the nodes.
        x: the sequence.
        steps, hidden: extents.
        functions: for each direction its activations, with what they take.
    """

    node: onnx.NodeProto
    graph: Graph
    made: Graph
    x: str
    steps: int
    hidden: int
    gates: int
    functions: list[list[tuple[str, dict[str, float]]]]

    @classmethod
    def of(
        cls, node: onnx.NodeProto, graph: Graph, made: Graph, gates: int, activations: tuple[str, ...]
    ) -> _Sequence | None:
        """Return what a node runs over; None where it has to run as it stands."""
        x, weight, state_weight = node.input[:3]
        types = {graph.elem_type(v) for v in (x, weight, state_weight)}
        if any(len(graph.shape(v)) != 3 for v in (x, weight, state_weight)):
            return None  # damaged: onnxruntime will say so
        shape, layout = graph.shape(x), attribute(node, "layout", 0)
        steps = shape[1 if layout else 0]
        directions = graph.shape(weight)[0]
        functions = _functions(node, directions, activations)
        asks_more = (
            "clip" in {a.name for a in node.attribute} or attribute(node, "input_forget", 0) or any(node.input[7:])
        )
        if types != {TensorProto.FLOAT} or not 0 < steps * directions <= MOST_STEPS or functions is None or asks_more:
            return None
        lengths = (*node.input, "", "")[4]
        known = known_value(graph, lengths) if lengths else None
        if lengths and (known is None or (known != steps).any()):
            return None
        return cls(node, graph, made, x, steps, graph.shape(state_weight)[2], gates, functions)

    @property
    def directions(self) -> int:
        """1, or 2 where it runs both ways."""
        return len(self.functions)

    @property
    def layout(self) -> int:
        """Which axis of the sequence has what belongs to one picture."""
        return 0 if attribute(self.node, "layout", 0) else 1

    def is_reversed(self, number: int) -> bool:
        """Tell whether a direction runs from the last step to the first."""
        return number == 1 or attribute(self.node, "direction", "forward") == "reverse"

    def op(self, kind: str, *inputs: Operand, **attributes: Any) -> str:
        """Append a node that makes a value inside the node's own."""
        return self.ops(kind, *inputs, outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: Operand, outputs: int, **attributes: Any) -> list[str]:
        """Append a node that makes several."""
        stem = f"{next(o for o in self.node.output if o)}{INSIDE}"
        return self.named(kind, *inputs, outputs=[self.made.fresh(stem) for _ in range(outputs)], **attributes)

    def named(self, kind: str, *inputs: Operand, outputs: list[str], **attributes: Any) -> list[str]:
        """Append a node that is known as a part of the whole."""
        made = self.made.ops(kind, *inputs, outputs=outputs, **attributes)
        self.made.nodes[-1].name = f"{name_of(self.node)}{INSIDE}{len(self.made.nodes)}"
        return made

    def bias(self, half: int, gates: int) -> str | None:
        """Return the biases of what is read (0) or of the states (1) for all directions, (directions * gates * H,)."""
        biases = (*self.node.input, "")[3]
        if not biases:
            return None
        halves = self.ops("Split", biases, [gates * self.hidden] * 2, outputs=2, axis=1)
        return self.op("Reshape", halves[half], [-1])

    def products(self, shifts: list[str | None]) -> list[list[str]]:
        """Return for each direction every step's W x and what is added to it, (N, gates * H)."""
        rows = self.gates * self.hidden
        matrix = self.op("Reshape", self.node.input[1], [self.directions * rows, self.graph.shape(self.x)[2]])
        x = self.op("Transpose", self.x, perm=[1, 0, 2]) if self.layout else self.x
        y = self.op("MatMul", x, self.op("Transpose", matrix, perm=[1, 0]))
        for shift in shifts:
            y = self.op("Add", y, shift) if shift else y
        ways = self.ops("Split", y, [rows] * 2, outputs=2, axis=2) if self.directions > 1 else [y]
        return [[self.op("Squeeze", s, [1]) for s in self._split(way)] for way in ways]

    def _split(self, value: str) -> list[str]:
        # Sizes are spelt out: how equal pieces are asked for differs between opsets.
        return self.ops("Split", value, [1] * self.steps, outputs=self.steps, axis=1) if self.steps > 1 else [value]

    def recurrent_weights(self, number: int) -> str:
        """Return a direction's weight of the states, (H, gates * H)."""
        weight = self.op("Gather", self.node.input[2], np.asarray(number), axis=0)
        turned = self.op("Transpose", weight, perm=[1, 0])
        self.made.recurrent[turned] = self.node.input[2]
        return turned

    def first_states(self, number: int) -> list[str | None]:
        """Return the states (N, H) that a direction starts from, output and cell; None for zeros."""
        return [self._first(name, number) for name in (*self.node.input[5:7], "", "")[:2]]

    def _first(self, name: str, number: int) -> str | None:
        if not name or _is_zero(self.graph, name):
            return None
        return self.op("Gather", name, np.asarray(number), axis=self.layout ^ 1)

    def put_outputs(self, outputs: list[list[str]], states: list[list[str | None]]) -> None:
        """Append what makes the node's outputs, (T, directions, N, H) and (directions, N, H)."""
        whole, *last = self.node.output
        if whole:
            ways = [
                self.op("Reshape", self.op("Concat", *way, axis=1), [0, self.steps, 1, self.hidden]) for way in outputs
            ]
            self._put(whole, ways, 2, [1, 2, 0, 3])
        for number, name in enumerate(last):
            if name:
                ways = [self.op("Unsqueeze", of[number] or "", [1]) for of in states]
                self._put(name, ways, 1, [1, 0, 2])

    def _put(self, name: str, ways: list[str], axis: int, perm: list[int]) -> None:
        """Append an output of values that have the pictures first."""
        if not self.layout:
            perm = list(range(len(perm)))
        joined = self.op("Concat", *ways, axis=axis) if len(ways) > 1 else ways[0]
        self.named("Transpose", joined, perm=perm, outputs=[name])


@dataclass
class _Way:
    """One direction of a sequence.

    Attributes:
        weight: of the states, (H, gates * H).
        shared: what is made once for all steps.
    """

    of: _Sequence
    number: int
    weight: str
    shared: dict[str, list[str]] = field(default_factory=dict)

    def op(self, kind: str, *inputs: Operand, **attributes: Any) -> str:
        """Append a node."""
        return self.of.op(kind, *inputs, **attributes)

    def activate(self, place: int, value: str) -> str:
        """Append one of the direction's activations."""
        kind, numbers = self.of.functions[self.number][place]
        return self.op(kind, value, **numbers)

    def apart(self, value: str, *gates: int) -> list[str]:
        """Return blocks of so many gates."""
        sizes = [self.of.hidden * g for g in gates]
        return self.of.ops("Split", value, sizes, outputs=len(sizes), axis=1)

    def with_states(self, x: str, state: str | None, weight: str | None = None) -> str:
        """Return x and the state's product with the weight."""
        return self.op("Add", x, self.op("MatMul", state, weight or self.weight)) if state else x


@op_rule("RNN")
class RNN(Recurrent):
    """h = f(W x + R h' + b)."""

    gates = 1
    activations = ("Tanh",)

    def step(self, way: _Way, x: str, states: list[str | None]) -> list[str | None]:
        """Return h."""
        return [way.activate(0, way.with_states(x, states[0]))]


@op_rule("LSTM")
class LSTM(Recurrent):
    """c = f c' + i g(...) and h = o tanh(c), with gates in the order i, o, f, c."""

    gates = 4
    activations = ("Sigmoid", "Tanh", "Tanh")

    def step(self, way: _Way, x: str, states: list[str | None]) -> list[str | None]:
        """Return h and c."""
        hidden, cell = states
        opening, content = way.apart(way.with_states(x, hidden), 3, 1)
        enter, leave, keep = way.apart(way.activate(0, opening), 1, 1, 1)
        new = way.op("Mul", enter, way.activate(1, content))
        new = way.op("Add", way.op("Mul", keep, cell), new) if cell else new
        return [way.op("Mul", leave, way.activate(2, new)), new]


@op_rule("GRU")
class GRU(Recurrent):
    """h = (1 - z) n + z h', with gates in the order z, r, n; r acts on h' before R or, linear_before_reset, behind it."""

    gates = 3
    activations = ("Sigmoid", "Tanh")

    def input_products(self, of: _Sequence) -> list[list[str]]:
        """Return them with all biases, less that of the states in n where r acts behind R."""
        shift = of.bias(1, self.gates)
        if shift and _resets_behind(of):
            mask = np.tile(np.repeat([1, 1, 0], of.hidden), of.directions).astype(np.float32)
            shift = of.op("Mul", shift, mask)
        return of.products([of.bias(0, self.gates), shift])

    def step(self, way: _Way, x: str, states: list[str | None]) -> list[str | None]:
        """Return h."""
        before = states[0]
        opening, content = way.apart(x, 2, 1)
        if _resets_behind(way.of):
            ahead, inner = way.apart(way.op("MatMul", before, way.weight), 2, 1) if before else (None, None)
            opening = way.op("Add", opening, ahead) if ahead else opening
            inner = _with_shift(way, inner)
        else:
            weights = _parts(way)
            opening, inner = way.with_states(opening, before, weights[0]), None
        update, reset = way.apart(way.activate(0, opening), 1, 1)
        if _resets_behind(way.of):
            content = way.op("Add", content, way.op("Mul", reset, inner)) if inner else content
        elif before:
            content = way.with_states(content, way.op("Mul", reset, before), weights[1])
        new = way.activate(1, content)
        change = way.op("Sub", before, new) if before else way.op("Neg", new)
        return [way.op("Add", new, way.op("Mul", update, change))]


def _resets_behind(of: _Sequence) -> bool:
    return bool(attribute(of.node, "linear_before_reset", 0))


def _with_shift(way: _Way, inner: str | None) -> str | None:
    """Return the states' product of the gate n with its bias; None where it is zero."""
    if "shift" not in way.shared:
        found = way.of.bias(1, way.of.gates)
        start = (3 * way.number + 2) * way.of.hidden
        way.shared["shift"] = [way.op("Slice", found, [start], [start + way.of.hidden], [0])] if found else []
    shifts = way.shared["shift"]
    return way.op("Add", inner, *shifts) if inner and shifts else shifts[0] if shifts else inner


def _parts(way: _Way) -> list[str]:
    """Return the weights of the states for z and r, and for n."""
    if "weights" not in way.shared:
        sizes = [2 * way.of.hidden, way.of.hidden]
        parts = way.of.ops("Split", way.weight, sizes, outputs=2, axis=1)
        way.of.made.recurrent |= dict.fromkeys(parts, way.of.made.recurrent[way.weight])
        way.shared["weights"] = parts
    return way.shared["weights"]


def _functions(
    node: onnx.NodeProto, directions: int, default: tuple[str, ...]
) -> list[list[tuple[str, dict[str, float]]]] | None:
    """Return for each direction its activations with what they take; None where one is not known."""
    names = [str(n.decode() if isinstance(n, bytes) else n) for n in attribute(node, "activations", [])]
    names = names or list(default) * directions
    given: dict[str, Iterator[float]] = {k: iter(attribute(node, a, [])) for k, a in _NUMBERS.items()}
    known = {kind.lower(): kind for kind in _ACTIVATIONS}
    found: list[tuple[str, dict[str, float]]] = []
    for name in names:
        kind = known.get(name.lower())
        if kind is None or len(names) != len(default) * directions:
            return None
        found.append((kind, {key: next(given[key], usual) for key, usual in _ACTIVATIONS[kind].items()}))
    return [found[i : i + len(default)] for i in range(0, len(found), len(default))]


def _is_zero(graph: Graph, value: str) -> bool:
    """Tell whether a value is zero, as exporters make the first states: as many as there are pictures."""
    array = known_value(graph, value)
    if array is not None:
        return not array.any()
    node = graph.producer(value)
    if node is None or node.domain or node.op_type not in _REPEATING:
        return False
    if node.op_type != "ConstantOfShape":
        return all(_is_zero(graph, i) for i in (node.input if node.op_type == "Concat" else node.input[:1]))
    filling = attribute(node, "value")
    return filling is None or not onnx.numpy_helper.to_array(filling).any()
