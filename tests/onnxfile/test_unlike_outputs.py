"""Outputs that are no numbers to be compared, such as words: what they are made of is compared in their place."""

import onnx
import pytest
from onnx import TensorProto, helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.proof.comparison import compare
from caffeinit.proof.functions import NetFunction
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, batch, info

WORDS = [b"cat", b"dog", b"emu", b"fox"]


def looked_up(b):
    b.initializers.append(helper.make_tensor("names", TensorProto.STRING, [4], WORDS))
    b.op("Gather", "names", "largest", out="told")


def encoded(b):
    b.op("LabelEncoder", "largest", out="told", domain="ai.onnx.ml", keys_int64s=[0, 1, 2, 3], values_strings=WORDS)
    b.domains["ai.onnx.ml"] = 3


def listed(b):
    looked_up(b)
    b.nodes[-1].output[0] = "word"
    b.op("SequenceConstruct", "word", out="told")


def cast_to(kind):
    return lambda b: b.op("Cast", "scores", out="told", to=kind)


# How the output is made, its type, and what is compared in its place.
CASES = {
    "looked up": (looked_up, TensorProto.STRING, "largest"),
    "encoded": (encoded, TensorProto.STRING, "largest"),
    "listed": (listed, TensorProto.STRING, "largest"),
    "written out": (cast_to(TensorProto.STRING), TensorProto.STRING, "scores"),
    "int4": (cast_to(TensorProto.INT4), TensorProto.INT4, "scores"),
    "uint4": (cast_to(TensorProto.UINT4), TensorProto.UINT4, "scores"),
    "e4m3": (cast_to(TensorProto.FLOAT8E4M3FN), TensorProto.FLOAT8E4M3FN, "scores"),
    "e5m2": (cast_to(TensorProto.FLOAT8E5M2), TensorProto.FLOAT8E5M2, "scores"),
    "bfloat16": (cast_to(TensorProto.BFLOAT16), TensorProto.BFLOAT16, "scores"),
}


def save(path, name):
    """Write conv1 -> relu -> conv2 -> mean over places, with the largest one told in another way."""
    make, kind, _ = CASES[name]
    b = Maker()
    b.domains[""] = 21
    b.outputs = []
    x = b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu"), "conv2", 5, 4)
    b.op("Flatten", b.op("GlobalAveragePool", x, out="mean"), out="scores")
    b.op("ArgMax", "scores", out="largest", axis=1, keepdims=0)
    make(b)
    model = b.model(ir=10)
    told = info("told", None, kind)
    if name == "listed":
        told = helper.make_tensor_sequence_value_info("told", kind, None)
    model.graph.output.append(told)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("mode", ["preserve", "equalize", "fp16", EXACT])
@pytest.mark.parametrize("name", CASES)
def test_what_such_an_output_is_made_of_is_compared_in_its_place(name, mode, tmp_path):
    path, out = save(tmp_path / "net.onnx", name), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, batch(8), **options_of(mode))
    net.save(out)
    instead = "told" if name == "bfloat16" else CASES[name][-1]  # halves are computed in single precision
    assert next(iter(result.outputs_moved)) == instead
    before, after = OnnxFunction(path, threads=1), OnnxFunction(out, threads=1)
    found = compare(before, after, [{"x": batch(3)}], first=True)
    assert found.same
    assert found.outputs[0].name == CASES[name][-1]
    (note,) = [n for n in found.notes if "not compared" in n]
    assert note.startswith('output "told" holds ')
    assert note.endswith(f": {CASES[name][-1]}")


@pytest.mark.parametrize("name", CASES)
def test_another_function_is_told_by_it(name, tmp_path):
    path, out = save(tmp_path / "net.onnx", name), tmp_path / "out.onnx"
    net = load(path)
    weight, bias = net.params["conv2.weight"][0], net.params["conv2.bias"][0]
    weight[...], bias[...] = weight[::-1].copy(), bias[::-1].copy()
    net.save(out)
    assert not compare(OnnxFunction(path, threads=1), OnnxFunction(out, threads=1), [{"x": batch(8)}]).same
    assert not compare(NetFunction(load(path), "A"), NetFunction(net, "B"), [{"x": batch(8)}]).same


def test_nothing_is_said_of_outputs_that_are_numbers(tmp_path):
    path = save(tmp_path / "net.onnx", "looked up")
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(info("largest", None, TensorProto.INT64))
    onnx.save(model, path)
    assert not load(path).replaced
    assert not OnnxFunction(path, threads=1).replaced
