"""Sessions have weights of their own, and tell which node went wrong."""

import numpy as np
import pytest

from caffeinit.engine.session import Session, Settings
from caffeinit.errors import CaffeinitError
from tests.nets import NetBuilder


def test_arrays_that_change_change_nothing_in_a_session():
    b = NetBuilder()
    b.graph.add_initializer("shift", np.ones((4, 3, 120, 100), np.float32))
    b.graph.outputs = [b.graph.op("Add", b.graph.op("ReduceMean", "data"), "shift")]
    session = Session(b.graph, Settings(threads=1))
    b.graph.initializers["shift"][...] = 7
    (value,) = session.run({"data": np.zeros((4, 3, 12, 10), np.float32)}).values()
    assert (value == 1).all()


def test_an_error_names_the_layer_that_onnxruntime_refuses():
    b = NetBuilder()
    b.graph.scope = "unpool4"
    index = b.graph.op("Cast", b.graph.op("ReduceMax", "data", keepdims=0), to=7)
    b.graph.outputs = [b.graph.op("Gather", "data", index, axis=2)]
    session = Session(b.graph, Settings(threads=1))
    with pytest.raises(CaffeinitError, match=r'node "unpool4/Gather" \(Gather\): indices'):
        session.run({"data": np.full((4, 3, 12, 10), 12, np.float32)})


def test_nodes_of_a_file_keep_their_names_beside_values_of_the_same_name():
    b = NetBuilder()
    b.graph.op("Relu", "data", name="below")
    b.graph.nodes[-1].name = "top"
    b.graph.outputs = [b.graph.op("Neg", "below", name="top")]
    (value,) = Session(b.graph, Settings(threads=1)).run({"data": np.ones((4, 3, 12, 10), np.float32)}).values()
    assert (value == -1).all()


def test_a_turned_value_can_be_multiplied_and_put_out():
    b = NetBuilder(shape=(4, 3))
    turned, other = (b.graph.op("Transpose", x, perm=[1, 0]) for x in ("data", b.graph.op("Relu", "data")))
    b.graph.outputs = [b.graph.op("Gemm", turned, other, transB=1), turned]
    data = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    product, found = Session(b.graph, Settings(threads=1)).run({"data": data}).values()
    np.testing.assert_array_equal(found, data.T)
    np.testing.assert_allclose(product, data.T @ np.maximum(data, 0), rtol=0, atol=1e-6)


def test_what_cannot_be_set_up_is_told_by_the_error_alone(monkeypatch, capfd):
    def refuse(*arguments):
        raise RuntimeError("something is wrong")

    monkeypatch.setattr("onnxruntime.InferenceSession._create_inference_session", refuse)
    b = NetBuilder()
    b.graph.outputs = [b.graph.op("Relu", "data")]
    with pytest.raises(CaffeinitError, match="cannot be set up with these inputs: something is wrong"):
        Session(b.graph, Settings(threads=1))
    assert capfd.readouterr() == ("", "")
