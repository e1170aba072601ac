"""BatchNormalization in training: what it reads is standardised, pictures and places together."""

import numpy as np
import onnx
import pytest
from onnx import helper

import caffeinit
from caffeinit.engine.onnxrun import OnnxFile
from tests.modes import EXACT, options_of
from tests.onnxfile.test_files import assert_same_function
from tests.onnxfile.test_kinds import Maker, batch, info, tensor

CHANNELS, TOGETHER = 6, 4


def write(path, opset, tells_statistics=False):
    """Return the file of conv1 -> BatchNormalization -> relu -> conv2; its outputs tell that it trains, up to opset 13."""
    b = Maker()
    b.domains[""] = opset
    arrays = (
        ("scale", [1, 2, 3, 0.5, 0.1, 1]),
        ("bias", [0, 1, -1, 0, 0, 2]),
        ("mean", [1] * 6),
        ("variance", [4] * 6),
    )
    b.initializers += [tensor(f"bn.{name}", np.array(values, np.float32)) for name, values in arrays]
    made = ["normal", "mean", "variance", *([] if opset >= 14 else ["saved_mean", "saved_variance"])]
    read = [b.conv("x", "conv1", 3, CHANNELS), *(f"bn.{name}" for name, _ in arrays)]
    training = {"training_mode": 1} if opset >= 14 else {}
    b.nodes.append(helper.make_node("BatchNormalization", read, made, "bn", momentum=0.8, epsilon=1e-3, **training))
    b.conv(b.op("Relu", "normal", out="relu"), "conv2", CHANNELS, 4, out="y")
    model = b.model()
    if tells_statistics:
        model.graph.output.extend(info(name, [CHANNELS]) for name in made[1:3])
    onnx.save(model, path)
    return path


def load(path):
    return caffeinit.load(path, input_shapes={"x": (TOGETHER, 3, 8, 6)})


@pytest.mark.parametrize(("opset", "tells"), [(7, False), (9, False), (13, False), (14, True), (17, False), (17, True)])
def test_it_computes_what_the_file_does(tmp_path, opset, tells):
    path = write(tmp_path / "net.onnx", opset, tells)
    net = load(path)
    wanted = OnnxFile(path).run({"x": batch(TOGETHER)}, net.outputs)
    found = net.forward({"x": batch(TOGETHER)})
    assert len(net.outputs) == 1 + 2 * tells
    for name in net.outputs:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-5 * np.abs(wanted[name]).max())


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("mode", ["preserve", "equalize", "fp16", EXACT])
def test_its_channels_are_free_and_what_it_reads_is_held(tmp_path, opset, mode):
    path, out = write(tmp_path / "net.onnx", opset), tmp_path / "out.onnx"
    net = load(path)
    result = caffeinit.rescale(net, {"x": batch(8)}, **options_of(mode))
    net.save(out)
    why = {unit.name: unit.reason for unit in result.units}
    if mode in ("preserve", "equalize"):
        assert "its output is held: BatchNormalization bn" in why["conv1.weight"]
        assert why["bn.scale"] == ""
    assert_same_function(path, out, "x", batch(TOGETHER))


def test_one_rate_is_reached_and_told_as_measured(tmp_path):
    net = load(write(tmp_path / "net.onnx", 17))
    result = caffeinit.init(net, {"x": batch(8)})
    assert result.rate_spread < 0.02
    found = caffeinit.measure(net, {"x": batch(8)})
    assert found.rate_spread < 0.02
    assert [u.name for u in found.units] == [u.name for u in result.units]
    for told, unit in zip(result.units, found.units, strict=True):
        np.testing.assert_allclose(unit.stats.channel_stds, told.after.channel_stds, rtol=1e-3)
        np.testing.assert_allclose(unit.rate, told.after.rate, rtol=1e-3)


def test_what_old_training_saved_for_itself_is_refused_where_it_is_read(tmp_path):
    model = onnx.load(write(tmp_path / "net.onnx", 9))
    model.graph.node.append(helper.make_node("Abs", ["saved_mean"], ["more"]))
    model.graph.output.append(info("more", [CHANNELS]))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(caffeinit.CaffeinitError, match='reads "saved_mean", which its operator does not give today'):
        load(tmp_path / "net.onnx")


def test_dropout_drops_nothing(tmp_path):
    found = []
    for training in (True, False):
        b = Maker()
        b.initializers += [
            tensor("ratio", np.float32(0.9)),
            helper.make_tensor("training", onnx.TensorProto.BOOL, (), [training]),
        ]
        x = b.op("Dropout", b.op("Relu", b.conv("x", "conv1", 3, 5), out="r1"), "ratio", "training", out="dropped")
        b.conv(x, "conv2", 5, 4, out="y")
        net = load(b.save(tmp_path / "net.onnx"))
        found.append((net.forward({"x": batch(8)}, blobs=["dropped", "y"]), caffeinit.measure(net, batch(8)).units))
    (trained, one), (tested, other) = found
    for name, values in tested.items():
        np.testing.assert_array_equal(trained[name], values)
    assert [unit.stats.rate for unit in one] == [unit.stats.rate for unit in other]
