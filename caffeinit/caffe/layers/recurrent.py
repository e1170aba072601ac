"""RNN and LSTM over a stream, with Caffe's continuation indicators.

The time steps are unrolled into plain nodes, so that gradients and shapes are those of any other net. A bottom is
(T, N, ...), its indicators (T, N): 0 where a sequence begins, which resets the state.
Source: BVLC/caffe, src/caffe/layers/rnn_layer.cpp, lstm_layer.cpp, lstm_unit_layer.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffeinit.caffe.layers.base import Layer, LayerType, Param, ParamGraph, layer_type
from caffeinit.errors import LayerError
from caffeinit.graph import Shape

MAX_STEPS = 512  # each step is a dozen nodes


class Recurrent(LayerType):
    """What both kinds share: bottoms x, cont and optionally x_static; the state starts at zero."""

    num_bottoms = (2, 3)
    gates = 1

    def infer(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Return (T, N, num_output)."""
        p = layer.recurrent_param
        if p.expose_hidden:
            raise LayerError("expose_hidden: true is not supported")
        if not p.num_output:
            raise LayerError("num_output is not given")
        if bottoms[0][:2] != bottoms[1]:
            raise LayerError(f"indicators {bottoms[1]} do not fit x {bottoms[0]}")
        if bottoms[0][0] > MAX_STEPS:
            raise LayerError(f"{bottoms[0][0]} time steps; {MAX_STEPS} are the most that are unrolled")
        return [(*bottoms[0][:2], int(p.num_output))]

    def input_params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return W_x, its bias, and W_static where there is a static input."""
        p = layer.recurrent_param
        rows = self.gates * int(p.num_output)
        weight = p.weight_filler if p.HasField("weight_filler") else None
        bias = p.bias_filler if p.HasField("bias_filler") else None
        params = [
            Param((rows, int(np.prod(bottoms[0][2:]))), "weight", weight),
            Param((rows,), "bias", bias),
        ]
        if len(bottoms) > 2:
            params.append(Param((rows, int(np.prod(bottoms[2][1:]))), "weight", weight))
        return params

    def inputs(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> tuple[list[str], list[str]]:
        """Return what x contributes to the gates at each step, (1, N, gates), and the indicators, (N, 1)."""
        shape = graph.shape(bottoms[0])
        steps, batch, rows = shape[0], shape[1], self.gates * int(layer.recurrent_param.num_output)
        x = graph.op("Reshape", bottoms[0], [-1, int(np.prod(shape[2:]))])
        gates = graph.op("Gemm", x, graph.param(layer, 0), graph.param(layer, 1), transB=1)
        gates = graph.op("Reshape", gates, [steps, batch, rows])
        if len(bottoms) > 2:
            static = graph.reshape(bottoms[2], [batch, int(np.prod(graph.shape(bottoms[2])[1:]))])
            gates = graph.op("Add", gates, graph.op("Gemm", static, graph.param(layer, 2), transB=1))
        conts = graph.op("Reshape", bottoms[1], [steps, batch, 1])
        ones = np.ones(steps, np.int64)
        if steps == 1:
            return [gates], [graph.op("Squeeze", conts, [0])]
        return (
            graph.ops("Split", gates, ones, outputs=steps, axis=0),
            [graph.op("Squeeze", c, [0]) for c in graph.ops("Split", conts, ones, outputs=steps, axis=0)],
        )


@layer_type("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh h' + W_xh x + b), o = tanh(W_ho h + b_o)."""

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return W_xh, b_h, [W_static], W_hh, W_ho, b_o."""
        size = int(layer.recurrent_param.num_output)
        params = self.input_params(layer, bottoms)
        weight, bias = params[0].filler, params[1].filler
        square = Param((size, size), "weight", weight)
        return [*params, square, square, Param((size,), "bias", bias)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Unroll the steps."""
        gates, conts = self.inputs(layer, graph, bottoms)
        first = 3 if len(bottoms) > 2 else 2
        hidden, outputs = "", []
        for gate, cont in zip(gates, conts, strict=True):
            inner = graph.op("Squeeze", gate, [0])
            if hidden:
                state = graph.op("Mul", hidden, cont)
                inner = graph.op("Add", inner, graph.op("Gemm", state, graph.param(layer, first), transB=1))
            hidden = graph.op("Tanh", inner)
            out = graph.op("Gemm", hidden, graph.param(layer, first + 1), graph.param(layer, first + 2), transB=1)
            outputs.append(graph.op("Unsqueeze", graph.op("Tanh", out), [0]))
        return [graph.op("Concat", *outputs, axis=0)]


@layer_type("LSTM")
class LSTM(Recurrent):
    """Gates i, f, o, g; c = f c' + i g, h = o tanh(c); an indicator of 0 takes h' and the forget gate to 0."""

    gates = 4

    def params(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Param]:
        """Return W_xc, b_c, [W_static], W_hc."""
        size = int(layer.recurrent_param.num_output)
        params = self.input_params(layer, bottoms)
        return [*params, Param((4 * size, size), "weight", params[0].filler)]

    def lower(self, layer: Layer, graph: ParamGraph, bottoms: Sequence[str]) -> list[str]:
        """Unroll the steps."""
        size = int(layer.recurrent_param.num_output)
        gates, conts = self.inputs(layer, graph, bottoms)
        recurrent = 3 if len(bottoms) > 2 else 2
        hidden, cell, outputs = "", "", []
        for gate, cont in zip(gates, conts, strict=True):
            inner = graph.op("Squeeze", gate, [0])
            if hidden:
                state = graph.op("Mul", hidden, cont)
                inner = graph.op("Add", inner, graph.op("Gemm", state, graph.param(layer, recurrent), transB=1))
            i, f, o, g = graph.ops("Split", inner, [size] * 4, outputs=4, axis=1)
            update = graph.op("Mul", graph.op("Sigmoid", i), graph.op("Tanh", g))
            if cell:
                forget = graph.op("Mul", graph.op("Sigmoid", f), cont)
                update = graph.op("Add", graph.op("Mul", forget, cell), update)
            cell = update
            hidden = graph.op("Mul", graph.op("Sigmoid", o), graph.op("Tanh", cell))
            outputs.append(graph.op("Unsqueeze", hidden, [0]))
        return [graph.op("Concat", *outputs, axis=0)]
