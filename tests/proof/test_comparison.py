"""Two functions compared on pictures: what counts as the same, and where they part."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFunction
from caffeinit.errors import CaffeinitError
from caffeinit.graph.places import Places
from caffeinit.images import as_calibration, read_images
from caffeinit.proof.comparison import Difference, compare
from caffeinit.proof.functions import NetFunction
from tests.engine.test_onnxrun import ROWS, WEIGHT, write_product
from tests.nets import NETS, NetBuilder, pictures


def seen(a, b, cuts=1):
    difference = Difference("x")
    for one, other in zip(np.array_split(a, cuts), np.array_split(b, cuts), strict=True):
        difference.see(one, other)
    return difference


@pytest.mark.parametrize("cuts", [1, 2, 5])
def test_the_cut_into_batches_does_not_matter(cuts):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((10, 3, 4)).astype(np.float32)
    b = a + rng.standard_normal(a.shape).astype(np.float32)
    found = seen(a, b, cuts)
    assert found.gap == np.abs(a - b).max()
    assert found.largest == np.abs(a).max()
    assert found.relative == found.gap / found.largest


INFINITE = float("inf")
CASES = {
    "equal": ([1.0, -2.0], [1.0, -2.0], 0.0),
    "zeros": ([0.0, 0.0], [0.0, 0.0], 0.0),
    "half": ([1.0, -2.0], [1.0, -1.0], 0.5),
    "beside zeros": ([0.0, 0.0], [0.0, 1e-9], INFINITE),
    # The logarithm of 0 on both sides is the same value.
    "same infinities": ([-INFINITE, 2.0], [-INFINITE, 1.0], 0.5),
    "other infinities": ([-INFINITE, 2.0], [INFINITE, 2.0], INFINITE),
    "NaN in one": ([1.0, 2.0], [1.0, np.nan], INFINITE),
    "NaN in both": ([1.0, np.nan], [1.0, np.nan], INFINITE),
}


@pytest.mark.parametrize("case", CASES)
def test_differences_are_relative_to_the_largest_value(case):
    a, b, wanted = CASES[case]
    # A later batch that is equal does not hide what an earlier one had.
    rows = [np.array([*x, 0.0, 0.0], np.float32).reshape(2, 2) for x in (a, b)]
    assert seen(*rows, cuts=2).relative == wanted


def test_other_predictions_are_counted():
    a = np.eye(4, dtype=np.float32)
    b = a.copy()
    b[1] = a[2]
    assert seen(a, b, 2).changed == 1
    assert seen(a.reshape(1, 4, 2, 2), b.reshape(1, 4, 2, 2)).changed is None
    assert seen(a[:0], b[:0]).gap == 0  # a detector that finds nothing


def test_words_are_equal_or_not():
    words = np.array([["cat"], ["dog"]], object)
    assert seen(words, words.copy(), 2).relative == 0
    found = seen(words, words[::-1].copy())
    assert (found.relative, found.unequal, found.counted) == (INFINITE, 2, 2)


@pytest.mark.parametrize("name", NETS)
def test_a_net_is_itself(name):
    one, other = (NetFunction(NETS[name](), label) for label in "ab")
    found = compare(one, other, pictures(), first=True)
    assert found.same
    assert found.num_images == 12
    assert [d.gap for d in found.outputs] == [0.0]
    assert found.parting is None


def test_the_first_value_that_differs_is_named():
    nets = [NETS["inception"]() for _ in range(2)]
    nets[1].params["three"][0][0] *= 1.5
    found = compare(*(NetFunction(net, "") for net in nets), pictures(), first=True)
    assert not found.same
    (unit,) = (u for u in nets[0].units if u.name == "three")
    assert found.parting.name == unit.uses[0].output


def test_the_same_function_may_part_inside():
    nets = [NETS["chain"]() for _ in range(2)]
    for array in nets[1].params["conv1"]:
        array *= 2
    nets[1].params["conv2"][0][...] /= 2
    found = compare(*(NetFunction(net, "") for net in nets), pictures(), first=True)
    assert found.same
    assert found.parting.name == nets[0].units[0].uses[0].output
    assert found.parting.relative == pytest.approx(1, rel=1e-6)


def test_python_compares_networks_on_arrays():
    nets = [NETS["residual"]() for _ in range(2)]
    images = np.concatenate([batch["data"] for batch in pictures()])
    assert caffeinit.compare(*nets, images).same
    nets[1].params["ip"][1][0] += 0.01
    found = caffeinit.compare(*nets, images, first=True)
    assert not found.same
    assert found.outputs[0].gap == pytest.approx(0.01, rel=1e-3)
    assert found.parting.name == nets[0].graph.outputs[0]
    assert caffeinit.compare(*nets, images, tolerance=1).same
    for net in nets:
        net.graph.add_input("label", (4,))
    assert not caffeinit.compare(*nets, {"data": images, "label": np.zeros(len(images))}).same


def test_a_file_that_spells_its_batch_out_is_run_in_pieces(tmp_path):
    free, fixed = (write_product(tmp_path / f"{rows}.onnx", WEIGHT, rows) for rows in ("N", 2))
    found = compare(free, fixed, ROWS, first=True)
    assert found.same
    assert found.num_images == 10
    assert found.outputs[0].largest == pytest.approx(max((b["x"] @ WEIGHT).max() for b in ROWS))


def test_other_names_are_paired_where_there_is_one_of_each(tmp_path):
    one = write_product(tmp_path / "a.onnx", WEIGHT)
    other = write_product(tmp_path / "b.onnx", WEIGHT, names=("data", "prob"), shape=(2, 1, 1))
    found = compare(one, other, ROWS)
    assert found.same
    assert 'output "y" is compared with "prob"' in found.notes[0]


def test_other_shapes_are_a_difference(tmp_path):
    one = write_product(tmp_path / "a.onnx", WEIGHT)
    other = write_product(tmp_path / "b.onnx", np.ones((3, 3)), shape=(3,))
    found = compare(one, other, ROWS)
    assert not found.same
    assert found.outputs[0].shapes == ((5, 2), (5, 3))


def test_an_output_without_pictures_is_left_out(tmp_path):
    net = NETS["chain"]()
    net.graph.add_input("label", (4,))
    net.graph.outputs.append(net.graph.op("Mul", "label", 2.0))
    found = compare(NetFunction(net, "a"), NetFunction(net, "b"), pictures())
    assert len(found.outputs) == 1
    left = [note for note in found.notes if "depends on an input without pictures (label)" in note]
    assert len(left) == 1
    assert left[0].startswith('output "')
    with pytest.raises(CaffeinitError, match="no output to compare"):
        compare(NetFunction(net, "a"), NetFunction(net, "b"), [{"other": np.ones((4, 2), np.float32)}])


def test_inputs_that_differ_are_told_before_outputs_that_do(tmp_path):
    one, two = write_product(tmp_path / "a.onnx", WEIGHT), NETS["chain"]()
    two.graph.add_input("label", (4, 2))
    with pytest.raises(CaffeinitError, match=r"the inputs differ, .* takes .* and two takes .*, label"):
        compare(one, NetFunction(two, "two"), ROWS)


def test_halves_are_compared_in_full_and_their_steps_told():
    a = np.array([[60000.0, -60000.0]], np.float16)
    found = seen(a, -a)
    assert (found.largest, found.gap) == (float(a[0, 0]), 2 * float(a[0, 0]))
    assert found.step == pytest.approx(1e-3, rel=0.05)
    assert seen(a.astype(np.int64), a.astype(np.int64)).step == 0


def test_whole_numbers_are_equal_or_not():
    a = np.arange(12).reshape(4, 3)
    b = a.copy()
    assert seen(a, b, 2).relative == 0
    b[1, 2] += 1
    found = seen(a, b, 2)
    assert (found.unequal, found.counted, found.changed) == (1, 12, None)
    assert found.relative == INFINITE
    assert found.told_apart() == "1 of 12 whole numbers differ"
    assert seen(a > 3, b > 6).unequal == 3
    assert seen(a, b.astype(np.float32)).relative == pytest.approx(1 / 11)  # one side does not say that they are whole


RANKED = np.float32([[3, 2, 2 + 1e-5, 0], [1, 5, 5, -4]])


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize(
    ("a", "b", "ties", "same"),
    [
        ([[0, 2], [1, 2]], [[0, 1], [2, 1]], 3, True),
        ([[0, 2], [1, 2]], [[2, 0], [1, 2]], 0, False),
        ([[0, 2], [1, 2]], [[0, 1], [1, 3]], 1, False),
        ([[0, 2], [1, 2]], [[0, 7], [1, 2]], 0, False),  # no place there
    ],
)
def test_places_of_values_that_tie_may_differ(a, b, ties, same, cuts):
    difference = Difference("places", places=Places("x", -1))
    for rows in np.array_split(np.arange(2), cuts):
        difference.see(np.asarray(a)[rows], np.asarray(b)[rows], RANKED[rows])
    assert difference.ties == ties
    assert (difference.relative == 0) == same


def ranking(path, weight, kind, keepdims=1):
    """Write a model with y = x W, and the place of its largest number, or its two largest with their places."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if kind == "TopK":
        nodes.append(helper.make_node("TopK", ["y", "two"], ["top", "raw"], axis=1))
        nodes.append(helper.make_node("Cast", ["raw"], ["places"], to=1))
    else:
        nodes.append(helper.make_node(kind, ["y"], ["raw"], axis=1, keepdims=keepdims))
        nodes.append(helper.make_node("Identity", ["raw"], ["places"]))
    outputs = [helper.make_empty_tensor_value_info(n) for n in ("places", "y")]
    arrays = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.asarray([2]), "two")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, ["N", 3])], outputs, arrays)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize("kind", ["ArgMax", "ArgMin", "TopK"])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_places_of_a_model_are_held_against_its_values(kind, keepdims, tmp_path):
    weight = np.float32([[1, 1, -1], [2, 2, -3], [0.5, 0.5, 1]])
    if kind == "ArgMin":
        weight = -weight
    nudged = weight * np.float32([1, 1 + 1e-6, 1])
    other = weight * np.float32([1, 1.2, 1])
    x = np.abs(np.random.default_rng(0).standard_normal((6, 3))).astype(np.float32)
    paths = [ranking(tmp_path / f"{i}.onnx", w, kind, keepdims) for i, w in enumerate((weight, nudged, other))]
    files = [OnnxFunction(path, threads=1) for path in paths]
    for sides in (files, [NetFunction(caffeinit.load(path), str(path)) for path in paths]):
        one, near, far = sides
        found = compare(one, near, [{"x": x}])
        assert found.same
        places = found.outputs[0]
        assert places.unequal == places.ties > 0
        assert any("all of them between values that tie" in note for note in found.notes)
        assert not compare(one, far, [{"x": x}]).same


