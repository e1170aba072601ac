"""Graphs beyond chains of layers: barriers, subgraphs, functions, other operators, batches, inputs of all kinds."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile, OnnxFunction
from caffeinit.errors import CaffeinitError
from caffeinit.model.network import Skipped
from caffeinit.proof.comparison import compare
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, chain, info, tensor


def branching(b, x):
    """Return x through an If that reads values from around it, as barriers do; the condition depends on x."""
    mean = b.op("ReduceMax", x, out="top", keepdims=0)
    flag = b.op("Greater", mean, b.op("Constant", out="bound", value=tensor("", np.float32(1e6))), out="flag")
    branches = [
        helper.make_graph([helper.make_node(kind, [x], [f"{kind}_out"])], kind, [], [info(f"{kind}_out", None)])
        for kind in ("Neg", "Exp")
    ]
    b.nodes.append(helper.make_node("If", [flag], ["if"], "if", then_branch=branches[0], else_branch=branches[1]))
    return "if"


def contributed(b, x):
    b.domains["com.microsoft"] = 1
    return b.op("FusedMatMul", x, b.array("square", 6, 6), out="fused", domain="com.microsoft", alpha=0.5)


def called(b, x):
    """Return x through a function of the model that holds a convolution of its own and one over a given weight."""
    b.domains["mine"] = 1
    kernel = helper.make_node("Constant", [], ["k"], value=tensor("", np.full((5, 1, 1, 1), 0.5, np.float32)))
    nodes = [
        kernel,
        helper.make_node("Conv", ["v", "k"], ["c"], group=5),
        helper.make_node("Conv", ["c", "w"], ["d"]),
        helper.make_node("Relu", ["d"], ["r"]),
    ]
    b.functions.append(helper.make_function("mine", "Twice", ["v", "w"], ["r"], nodes, [helper.make_opsetid("", 17)]))
    return b.op("Twice", x, b.array("inner", 5, 5, 1, 1), out="twice", domain="mine")


BARRIERS = [(branching, "If"), (contributed, "com.microsoft"), (called, "")]


@pytest.mark.parametrize(("make", "named"), BARRIERS, ids=lambda v: getattr(v, "__name__", ""))
@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_operators_without_a_rule_run_and_are_barriers(make, named, mode, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 5), out="r2")
    b.conv(make(b, x), "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(
        net, batch(net.inputs["x"][0] * 4)[: None if net.graph.batch_axis_free else 1], mode=mode
    )
    assert any(named in note for note in result.notes) or not named
    # What the barrier makes is held, and so conv3 has nothing to take up where the function is kept.
    changed = {"conv1.weight", "conv2.weight" if mode == "preserve" else "conv3.weight"}
    assert {u.name for u in result.units if u.done} >= changed
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    for model in (before, after):
        del model.graph.initializer[:]
    assert before == after
    if mode == "preserve":
        assert_same_function(path, out, "x", batch(1))


def test_operators_that_nobody_has_are_left_out_and_hold_what_they_read(tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    x = b.conv(x, "conv2", 5, 4)
    b.domains["com.example"] = 1
    b.conv(b.op("Fancy", x, out="fancy", domain="com.example"), "conv3", 4, 4, out="y")
    path = b.save(tmp_path / "net.onnx")
    net = load(path)
    assert net.outputs == ["conv2"]
    assert [(s.name, s.reason) for s in net.skipped] == [
        ('node "fancy_3" (Fancy)', "onnxruntime does not have its operator com.example.Fancy"),
        ('node "y_4" (Conv)', 'depends on node "fancy_3" (Fancy)'),
    ]
    before = net.forward({"x": batch()}, ["conv2"])["conv2"]
    result = caffeinit.rescale(net, batch(8))
    assert {u.name: bool(u.done) for u in result.units} == {"conv1.weight": True, "conv2.weight": True}
    assert 'its output is held: node "fancy_3" (Fancy), which cannot run' in result.units[1].done
    np.testing.assert_allclose(
        net.forward({"x": batch()}, ["conv2"])["conv2"], before, atol=1e-5 * np.abs(before).max()
    )
    net.save(tmp_path / "out.onnx")
    with pytest.raises(CaffeinitError, match="Fancy"):
        load(path, strict=True)


def behind_sigmoid(b, x):
    b.conv(b.op("Sigmoid", x, out="s"), "aux", 5, 4)


def tied(b, x):
    b.op("Add", x, b.conv(x, "aux", 5, 5), out="sum")


def lacking(b, x):
    b.domains["com.example"] = 1
    b.op("Fancy", x, out="fancy", domain="com.example")


def reading_weights(b, x):
    b.op("Sigmoid", "conv1.weight", out="s")
    b.op("Conv", b.op("Sigmoid", x, out="t"), "conv2.weight", out="aux")


@pytest.mark.parametrize("add", [behind_sigmoid, tied, lacking, reading_weights], ids=lambda f: f.__name__)
def test_nodes_that_no_output_depends_on_hold_nothing_and_stay(add, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    add(b, x)
    b.conv(b.op("Relu", b.conv(x, "conv2", 5, 5), out="r2"), "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path, strict=True)
    aux = [node for node in b.nodes if node.op_type == "Conv" and node.output[0] == "aux"]
    assert net.skipped == [Skipped(f'node "{node.name}" (Conv)', "no output depends on it") for node in aux]
    assert [u.name for u in net.units] == ["conv1.weight", "conv2.weight", "conv3.weight"]
    result = caffeinit.rescale(net, {"x": batch(8)}, mode="equalize")
    assert [u.done for u in result.units[:2]] == ["equalized", "equalized"]
    net.save(out)
    if add is not lacking:  # onnxruntime takes no file with an operator that it lacks, wherever that stands
        assert_same_function(path, out, "x", batch(1))
    before, after = onnx.load(path), onnx.load(out)
    assert before.graph.node == after.graph.node
    for one, other in zip(before.graph.initializer, after.graph.initializer, strict=True):
        assert (one == other) == (one.name.startswith("aux") or one.name == "conv3.bias")


@pytest.mark.parametrize("opset", [11, 17])
def test_subgraphs_of_older_opsets_run_or_are_left_out(opset, tmp_path):
    b = Maker()
    b.domains[""] = opset
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    x = branching(b, x)
    b.conv(b.op("Softplus", x, out="soft"), "conv2", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    assert not net.skipped
    inner = b.nodes[-3].attribute[0].g.node
    inner.insert(0, helper.make_node("ReduceSum", ["relu"], ["sum"], **({"axes": [1]} if opset < 13 else {})))
    net = load(b.save(tmp_path / "net.onnx"))
    assert bool(net.skipped) == (opset < 13)
    assert all("version_converter" in s.reason or "depends on" in s.reason for s in net.skipped)


def flat(b, x, target):
    """Return a classifier over x, reshaped to a target that spells the batch of 1 out."""
    x = b.op("Reshape", x, b.op("Constant", out="target", value=tensor("", np.asarray(target))), out="flat")
    b.array("fc", 4, 5 * 48)
    return b.op("Gemm", x, "fc", out="y", transB=1)


def test_a_batch_that_is_spelt_out_is_freed_where_that_is_safe(tmp_path):
    for target, is_free in (([1, 240], True), ([1, -1], True), ([-1, 240], True)):
        b = Maker(shape=(1, 3, 8, 6))
        flat(b, b.op("Relu", b.conv("x", "conv1", 3, 5), out="r"), target)
        path = b.save(tmp_path / "net.onnx")
        net = load(path)
        assert net.graph.batch_axis_free == is_free
        x = batch(3)
        alone = [OnnxFile(path, threads=1).run({"x": row[None]}, ["y"])["y"] for row in x]
        np.testing.assert_allclose(net.forward({"x": x}, ["y"])["y"], np.concatenate(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_a_batch_that_cannot_be_freed_is_fed_as_it_is(mode, tmp_path):
    b = Maker(shape=(1, 3, 8, 6))
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r")
    x = b.op("Softmax", x, out="share", axis=0)  # over pictures, if there were several
    b.conv(x, "conv2", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert not net.graph.batch_axis_free
    caffeinit.rescale(net, caffeinit.read_images(net, batch(5), num_images=5), mode=mode)
    net.save(out)
    if mode == "preserve":
        assert_same_function(path, out, "x", batch(1))


def test_open_axes_need_shapes(tmp_path):
    path = chain(shape=("N", 3, "H", "W")).save(tmp_path / "net.onnx")
    with pytest.raises(CaffeinitError, match=r'"x" leaves axes open: \(1, 3, \?, \?\)\. Give --input-shape x=C,H,W'):
        load(path)
    assert load(path, input_shapes={"x": (3, 8, 6)}).inputs == {"x": (1, 3, 8, 6)}
    with pytest.raises(CaffeinitError, match='no input "z"'):
        load(path, input_shapes={"z": (3, 8, 6)})
    with pytest.raises(CaffeinitError, match="does not fit what it reads"):
        load(path, input_shapes={"x": (4, 8, 6)})


def test_inputs_of_other_types_and_several_inputs(tmp_path):
    b = chain(shape=("N", 3, 8, 6))
    b.inputs[0] = info("x", ("N", 3, 8, 6), TensorProto.UINT8)
    b.inputs.append(info("more", ("N", 4), TensorProto.INT64))
    b.nodes.insert(0, helper.make_node("Cast", ["x"], ["floats"], to=1))
    b.nodes[1].input[0] = "floats"
    b.nodes[-1].output[0] = "z"
    sizes = b.op(
        "Unsqueeze", b.op("Cast", "more", out="m", to=1), b.op("Constant", out="a", value_ints=[2, 3]), out="u"
    )
    b.op("Add", "z", sizes, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert net.inputs == {"x": (1, 3, 8, 6), "more": (1, 4)}
    rng = np.random.default_rng(0)
    feeds = {"x": rng.integers(0, 255, (3, 3, 8, 6), np.uint8), "more": rng.integers(0, 9, (3, 4))}
    wanted = OnnxFile(path, threads=1).run(feeds, ["y"])["y"]
    np.testing.assert_allclose(net.forward(feeds, ["y"])["y"], wanted, rtol=1e-5, atol=1e-3)
    caffeinit.rescale(net, [feeds])
    net.save(out)
    found = OnnxFile(out, threads=1).run(feeds, ["y"])["y"]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_pictures_for_channels_last(tmp_path):
    b = Maker(shape=("N", 8, 6, 3))
    x = b.op("Transpose", "x", out="planes", perm=[0, 3, 1, 2])
    b.conv(b.op("Relu", b.conv(x, "conv1", 3, 5), out="r"), "conv2", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 6, 3), np.uint8)
    pictures = caffeinit.read_images(net, pixels, mean=[1, 2, 3], channels="bgr")
    (found,) = pictures
    assert found["x"].shape == (4, 8, 6, 3)
    for order in (pixels, pixels[..., ::-1]):
        if np.array_equal(found["x"], order - np.float32([1, 2, 3])):
            break
    else:
        pytest.fail("the pixels do not come as they are")
    result = caffeinit.rescale(net, pictures)
    assert result.units[0].done == "equalized"


def test_a_reshape_that_goes_with_one_size_is_told_with_what_it_reads(tmp_path):
    b = Maker(shape=("N", 3, "H", "W"))
    b.initializers.append(tensor("dims", np.asarray([-1, 240])))
    b.op("Reshape", b.conv("x", "conv1", 3, 5), "dims", out="flat")
    b.op("Gemm", "flat", b.array("w", 240, 2), out="y")
    b.outputs = []
    model = b.model()
    model.graph.output.append(info("y", ("N", 2)))
    onnx.save(model, tmp_path / "net.onnx")
    assert load(tmp_path / "net.onnx", input_shapes={"x": (3, 8, 6)}).units
    with pytest.raises(CaffeinitError) as refused:
        load(tmp_path / "net.onnx", input_shapes={"x": (3, 8, 7)})
    told = str(refused.value)
    assert 'net.onnx: node "flat_1" (Reshape) does not fit what it reads' in told
    assert '"conv1" (1, 5, 8, 7), "dims" = [-1, 240]; the inputs are x (1, 3, 8, 7)' in told
    assert "--input-shape" in told
    assert "InferenceError" not in told


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
def test_sequences_between_layers_run_and_hold_what_they_are_made_of(mode, tmp_path):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    x = b.op("Relu", b.conv(x, "conv2", 5, 5), out="r2")
    x = b.op("ConcatFromSequence", b.op("SplitToSequence", x, out="parts", axis=1), out="whole", axis=1)
    b.conv(x, "conv3", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    pictures = {"x": batch(1)}
    measured = caffeinit.measure(net, pictures)
    assert [u.name for u in measured.units] == ["conv1.weight", "conv2.weight", "conv3.weight"]
    result = caffeinit.rescale(net, pictures, mode=mode)
    assert result.units[0].done
    if mode != "normalize":
        assert "SplitToSequence" in result.units[1].done
        net.save(out)
        assert_same_function(path, out, "x", batch(1))


def with_sequence(path, factor=1.0):
    """Write conv1 -> relu -> its channels as a sequence, which is an output, too -> conv2 -> relu -> conv3 -> y."""
    b = Maker(shape=(1, 3, 8, 6))
    parts = b.op("SplitToSequence", b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), out="parts", axis=1)
    x = b.op("Relu", b.conv(b.op("ConcatFromSequence", parts, out="whole", axis=1), "conv2", 5, 5), out="r2")
    b.conv(x, "conv3", 5, 4, out="y")
    bias = next(t for t in b.initializers if t.name == "conv1.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) * np.float32(factor), bias.name))
    model = b.model()
    model.graph.output.append(helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None))
    onnx.save(model, path)
    return path


def test_units_behind_extents_that_a_run_tells_say_so(tmp_path):
    result = caffeinit.rescale(load(with_sequence(tmp_path / "net.onnx")), {"x": batch(1)}, mode="equalize")
    assert [u.reason for u in result.units[:2]] == [
        "its output is held: SplitToSequence parts_2",
        "its output is held: extents that are known only at run time",
    ]


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_sequences_are_compared_tensor_by_tensor(factor, tmp_path):
    one, other = with_sequence(tmp_path / "a.onnx"), with_sequence(tmp_path / "b.onnx", factor)
    functions = [OnnxFunction(path, threads=1) for path in (one, other)]
    found = compare(*functions, [{"x": batch(3)}], first=True)  # three runs: the file spells out a batch of 1
    assert [d.name for d in found.outputs] == ["y", "parts"]
    assert [d.relative == 0 for d in found.outputs] == [factor == 1] * 2
    assert found.same == (factor == 1)
    assert found.parting is None if factor == 1 else found.parting.name == "conv1"
    longer = onnx.load(other)
    next(n for n in longer.graph.node if n.op_type == "SplitToSequence").input.append("two")
    longer.graph.initializer.append(numpy_helper.from_array(np.array(2), "two"))
    onnx.save(longer, other)
    found = compare(functions[0], OnnxFunction(other, threads=1), [{"x": batch(1)}])
    assert found.outputs[1].shapes == ((5,), (3,))


def test_an_output_that_is_declared_a_tensor_and_is_a_sequence_stands_for_what_it_is_made_of(tmp_path):
    model = onnx.load(with_sequence(tmp_path / "net.onnx"))
    model.graph.output[-1].CopyFrom(info("parts", None))
    onnx.save(model, tmp_path / "net.onnx")
    assert load(tmp_path / "net.onnx").graph.outputs == ["y", "r1"]


def test_one_number_of_a_whole_batch_goes_on_to_later_layers(tmp_path):
    b = Maker(shape=(2, 3, 8, 6))
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu")
    largest = b.op("ReduceMax", x, out="largest", keepdims=0)
    x = b.op("Relu", b.conv(b.op("Div", x, largest, out="small"), "conv2", 5, 5), out="again")
    b.conv(b.op("Mul", x, largest, out="large"), "conv3", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    assert not net.graph.batch_axis_free
    caffeinit.init(net, batch(6), balanced=False)
    found = caffeinit.measure(net, batch(6), rate_batches=0)
    np.testing.assert_allclose([unit.stats.std for unit in found.units], 1, rtol=1e-4)


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
def test_layers_that_first_read_a_stored_guess_keep_the_function(mode, tmp_path):
    b = Maker(shape=(2, 3, 8, 6))
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r")
    features = b.op("Relu", b.conv(x, "conv2", 5, 5), out="features")
    guess = b.array("guess", 2, 5, 8, 6)
    weight, bias = b.array("turn.weight", 5, 5, 3, 3), b.array("turn.bias", 5)
    for turn in range(3):  # a guess is refined
        moved = b.op("Conv", guess, weight, bias, out=f"moved{turn}", pads=[1] * 4)
        guess = b.op("Relu", b.op("Add", moved, features, out=f"sum{turn}"), out=f"guess{turn}")
    b.conv(guess, "last", 5, 4, out="y")
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, batch(6), mode=mode)
    assert result.units[0].done
    net.save(out)
    if mode != "normalize":
        assert_same_function(path, out, "x", batch(2))


@pytest.mark.parametrize("job", [caffeinit.init, caffeinit.rescale])
def test_choices_by_what_a_sum_makes_go_with_sums_whose_terms_are_scaled_apart(job, tmp_path):
    """The condition follows from another sum than what is chosen, and is no number that has an energy."""
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    first = b.op("Add", x, b.conv(x, "conv2", 5, 5), out="first")
    second = b.op("Add", first, b.conv(first, "conv3", 5, 5), out="second")
    b.initializers.append(tensor("zero", np.float32(0)))
    flag = b.op("Less", first, "zero", out="flag")
    x = b.op("Where", flag, b.op("Neg", second, out="minus"), second, out="chosen")
    b.conv(b.op("Relu", x, out="r2"), "conv4", 5, 4, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    told = job(net, batch(8), **({} if job is caffeinit.init else {"mode": "normalize"}))
    assert told.rate_spread < 0.05
    assert caffeinit.measure(net, batch(8)).rate_spread == pytest.approx(told.rate_spread, rel=1e-3)


def test_sums_of_rows_that_are_channels_and_pictures_in_one_get_one_rate(tmp_path):
    b = Maker()
    x = b.op("Flatten", b.conv("x", "conv1", 3, 4), out="rows", axis=2)
    wide = b.op("Reshape", x, b.op("Constant", out="dims", value_ints=[-1, 8, 6]), out="wide")
    y = b.op("Conv", wide, b.array("deep.weight", 8, 1, 3), out="deep", group=8, pads=[1, 1])
    b.op("Add", wide, y, out="y")
    net = load(b.save(tmp_path / "net.onnx"))
    result = caffeinit.init(net, {"x": batch(16)})
    net.save(tmp_path / "out.onnx")
    again = caffeinit.measure(load(tmp_path / "out.onnx"), {"x": batch(16)})
    assert result.rate_spread == pytest.approx(again.rate_spread, abs=1e-3)
