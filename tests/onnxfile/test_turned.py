"""Matrices that a net uses twice, the second time turned, as autoencoders with tied weights do."""

from itertools import pairwise

import numpy as np
import pytest

import caffeinit
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, info

WIDTHS = (90, 70, 40)  # so wide that the rows for all entries are thousands


@pytest.fixture
def path(tmp_path):
    b = Maker(shape=("N", WIDTHS[0]))
    names = [b.array(f"w{k}", i, o) for k, (i, o) in enumerate(pairwise(WIDTHS))]
    x = "x"
    for k, name in enumerate(names):
        x = b.op("Relu", b.op("MatMul", x, name, out=f"down{k}"), out=f"relu{k}")
    for k, name in reversed([*enumerate(names)]):
        x = b.op("MatMul", x, b.op("Transpose", name, out=f"turned{k}", perm=[1, 0]), out=f"up{k}" if k else "y")
        x = b.op("Relu", x, out=f"again{k}") if k else x
    model = b.model()
    del model.graph.output[:]
    model.graph.output.append(info("y", ["N", WIDTHS[0]]))
    path = tmp_path / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def vectors(count):
    return np.random.default_rng(1).standard_normal((count, WIDTHS[0])).astype(np.float32)


@pytest.mark.parametrize("mode", ["preserve", "equalize", "balance", EXACT])
def test_all_channels_between_can_be_scaled_and_the_function_stays(path, tmp_path, mode):
    net, out = load(path), tmp_path / "out.onnx"
    result = caffeinit.rescale(net, {"x": vectors(64)}, **options_of(mode))
    assert result.units[0].done
    net.save(out)
    assert_same_function(path, out, "x", vectors(8))


@pytest.mark.parametrize("mode", ["preserve", "normalize"])
def test_what_is_told_of_both_uses_is_what_they_put_out(path, mode):
    net = load(path)
    result = caffeinit.rescale(net, {"x": vectors(64)}, mode=mode)
    measured = caffeinit.measure(net, {"x": vectors(64)})
    assert len(result.units) == len(measured.units) >= len(WIDTHS)
    for told, found in zip(result.units, measured.units, strict=True):
        np.testing.assert_allclose(told.after.channel_stds, found.stats.channel_stds, rtol=1e-3)
        np.testing.assert_allclose(told.after.rate, found.rate, rtol=1e-2)
    again = [
        unit.name for unit in result.units if unit.before is None
    ]  # what was never made alike is not said to differ
    assert not [note for note in result.notes if "not alike any more" in note and any(name in note for name in again)]
