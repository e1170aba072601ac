"""Layers of one number for all channels: told from formulas by their numbers, and taken as units with one channel."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import caffeinit
from caffeinit.inspection import inspect_files
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor

PLACES = 4
LEARNED = [(0.7, 0.2), (1.9, -0.3), (0.4, 0.05), (2.5, 0.6)]
WIDTH = 5


def number(b, name, value, shape):
    b.initializers.append(tensor(name, np.full(shape, value, np.float32)))
    return name


def write(path, pairs, shape=(1,), kinds=("Relu",) * PLACES, turned=False):
    """Write convolutions, each but the last with an activation, a factor and a shift behind it."""
    b, x, wide = Maker(), "x", 3
    for i, ((factor, shift), kind) in enumerate(zip(pairs, kinds, strict=False)):
        x = b.op(kind, b.conv(x, f"conv{i}", wide, WIDTH), out=f"act{i}")
        ends = [x, number(b, f"factor{i}", factor, shape)]
        x = b.op("Mul", *(reversed(ends) if turned else ends), out=f"mul{i}")
        x, wide = b.op("Add", x, number(b, f"shift{i}", shift, shape), out=f"add{i}"), WIDTH
    b.conv(x, "last", WIDTH, 4, out="y")
    return b.save(path)


def numbers(net):
    return [u.initializers for u in net.units if u.kind == "channel"]


@pytest.mark.parametrize("mode", ["equalize", "preserve", "balance", EXACT])
@pytest.mark.parametrize(("shape", "turned"), [((1,), False), ((), True), ((1, 1, 1), False)])
def test_they_take_up_scales(shape, turned, mode, tmp_path):
    path, out = write(tmp_path / "net.onnx", LEARNED, shape, turned=turned), tmp_path / "out.onnx"
    net, x = load(path), batch(8)
    assert numbers(net) == [[f"factor{i}", f"shift{i}"] for i in range(PLACES)]
    result = caffeinit.rescale(net, {"x": x}, **options_of(mode))
    net.save(out)
    assert_same_function(path, out, "x", batch(3), tolerance=0 if mode == EXACT else 1e-5)
    if mode == "equalize":
        assert {u.done for u in result.units if u.name.startswith("factor")} == {"equalized"}
        after = load(out).forward({"x": x}, [f"add{i}" for i in range(PLACES)])
        np.testing.assert_allclose([a.std(dtype=np.float64) for a in after.values()], 1, rtol=1e-5)  # single precision
    if mode == "preserve":
        assert result.rate_spread < 1e-3  # all but the last convolution have a scale


def test_the_file_has_no_other_nodes(tmp_path):
    path, out = write(tmp_path / "net.onnx", LEARNED), tmp_path / "out.onnx"
    net = load(path)
    caffeinit.rescale(net, {"x": batch(8)})
    net.save(out)
    before, after = (onnx.load(p) for p in (path, out))
    assert before.graph.node == after.graph.node
    assert len(path.read_bytes()) == len(out.read_bytes())


def test_init_normalises_them(tmp_path):
    net = load(write(tmp_path / "net.onnx", LEARNED))
    result = caffeinit.init(net, {"x": batch(8)}, balanced=False)
    found = [u.after for u in result.units if u.name.startswith("factor")]
    np.testing.assert_allclose([s.std for s in found], 1, rtol=1e-4)
    assert caffeinit.rescale(net, {"x": batch(8)}).rate_spread < 1e-3


def test_inspection_shows_what_the_file_has(tmp_path):
    found = inspect_files(write(tmp_path / "net.onnx", LEARNED), scales=True)
    rows = [(layer.type, layer.unit, layer.tops) for layer in found.layers[2:4]]
    assert rows == [("Mul", "channel", [(1, WIDTH, 8, 6)]), ("Add", "channel", [(1, WIDTH, 8, 6)])]
    assert "Unsqueeze" not in {layer.type for layer in found.layers}


FORMULAS = {
    "one number twice": ([(0.7, 0.2), (1.9, -0.3), (0.7, 0.05), (2.5, 0.6)], {}),
    "one shift twice": ([(0.7, 0.2), (1.9, -0.3), (0.4, 0.2), (2.5, 0.6)], {}),
    "two places": (LEARNED[:2], {}),
    "behind several operators": (LEARNED[:3], {"kinds": ("Relu", "Relu", "Sigmoid")}),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_numbers_of_formulas_stay(name, tmp_path):
    pairs, options = FORMULAS[name]
    path, out = write(tmp_path / "net.onnx", pairs, **options), tmp_path / "out.onnx"
    net = load(path)
    assert numbers(net) == []
    caffeinit.rescale(net, {"x": batch(8)}, mode="normalize")
    net.save(out)
    before, after = ({t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer} for p in (path, out))
    for i in range(len(pairs)):
        np.testing.assert_array_equal(after[f"factor{i}"], before[f"factor{i}"])


def test_a_range_of_pictures_is_no_layer(tmp_path):
    """What nothing learned stands below is a formula, however often it stands there."""
    b, planes = Maker(), []
    for i, (factor, shift) in enumerate(LEARNED[:3]):
        b.initializers.append(tensor(f"place{i}", np.asarray([i])))
        plane = b.op("Gather", "x", f"place{i}", out=f"plane{i}", axis=1)
        plane = b.op("Mul", plane, number(b, f"factor{i}", factor, (1,)), out=f"mul{i}")
        planes.append(b.op("Add", plane, number(b, f"shift{i}", shift, (1,)), out=f"add{i}"))
    b.conv(b.op("Concat", *planes, out="all", axis=1), "conv", 3, 4, out="y")
    assert numbers(load(b.save(tmp_path / "net.onnx"))) == []
