"""Nodes that hold or stand for others: what is computed and what is free with these in their place; the file keeps them."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.graph.nodes import operator_of
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, info, tensor


def constant(b, name, value):
    b.initializers.append(tensor(name, np.asarray(value)))
    return name


def choice(b, flag, then, other, out="chosen", **options):
    """Append an If whose branches are these nodes, each with what it makes as the branch's output."""
    branches = {
        name: helper.make_graph(nodes, name, [], [info(nodes[-1].output[0], None)], **options)
        for name, nodes in (("then_branch", then), ("else_branch", other))
    }
    b.nodes.append(helper.make_node("If", [flag], [out], "if", **branches))
    return out


def extent_is(b, x, axis, size):
    """Return whether an axis of a value has so many entries, as torch's older exporter asks before it squeezes it."""
    count = b.op("Gather", b.op("Shape", x, out="shape"), constant(b, "axis", np.int64(axis)), out="count", axis=0)
    return b.op("Equal", count, constant(b, "size", np.int64(size)), out="flag")


def squeezed(b, axis=2, size=1, **options):
    """Return two layers, the mean over places, squeezed by an If, and a last layer."""
    x = b.op("Relu", b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 5), out="r2")
    x = b.op("ReduceMean", x, out="mean", axes=[2, 3])
    flag = extent_is(b, x, axis, size)
    axes = constant(b, "axes", np.int64([2, 3]))
    then = [helper.make_node("Squeeze", [x, axes], ["inner"])]
    other = [helper.make_node("Identity", [x], ["inner"])]
    x = choice(b, flag, then, other, **options)
    return b.op("Gemm", x, b.array("fc", 4, 5), out="y", transB=1)


def done(result):
    return {unit.name: unit.done or unit.reason for unit in result.units}


@pytest.mark.parametrize("mode", ["preserve", "equalize", EXACT, "normalize"])
def test_the_branch_that_shapes_decide_is_taken_and_the_file_keeps_both(mode, tmp_path):
    b = Maker()
    squeezed(b)
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert net.graph.batch_axis_free
    assert not any(node.domain for node in net.graph.nodes)
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)
    result = caffeinit.rescale(net, batch(8), **options_of(mode))
    assert not [note for note in result.notes if "If" in note]
    assert result.units[1].done
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    for model in (before, after):
        del model.graph.initializer[:]
    assert before == after
    if mode != "normalize":
        assert_same_function(path, out, "x", batch())


def of_numbers(b):
    """The condition follows from a number that may be learned."""
    at = next(i for i, n in enumerate(b.nodes) if n.op_type == "Equal")
    b.initializers.append(tensor("half", np.float32(0.5)))
    b.nodes[at] = helper.make_node("Cast", ["half"], ["flag"], to=TensorProto.BOOL)


def of_default(b):
    """A caller may feed another condition."""
    b.nodes[:] = [n for n in b.nodes if n.op_type not in ("Shape", "Gather", "Equal")]
    b.initializers.append(tensor("flag", np.asarray(True)))
    b.inputs.append(info("flag", [], TensorProto.BOOL))


def of_data(b):
    at = next(i for i, n in enumerate(b.nodes) if n.op_type == "Equal")
    b.nodes.insert(at, helper.make_node("ReduceMax", ["mean"], ["largest"], keepdims=0))
    b.nodes[at + 1] = helper.make_node("Cast", ["largest"], ["flag"], to=TensorProto.BOOL)


@pytest.mark.parametrize("change", [of_numbers, of_default, of_data], ids=lambda f: f.__name__)
def test_a_branch_that_shapes_do_not_decide_is_not_taken(change, tmp_path):
    b = Maker()
    squeezed(b)
    change(b)
    net = load(b.save(tmp_path / "net.onnx"))
    assert [operator_of(node) for node in net.graph.nodes if node.domain] == ["If"]


