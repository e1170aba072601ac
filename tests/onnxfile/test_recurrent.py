"""LSTM, GRU and RNN: what they compute step by step, how gradients and scales pass them, when they run as they stand."""

import numpy as np
import onnx
import pytest
from onnx import helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.errors import CaffeinitError, GradientError
from caffeinit.inspection.onnxmodel import inspect_onnx
from caffeinit.report.boxes import find_boxes
from caffeinit.scales.free import report_scales
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, info, tensor
from tests.ops.checks import LATER

SCALED = {"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [1.0], "activation_beta": [1.0]}
STEPS, PICTURES, INPUTS, HIDDEN = 5, 2, 4, 3
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}
KINDS = [("RNN", {}), ("LSTM", {}), ("GRU", {}), ("GRU", {"linear_before_reset": 1})]
OUTPUTS = {"RNN": ["Y", "Y_h"], "LSTM": ["Y", "Y_h", "Y_c"], "GRU": ["Y", "Y_h"]}


def single(kind, direction="forward", bias=True, states=True, lengths=False, opset=17, **attributes):
    """Return a model of one operator on x (T, N, I)."""
    rng = np.random.default_rng(0)
    ways, rows = 1 + (direction == "bidirectional"), GATES[kind] * HIDDEN
    arrays = {"W": (ways, rows, INPUTS), "R": (ways, rows, HIDDEN)}
    arrays |= {"B": (ways, 2 * rows)} if bias else {}
    names = ["W", "R", "B" if bias else "", "", ""]
    stored = [tensor(name, rng.standard_normal(shape).astype(np.float32) / 2) for name, shape in arrays.items()]
    if lengths:
        stored.append(tensor("lengths", np.full(PICTURES, STEPS, np.int32)))
        names[3] = "lengths"
    if states:
        names[4:] = ["h", "c"][: 1 + (kind == "LSTM")]
        first = (ways, PICTURES, HIDDEN)
        stored += [tensor(name, rng.standard_normal(first).astype(np.float32)) for name in names[4:]]
    attributes |= {"hidden_size": HIDDEN, "direction": direction}
    node = helper.make_node(kind, ["x", *names], OUTPUTS[kind], "rnn", **attributes)
    outputs = [info(name, [None] * (4 - bool(number))) for number, name in enumerate(OUTPUTS[kind])]
    graph = helper.make_graph([node], "net", [info("x", [STEPS, PICTURES, INPUTS])], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def sequence():
    return np.random.default_rng(1).standard_normal((STEPS, PICTURES, INPUTS)).astype(np.float32)


def assert_steps_compute_it(path, kind):
    """Compare a file's operator, spelt out step by step, with what onnxruntime computes; return all."""
    net, feeds = load(path), {"x": sequence()}
    assert kind not in {node.op_type for node in net.graph.nodes}
    wanted = OnnxFile(path, threads=1).run(feeds, OUTPUTS[kind])
    found = net.forward(feeds, OUTPUTS[kind])
    for name in OUTPUTS[kind]:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=2e-6)
    return net, feeds, found


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"states": False}, {"lengths": True}])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_steps_compute_what_the_operator_does(kind, own, direction, options, tmp_path):
    onnx.save(single(kind, direction, **own, **options), tmp_path / "net.onnx")
    assert_steps_compute_it(tmp_path / "net.onnx", kind)


