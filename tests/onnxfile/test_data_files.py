"""Weights in files beside the model: kept there, copied with nothing but the changed numbers, never sought elsewhere."""

import os

import numpy as np
import onnx
import pytest

import caffeinit
from caffeinit.errors import CaffeinitError, FormatError, OutputError, WeightsError
from tests.onnxfile.test_files import assert_same_function, load
from tests.onnxfile.test_kinds import batch, chain


def save(place, name="net.onnx", location="net.onnx.data", **options):
    place.mkdir(exist_ok=True)
    return chain(**options).save(place / name, save_as_external_data=True, location=location, size_threshold=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_data_files_stay_beside_the_model(dtype, tmp_path):
    path = save(tmp_path / "a", dtype=dtype)
    net = load(path)
    (tmp_path / "b").mkdir()
    net.save(tmp_path / "b" / "out.onnx")
    assert (tmp_path / "b" / "out.onnx").read_bytes() == path.read_bytes()
    assert (tmp_path / "b" / "net.onnx.data").read_bytes() == (tmp_path / "a" / "net.onnx.data").read_bytes()
    caffeinit.rescale(net, batch(8), mode="equalize", powers_of_two=dtype == np.float16)
    net.save(tmp_path / "b" / "out.onnx", force=True)
    assert (tmp_path / "b" / "out.onnx").read_bytes() == path.read_bytes()
    assert (tmp_path / "b" / "net.onnx.data").read_bytes() != (tmp_path / "a" / "net.onnx.data").read_bytes()
    tolerance = 1e-5 if dtype == np.float32 else 4e-3
    assert_same_function(path, tmp_path / "b" / "out.onnx", "x", batch(dtype=dtype), tolerance)


def test_data_files_of_other_models_stay(tmp_path):
    path = save(tmp_path / "a")
    net, folder = load(path), tmp_path / "b"
    folder.mkdir()
    net.save(folder / "first.onnx")
    caffeinit.rescale(net, batch(8), mode="equalize")
    net.save(folder / "second.onnx")
    net.save(folder / "second.onnx", force=True)
    assert (folder / "net.onnx.data").read_bytes() == (tmp_path / "a" / "net.onnx.data").read_bytes()
    assert sorted(p.name for p in folder.iterdir()) == [
        "first.onnx",
        "net.onnx.data",
        "second.onnx",
        "second.onnx.data",
    ]
    for name in ("first.onnx", "second.onnx"):
        assert_same_function(path, folder / name, "x", batch())


def test_beside_the_input_data_files_are_named_after_the_output(tmp_path):
    path = save(tmp_path)
    net = load(path)
    caffeinit.rescale(net, batch(8), mode="equalize")
    out = tmp_path / "net.rescaled.onnx"
    net.save(out)
    arrays = onnx.load(out, load_external_data=False).graph.initializer
    assert {e.value for t in arrays for e in t.external_data if e.key == "location"} == {"net.rescaled.onnx.data"}
    onnx.checker.check_model(out)
    assert_same_function(path, out, "x", batch())
    with pytest.raises(OutputError, match="exists already"):
        net.save(out)
    with pytest.raises(OutputError, match=r"numbers in files beside it \(.*\): .* cannot be written over itself"):
        net.save(path, force=True)


def test_large_arrays_are_read_where_they_lie(tmp_path):
    path = tmp_path / "net.onnx"
    b = chain()
    b.array("large", 1024, 300)
    b.op("MatMul", b.op("Reshape", "x", b.op("Constant", out="t", value_ints=[-1, 1024]), out="rows"), "large", out="z")
    b.outputs.append("z")
    b.inputs[0].type.tensor_type.shape.dim[2].dim_value = 1024
    b.save(path, save_as_external_data=True, location="d", size_threshold=1024)
    net = load(path)
    before = (tmp_path / "d").read_bytes()
    net.params["large"][0][...] *= 2
    assert (tmp_path / "d").read_bytes() == before
    (tmp_path / "o").mkdir()
    net.save(tmp_path / "o" / "net.onnx")
    new = load(tmp_path / "o" / "net.onnx")
    np.testing.assert_array_equal(new.params["large"][0], net.params["large"][0])
    np.testing.assert_array_equal(load(path).params["large"][0] * 2, net.params["large"][0])


def relocated(path, location, only=""):
    model = onnx.load(path, load_external_data=False)
    for t in (t for t in model.graph.initializer if only in t.name):
        for entry in t.external_data:
            if entry.key == "location":
                entry.value = location
    onnx.save(model, path)


@pytest.mark.parametrize("other", ["./net.onnx.data", "sub/../net.onnx.data", "sub/.././net.onnx.data"])
def test_a_file_may_go_under_several_names(other, tmp_path):
    path, out = save(tmp_path / "a"), tmp_path / "b" / "out.onnx"
    (tmp_path / "a" / "sub").mkdir()
    out.parent.mkdir()
    relocated(path, other, only="conv2.weight")
    net = load(path)
    caffeinit.rescale(net, batch(8), mode="equalize")
    for target, name in ((out, "net.onnx.data"), (tmp_path / "a" / "out.onnx", "out.onnx.data")):
        net.save(target)
        assert (target.parent / name).stat().st_size == (tmp_path / "a" / "net.onnx.data").stat().st_size
        assert_same_function(path, target, "x", batch())
    assert sorted(p.name for p in out.parent.iterdir()) == ["net.onnx.data", "out.onnx"]


ESCAPES = ["../net.onnx.data", "/etc/hostname", "sub/../../x", "..\\net.onnx.data", "", "link/hostname", "a\0b"]
ESCAPES += ["link/../net.onnx.data"]  # where the link leads is not where it stands


@pytest.mark.parametrize("location", ESCAPES)
def test_other_folders_are_not_read(location, tmp_path):
    path = save(tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to("/etc")
    relocated(path, location)
    with pytest.raises(FormatError, match="said to lie in"):
        load(path)


def cut_off(place):
    os.truncate(place / "net.onnx.data", 100)


def missing(place):
    (place / "net.onnx.data").unlink()


def a_folder(place):
    missing(place)
    (place / "net.onnx.data").mkdir()


def empty(place):
    (place / "net.onnx.data").write_bytes(b"")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(cut_off, "has 100 bytes"), (missing, "no such file"), (a_folder, "is a folder"), (empty, "is empty")],
)
def test_damaged_data_files_are_refused(damage, message, tmp_path):
    path = save(tmp_path)
    damage(tmp_path)
    with pytest.raises(CaffeinitError, match=message):
        load(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [("offset", "x", "no number"), ("offset", "-4", "said to be"), ("length", "3", "asks for 540 bytes")],
)
def test_wrong_places_are_refused(key, value, message, tmp_path):
    path = save(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == key:
            entry.value = value
    onnx.save(model, path)
    with pytest.raises((FormatError, WeightsError), match=message):
        load(path)


@pytest.mark.parametrize("by", [0, 4])
def test_arrays_that_share_numbers_stay(tmp_path, by):
    path = save(tmp_path)
    model = onnx.load(path, load_external_data=False)
    first, second = (next(t for t in model.graph.initializer if t.name == f"conv{i}.bias") for i in (1, 2))
    del second.dims[:]
    second.dims.append(4)
    told = {entry.key: entry.value for entry in first.external_data} | {"length": "16"}
    told["offset"] = str(int(told["offset"]) + by)
    for entry in second.external_data:
        entry.value = told[entry.key]
    onnx.save(model, path)
    net = load(path)
    assert net.learned["conv1.bias"].held == 'shares its numbers in the data file with "conv2.bias"'
    assert net.learned["conv2.bias"].held == 'shares its numbers in the data file with "conv1.bias"'


def test_model_and_data_file_are_replaced_both_or_not_at_all(tmp_path, monkeypatch):
    net, out = load(save(tmp_path / "a")), tmp_path / "b" / "out.onnx"
    out.parent.mkdir()
    net.save(out)
    kept = {p: p.read_bytes() for p in out.parent.iterdir()}
    caffeinit.rescale(net, batch(8), mode="equalize")
    replace, named = os.replace, []

    def once(source, target):
        named.append(target)
        if len(named) == 2:
            raise OSError(28, "no space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", once)
    with pytest.raises(OutputError, match="no space"):
        net.save(out, force=True)
    monkeypatch.undo()
    assert {p: p.read_bytes() for p in out.parent.iterdir()} == kept
    net.save(out, force=True)
    assert {p: p.read_bytes() for p in out.parent.iterdir()} != kept
