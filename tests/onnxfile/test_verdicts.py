"""Softmax spelt out: rates are taken on what it reads, as where it is one operator."""

import numpy as np
import pytest

import caffeinit
from caffeinit.graph.heads import find_heads
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, batch, tensor


def scores():
    b = Maker()
    b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu"), "scores", 5, 4)
    b.initializers += [tensor("axis", np.asarray([1])), tensor("least", np.float32(-np.inf))]
    b.initializers += [tensor("wide", np.asarray([1, 4, 1, 1]))]
    return b


def shifted(b, kept):
    """Return the scores less their maximum, as JAX takes it."""
    top = b.op("ReduceMax", "scores", out="top", axes=[1], keepdims=kept)
    top = b.op("Max", "least", top, out="bounded")
    return b.op("Sub", "scores", top if kept else b.op("Unsqueeze", top, "axis", out="back"), out="shifted")


def quotient(b):
    power = b.op("Exp", shifted(b, 1), out="power")
    total = b.op("ReduceSum", power, "axis", out="total")
    b.op("Div", power, b.op("Expand", total, "wide", out="wide_total"), out="y")


def product(b):
    power = b.op("Exp", shifted(b, 0), out="power")
    total = b.op("Unsqueeze", b.op("ReduceSum", power, "axis", out="total", keepdims=0), "axis", out="back_total")
    b.op("Mul", b.op("Reciprocal", total, out="inverse"), power, out="y")


def bare(b):
    power = b.op("Exp", "scores", out="power")
    b.op("Div", power, b.op("ReduceSum", power, "axis", out="total"), out="y")


def logarithm(b):
    low = shifted(b, 1)
    total = b.op("ReduceSum", b.op("Exp", low, out="power"), "axis", out="total")
    b.op("Sub", low, b.op("Log", total, out="log"), out="y")


@pytest.mark.parametrize("spell", [quotient, product, bare, logarithm])
def test_what_stands_before_it_is_the_head(spell, tmp_path):
    b = scores()
    spell(b)
    net = load(b.save(tmp_path / "net.onnx"))
    assert find_heads(net.graph, net.learned) == ["scores"]
    plain = scores()
    plain.op("LogSoftmax" if spell is logarithm else "Softmax", "scores", out="y", axis=1)
    other = load(plain.save(tmp_path / "plain.onnx"))
    rates = [[u.stats.rate for u in caffeinit.measure(n, {"x": batch(8)}).units] for n in (net, other)]
    np.testing.assert_allclose(rates[0], rates[1], rtol=1e-5)  # single precision


def other_sum(b):
    """A share of something else."""
    power = b.op("Exp", "scores", out="power")
    b.op("Div", power, b.op("ReduceSum", b.op("Relu", "scores", out="r"), "axis", out="total"), out="y")


def sum_of_scores(b):
    b.op("Div", "scores", b.op("ReduceSum", "scores", "axis", out="total"), out="y")


@pytest.mark.parametrize("spell", [other_sum, sum_of_scores])
def test_other_quotients_are_heads_themselves(spell, tmp_path):
    b = scores()
    spell(b)
    net = load(b.save(tmp_path / "net.onnx"))
    assert find_heads(net.graph, net.learned) == ["y"]
