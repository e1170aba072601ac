"""What is said of models whose nodes have no names, of values made twice, of constant outputs and of numbers not finite."""

import numpy as np
import onnx
import pytest
from onnx import helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.errors import CaffeinitError, FormatError
from caffeinit.inspection import inspect_files
from caffeinit.proof.comparison import compare
from caffeinit.proof.functions import NetFunction
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, batch


def nothing(graph):
    """Spoil nothing."""


def nameless(path, spoil=nothing, outputs=("y",)):
    """Write conv1 -> relu -> conv2 -> LogSoftmax y, and an output that no input reaches; its nodes have no names."""
    b = Maker()
    x = b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu"), "conv2", 5, 4, out="scores")
    b.op("LogSoftmax", x, out="y", axis=1)
    b.op("Neg", b.array("fixed", 1, 4, 1, 1), out="still")
    b.outputs = list(outputs)
    model = b.model()
    for node in model.graph.node:
        node.ClearField("name")
    spoil(model.graph)
    onnx.save(model, path)
    return path


def test_reasons_name_the_operator_and_what_it_makes(tmp_path):
    net = load(nameless(tmp_path / "net.onnx"))
    result = caffeinit.rescale(net, {"x": batch(8)}, mode="equalize")
    assert 'its output is held: LogSoftmax that makes "y"' in result.units[1].done
    moved = [note for note in result.notes if "moved" in note or "did not move" in note]
    assert moved[0].startswith('output "y" ')
    assert moved[1].startswith('value "scores", before the output, ')


def rename(graph):
    graph.node[1].output[0] = "conv1"


def over_an_initializer(graph):
    graph.node[1].output[0] = "conv2.bias"


def over_an_input(graph):
    graph.node[1].output[0] = "x"


def two_inputs(graph):
    graph.input.append(graph.input[0])


TWICE = [
    (rename, 'value "conv1" is made twice, by node number 0 (Conv) and by node number 1 (Relu)'),
    (over_an_initializer, 'value "conv2.bias" is made twice, as an initializer and by node number 1 (Relu)'),
    (over_an_input, 'value "x" is made twice, as an input and by node number 1 (Relu)'),
    (two_inputs, 'two inputs are named "x"'),
]


@pytest.mark.parametrize(("spoil", "words"), TWICE, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_made_twice_is_told_with_both_makers(spoil, words, tmp_path):
    path = nameless(tmp_path / "net.onnx", spoil)
    for opened in (caffeinit.load, OnnxFunction):
        with pytest.raises(FormatError) as refused:
            opened(path)
        assert words in str(refused.value)


def test_what_reads_nothing_is_named_by_its_operator_and_output(tmp_path):
    def spoil(graph):
        graph.node[1].input[0] = "nowhere"

    with pytest.raises(FormatError, match='the Relu that makes "relu" reads "nowhere", which nothing makes before it'):
        load(nameless(tmp_path / "net.onnx", spoil))


def test_an_output_that_no_input_reaches_is_compared(tmp_path):
    def spoil(graph):
        (fixed,) = (t for t in graph.initializer if t.name == "fixed")
        fixed.CopyFrom(onnx.numpy_helper.from_array(2 * onnx.numpy_helper.to_array(fixed), "fixed"))

    paths = [
        nameless(tmp_path / f"{i}.onnx", spoil, ("y", "still", "fixed")) for i, spoil in enumerate([nothing, spoil])
    ]
    rows = [{"x": batch(2)}]
    found = compare(*map(OnnxFunction, paths), rows)
    assert {d.name: d.relative for d in found.outputs} == {"y": 0, "still": 1, "fixed": 1}
    assert compare(OnnxFunction(paths[0]), OnnxFunction(paths[0]), rows).same
    fewer = nameless(tmp_path / "fewer.onnx", outputs=("y",))
    found = compare(OnnxFunction(fewer), OnnxFunction(paths[0]), rows)
    assert [note for note in found.notes if "only" in note] == [
        f'only {paths[0]} has the output "{name}"' for name in ("still", "fixed")
    ]


def test_inspect_counts_what_is_not_finite(tmp_path):
    def spoil(graph):
        array = onnx.numpy_helper.to_array(graph.initializer[0]).copy()
        array[1, 0, :2, 0] = np.nan, np.inf
        graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(array, "conv1.weight"))

    path = nameless(tmp_path / "net.onnx", spoil)
    assert "conv1.weight: 2 of its 135 numbers are NaN or infinite" in inspect_files(path).notes
    with pytest.raises(CaffeinitError, match="2 of its weights are not finite"):
        caffeinit.rescale(load(path), {"x": batch(4)})


def test_channels_held_by_a_relation_are_said_to_be(tmp_path):
    """x * y with y = x: the product has twice the scale, and an equal term has the plain one; both are held so."""
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 4), out="r")
    b.conv(b.op("Add", x, b.op("Mul", x, x, out="square"), out="sum"), "conv2", 4, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    result = caffeinit.rescale(net, {"x": batch(4)}, mode="equalize")
    square = next(n.name for n in net.graph.nodes if n.op_type == "Mul")
    assert result.units[0].reason == f"its output is held: what Mul {square} makes of it, which is tied to it"


def test_a_subgraph_is_named_by_its_operator(tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 4), out="r")
    flag = b.op("Greater", b.op("ReduceMax", "x", out="top", keepdims=0), b.array("bound", 1), out="flag")
    branch = [
        helper.make_graph([helper.make_node(k, [x], [k])], k, [], [helper.make_empty_tensor_value_info(k)])
        for k in ("Neg", "Exp")
    ]
    b.nodes.append(helper.make_node("If", [flag], ["if"], then_branch=branch[0], else_branch=branch[1]))
    b.conv("if", "conv2", 4, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    result = caffeinit.rescale(net, {"x": batch(1)}, mode="equalize")
    assert 'If that makes "if"' in result.units[0].reason
    assert NetFunction(net, "").outputs == ["y"]


def test_softmax_of_older_opsets_is_named_by_what_it_makes_in_the_file(tmp_path):
    """Its form of today has three nodes, two of which make values that the file does not have."""
    b = Maker()
    b.domains[""] = 9
    b.op("Softmax", b.conv("x", "conv1", 3, 4, out="scores"), out="y", axis=1)
    b.nodes[-1].ClearField("name")
    net = load(b.save(tmp_path / "net.onnx"))
    result = caffeinit.rescale(net, {"x": batch(4)}, mode="equalize")
    assert result.units[0].reason == 'its output is held: Softmax that makes "y"'
    assert any(note.startswith('value "scores", before the output, ') for note in result.notes)


def test_weights_in_bfloat16_are_left_alone_and_said_to_be(tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    x = b.op("Conv", x, b.op("Cast", "brief", out="wide", to=1), out="c2", pads=[1] * 4)
    b.conv(b.op("Relu", x, out="r2"), "conv3", 4, 4, out="y")
    model = b.model()
    values = np.random.default_rng(0).standard_normal(4 * 5 * 9)
    model.graph.initializer.append(helper.make_tensor("brief", onnx.TensorProto.BFLOAT16, (4, 5, 3, 3), values))
    onnx.save(model, tmp_path / "net.onnx")
    result = caffeinit.rescale(load(tmp_path / "net.onnx"), {"x": batch(4)}, mode="equalize")
    assert [u.name for u in result.units] == ["conv1.weight", "brief", "conv3.weight"]
    assert result.units[1].reason == "its weight is stored as bfloat16, of which no numbers are changed"
