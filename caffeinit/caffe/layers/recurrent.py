"""Recurrent layers, unrolled: BVLC's LSTM and RNN, and the Lstm of junhyukoh's fork.

Axis 0 is time, so the number of steps is spelt out and the batch is axis 1. Every step is plain nodes, which gradients
can pass. A sequence starts from zeros, or from the hidden state handed in: Caffe also carries the state over from its
last forward pass, which a graph cannot.

As in Caffe, what all steps read is multiplied at once, by weights that are those of an affine unit, and a static input
once for all steps. The weights of the state are used again at every step, and make no unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape
from caffeinit.graph.hidden import hide

_MOST = float(np.finfo(np.float32).max)
MOST_STEPS = 2048  # above, the unrolled graph has tens of thousands of nodes


class Recurrent(LayerType):
    """What BVLC's recurrent layers share.

    Bottoms: x (T, N, ...), cont (T, N), which is 0 where a sequence starts and 1 elsewhere (any number is what the state
    is multiplied by), perhaps a static input (N, ...), and with expose_hidden the first state. Tops: y (T, N, H), and with
    expose_hidden the last state.
    """

    axis_0 = "time"
    num_bottoms = (2, 5)
    num_tops = (1, 3)
    num_states = 1
    gates = 1

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (T, N, H), and (1, N, H) for each exposed state."""
        self._check(layer, bottoms)
        hidden = int(layer.recurrent_param.num_output)
        steps, batch = bottoms[0][:2]
        exposed = self.num_states if layer.recurrent_param.expose_hidden else 0
        return [(steps, batch, hidden), *[(1, batch, hidden)] * exposed]

    def _check(self, layer: Layer, bottoms: Sequence[Shape]) -> None:
        p = layer.recurrent_param
        if p.num_output < 1:
            raise LayerError("num_output is not given")
        x, cont = bottoms[:2]
        if len(x) < 3:
            raise LayerError(f"the first bottom must be (steps, sequences, ...), got {x}")
        if cont != x[:2]:
            raise LayerError(f"the second bottom must be {x[:2]} (steps, sequences), got {cont}")
        exposed = self.num_states if p.expose_hidden else 0
        if len(bottoms) - exposed not in (2, 3) or len(layer.top) != 1 + exposed:
            raise LayerError(f"has {len(bottoms)} bottoms and {len(layer.top)} tops with {exposed} exposed states")
        if self._has_static(layer, len(bottoms)) and (len(bottoms[2]) < 2 or bottoms[2][0] != x[1]):
            raise LayerError(f"the static input must have {x[1]} sequences on axis 0, got {bottoms[2]}")
        for state in bottoms[len(bottoms) - exposed :]:
            if state != (1, x[1], p.num_output):
                raise LayerError(f"a hidden state must be {(1, x[1], p.num_output)}, got {state}")
        if x[0] > MOST_STEPS:
            raise LayerError(f"{x[0]} steps are too many to unroll, at most {MOST_STEPS}")

    def _has_static(self, layer: Layer, count: int) -> bool:
        return count - (self.num_states if layer.recurrent_param.expose_hidden else 0) > 2

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return input weight (G, I), bias (G,), with a static input its weight (G, S), and state weight (G, H)."""
        self._check(layer, bottoms)
        p = layer.recurrent_param
        rows = self.gates * int(p.num_output)
        filler = p.weight_filler if p.HasField("weight_filler") else None
        bias_filler = p.bias_filler if p.HasField("bias_filler") else None
        params = [Param((rows, int(np.prod(bottoms[0][2:]))), "weight", filler), Param((rows,), "bias", bias_filler)]
        if self._has_static(layer, len(bottoms)):
            params.append(Param((rows, int(np.prod(bottoms[2][1:]))), "weight", filler))
        return [*params, Param((rows, int(p.num_output)), "recurrent", filler)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the nodes of all steps."""
        steps, batch = graph.shape(bottoms[0])[:2]
        hidden = int(layer.recurrent_param.num_output)
        static = self._has_static(layer, len(bottoms))
        first = bottoms[2 + static :]
        zeros = np.zeros((batch, hidden), np.float32)
        states = [graph.op("Reshape", s, [batch, hidden]) for s in first] or [graph.constant(zeros)] * self.num_states
        product = input_product(graph, bottoms[0], steps * batch, graph.param(layer, 0), graph.param(layer, 1))
        if static:
            same = input_product(graph, bottoms[2], batch, graph.param(layer, 2))
            product = graph.op("Add", graph.op("Reshape", product, [steps, batch, self.gates * hidden]), same)
        rolled = Unrolled(
            graph,
            inputs=split_steps(graph, product, steps, batch),
            cont=list(split_steps(graph, indicator(graph, bottoms[1]), steps, batch)),
            weight=graph.param(layer, 3 if static else 2),
        )
        outputs, last = self.unroll(layer, rolled, states)
        top = graph.op("Reshape", outputs, [steps, batch, hidden])
        exposed = last if layer.recurrent_param.expose_hidden else []
        return [top, *[graph.op("Reshape", s, [1, batch, hidden]) for s in exposed]]

    def unroll(self, layer: Layer, steps: Unrolled, states: list[str]) -> tuple[str, list[str]]:
        """Return the outputs (T * N, H) and the last states."""
        raise NotImplementedError

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return one product per weight and step."""
        weights = sum(int(np.prod(p.shape)) for p in self.params(layer, bottoms) if len(p.shape) == 2)
        return weights * int(np.prod(bottoms[0][:2]))


class Unrolled:
    """The steps' inputs, and the one product that each step begins with.

    Attributes:
        inputs: of each step, W x + b, (N, G).
        cont: of each step what the state is multiplied by, or None for 1.
        weight: of the state, (H, G).
    """

    def __init__(self, graph: ParamGraph, inputs: Sequence[str], cont: Sequence[str | None], weight: str) -> None:
        self.graph = graph
        self.inputs = inputs
        self.cont = cont
        self.weight = graph.op("Transpose", hide(graph, weight), perm=[1, 0])

    def gate_inputs(self, step: int, state: str) -> str:
        """Return W x + b and the product with cont * state, (N, G)."""
        cont = self.cont[step]
        kept = self.graph.op("Mul", state, cont) if cont else state
        return self.graph.op("Add", self.inputs[step], self.graph.op("MatMul", kept, self.weight))

    def lstm(self, hidden: str, cell: str) -> tuple[str, list[str]]:
        """Return all h as (T * N, H), and the last h and c; gates are in the order i, f, o, g."""
        graph, outputs = self.graph, []
        size = graph.shape(hidden)[1]
        for step in range(len(self.inputs)):
            gates = self.gate_inputs(step, hidden)
            opening, content = graph.ops("Split", gates, [3 * size, size], outputs=2, axis=1)
            enter, forget, leave = graph.ops("Split", graph.op("Sigmoid", opening), [size] * 3, outputs=3, axis=1)
            cont = self.cont[step]
            kept = graph.op("Mul", forget, cell)
            kept = graph.op("Mul", kept, cont) if cont else kept
            cell = graph.op("Add", kept, graph.op("Mul", enter, graph.op("Tanh", content)))
            hidden = graph.op("Mul", leave, graph.op("Tanh", cell))
            outputs.append(hidden)
        return graph.op("Concat", *outputs, axis=0), [hidden, cell]


def indicator(graph: ParamGraph, cont: str) -> str:
    """Return cont itself, as the remainder by the largest number: that passes no gradient on, as Caffe passes none."""
    return graph.op("Mod", cont, _MOST, fmod=1)


def input_product(graph: ParamGraph, x: str, rows: int, weight: str, bias: str | None = None) -> str:
    """Return W x + b for (rows, ...) or (T, N, ...) as (rows, G)."""
    matrix = graph.op("Reshape", x, [rows, int(np.prod(graph.shape(x))) // rows])
    return graph.op("Gemm", matrix, weight, *([bias] if bias else []), transB=1)


def split_steps(graph: ParamGraph, x: str, steps: int, batch: int) -> list[str]:
    """Return each step of (T, N, ...) or (T * N, ...) as (N, ...) flattened to two axes."""
    size = int(np.prod(graph.shape(x))) // (steps * batch)
    flat = graph.op("Reshape", x, [steps * batch, size])
    return graph.ops("Split", flat, outputs=steps, axis=0) if steps > 1 else [flat]


@layer_type("LSTM")
class LSTM(Recurrent):
    """c = cont f c' + i g and h = o tanh(c), with gates from W_xc x + W_hc (cont h') + b."""

    num_states = 2
    gates = 4

    def unroll(self, layer: Layer, steps: Unrolled, states: list[str]) -> tuple[str, list[str]]:
        """Return the hidden states."""
        return steps.lstm(*states)


@layer_type("LSTMUnit")
class LSTMUnit(LayerType):
    """One step of an LSTM: from a cell state (1, N, H), gates (1, N, 4H) and cont (1, N) to the next c and h."""

    axis_0 = "time"
    num_bottoms = (3, 3)
    num_tops = (2, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return the cell state's shape twice."""
        cell, gates, cont = bottoms
        if len(cell) != 3 or cell[0] != 1 or gates != (1, cell[1], 4 * cell[2]) or cont != cell[:2]:
            raise LayerError(f"needs bottoms (1, N, H), (1, N, 4H) and (1, N), got {cell}, {gates} and {cont}")
        return [cell, cell]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the gates and both products."""
        cell, gates, cont = bottoms
        batch, size = graph.shape(cell)[1:]
        opening, content = graph.ops("Split", gates, [3 * size, size], outputs=2, axis=2)
        enter, forget, leave = graph.ops("Split", graph.op("Sigmoid", opening), [size] * 3, outputs=3, axis=2)
        kept = graph.op(
            "Mul", graph.op("Mul", forget, cell), graph.op("Reshape", indicator(graph, cont), [1, batch, 1])
        )
        new = graph.op("Add", kept, graph.op("Mul", enter, graph.op("Tanh", content)))
        return [new, graph.op("Mul", leave, graph.op("Tanh", new))]


@layer_type("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh (cont h') + W_xh x + b_h) and y = tanh(W_ho h + b_o)."""

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return what all recurrent layers have, then the output's weight (H, H) and bias (H,)."""
        shared = super().params(layer, bottoms)
        size = int(layer.recurrent_param.num_output)
        weight, bias = shared[0].filler, shared[1].filler
        return [*shared, Param((size, size), "weight", weight), Param((size,), "bias", bias)]

    def unroll(self, layer: Layer, steps: Unrolled, states: list[str]) -> tuple[str, list[str]]:
        """Return the outputs, all steps' in one product."""
        graph, hidden = steps.graph, states[0]
        passed = []
        for step in range(len(steps.inputs)):
            hidden = graph.op("Tanh", steps.gate_inputs(step, hidden))
            passed.append(hidden)
        index = 4 if self._has_static(layer, len(layer.bottom)) else 3
        weight, bias = graph.param(layer, index), graph.param(layer, index + 1)
        product = graph.op("Gemm", graph.op("Concat", *passed, axis=0), weight, bias, transB=1)
        return graph.op("Tanh", product), [hidden]


