"""Weights stored in half precision: what is compared before and after is what will be written."""

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import caffeinit
from caffeinit.engine.session import Settings
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.proof import verify
from caffeinit.storage import wire
from caffeinit.storage.stored import round_as_stored
from tests.onnxfile.test_kinds import Maker, batch, chain, tensor

NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 8 dim: 3 dim: 8 dim: 6 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 5 kernel_size: 3 } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "y" inner_product_param { num_output: 4 } }
"""
SHAPES = {"conv1": [(5, 3, 3, 3), (5,)], "ip": [(4, 120), (4,)]}


def half_arrays():
    rng = np.random.default_rng(0)
    rows = {n: np.geomspace(1, 30, shapes[1][0]) for n, shapes in SHAPES.items()}
    return {
        n: [(rng.standard_normal(s[::-1]) * rows[n]).T.astype("<f2") for s in shapes] for n, shapes in SHAPES.items()
    }


def behind_cast(folder, raw=True):
    """Save a model of single precision whose weights are halves behind Casts."""
    b = Maker(raw=raw)
    b.conv(b.op("Relu", b.conv("x", "conv1", 3, 5), out="relu"), "conv2", 5, 4, out="y")
    for at, old in enumerate(b.initializers):
        array = onnx.numpy_helper.to_array(old).astype(np.float16)
        b.initializers[at] = tensor(f"{old.name}.half", array, raw)
        b.nodes.insert(0, onnx.helper.make_node("Cast", [f"{old.name}.half"], [old.name], to=TensorProto.FLOAT))
    return [b.save(folder / "net.onnx")]


def whole_numbers(folder):
    return behind_cast(folder, raw=False)


def all_halves(folder):
    return [chain(dtype=np.float16).save(folder / "net.onnx")]


def caffemodel(folder):
    (folder / "net.prototxt").write_text(NET)
    written = b""
    for name, arrays in half_arrays().items():
        layer = wire.encode_bytes(1, name.encode())
        for array in arrays:
            shape = wire.encode_bytes(7, wire.encode_bytes(1, b"".join(map(wire.encode_varint, array.shape))))
            blob = shape + wire.encode_number(10, 2) + wire.encode_bytes(12, array.tobytes())
            layer += wire.encode_bytes(7, blob)
        written += wire.encode_bytes(100, layer)
    (folder / "net.caffemodel").write_bytes(written)
    return [folder / "net.prototxt", folder / "net.caffemodel"]


def hdf5(folder):
    (folder / "net.prototxt").write_text(NET)
    with h5py.File(folder / "net.h5", "w") as file:
        for name, arrays in half_arrays().items():
            for index, array in enumerate(arrays):
                file[f"data/{name}/{index}"] = array
    return [folder / "net.prototxt", folder / "net.h5"]


MAKERS = [behind_cast, whole_numbers, all_halves, caffemodel, hdf5]


def load(files):
    net = caffeinit.load(*files)
    net.settings = Settings(threads=1)
    return net


def moved(files, out, images):
    """Return by how much the output of a written file differs from that of its source."""
    name = next(iter(load(files).inputs))
    before, after = (load(f).forward({name: images}, ["y"])["y"] for f in (files, [*files[:-1], out]))
    found = verify.Difference("y")
    found.see(before, after)
    return found.relative


@pytest.mark.parametrize("make", MAKERS)
def test_what_is_told_is_what_the_written_file_does(make, tmp_path, monkeypatch):
    monkeypatch.setattr("caffeinit.methods.preserving.TOLERANCE", 1e-2)
    files, images = make(tmp_path), batch(8)
    net, out = load(files), tmp_path / f"out{files[-1].suffix}"
    result = caffeinit.rescale(net, images)
    net.save(out)
    assert result.outputs_moved["y"] == moved(files, out, images) > 1e-5
    assert any("stored in half precision" in note and "--powers-of-two" in note for note in result.notes)
    for name, arrays in load([*files[:-1], out]).params.items():
        for ours, written in zip(net.params[name], arrays, strict=True):
            np.testing.assert_array_equal(ours, written)


@pytest.mark.parametrize("make", MAKERS)
def test_what_moves_by_too_much_is_refused_with_the_cause_and_powers_of_two_move_nothing(make, tmp_path):
    files, images = make(tmp_path), batch(8)
    with pytest.raises(CaffeinitError, match=r"stored in half precision.*Nothing is written\. --powers-of-two keeps"):
        caffeinit.rescale(load(files), images)
    net, out = load(files), tmp_path / f"out{files[-1].suffix}"
    result = caffeinit.rescale(net, images, mode="equalize", powers_of_two=True)
    net.save(out)
    assert out.read_bytes() != files[-1].read_bytes()
    assert result.outputs_moved["y"] == moved(files, out, images) == 0
    assert not any("half precision" in note for note in result.notes)


@pytest.mark.parametrize("make", MAKERS)
def test_numbers_that_did_not_change_are_not_rounded(make, tmp_path):
    net = load(make(tmp_path))
    before = {n: [a.copy() for a in arrays] for n, arrays in net.params.items()}
    assert not net.round_as_stored()
    name = next(iter(before))
    net.params[name][0].reshape(-1)[0] = 1 / 3
    assert net.round_as_stored()
    assert net.params[name][0].reshape(-1)[0] == np.float16(1 / 3)
    for name, arrays in before.items():
        for old, new in zip(arrays, net.params[name], strict=True):
            np.testing.assert_array_equal(old.reshape(-1)[1:], new.reshape(-1)[1:])


def test_digits_that_powers_of_two_lose_below_the_normal_numbers_are_told(tmp_path):
    (path,) = behind_cast(tmp_path)
    model = onnx.load(path)
    for at, factor in ((0, 2.0**-13), (1, 2.0**-13), (3, 0)):
        old = model.graph.initializer[at]
        array = onnx.numpy_helper.to_array(old).astype(np.float32)
        old.CopyFrom(tensor(old.name, (array * factor).astype(np.float16)))
    onnx.save(model, path)
    with pytest.raises(CaffeinitError, match=r"loses digits below 6.1e-05\. Nothing is written$"):
        caffeinit.rescale(load([path]), batch(8), mode="equalize", powers_of_two=True)


def test_single_and_double_precision_are_left_alone(tmp_path):
    for dtype in (np.float32, np.float64):
        net = load([chain(dtype=dtype).save(tmp_path / f"{np.dtype(dtype)}.onnx")])
        net.params["conv1.weight"][0][...] /= 3
        before = net.params["conv1.weight"][0].copy()
        assert not net.round_as_stored()
        np.testing.assert_array_equal(net.params["conv1.weight"][0], before)


def test_what_half_precision_cannot_hold_is_refused():
    with pytest.raises(WeightsError, match="too large for float16"):
        round_as_stored(np.ones(2, "<f2"), np.array([1, 1e6], np.float32), "it")
