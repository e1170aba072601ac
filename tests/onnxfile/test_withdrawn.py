"""Operators that ONNX has withdrawn: read at the opsets in which they came back later, refused where they are gone."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from caffeinit.errors import FormatError
from tests.modes import options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch


def save(path, opset, rows, **settings):
    """Write conv1 -> GroupNormalization -> conv2 -> relu -> conv3; `rows`: of scale and bias."""
    b = Maker()
    b.domains[""] = opset
    x = b.conv("x", "conv1", 3, 6)
    x = b.op("GroupNormalization", x, b.array("scale", rows), b.array("shift", rows), out="normal", **settings)
    b.conv(b.op("Relu", b.conv(x, "conv2", 6, 5), out="relu"), "conv3", 5, 4, out="y")
    onnx.save(b.model(ir=10), path)
    return path


@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize"])
@pytest.mark.parametrize(("opset", "rows"), [(18, 2), (19, 2), (20, 2), (21, 6)])
def test_normalisation_over_groups_is_read_at_every_opset(opset, rows, mode, tmp_path):
    path, out = save(tmp_path / "net.onnx", opset, rows, num_groups=2), tmp_path / "out.onnx"
    net, feeds = load(path), {"x": batch(3)}
    wanted = OnnxFile(path, threads=1).run(feeds, ["y"])["y"]
    np.testing.assert_allclose(net.forward(feeds, ["y"])["y"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    result = caffeinit.rescale(net, batch(8), **options_of(mode))
    net.save(out)
    if mode == "normalize":
        assert result.rate_spread < 1e-3
    else:
        assert next(u for u in result.units if u.name == "conv2.weight").done == "equalized"
        assert_same_function(path, out, "x", batch(3))


def test_its_settings_are_looked_at_as_those_of_others(tmp_path):
    with pytest.raises(FormatError, match=r"GroupNormalization\) is damaged: .*num_groups"):
        load(save(tmp_path / "net.onnx", 18, 2))


@pytest.mark.parametrize("kind", ["Upsample", "Scatter"])
def test_operators_that_are_gone_are_refused(kind, tmp_path):
    b = Maker()
    b.op(kind, b.conv("x", "conv1", 3, 6), out="y")
    with pytest.raises(FormatError, match=f"{kind}.* is deprecated"):
        load(b.save(tmp_path / "net.onnx"))
