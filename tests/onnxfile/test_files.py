"""Exports as files: loaded, rescaled and written, both files run by onnxruntime alone; and what the bytes tell."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.engine.session import Settings
from caffeinit.methods.redraw import holding_reason
from caffeinit.scales.classes import find_scales
from tests.conftest import shared
from tests.onnxnets import MODELS, SHAPE

ROWS = [(name, opset) for name, (_, opsets) in MODELS.items() for opset in opsets]


def load(path, **options):
    net = caffeinit.load(path, **options)
    net.settings = Settings(threads=1)
    return net


def pictures(num, shape=SHAPE):
    return np.random.default_rng(1).standard_normal((num, *shape)).astype(np.float32)


def assert_same_function(one, other, name, batch, tolerance=1e-5):
    """Compare two files in onnxruntime, both with nothing of ours; 1e-5 is what single precision allows in these nets."""
    outputs = [v.name for v in onnx.load(one, load_external_data=False).graph.output]
    before, after = (OnnxFile(path, threads=1).run({name: batch}, outputs) for path in (one, other))
    for output in outputs:
        scale = np.abs(before[output]).max()
        np.testing.assert_allclose(after[output], before[output], rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("name", "opset"), ROWS)
def test_rescaled_files_compute_the_same(name, opset, tmp_path):
    path, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(MODELS[name][0](opset), path)
    net = load(path)
    assert net.graph.batch_axis_free
    net.save(out)
    assert out.read_bytes() == path.read_bytes()
    result = caffeinit.rescale(net, pictures(8), mode="equalize")
    assert sum("equalized" in unit.done for unit in result.units) >= 1
    net.save(out, force=True)
    assert_same_function(path, out, "input", pictures(3))


# Models that others exported, at opsets 9 to 11, and how many factors are free in them.
FILES = {
    "litemodel_cls_96x_r1": 5154,
    "super_resolution": 64 + 64 + 32,
    "version-RFB-320_simplified": 3620,
    "version-RFB-320_without_postprocessing": 6024,
    "light_squeezenet": 0,  # its weights are computed by ConstantOfShape
}


@pytest.mark.parametrize("name", FILES)
def test_models_from_elsewhere_keep_their_function(name, tmp_path):
    path, out = shared(f"onnx/{name}.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert net.graph.batch_axis_free  # though the files spell out a batch of 1
    changeable = [i for u in net.units if not holding_reason(u, net.learned) for i in u.initializers]
    assert find_scales(net.graph, changeable).num_unknowns == FILES[name]
    ((source, shape),) = net.inputs.items()
    caffeinit.rescale(net, {source: pictures(2, shape[1:])}, balanced=name != "super_resolution")
    net.save(out)
    assert_same_function(path, out, source, pictures(1, shape[1:]))
