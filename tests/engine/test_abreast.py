"""Parts of a batch side by side: the same bytes as the whole, and only where no picture sees another."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import helper

from caffeinit.engine.abreast import Abreast
from caffeinit.engine.session import Session, Settings
from caffeinit.graph import Graph
from caffeinit.graph.rowwise import is_rowwise


def made(*nodes: onnx.NodeProto, batch: int = 4) -> Graph:
    graph = Graph()
    graph.add_input("x", (batch, 3, 6, 5))
    rng = np.random.default_rng(0)
    graph.add_initializer("w", rng.standard_normal((4, 3, 3, 3), np.float32))
    graph.add_initializer("c", rng.standard_normal((1, 4, 1, 1), np.float32))
    for node in nodes:
        graph.append(node)
    graph.outputs = [nodes[-1].output[0]]
    graph.batch_axis_free = True
    return graph


CONV = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
ROWWISE = {
    "conv, relu, pool": [
        CONV,
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["z"], kernel_shape=[2, 2], strides=[2, 2]),
    ],
    "branches": [
        CONV,
        helper.make_node("Mul", ["y", "c"], ["s"]),
        helper.make_node("Add", ["y", "s"], ["a"]),
        helper.make_node("Concat", ["a", "y"], ["z"], axis=1),
    ],
    "softmax": [CONV, helper.make_node("Softmax", ["y"], ["z"], axis=1)],
}
MIXED = {
    "mean over the batch": [CONV, helper.make_node("ReduceMean", ["y"], ["z"], axes=[0])],
    "batch statistics": [
        CONV,
        helper.make_node("ReduceMean", ["y"], ["m"], axes=[0, 2, 3]),
        helper.make_node("Sub", ["y", "m"], ["z"]),
    ],
    "softmax over the batch": [CONV, helper.make_node("Softmax", ["y"], ["z"], axis=0)],
    "joined pictures": [helper.make_node("Concat", ["x", "x"], ["z"], axis=0)],
    "turned": [helper.make_node("Transpose", ["x"], ["z"], perm=[1, 0, 2, 3])],
    "unknown operator": [helper.make_node("Mystery", ["x"], ["z"], domain="elsewhere")],
}


@pytest.mark.parametrize("name", ROWWISE)
@pytest.mark.parametrize("pictures", [1, 2, 7])
def test_parts_give_the_bytes_of_the_whole(name: str, pictures: int) -> None:
    from concurrent.futures import ThreadPoolExecutor

    graph = made(*ROWWISE[name])
    assert is_rowwise(graph)
    x = np.random.default_rng(1).standard_normal((pictures, 3, 6, 5), np.float32)
    whole = Session(graph, Settings(threads=1)).run({"x": x})["z"]
    into = {"z": np.full_like(whole, np.nan)}
    with ThreadPoolExecutor(3) as pool:
        cut = Abreast(graph, dataclasses.replace(Settings(), threads=3), pool)
        assert cut.fits({"x": x})
        seen = list(cut.run_parts({"x": x}, into, lambda given: None, lambda made: len(made["z"])))
    np.testing.assert_array_equal(into["z"], whole)
    assert sum(seen) == pictures
    assert len(seen) >= min(pictures, 3)


@pytest.mark.parametrize("name", MIXED)
@pytest.mark.parametrize("batch", [1, 4])
def test_what_joins_pictures_is_not_cut(name: str, batch: int) -> None:
    assert not is_rowwise(made(*MIXED[name], batch=batch))
