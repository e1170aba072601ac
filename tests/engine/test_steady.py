"""How many threads there are changes no bit of what products with weights give."""

import numpy as np
import pytest

import caffeinit
from caffeinit.engine.session import Session, Settings, fed_weights
from caffeinit.graph import Graph

INPUTS = 3072


def product(outputs, kind="Gemm"):
    """Return a graph of one product, with pictures it is run on."""
    rng, graph = np.random.default_rng(0), Graph()
    shape = (outputs, INPUTS) if kind == "Gemm" else (INPUTS, outputs)
    weight = graph.add_initializer("w", rng.standard_normal(shape).astype(np.float32))
    x = graph.add_input("x", (16, INPUTS))
    graph.op(kind, x, weight, name="y", **({"transB": 1} if kind == "Gemm" else {}))
    graph.outputs = ["y"]
    return graph, rng.standard_normal((16, INPUTS)).astype(np.float32)


@pytest.mark.parametrize("fed", [(), ("w",)])
@pytest.mark.parametrize("outputs", [10, 32, 64, 100, 128, 300, 2048])
@pytest.mark.parametrize("kind", ["Gemm", "MatMul"])
def test_sums_have_one_order(kind, outputs, fed):
    graph, x = product(outputs, kind)
    found = [Session(graph, Settings(threads=t), fed).run({"x": x})["y"] for t in (1, 2, 3, 8)]
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize(("outputs", "is_fed"), [(2047, False), (2048, True)])
def test_wide_matrices_are_fed(outputs, is_fed):
    assert fed_weights(product(outputs)[0]) == ["w"] * is_fed


@pytest.mark.parametrize("balanced", [False, True])
def test_threads_change_no_weight(balanced, tmp_path):
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 32 dim: 32 } } }\n'
        'layer { name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1" inner_product_param { num_output: 64 } }\n'
        'layer { name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }\n'
        'layer { name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2" inner_product_param { num_output: 500 } }\n'
    )
    pictures = np.random.default_rng(0).standard_normal((32, 3, 32, 32)).astype(np.float32)
    written = []
    for threads in (1, 2, 4):
        net = caffeinit.load(tmp_path / "net.prototxt")
        net.settings = Settings(threads=threads)
        caffeinit.init(net, pictures, balanced=balanced)
        written.append([array.copy() for arrays in net.params.values() for array in arrays])
    for other in written[1:]:
        for one, two in zip(written[0], other, strict=True):
            np.testing.assert_array_equal(one, two)