def unsure(change=0.0):
    """A net that is nowhere sure of anything: its sigmoid puts out a few steps of rounding."""
    b = NetBuilder()
    x = b.relu(b.conv("data", "conv1", 6))
    head = b.graph.op("Conv", x, b.array("head", 0, (2, 6, 1, 1)), b.array("head", 1, (2,)), kernel_shape=[1, 1])
    net = b.finish(b.graph.reshape(b.graph.op("Sigmoid", head), [4, 240]))
    net.params["head"][1][...] = -13 + change
    return net


def test_what_a_sigmoid_rounds_is_no_difference_where_it_reads_the_same():
    net, other, batches = unsure(), unsure(), pictures()
    caffeinit.rescale(other, batches, mode="equalize")
    found = caffeinit.compare(net, other, batches)
    output, *heads = found.outputs
    assert output.gap > 1e-4 * output.largest > 0  # as a part of what it puts out, more than the tolerance
    assert found.same
    assert len(heads) == 1


def test_what_a_sigmoid_hides_shows_in_what_it_reads():
    found = caffeinit.compare(unsure(), unsure(change=0.01), pictures())
    assert [found.agree(d) for d in found.outputs] == [True, False]
    assert not found.same


def test_runs_of_several_rows_count_once_wherever_they_are_counted():
    """Of inputs with different numbers of rows, which a net spells out, a run is what the head and the verdict tell."""
    b = NetBuilder((6, 3, 8, 8))
    b.graph.add_input("state", (2, 5))
    b.graph.batch_axis_free = False
    pooled = b.graph.op("ReduceMean", b.conv("data", "conv1", 5), axes=[0, 2, 3], keepdims=0)
    net = b.finish(b.product(b.graph.op("Mul", "state", pooled), "ip", 4))
    rng = np.random.default_rng(0)
    arrays = {"data": rng.standard_normal((12, 3, 8, 8)), "state": rng.standard_normal((4, 5))}
    images = read_images(net.inputs, {n: a.astype(np.float32) for n, a in arrays.items()}, whole_batches=True)
    found = caffeinit.compare(net, net, images)
    assert "2 of 2 runs of the net, which spells out how many rows each takes: data 6, state 2" in images.describe()
    assert (found.num_images, images.num_images, as_calibration(list(images), net.inputs).num_images) == (2, 2, 2)
    assert (found.outputs[0].changed, found.outputs[0].rows) == (0, 4)
    assert caffeinit.measure(net, images, rate_batches=1).num_rate_images == 1