def test_a_branch_that_another_batch_would_not_take_is_not_taken(tmp_path):
    for shape, is_taken in (("N", False), (1, True)):
        b = Maker(shape=(shape, 3, 8, 6))
        x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
        flag = extent_is(b, x, 0, 1)
        x = choice(b, flag, [helper.make_node("Neg", [x], ["t"])], [helper.make_node("Exp", [x], ["e"])])
        b.conv(x, "conv2", 5, 4, out="y")
        path = b.save(tmp_path / "net.onnx")
        net = load(path)
        assert any(node.op_type == "Neg" for node in net.graph.nodes) == is_taken
        wanted = OnnxFile(path, threads=1).run({"x": batch(1)}, ["y"])["y"]
        np.testing.assert_allclose(net.forward({"x": batch(1)}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)


def test_an_if_in_the_branch_that_is_taken_is_opened_too_and_names_are_told_apart(tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    yes, no = constant(b, "yes", True), constant(b, "no", False)
    inner = helper.make_node(
        "If", [no], ["chosen"],
        then_branch=helper.make_graph([helper.make_node("Exp", [x], ["t"])], "a", [], [info("t", None)]),
        else_branch=helper.make_graph([helper.make_node("Neg", [x], ["t"])], "b", [], [info("t", None)]),
    )  # fmt: skip
    x = choice(b, yes, [inner, helper.make_node("Neg", ["chosen"], ["u"])], [helper.make_node("Exp", [x], ["u"])], "v1")
    b.conv(b.op("Relu", x, out="t"), "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert sum(node.op_type == "Neg" for node in net.graph.nodes) == 2
    assert done(caffeinit.rescale(net, batch(8), mode="equalize"))["conv1.weight"] == "equalized"
    net.save(out)
    assert_same_function(path, out, "x", batch())


@pytest.mark.parametrize("where", ["initializer", "constant", "outside"])
@pytest.mark.parametrize("mode", ["equalize", "normalize"])
def test_weights_inside_stay_and_say_so(where, mode, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    b.array("inner.weight", 5, 5, 1, 1)
    if where != "outside":
        weight = b.initializers.pop()
    conv = [helper.make_node("Conv", [x, "inner.weight"], ["moved"])]
    options = {"initializer": [weight]} if where == "initializer" else {}
    if where == "constant":
        conv.insert(0, helper.make_node("Constant", [], ["inner.weight"], value=weight))
    other = [helper.make_node("Exp", [x], ["moved"])]
    x = choice(b, extent_is(b, x, 1, 5), conv, other, **options)
    x = b.op("Relu", x, out="r2")
    b.conv(x, "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    found = done(caffeinit.rescale(net, batch(8), **options_of(mode)))
    assert found["inner.weight"] == f'its weight {"is read" if where == "outside" else "stands"} inside If "if"'
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    assert before.graph.node == after.graph.node
    if mode == "equalize":
        assert_same_function(path, out, "x", batch())


@pytest.mark.parametrize("opset", [11, 13])
def test_branches_of_older_opsets_are_taken(opset, tmp_path):
    b = Maker()
    squeezed(b)
    b.domains[""] = opset
    if opset < 13:
        for branch in b.nodes[-2].attribute:
            for node in (n for n in branch.g.node if n.op_type == "Squeeze"):
                del node.input[1:]
                node.attribute.append(helper.make_attribute("axes", [2, 3]))
    path = b.save(tmp_path / "net.onnx")
    net = load(path)
    assert not net.skipped
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)


def test_branches_that_sizes_decide_which_the_file_leaves_open_are_told(tmp_path):
    for size, is_told in (("W", True), (6, False)):
        b = Maker(shape=("N", 3, 8, size))
        x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
        branches = [[helper.make_node(kind, [x], [kind])] for kind in ("Neg", "Exp")]
        b.conv(choice(b, extent_is(b, x, 3, 6), *branches), "conv2", 5, 4, out="y")
        net = load(b.save(tmp_path / "net.onnx"), input_shapes={"x": (3, 8, 6)})
        told = ["at other sizes of pictures than these, another branch may be taken of If if"]
        assert net.notes == (told if is_told else [])


def attention(b, opset=23, keys=8, more=(), heads=2, **attributes):
    """Return attention among the places of a picture, between matrices."""
    b.domains[""] = opset
    x = b.op("Relu", b.conv("x", "conv1", 3, 8), out="r1")
    x = b.op("Reshape", x, constant(b, "places", np.int64([0, 8, -1])), out="flat")
    x = b.op("Transpose", x, out="tokens", perm=[0, 2, 1])
    read = [
        b.op("MatMul", x, b.array(name, 8, width), out=f"{name}_of")
        for name, width in {"q": 8, "k": keys, "v": keys}.items()
    ]
    heads = {"q_num_heads": 2, "kv_num_heads": heads}
    x = b.op("Attention", *read, *more, out="attended", **heads, **attributes)
    return b.op("MatMul", x, b.array("proj", 8, 8), out="y")


def masked(b, mask, **options):
    return attention(b, more=[constant(b, "mask", mask)], **options)


TURNS = {"cos": np.cos, "sin": np.sin}
ROWS = np.random.default_rng(0).standard_normal((48, 48))
BODIES = [
    attention,
    lambda b: attention(b, 24, is_causal=1),
    lambda b: attention(b, 25, softcap=2.0, scale=0.3),
    lambda b: attention(b, keys=4, heads=1),
    lambda b: masked(b, ROWS > -2),
    lambda b: masked(b, ROWS.astype(np.float32)),
]


def flat_output(b, path):
    """Write a model whose output has three axes."""
    model = b.model(ir=11)
    model.graph.output[0].CopyFrom(info("y", [None] * 3))
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("make", BODIES)
def test_functions_that_onnx_defines_by_known_operators_are_seen_through(make, tmp_path):
    b = Maker()
    make(b)
    path, out = flat_output(b, tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert net.graph.batch_axis_free
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    found = net.forward({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    before = onnx.load(path).graph.node
    result = caffeinit.rescale(net, batch(8))
    assert {unit.name for unit in result.units if unit.done.startswith("equalized")} == {"conv1.weight", *"qkv"}
    net.save(out)
    assert onnx.load(out).graph.node == before
    assert_same_function(path, out, "x", batch())
    again = load(path)
    told = caffeinit.rescale(again, batch(8), mode="normalize")
    assert all(unit.done for unit in told.units)
    assert caffeinit.measure(again, batch(8)).rate_spread == pytest.approx(told.rate_spread, abs=1e-4)


def test_rotary_embeddings_are_seen_through(tmp_path):
    b = Maker(shape=(1, 3, 8, 6))
    b.domains[""] = 23
    x = b.op("Relu", b.conv("x", "conv1", 3, 8), out="r1")
    x = b.op("Transpose", x, out="heads", perm=[0, 2, 3, 1])  # 8 heads at 6 places
    angles = [constant(b, name, of(np.arange(24, dtype=np.float32).reshape(1, 6, 4))) for name, of in TURNS.items()]
    x = b.op("RotaryEmbedding", x, *angles, out="turned")
    x = b.op("Transpose", x, out="planes", perm=[0, 3, 1, 2])
    b.conv(x, "conv2", 8, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    wanted = OnnxFile(path, threads=1).run({"x": batch(1)}, ["y"])["y"]
    found = net.forward({"x": batch(1)}, ["y"])["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    assert done(caffeinit.rescale(net, batch(8), mode="equalize"))["conv1.weight"].startswith("equalized as far as")
    net.save(out)
    assert_same_function(path, out, "x", batch(1))


def test_bodies_that_fail_with_a_single_picture_are_not_taken(tmp_path):
    """ONNX's own of AffineGrid squeezes the pictures away with the axes."""
    b = Maker()
    b.domains[""] = 20
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    angles = b.op(
        "Gemm", b.op("Flatten", b.op("GlobalAveragePool", x, out="mean"), out="row"), b.array("at", 5, 6), out="p"
    )
    angles = b.op("Reshape", angles, constant(b, "pairs", np.int64([0, 2, 3])), out="theta")
    grid = b.op("AffineGrid", angles, b.op("Shape", x, out="size"), out="grid")
    b.conv(b.op("GridSample", x, grid, out="seen"), "conv2", 5, 4, out="y")
    path = b.save(tmp_path / "net.onnx")
    net = load(path)
    assert any("AffineGrid" in note for note in net.notes)
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)


def untyped(b, x, out="looped"):
    """Return a value of which onnx's inference does not know how many axes it has: what a Loop makes."""
    nodes = [helper.make_node("Tanh", ["v"], ["bent"]), helper.make_node("Identity", ["go"], ["on"])]
    read = [info("i", [], TensorProto.INT64), info("go", [], TensorProto.BOOL), info("v", None)]
    body = helper.make_graph(nodes, "body", read, [info("on", [], TensorProto.BOOL), info("bent", None)])
    limits = [constant(b, "once", np.int64(1)), constant(b, "yes", np.asarray(True))]
    b.nodes.append(helper.make_node("Loop", [*limits, x], [out], "loop", body=body))
    return out


@pytest.mark.parametrize("opset", [9, 11, 13, 17])
@pytest.mark.parametrize("axis", [None, 1, 3])
@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
def test_a_softmax_of_axes_that_nobody_knows_is_read(kind, axis, opset, tmp_path):
    b = Maker()
    b.domains[""] = opset
    x = untyped(b, b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r"), "conv2", 5, 4))
    b.op(kind, x, out="y", **({} if axis is None else {"axis": axis}))
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(net.forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)
    assert done(caffeinit.rescale(net, batch(16), mode="equalize"))["conv1.weight"] == "equalized"
    net.save(out)
    assert_same_function(path, out, "x", batch())


@pytest.mark.parametrize(
    ("kind", "settings"), [("Clip", {"min": -0.5, "max": 0.3}), ("Pad", {"pads": [0, 0, 1, 0] * 2})]
)
def test_settings_that_were_attributes_are_read_where_the_type_is_not_known(kind, settings, tmp_path):
    b = Maker()
    b.domains[""] = 10
    b.op(kind, untyped(b, b.conv("x", "conv1", 3, 4)), out="y", **settings)
    path = b.save(tmp_path / "net.onnx")
    wanted = OnnxFile(path, threads=1).run({"x": batch()}, ["y"])["y"]
    np.testing.assert_allclose(load(path).forward({"x": batch()}, ["y"])["y"], wanted, rtol=1e-5, atol=1e-6)
