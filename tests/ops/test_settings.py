"""Settings and second outputs that make another function of an operator, or one without a gradient."""

import numpy as np
import pytest
from onnx import TensorProto

from caffeinit.engine.session import Settings, compile_graph
from caffeinit.errors import GradientError
from caffeinit.gradients.reverse import append_backward
from caffeinit.graph import Graph
from tests.ops.checks import case, check_scale

INDICES, TUPLES = np.asarray([[0, 1], [2, 3]]), np.asarray([[0], [2]])
SCATTERED = [
    (("ScatterElements", (2, 4), INDICES, (2, 2)), {"axis": 1}),
    (("ScatterND", (3, 4), TUPLES, (2, 4)), {}),
]


@pytest.mark.parametrize(("reduction", "is_free"), [("none", 1), ("add", 1), ("max", 1), ("min", 1), ("mul", 0)])
@pytest.mark.parametrize(("operands", "attributes"), SCATTERED, ids=["elements", "slices"])
def test_what_is_put_at_indices_passes_scales_unless_it_multiplies(operands, attributes, reduction, is_free):
    row = case(*operands, reduction=reduction, is_bound=True, opset=18, **attributes)
    assert check_scale(row) == is_free


@pytest.mark.parametrize("reduction", ["max", "min", "mul"])
@pytest.mark.parametrize(("operands", "attributes"), SCATTERED, ids=["elements", "slices"])
def test_a_constant_that_is_put_at_indices_holds_the_scale(operands, attributes, reduction):
    updates = np.random.default_rng(0).uniform(-2, 2, operands[-1]).astype(np.float32)
    row = case(*operands[:-1], updates, reduction=reduction, is_bound=True, opset=18, **attributes)
    assert check_scale(row) == 0


def test_regions_of_any_picture_have_the_scale_of_all_pictures():
    boxes = np.asarray([[0, 0, 4, 3], [1, 1, 5, 5], [0, 2, 3, 4]], np.float32)
    row = case(
        "RoiAlign", (2, 3, 6, 6), boxes, np.asarray([0, 1, 1]), output_height=2, output_width=2, sampling_ratio=2,
        is_bound=True,
    )  # fmt: skip
    assert check_scale(row, by_row=True) == 3


def test_what_a_norm_puts_out_beside_its_result_is_not_differentiated():
    graph = Graph()
    graph.add_input("x", (2, 3, 4))
    y, mean, _ = graph.ops("LayerNormalization", "x", np.ones(4, np.float32), outputs=3)
    top = graph.op("Add", y, mean)
    diff = graph.add_input("dy", graph.shape(top))
    with pytest.raises(GradientError, match="beside its first output"):
        append_backward(graph, {top: diff}, ["x"])


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_gradients_pass_through_rounding_to_halves(kind):
    graph = Graph()
    graph.add_input("x", (2, 3))
    top = graph.op("Cast", graph.op("Cast", "x", to=kind), to=TensorProto.FLOAT)
    diff = graph.add_input("dy", (2, 3))
    gradient = append_backward(graph, {top: diff}, ["x"])["x"]
    dy = np.arange(6, dtype=np.float32).reshape(2, 3)  # such as halves hold exactly
    found = compile_graph(graph, [gradient], Settings(threads=1)).run({"dy": dy})[gradient]
    np.testing.assert_array_equal(found, dy)
