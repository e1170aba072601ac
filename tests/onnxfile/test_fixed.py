"""Filters that nobody learned, as the blurs that exporters write beside the weights: they stay, and scales pass them."""

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.model.network import Skipped
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import Maker, batch, tensor

BLUR = np.outer([1, 2, 1], [1, 2, 1]).astype(np.float32) / 16
REASON = "its weight is one filter for all channels, which nobody learned"


def blurred(kernels, as_constant=False, kind="Conv"):
    """Return conv1 -> relu -> a filter for each channel -> conv2."""
    b = Maker()
    x = b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1")
    if as_constant:
        b.op("Constant", out="filt", value=tensor("", kernels))
    else:
        b.initializers.append(tensor("filt", kernels))
    x = b.op(kind, x, "filt", out="soft", group=5, strides=[2, 2], pads=[1] * 4)
    b.conv(x, "conv2", 5, 4, out="y")
    return b


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("as_constant", [False, True])
@pytest.mark.parametrize("mode", ["preserve", "equalize", "normalize", "init"])
def test_one_filter_for_all_channels_stays_and_lets_scales_pass(mode, as_constant, kind, tmp_path):
    b = blurred(np.tile(BLUR, (5, 1, 1, 1)), as_constant, kind)
    path, out = b.save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.init(net, batch(8)) if mode == "init" else caffeinit.rescale(net, batch(8), mode=mode)
    assert net.skipped == [Skipped(f'node "soft_{2 + as_constant}" ({kind})', REASON)]
    assert [unit.name for unit in result.units] == ["conv1.weight", "conv2.weight"]
    net.save(out)
    for one, other in zip(onnx.load(path).graph.initializer, onnx.load(out).graph.initializer, strict=True):
        assert (one.name == "filt") <= (one == other)
    if mode in ("preserve", "equalize"):
        assert result.units[0].done == "equalized"
        assert_same_function(path, out, "x", batch())
    if mode != "equalize":
        assert result.rate_spread < 0.02
        assert caffeinit.measure(load(out), batch(8)).rate_spread == pytest.approx(result.rate_spread, abs=1e-3)


@pytest.mark.parametrize("change", [lambda k: k[3, 0].__setitem__((1, 1), 0.3), lambda k: k.fill(0)])
def test_filters_that_differ_and_zeros_are_weights(change, tmp_path):
    kernels = np.tile(BLUR, (5, 1, 1, 1))
    change(kernels)
    net = load(blurred(kernels).save(tmp_path / "net.onnx"))
    told = {unit.name: unit.done for unit in caffeinit.init(net, batch(8)).units}
    assert told["filt"]


def test_equal_factors_of_single_weights_are_weights(tmp_path):
    """A convolution of 1x1 that starts as the identity is learned."""
    b = blurred(np.ones((5, 1, 1, 1), np.float32))
    net = load(b.save(tmp_path / "net.onnx"))
    assert {unit.name: unit.done for unit in caffeinit.rescale(net, batch(8)).units}["filt"]


def expected(kind, numbers):
    """Return conv1 -> the mean of what a softmax over its channels makes probabilities of, as detectors have it."""
    b = Maker()
    x = b.op("Softmax", b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 4), out="bins", axis=1)
    if kind == "MatMul":
        x = b.op("Transpose", x, out="last", perm=[0, 2, 3, 1])
    b.initializers.append(tensor("counts", np.float32(numbers).reshape((4, 1) if kind == "MatMul" else (1, 4, 1, 1))))
    b.op(kind, x, "counts", out="y")
    return b


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
@pytest.mark.parametrize("mode", ["normalize", "init"])
def test_what_counts_from_0_on_stays(mode, kind, tmp_path):
    path, out = expected(kind, range(4)).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    (left,) = net.skipped
    assert left.reason == "its weight counts from 0 on, and was not learned"
    result = caffeinit.init(net, batch(8)) if mode == "init" else caffeinit.rescale(net, batch(8), mode=mode)
    assert [unit.name for unit in result.units] == ["conv1.weight", "conv2.weight"]
    assert result.rate_spread < 1e-3  # the head is what the softmax reads
    net.save(out)
    assert onnx.load(path).graph.initializer[-1] == onnx.load(out).graph.initializer[-1]


def test_other_whole_numbers_are_weights(tmp_path):
    net = load(expected("Conv", [0, 1, 2, 4]).save(tmp_path / "net.onnx"))
    assert "counts" in {unit.name for unit in net.units}


def boxes(turned):
    """Return a detector's end: the boxes of all places, multiplied by the stride of each, as YOLO's exports have it."""
    b = Maker()
    x = b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "conv2", 5, 4)
    b.initializers += [
        tensor("form", np.int64([0, 4, -1])),
        tensor("strides", np.repeat(np.float32([8, 16]), 24).reshape((1, 48, 1) if turned else (1, 1, 48))),
    ]
    x = b.op("Reshape", x, "form", out="places")
    x = b.op("Transpose", x, out="rows", perm=[0, 2, 1]) if turned else x
    b.op("Mul", b.op("Sigmoid", x, out="score"), "strides", out="y")
    return b


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("mode", ["normalize", "init"])
def test_strides_of_places_stay(mode, turned, tmp_path):
    path, out = boxes(turned).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.init(net, batch(8)) if mode == "init" else caffeinit.rescale(net, batch(8), mode=mode)
    assert [unit.name for unit in result.units] == ["conv1.weight", "conv2.weight"]
    net.save(out)
    assert onnx.load(path).graph.initializer[-1] == onnx.load(out).graph.initializer[-1]


def waves(length, part):
    """Return rows of a windowed Fourier transform of `length` numbers."""
    angle = 2 * np.pi * np.outer(np.arange(length // 2 + 1), np.arange(length)) / length
    window = np.hanning(length + 1)[:-1]
    parts = {"real": [np.cos(angle)], "imaginary": [-np.sin(angle)], "both": [np.cos(angle), -np.sin(angle)]}[part]
    return (np.concatenate(parts) * window).astype(np.float32)[:, None]


def sound(rows, length):
    """Return a transform by convolution, its size, and a convolution."""
    b = Maker(shape=("N", 1, 96))
    b.initializers.append(tensor("basis", rows))
    x = b.op("Conv", "x", "basis", out="spectrum", strides=[length // 4])
    arrays = [b.array("conv.weight", 4, rows.shape[0], 3), b.array("conv.bias", 4)]
    b.op("Conv", b.op("Abs", x, out="size"), *arrays, out="y")
    return b


@pytest.mark.parametrize("part", ["real", "imaginary", "both"])
@pytest.mark.parametrize("length", [8, 15, 32])
def test_waves_stay(length, part, tmp_path):
    path, out = sound(waves(length, part), length).save(tmp_path / "net.onnx"), tmp_path / "out.onnx"
    net = load(path)
    assert [s.reason for s in net.skipped] == ["its weight is a Fourier transform, which nobody learned"]
    caffeinit.init(net, {"x": np.random.default_rng(1).standard_normal((8, 1, 96)).astype(np.float32)})
    net.save(out)
    assert onnx.load(path).graph.initializer[0] == onnx.load(out).graph.initializer[0]


@pytest.mark.parametrize("change", [lambda w: w[3].__imul__(1.1), lambda w: w.fill(0)])
def test_what_was_trained_on_from_waves_and_zeros_are_weights(change, tmp_path):
    rows = waves(16, "both")
    change(rows)
    net = load(sound(rows, 16).save(tmp_path / "net.onnx"))
    assert [unit.name for unit in net.units] == ["basis", "conv.weight"]
