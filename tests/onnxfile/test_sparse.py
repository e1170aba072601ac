"""Sparse initializers: what they are filled up to, that they stay byte for byte, and what damage is said to be."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import caffeinit
from caffeinit.errors import WeightsError
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch

DIMS = (5, 5, 3, 3)
REASON = "is stored as a sparse array: its zeros stay, and so do its other numbers"


def sparse(places, values=None, dims=DIMS, name="sparse"):
    values = np.linspace(-1, 1, len(places)).astype(np.float32) if values is None else values
    places = numpy_helper.from_array(np.asarray(places), "")
    return helper.make_sparse_tensor(numpy_helper.from_array(values, name), places, dims)


def save(path, tensor, **options):
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    x = b.op("Relu", b.op("Conv", x, "sparse", out="c2", pads=[1] * 4), out="r2")
    b.conv(b.op("Relu", b.conv(x, "conv3", 5, 6), out="r3"), "conv4", 6, 4, out="y")
    model = b.model()
    model.graph.sparse_initializer.append(tensor)
    onnx.save(model, path, **options)
    return path


PLACES = np.asarray([3, 17, 40, 90, 91, 133, 224])
FORMS = [PLACES, np.stack(np.unravel_index(PLACES, DIMS), 1)]


@pytest.mark.parametrize("places", FORMS, ids=["flat", "by axis"])
def test_sparse_weights_are_computed_with_and_left_alone(places, tmp_path):
    path, out = save(tmp_path / "net.onnx", sparse(places)), tmp_path / "out.onnx"
    net = load(path)
    found = net.params["sparse"][0]
    wanted = np.zeros(DIMS, np.float32)
    wanted.reshape(-1)[PLACES] = np.linspace(-1, 1, 7)
    np.testing.assert_array_equal(found, wanted)
    result = caffeinit.rescale(net, {"x": batch(8)}, mode="equalize")
    assert {u.name: u.reason for u in result.units}["sparse"] == f"its weight {REASON}"
    assert {u.name for u in result.units if u.done == "equalized"} == {"conv3.weight"}
    net.save(out)
    before, after = onnx.load(path), onnx.load(out)
    assert before.graph.sparse_initializer[0] == after.graph.sparse_initializer[0]
    assert_same_function(path, out, "x", batch())


def test_sparse_weights_are_not_drawn(tmp_path):
    net = load(save(tmp_path / "net.onnx", sparse(PLACES)))
    before = net.params["sparse"][0].copy()
    caffeinit.init(net, {"x": batch(8)})
    np.testing.assert_array_equal(net.params["sparse"][0], before)
    net.save(tmp_path / "out.onnx")


BAD = [
    (sparse([3, 225]), "a place lies outside of its shape"),
    (sparse([-1, 3]), "a place lies outside of its shape"),
    (sparse([[1, 1], [2, 2]]), "2 numbers of an array .* have places of type int64 and shape"),
    (sparse([3, 4], dims=(1 << 20, 1 << 20)), r'sparse initializer "sparse": its shape .* more than is filled up'),
    (sparse([3, 4], name="conv1.bias"), 'two initializers are named "conv1.bias"'),
]


@pytest.mark.parametrize(("tensor", "words"), BAD, ids=lambda v: "" if not isinstance(v, str) else v[:20])
def test_damaged_sparse_tensors_are_refused(tensor, words, tmp_path):
    path = save(tmp_path / "net.onnx", tensor)
    with pytest.raises(caffeinit.errors.CaffeinitError, match=words):
        load(path)


def test_a_sparse_tensor_without_places_is_refused(tmp_path):
    tensor = sparse(PLACES)
    tensor.ClearField("indices")
    with pytest.raises(WeightsError, match="lacks a list of numbers, their places or its shape"):
        load(save(tmp_path / "net.onnx", tensor))
