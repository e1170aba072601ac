"""Windows of pooling that lie where onnxruntime has them, and onnx does not."""

import numpy as np
import pytest

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
def test_windows_shorter_than_their_stride_are_found_where_they_are(auto_pad):
    graph = Graph()
    y = graph.op("LpPool", graph.add_input("x", (1, 1, 6)), kernel_shape=[1], strides=[3], auto_pad=auto_pad)
    graph.add_input("dy", graph.shape(y))
    (dx,) = append_backward(graph, {y: "dy"}, ["x"]).values()
    session = compile_graph(graph, [y, dx], Settings(threads=1))
    feeds = {"x": np.arange(1.0, 7, dtype=np.float32).reshape(1, 1, 6), "dy": np.ones((1, 1, 2), np.float32)}
    found = session.run(feeds)
    read = np.isin(feeds["x"], found[y])
    assert read.sum() == 2
    np.testing.assert_allclose(found[dx], read, rtol=1e-6)
