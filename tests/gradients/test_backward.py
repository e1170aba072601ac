"""`Network.backward`: what it returns for other batches, other picture sizes, shared arrays and wrong questions."""

import re

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.session import Settings
from caffeinit.errors import CaffeinitError
from tests.caffe.test_golden import group, load_case
from tests.engine.test_resident import filtered
from tests.nets import chain, pictures


@pytest.fixture(scope="module")
def lenet():
    return load_case("net_lenet")


# Ten pictures are more than one piece of the batch, and no whole number of them; two are one.
@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("name", ["net_lenet", "net_inception", "net_resnet", "net_siamese"])
def test_a_batch_is_the_sum_of_its_images(name, count):
    net, archive = load_case(name)
    rng = np.random.default_rng(3)
    inputs, tops = (
        {k: rng.standard_normal((count, *a.shape[1:]), np.float32) for k, a in group(archive, part).items()}
        for part in ("in/", "topdiff/")
    )
    whole = net.backward(inputs, tops)
    single = [
        net.backward({k: a[i : i + 1] for k, a in inputs.items()}, {k: a[i : i + 1] for k, a in tops.items()})
        for i in range(count)
    ]
    for layer, arrays in whole.params.items():
        for index, array in enumerate(arrays):
            summed = sum(s.params[layer][index] for s in single)
            # The order of a few thousand sums.
            np.testing.assert_allclose(summed, array, rtol=0, atol=1e-5 * np.abs(array).max())
    for blob, array in whole.inputs.items():
        parts = np.concatenate([s.inputs[blob] for s in single])
        np.testing.assert_allclose(parts, array, rtol=0, atol=1e-5 * np.abs(parts).max())


@pytest.mark.parametrize("name", ["net_lenet", "net_inception"])
def test_threads_do_not_show_in_the_gradients_of_many_pictures(name):
    net, archive = load_case(name)
    inputs, tops = ({k: np.repeat(a, 3, 0) for k, a in group(archive, part).items()} for part in ("in/", "topdiff/"))
    found = []
    for threads in (1, 2):
        net.settings = Settings(threads)
        found.append(net.backward(inputs, tops))
    for layer, arrays in found[0].params.items():
        for one, other in zip(arrays, found[1].params[layer], strict=True):
            np.testing.assert_array_equal(one, other)


