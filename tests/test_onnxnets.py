"""Nets as exporters write them: read at their opset, any free factors and all plans keep their function."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.engine.session import compile_graph
from tests.modes import EXACT, options_of
from tests.onnxnets import MODELS, SHAPE, network_of
from tests.scales.test_classes import assert_kept_in_double

ROWS = [(name, opset) for name, (_, opsets) in MODELS.items() for opset in opsets]
# One opset of each net is enough for the modes that build on the same scales.
PLANS = [(*row, "equalize") for row in ROWS]
PLANS += [(name, opsets[0], mode) for name, (_, opsets) in MODELS.items() for mode in ("preserve", "balance", EXACT)]
# How many factors are free, by hand: one per channel that is tied to no other and meets nothing that holds it.
FREE = {
    "mobilenet_v2": 8 + 3 * (12 + 12) + 6 + 6 + 10 + 6 + 10,  # before BatchNorms, and the two widths between blocks
    "resnet": 6 + 6 + 3 * 6 + 5 * 10,
    "densenet": 6 + (6 + 8 + 8 + 4) + (10 + 8 + 8 + 4) + (14 + 7) + (7 + 8 + 8 + 4) + 11,
    "squeeze_excite": 8 + 8 + 4 + 6,
    "unet": 6 + 8 + 5 + 7,
    "vit": 8 + 2,  # values, and queries against keys, one per head
}
FREE_IN_SPELT_OUT_NORMS = 3 * 8  # what stands behind the norm's own factors


def pictures(shape=SHAPE, num=8, batch=4, name="input"):
    values = np.random.default_rng(1).standard_normal((num, *shape)).astype(np.float32)
    return [{name: values[i : i + batch]} for i in range(0, num, batch)]


def run(net, feeds):
    return compile_graph(net.graph, net.graph.outputs, net.settings).run(feeds)


@pytest.mark.parametrize(("name", "opset"), ROWS)
def test_free_factors_keep_the_function_at_every_opset(name, opset):
    if name == "unet" and tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 22):
        pytest.skip("the reference implementation of this onnx takes minutes for a Resize")
    system = assert_kept_in_double(network_of(MODELS[name][0](opset)))
    assert not system.unknown_operators
    more = FREE_IN_SPELT_OUT_NORMS if name == "vit" and opset < 17 else 0
    assert system.num_unknowns == FREE[name] + more


@pytest.mark.parametrize(("name", "opset"), ROWS)
def test_the_graph_computes_what_the_file_does(name, opset, tmp_path):
    model = MODELS[name][0](opset)
    onnx.save(model, tmp_path / "net.onnx")
    for batch in (pictures()[0], pictures(num=3, batch=3)[0]):
        found = run(network_of(model), batch)["output"]
        wanted = OnnxFile(tmp_path / "net.onnx", threads=1).run(batch, ["output"])["output"]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())  # single precision


@pytest.mark.parametrize(("name", "opset", "mode"), PLANS)
def test_plans_keep_the_function(name, opset, mode):
    net, batches = network_of(MODELS[name][0](opset)), pictures()
    before = [run(net, batch)["output"] for batch in batches]
    result = caffeinit.rescale(net, batches, **options_of(mode))
    assert sum(unit.done not in ("", "kept") for unit in result.units) >= 1
    for old, batch in zip(before, batches, strict=True):
        np.testing.assert_allclose(run(net, batch)["output"], old, rtol=0, atol=1e-5 * np.abs(old).max())


@pytest.mark.parametrize(("name", "opset"), ROWS)
def test_gradients_go_through_all_of_a_net(name, opset):
    net, feeds = network_of(MODELS[name][0](opset)), pictures()[0]
    diff = np.random.default_rng(2).standard_normal(net.graph.shape("output")).astype(np.float32)
    found = net.backward(feeds, {"output": diff})
    assert np.abs(found.inputs["input"]).max() > 0
    silent = [
        n for n, (g, *_) in found.params.items() if not g.any() and net.learned[n].role not in ("mean", "variance")
    ]
    assert not silent
