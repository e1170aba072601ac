"""Detectors as exporters write them: one picture without a batch, anchors from shapes, lists that the data choose."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.graph.heads import chosen_from, find_heads
from caffeinit.proof.comparison import compare
from caffeinit.proof.functions import ToldFunction
from caffeinit.proof.verify import Difference, is_kept
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import load
from tests.onnxfile.test_kinds import Maker, helper, info, numpy_helper, tensor


def constant(b, name, values):
    return b.op("Constant", out=name, value=tensor("", np.asarray(values)))


def resized(b, x):
    """Return a picture (3, 8, 6) at twice its size, as torchvision computes that from its shape."""
    sides = b.op("Cast", b.op("Slice", b.op("Shape", x, out="shape"), "one", "three", out="sides"), out="real", to=1)
    shortest = b.op("ReduceMin", sides, out="shortest", keepdims=0)
    factor = b.op("Mul", b.op("Reciprocal", shortest, out="inverse"), constant(b, "twelve", np.float32(12)), out="f")
    wanted = b.op("Cast", b.op("Floor", b.op("Mul", sides, factor, out="large"), out="whole"), out="size", to=7)
    sizes = b.op("Concat", constant(b, "two", np.int64([1, 3])), wanted, out="sizes", axis=0)
    batch = b.op("Unsqueeze", x, constant(b, "zero", np.int64([0])), out="batch")
    return b.op("Resize", batch, "", "", sizes, out="resized", mode="nearest")


def boxed(b, x):
    """Return boxes (1, K, 4) and scores (1, 2, K) of x (1, 5, h, w), one for each place."""
    deltas = b.op("Reshape", b.conv(x, "deltas", 5, 4), constant(b, "rows", np.int64([1, 4, -1])), out="flat")
    deltas = b.op("Transpose", deltas, out="turned", perm=[0, 2, 1])
    count = b.op("Gather", b.op("Shape", deltas, out="s"), constant(b, "at", np.int64(1)), out="count")
    numbers = b.op("Range", constant(b, "none", np.int64(0)), count, constant(b, "step", np.int64(1)), out="numbers")
    column = b.op("Reshape", b.op("Cast", numbers, out="n", to=1), constant(b, "shaped", np.int64([-1, 1])), out="col")
    anchors = b.op("Mul", column, b.array("anchors", 1, 4), out="grid")
    boxes = b.op("Add", deltas, anchors, out="boxes")
    scores = b.op("Reshape", b.conv(x, "classes", 5, 2), constant(b, "planes", np.int64([1, 2, -1])), out="planar")
    return boxes, b.op("Sigmoid", scores, out="scores")


def chosen(b, boxes, scores):
    """Return the boxes that remain, behind an If as torch writes it to squeeze an axis away."""
    most = constant(b, "most", np.int64(3))
    kept = b.op("NonMaxSuppression", boxes, scores, most, out="kept")
    column = b.op("Slice", kept, constant(b, "from", np.int64([2])), constant(b, "to", np.int64([3])), "last", out="c")
    flag = b.op("Equal", b.op("Size", kept, out="many"), constant(b, "never", np.int64(-1)), out="flag")
    branches = [
        helper.make_graph([helper.make_node(kind, ["c", *more], [f"{kind}o"])], kind, [], [info(f"{kind}o", None, 7)])
        for kind, more in (("Identity", []), ("Squeeze", ["last"]))
    ]
    b.nodes.append(helper.make_node("If", [flag], ["rows_of"], "if", then_branch=branches[0], else_branch=branches[1]))
    assert column == "c"
    return b.op("Gather", b.op("Squeeze", boxes, "zero", out="all"), "rows_of", out="y")


def detector():
    b = Maker(shape=(3, 8, 6))
    for name, value in (("one", 1), ("three", 3), ("last", 1)):
        constant(b, name, np.int64([value]))
    x = b.op("Relu", b.conv(resized(b, "x"), "conv1", 3, 5), out="relu")
    chosen(b, *boxed(b, b.op("Relu", b.conv(x, "conv2", 5, 5), out="features")))
    return b


@pytest.fixture
def path(tmp_path):
    return detector().save(tmp_path / "net.onnx")


def pictures(num=4):
    return np.random.default_rng(1).standard_normal((num, 3, 8, 6)).astype(np.float32)


def test_the_heads_of_lists_are_what_they_are_chosen_from(path):
    net = load(path)
    assert find_heads(net.graph, net.learned) == ["boxes", "planar"]


def test_what_pictures_do_not_move_is_no_unit(path):
    assert [unit.name for unit in load(path).units] == [f"{n}.weight" for n in ("conv1", "conv2", "deltas", "classes")]


def test_all_units_have_rates(path):
    found = caffeinit.measure(load(path), pictures())
    assert found.num_images == found.num_rate_images == 4
    assert all(unit.rate > 0 for unit in found.units)


def test_pictures_go_one_by_one_into_an_input_that_takes_one(path):
    net = load(path)
    assert net.inputs == {"x": (1, 3, 8, 6)}
    each = [net.forward({"x": picture[None]})["features"] for picture in pictures()]
    assert {one.shape for one in each} == {(1, 5, 16, 12)}
    moments = caffeinit.measure(net, pictures()).units[0].stats
    assert moments.std > 0


@pytest.mark.parametrize("mode", [EXACT, "balance"])
def test_the_written_file_takes_the_same_picture(mode, path, tmp_path):
    net = load(path)
    caffeinit.rescale(net, pictures(), **options_of(mode))
    net.save(tmp_path / "out.onnx")
    found = compare(*(OnnxFunction(p) for p in (path, tmp_path / "out.onnx")), [{"x": pictures()}])
    assert found.same
    assert found.num_images == 4


def test_files_of_pictures_are_fed_to_an_input_that_takes_one(path):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 3, 8, 6), np.uint8)
    read = list(caffeinit.read_images(load(path), pixels))
    assert [batch["x"].shape for batch in read] == [(1, 3, 8, 6)] * 3


def test_a_list_tells_what_it_is_chosen_from_where_nothing_learned_stands_between(path):
    net = load(path)
    assert chosen_from(net.graph, net.learned, "y") == ("boxes", "planar")
    assert chosen_from(net.graph, net.learned, "boxes") == ()
    assert chosen_from(net.graph, [*net.learned, "from"], "y") == ()


def test_lists_are_kept_where_what_they_are_chosen_from_is():
    found = {name: Difference(name, largest=1.0, gap=gap) for name, gap in (("boxes", 1e-7), ("scores", 1e-2))}
    for told, kept in ((["boxes"], True), (["boxes", "scores"], False), (["boxes", "unknown"], False), ([], False)):
        assert is_kept(Difference("y", largest=1.0, gap=0.5, chosen_from=tuple(told)), found, 1e-4) is kept


@pytest.mark.parametrize("mode", ["preserve", "equalize"])
def test_scores_that_tie_but_for_rounding_may_change_places(mode, tmp_path):
    b = detector()
    rows = {row.name: numpy_helper.to_array(row).copy() for row in b.initializers}
    for name in ("conv2.weight", "conv2.bias"):  # the second channel is the first one, enlarged
        rows[name][1] = 1.7 * rows[name][0]
    rows["classes.weight"] *= 1e-7  # so that what is left of their difference, by rounding, ranks the scores
    rows["classes.weight"][:, 0, 1, 1], rows["classes.weight"][:, 1, 1, 1] = 1.7 * 30, -30
    rows["classes.bias"][:] = 1
    for row in b.initializers:
        row.CopyFrom(tensor(row.name, rows[row.name]))
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, pictures(16), mode=mode)
    assert result.units[0].done
    assert max(result.outputs_moved.values()) < 1e-4
    assert any("has other entries" in note for note in result.notes)
    net.save(out)
    found = compare(ToldFunction(OnnxFunction(path), load(path)), OnnxFunction(out), [{"x": pictures(16)}])
    assert not found.same
    assert any("but what they are chosen from is the same" in note for note in found.notes)