@layer_type("Lstm")
class Lstm(LayerType):
    """LSTM over (T * N, ...), the N sequences of `batch_size` side by side in each step; a second bottom is cont.

    Clipping concerns gradients only. Its CPU code adds the first sequence's state to all; this is what its GPU code
    does. Source: junhyukoh/caffe-lstm, src/caffe/layers/lstm_layer.cu.
    """

    axis_0 = "time"
    num_bottoms = (1, 2)

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (T * N, H)."""
        self._steps(layer, bottoms)
        return [(bottoms[0][0], int(layer.lstm_param.num_output))]

    @staticmethod
    def _steps(layer: Layer, bottoms: Sequence[Shape]) -> tuple[int, int]:
        """Return (T, N)."""
        p = layer.lstm_param
        if p.num_output < 1:
            raise LayerError("num_output is not given")
        if len(bottoms[0]) < 2:
            raise LayerError(f"needs a bottom (steps * sequences, ...), got {bottoms[0]}")
        rows, batch = bottoms[0][0], int(p.batch_size)
        if batch < 1 or rows % batch:
            raise LayerError(f"batch_size {batch} does not divide {rows} rows")
        if len(bottoms) > 1 and int(np.prod(bottoms[1])) != rows:
            raise LayerError(f"the second bottom must hold {rows} numbers, got {bottoms[1]}")
        if rows // batch > MOST_STEPS:
            raise LayerError(f"{rows // batch} steps are too many to unroll, at most {MOST_STEPS}")
        return rows // batch, batch

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return input weight (4H, I), state weight (4H, H) and bias (4H,)."""
        p = layer.lstm_param
        size = int(p.num_output)
        filler = p.weight_filler if p.HasField("weight_filler") else None
        bias = p.bias_filler if p.HasField("bias_filler") else None
        inputs = int(np.prod(bottoms[0][1:]))
        return [
            Param((4 * size, inputs), "weight", filler),
            Param((4 * size, size), "recurrent", filler),
            Param((4 * size,), "bias", bias),
        ]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Append the nodes of all steps."""
        steps, batch = self._steps(layer, [graph.shape(b) for b in bottoms])
        zeros = graph.constant(np.zeros((batch, int(layer.lstm_param.num_output)), np.float32))
        cont: list[str | None] = [None] * steps
        if len(bottoms) > 1:
            cont = list(split_steps(graph, indicator(graph, bottoms[1]), steps, batch))
        product = input_product(graph, bottoms[0], steps * batch, graph.param(layer, 0), graph.param(layer, 2))
        rolled = Unrolled(graph, split_steps(graph, product, steps, batch), cont, graph.param(layer, 1))
        return [rolled.lstm(zeros, zeros)[0]]

    def macs(self, layer: Layer, bottoms: Sequence[Shape]) -> int:
        """Return one product per weight and row."""
        return sum(int(np.prod(p.shape)) for p in self.params(layer, bottoms)[:2]) * bottoms[0][0]