@pytest.mark.parametrize("opset", [7, 13, *LATER])
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_steps_are_those_of_every_opset(kind, own, opset, tmp_path):
    onnx.save(single(kind, "bidirectional", opset=opset, **own), tmp_path / "net.onnx")
    net, feeds, found = assert_steps_compute_it(tmp_path / "net.onnx", kind)
    gradient = net.backward(feeds, {n: np.ones_like(a) for n, a in found.items()}).inputs["x"]
    assert gradient.shape == feeds["x"].shape


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("RNN", {"activations": ["Relu"]}),
        (
            "LSTM",
            {
                "activations": ["HardSigmoid", "Softsign", "Elu"],
                "activation_alpha": [0.3, 0.7],
                "activation_beta": [0.4],
            },
        ),
        (
            "GRU",
            {"activations": ["hardsigmoid", "leakyrelu"], "activation_alpha": [0.2, 0.3], "activation_beta": [0.6]},
        ),
        ("GRU", {"activations": ["Sigmoid", "Softplus"], "linear_before_reset": 1}),
    ],
)
def test_named_activations_take_their_numbers_in_order(kind, named, tmp_path):
    onnx.save(single(kind, **named), tmp_path / "net.onnx")
    net, feeds = load(tmp_path / "net.onnx"), {"x": sequence()}
    assert kind not in {node.op_type for node in net.graph.nodes}
    wanted = OnnxFile(tmp_path / "net.onnx", threads=1).run(feeds, OUTPUTS[kind])
    for name, array in net.forward(feeds, OUTPUTS[kind]).items():
        np.testing.assert_allclose(array, wanted[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize(("kind", "own"), KINDS)
def test_gradients_pass_all_steps(kind, own, direction, tmp_path):
    onnx.save(single(kind, direction, **own), tmp_path / "net.onnx")
    net, x, rng = load(tmp_path / "net.onnx"), sequence(), np.random.default_rng(2)
    tops = {n: rng.standard_normal(a.shape).astype(np.float32) for n, a in net.forward({"x": x}, OUTPUTS[kind]).items()}
    found = net.backward({"x": x}, tops).inputs["x"]
    way, length = rng.standard_normal(x.shape).astype(np.float32), 3e-3

    def total(moved):
        made = net.forward({"x": moved.astype(np.float32)}, OUTPUTS[kind])
        return sum(np.vdot(made[n].astype(np.float64), tops[n]) for n in made)

    slope = (total(x + length * way) - total(x - length * way)) / (2 * length)
    assert np.vdot(found.astype(np.float64), way) == pytest.approx(slope, rel=5e-3)


def zeros_as_exported(b, x, ways):
    """Return first states of zeros, as many as x (T, N, I) has pictures, as exporters write them."""
    numbers = [
        b.initializers.append(tensor(n, np.asarray(v, np.int64))) or n
        for n, v in {"one": 1, "ways": [ways], "own": [HIDDEN]}.items()
    ]
    count = b.op("Gather", b.op("Shape", x, out="extents"), numbers[0], out="count", axis=0)
    b.initializers.append(tensor("flat", np.asarray([0], np.int64)))
    sizes = b.op("Concat", numbers[1], b.op("Unsqueeze", count, "flat", out="counts"), numbers[2], out="sizes", axis=0)
    return b.op("ConstantOfShape", sizes, out="zeros")


def crnn(kind, direction):
    """Return a net that reads columns of its last convolution one after the other, as readers of text do."""
    ways = 1 + (direction == "bidirectional")
    b = Maker(shape=["N", 3, 8, 6])
    b.outputs = []
    x = b.op("Relu", b.conv("x", "conv1", 3, 6), out="r1")
    x = b.op("Relu", b.conv(x, "conv2", 6, INPUTS), out="r2")
    b.initializers.append(tensor("rows", np.asarray([2], np.int64)))
    x = b.op("Transpose", b.op("ReduceMean", x, out="columns", axes=[2], keepdims=0), out="steps", perm=[2, 0, 1])
    rows = GATES[kind] * HIDDEN
    arrays = [b.array("W", ways, rows, INPUTS), b.array("R", ways, rows, HIDDEN), b.array("B", ways, 2 * rows)]
    x = b.op(kind, x, *arrays, "", zeros_as_exported(b, x, ways), out="read", direction=direction, hidden_size=HIDDEN)
    b.initializers.append(tensor("joined", np.asarray([0, 0, -1], np.int64)))
    x = b.op("Reshape", b.op("Transpose", x, out="beside", perm=[0, 2, 1, 3]), "joined", out="states")
    x = b.op("Transpose", x, out="back", perm=[1, 0, 2])
    b.op("Add", b.op("MatMul", x, b.array("fc", ways * HIDDEN, 5), out="product"), b.array("shift", 5), out="y")
    model = b.model()
    model.graph.output.append(info("y", [None] * 3))
    return model


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT, "normalize", "init"])
@pytest.mark.parametrize(("kind", "direction"), [("LSTM", "bidirectional"), ("GRU", "reverse"), ("RNN", "forward")])
def test_weights_that_read_a_sequence_take_up_scales_and_rates_are_known_below_them(kind, direction, mode, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(crnn(kind, direction), path)
    pictures = np.random.default_rng(3).standard_normal((8, 3, 8, 6)).astype(np.float32)
    net = load(path)
    assert net.graph.batch_axis_free
    assert [unit.name for unit in net.units] == ["conv1.weight", "conv2.weight", "W", "fc"]
    assert [(s.name, s.reason) for s in net.skipped] == [("R", "its weights are used again at every step")]
    result = caffeinit.init(net, pictures) if mode == "init" else caffeinit.rescale(net, pictures, **options_of(mode))
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    assert before.graph.node == after.graph.node
    same = {a.name for a, c in zip(before.graph.initializer, after.graph.initializer, strict=True) if a == c}
    assert {"R", "B"} <= same
    found = caffeinit.measure(load(out), pictures)
    if mode in ("normalize", "init"):
        for unit, told in zip(found.units, result.units, strict=True):
            np.testing.assert_allclose(unit.stats.channel_stds, told.after.channel_stds, rtol=1e-3)
        np.testing.assert_allclose(found.units[2].stats.channel_stds, 1, rtol=1e-3)
    else:
        assert_same_function(path, out, "x", pictures)
        assert {"conv1.weight", "conv2.weight", "W"} & same == set()
        assert next(u for u in result.units if u.name == "W").done.startswith("takes up its input's scales")
    if mode not in ("equalize", EXACT):
        assert found.rate_spread == pytest.approx(result.rate_spread, abs=1e-3)
        rates = [unit.rate for unit in found.units[:3]]
        np.testing.assert_allclose(rates, rates[0], rtol=0.02)


@pytest.mark.parametrize("own", [{"clip": 5.0}, {"input_forget": 1}, SCALED])
def test_an_operator_that_does_more_runs_as_it_stands(own, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    model = crnn("LSTM", "forward")
    node = next(n for n in model.graph.node if n.op_type == "LSTM")
    node.attribute.extend(helper.make_attribute(k, v) for k, v in own.items())
    onnx.save(model, path)
    pictures = np.random.default_rng(3).standard_normal((1, 3, 8, 6)).astype(np.float32)
    net = load(path)
    assert [unit.name for unit in net.units] == ["conv1.weight", "conv2.weight", "fc"]
    with pytest.raises(GradientError, match="peepholes, clipped gates"):
        net.backward({"x": pictures}, {"y": np.ones_like(net.forward({"x": pictures}, ["y"])["y"])})
    result = caffeinit.rescale(net, pictures, mode="equalize")
    net.save(out)
    assert [bool(unit.done) for unit in result.units] == [True, True, False]
    balanced = caffeinit.rescale(load(path), pictures, mode="balance")
    assert balanced.alone == "fc"
    assert balanced.units[0].reason == "it has no rate that could be balanced"
    assert_same_function(path, out, "x", pictures)


def test_reasons_name_the_operator_of_the_file(tmp_path):
    onnx.save(crnn("GRU", "forward"), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    name = next(n.name for n in onnx.load(tmp_path / "net.onnx").graph.node if n.op_type == "GRU")
    result = caffeinit.rescale(net, np.ones((1, 3, 8, 6), np.float32) * np.arange(6, dtype=np.float32), mode="equalize")
    assert (
        next(u for u in result.units if u.name == "W").done
        == f"takes up its input's scales; its output is held: GRU {name}"
    )
    assert not any("@" in value for value in net.forward({"x": np.zeros((1, 3, 8, 6), np.float32)}))


def test_inspect_counts_all_weights(tmp_path):
    onnx.save(crnn("LSTM", "bidirectional"), tmp_path / "net.onnx")
    found = inspect_onnx(tmp_path / "net.onnx")
    (layer,) = [layer for layer in found.layers if layer.type == "LSTM"]
    assert layer.params == [(2, 12, INPUTS), (2, 12, HIDDEN), (2, 24)]
    assert (layer.unit, layer.macs) == ("affine", 6 * 2 * 12 * (INPUTS + HIDDEN))


def test_tables_that_words_are_looked_up_in_are_told_to_be_left(tmp_path):
    b = Maker(shape=["N", 3, 8, 6])
    x = b.op("ReduceMax", "x", out="largest", axes=[1, 2, 3], keepdims=0)
    words = b.op("Cast", b.op("Clip", x, out="small"), out="words", to=7)
    b.nodes[-2].input.extend([b.initializers.append(tensor(n, np.float32(v))) or n for n, v in (("a", 0), ("z", 6))])
    b.op("MatMul", b.op("Gather", b.array("table", 7, 4), words, out="taken"), b.array("fc", 4, 5), out="y")
    model = b.model()
    model.graph.output[0].CopyFrom(info("y", [None] * 2))
    onnx.save(model, tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    assert [(s.name, s.reason) for s in net.skipped] == [
        ("table", "its numbers are values themselves, and multiply nothing")
    ]
    assert [layer.params for layer in inspect_onnx(tmp_path / "net.onnx").layers if layer.type == "Gather"] == [
        [(7, 4)]
    ]


def test_a_picture_of_the_net_shows_the_operator_and_not_its_steps(tmp_path):
    onnx.save(crnn("LSTM", "bidirectional"), tmp_path / "net.onnx")
    net = load(tmp_path / "net.onnx")
    boxes = find_boxes(net, report_scales(net.graph, net.units, net.learned, lambda unit: "").units)
    assert [box.name for box in boxes] == ["x", "conv1", "conv2", "read_11", "product"]
    assert [(box.types[0], len(box.units)) for box in boxes[1:4]] == [("Conv", 1), ("Conv", 1), ("LSTM", 1)]


@pytest.mark.parametrize("change", ["axis", "rows", "inputs", "hidden", "biases", "ways"])
@pytest.mark.parametrize("kind", GATES)
def test_arrays_that_do_not_go_together_are_refused_in_words(kind, change, tmp_path):
    model = single(kind)
    arrays = {a.name: a for a in model.graph.initializer}
    rows = GATES[kind] * HIDDEN
    name, shape = {
        "axis": ("R", (rows, HIDDEN)),
        "rows": ("W", (1, rows + 1, INPUTS)),
        "inputs": ("W", (1, rows, INPUTS + 1)),
        "hidden": ("R", (1, rows, HIDDEN + 1)),
        "biases": ("B", (1, rows)),
        "ways": ("W", (2, rows, INPUTS)),
    }[change]
    arrays[name].CopyFrom(tensor(name, np.ones(shape, np.float32)))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(CaffeinitError, match="does not fit what it reads"):
        load(tmp_path / "net.onnx")


def test_damaged_ones_behind_what_only_a_run_tells_the_shape_of_are_left_as_they_are(tmp_path):
    model = single("LSTM")
    flag = helper.make_node("Greater", ["top", "top"], ["never"])
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["inner"])], "same", [], [info("inner", None)])
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["top"], keepdims=0))
    model.graph.node.insert(1, flag)
    model.graph.node.insert(2, helper.make_node("If", ["never"], ["i"], then_branch=branch, else_branch=branch))
    model.graph.node[3].input[0] = "i"
    next(a for a in model.graph.initializer if a.name == "R").dims[:] = [4 * HIDDEN * HIDDEN]
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(CaffeinitError, match="the net cannot be"):
        load(tmp_path / "net.onnx").forward({"x": sequence()}, ["Y"])