def test_pictures_that_share_a_loss_are_not_taken_apart(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text("""
        layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 4 } } }
        layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 kernel_size: 1 } }
        layer { name: "loss" type: "EuclideanLoss" bottom: "c" bottom: "x" top: "loss" }
    """)
    net = caffeinit.load(path)
    x = np.random.default_rng(1).standard_normal((10, 3, 4, 4), np.float32)
    net.params["c"][1][...] = 1
    found = net.backward({"x": x}, {"loss": np.ones((), np.float32)})
    # The loss is sum (1 - x)^2 / 2N.
    np.testing.assert_allclose(found.params["c"][1], (1 - x).sum((0, 2, 3)) / 10, rtol=1e-5)


def test_changed_weights_count():
    net, archive = load_case("net_lenet")
    ask = {"x": archive["in/x"]}, {"prob": archive["topdiff/prob"]}
    before = net.backward(*ask)
    net.params["conv1"][0][...] *= 0.5
    after = net.backward(*ask)
    assert np.abs(after.params["ip2"][0] - before.params["ip2"][0]).max() > 0


def test_only_the_inputs_asked_for_have_gradients(lenet):
    net, archive = lenet
    ask = {"x": archive["in/x"]}, {"prob": archive["topdiff/prob"]}
    few, all_inputs = net.backward(*ask, blobs=[]), net.backward(*ask)
    assert few.inputs == {}
    assert list(all_inputs.inputs) == ["x"]
    for layer, arrays in all_inputs.params.items():
        for one, other in zip(few.params[layer], arrays, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())


def test_another_picture_size_gives_the_slope_along_a_direction():
    net, archive = load_case("net_fcn")
    rng = np.random.default_rng(4)
    x = np.pad(archive["in/x"], ((0, 0), (0, 0), (0, 4), (0, 6)), mode="wrap")
    top = net.forward({"x": x}, ["out"])["out"]
    diff = rng.standard_normal(top.shape).astype(np.float32)
    found = net.backward({"x": x}, {"out": diff})
    weights = net.params["score"][0]
    step = rng.standard_normal(weights.shape).astype(np.float32)
    weights += step
    above = net.forward({"x": x}, ["out"])["out"]
    weights -= step
    # The top is linear in these weights: the difference is exact but for rounding.
    slope = float(((above - top) * diff).sum())
    assert found.params["score"][0].shape == weights.shape
    assert slope == pytest.approx(float((found.params["score"][0] * step).sum()), rel=1e-4)
    assert found.inputs["x"].shape == x.shape


def test_layers_that_share_an_array_share_the_sum():
    net, archive = load_case("net_siamese")
    found = net.backward(group(archive, "in/"), group(archive, "topdiff/"))
    assert found.params["conv_a"][0] is found.params["conv_b"][0]


def test_what_no_top_depends_on_gets_zeros(lenet):
    net, archive = lenet
    shape = net.forward({"x": archive["in/x"]}, ["conv1"])["conv1"].shape
    found = net.backward({"x": archive["in/x"]}, {"conv1": np.ones(shape)})
    assert np.abs(found.params["conv1"][0]).max() > 0
    for array, own in zip(found.params["ip2"], net.params["ip2"], strict=True):
        np.testing.assert_array_equal(array, np.zeros(own.shape))


@pytest.mark.parametrize(
    ("tops", "blobs", "words"),
    [
        ({"prob": (4, 11)}, None, 'the top diff of "prob" is (4, 11), but the blob is (4, 10)'),
        ({"prop": (4, 10)}, None, 'blob "prop" is not there'),
        ({"prob": (4, 10)}, ["y"], 'input "y" was not given'),
    ],
)
def test_a_question_that_does_not_fit_is_refused(lenet, tops, blobs, words):
    net, archive = lenet
    with pytest.raises(CaffeinitError) as refused:
        net.backward({"x": archive["in/x"]}, {t: np.ones(s) for t, s in tops.items()}, blobs)
    assert words in str(refused.value)


@pytest.mark.parametrize("shape", [(7, 9), (14, 5), (4, 5), (5,)], ids=str)
def test_of_another_batch_the_shape_in_this_run_is_told(shape):
    net = chain()
    data = np.ones((7, *net.inputs["data"][1:]), np.float32)
    with pytest.raises(CaffeinitError, match=re.escape(f"is {shape}, but the blob is (7, 5)")):
        net.backward({"data": data}, {net.outputs[0]: np.ones(shape)})


def test_a_top_diff_has_as_many_rows_as_the_data_chose():
    net, data = filtered(), pictures()[0]["data"]
    (chosen,) = net.forward({"data": data}, net.outputs).values()
    assert -1 in net.graph.shape(net.outputs[0])
    found = net.backward({"data": data}, {net.outputs[0]: np.ones_like(chosen)}).params
    assert all(np.abs(array).max() > 0 for arrays in found.values() for array in arrays)
    with pytest.raises(CaffeinitError, match=rf"is \(99, .*but the blob is \({len(chosen)}, "):
        net.backward({"data": data}, {net.outputs[0]: np.ones((99, *chosen.shape[1:]))})


# onnxruntime put values of other rows into each other's memory where the top diffs' rows all bore the batch's name.
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    ("text", "tops"),
    [
        (
            """
            layer { name: "cut" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 0 } }
            layer { name: "join" type: "Concat" bottom: "a" bottom: "a" bottom: "a" top: "c" }
            layer { name: "s" type: "Softmax" bottom: "x" top: "s" }
            """,
            ["b", "c", "s"],
        ),
        (
            """
            layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 5 } } }
            layer { name: "q" type: "InnerProduct" bottom: "p" top: "q" inner_product_param { num_output: 5 } }
            layer { name: "r" type: "InnerProduct" bottom: "q" top: "r" inner_product_param { num_output: 5 } }
            layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" inner_product_param { num_output: 5 } }
            layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" inner_product_param { num_output: 5 } }
            """,
            ["r", "b"],
        ),
    ],
)
def test_tops_with_other_rows_than_the_batch_have_gradients_of_their_own(tmp_path, text, tops, count):
    path = tmp_path / "net.prototxt"
    path.write_text('layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 5 } } }' + text)
    net = caffeinit.load(path)
    rng = np.random.default_rng(5)
    for array in (a for arrays in net.params.values() for a in arrays):
        array[...] = rng.standard_normal(array.shape)
    inputs = {"x": rng.standard_normal((count, 5), np.float32)}
    diffs = {top: rng.standard_normal(value.shape, np.float32) for top, value in net.forward(inputs, tops).items()}
    together, apart = net.backward(inputs, diffs), [net.backward(inputs, {top: d}) for top, d in diffs.items()]
    for layer, arrays in together.params.items():
        for index, array in enumerate(arrays):
            np.testing.assert_allclose(sum(g.params[layer][index] for g in apart), array, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(sum(g.inputs["x"] for g in apart), together.inputs["x"], rtol=1e-4, atol=1e-5)
