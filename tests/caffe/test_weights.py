"""Weights files: every form is read, and written back with nothing but the numbers changed."""

import contextlib
import resource

import numpy as np
import pytest

from caffeinit.caffe import wire
from caffeinit.caffe.weights import open_weights, write_new
from caffeinit.errors import CaffeinitError, FormatError, WeightsError
from tests.conftest import SHARED, shared

VALUES = np.array([[1.5, -2.25, 3.0], [0.1, 1e-8, -7.0]], np.float32)
MODELS = sorted(p for p in (SHARED / "models").glob("*/*") if p.name.endswith((".caffemodel", ".caffemodel.h5")))


def dims(*shape):
    return wire.encode_bytes(7, wire.encode_bytes(1, b"".join(wire.encode_varint(d) for d in shape)))


def tagged(number, kind, values):
    """Numbers with a tag each, as files of 2013 hold them."""
    tag = wire.encode_varint(number << 3 | (wire.FIXED32 if values.itemsize == 4 else wire.FIXED64))
    return b"".join(tag + v.tobytes() for v in values.ravel())


ENCODINGS = {
    "packed": dims(2, 3) + wire.encode_bytes(5, VALUES.tobytes()),
    "numbers before the shape": wire.encode_bytes(5, VALUES.tobytes()) + dims(2, 3),
    "packed in two pieces": dims(2, 3)
    + wire.encode_bytes(5, VALUES[0].tobytes())
    + wire.encode_bytes(5, VALUES[1].tobytes()),
    "unpacked": dims(2, 3) + tagged(5, wire.FIXED32, VALUES),
    "unpacked and packed": dims(2, 3) + tagged(5, wire.FIXED32, VALUES[0]) + wire.encode_bytes(5, VALUES[1].tobytes()),
    "double": dims(2, 3) + wire.encode_bytes(8, VALUES.astype("<f8").tobytes()),
    "unpacked double": dims(2, 3) + tagged(8, wire.FIXED64, VALUES.astype("<f8")),
    "shape dim by dim": wire.encode_bytes(7, wire.encode_number(1, 2) + wire.encode_number(1, 3))
    + wire.encode_bytes(5, VALUES.tobytes()),
    "with a diff": dims(2, 3) + wire.encode_bytes(5, VALUES.tobytes()) + wire.encode_bytes(6, bytes(24)),
    "float as raw bytes": dims(2, 3) + wire.encode_number(10, 1) + wire.encode_bytes(12, VALUES.tobytes()),
}
UNKNOWN = wire.encode_bytes(149, b"a fork's own field")


def v2_layer(name, *blobs):
    body = wire.encode_bytes(1, name.encode()) + wire.encode_bytes(2, b"InnerProduct") + UNKNOWN
    return wire.encode_bytes(100, body + b"".join(wire.encode_bytes(7, b) for b in blobs))


def v1_layer(name, *blobs):
    body = wire.encode_bytes(4, name.encode()) + wire.encode_number(5, 14)
    return wire.encode_bytes(2, body + b"".join(wire.encode_bytes(6, b) for b in blobs))


def v0_layer(name, *blobs):
    inner = wire.encode_bytes(1, name.encode()) + wire.encode_bytes(2, b"innerproduct")
    inner += b"".join(wire.encode_bytes(50, b) for b in blobs)
    return wire.encode_bytes(2, wire.encode_bytes(1, inner) + wire.encode_bytes(2, b"data"))


LAYERS = {"V0": v0_layer, "V1": v1_layer, "V2": v2_layer}


def write_file(path, content):
    path.write_bytes(wire.encode_bytes(1, b"net") + content + UNKNOWN)
    return path


@pytest.mark.parametrize("generation", LAYERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_form_is_read_and_written_back_bit_for_bit(tmp_path, generation, encoding):
    path = write_file(tmp_path / "w", LAYERS[generation]("ip", ENCODINGS[encoding]))
    file = open_weights(path)
    assert file.format == generation
    (blob,) = file.layers["ip"]
    np.testing.assert_array_equal(blob.array(), VALUES)
    file.write(tmp_path / "same", {("ip", 0): blob.array()}, {})
    assert (tmp_path / "same").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("generation", LAYERS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_only_the_changed_numbers_differ(tmp_path, generation, encoding):
    content = LAYERS[generation]("one", ENCODINGS[encoding]) + LAYERS[generation]("two", ENCODINGS[encoding])
    path = write_file(tmp_path / "w", content)
    changed = VALUES.copy()
    changed[1, 2] = 42
    file = open_weights(path)
    file.write(tmp_path / "new", {("two", 0): changed, ("one", 0): VALUES}, {})
    old, new = path.read_bytes(), (tmp_path / "new").read_bytes()
    assert len(old) == len(new)
    differing = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    assert 0 < max(differing) - min(differing) + 1 <= 8
    again = open_weights(tmp_path / "new")
    np.testing.assert_array_equal(again.layers["two"][0].array(), changed)
    np.testing.assert_array_equal(again.layers["one"][0].array(), VALUES)


def test_half_precision_stays_half_precision(tmp_path):
    half = VALUES.astype("<f2")
    blob = dims(2, 3) + wire.encode_number(10, 2) + wire.encode_bytes(12, half.tobytes())
    path = write_file(tmp_path / "w", v2_layer("ip", blob))
    file = open_weights(path)
    assert file.layers["ip"][0].encoding == "float16"
    np.testing.assert_array_equal(file.layers["ip"][0].array(), half.astype(np.float32))
    file.write(tmp_path / "twice", {("ip", 0): file.layers["ip"][0].array() * 2}, {})
    np.testing.assert_array_equal(open_weights(tmp_path / "twice").layers["ip"][0].array(), half.astype("f4") * 2)
    with pytest.raises(WeightsError, match="too large for float16"):
        file.write(tmp_path / "over", {("ip", 0): np.full((2, 3), 1e6)}, {})
    assert not (tmp_path / "over").exists()


def test_doubles_that_did_not_change_keep_their_digits(tmp_path):
    fine = np.array([1 / 3, 2 / 3], "<f8")
    path = write_file(tmp_path / "w", v2_layer("ip", dims(2) + wire.encode_bytes(8, fine.tobytes())))
    array = open_weights(path).layers["ip"][0].array()
    array[1] = 5
    open_weights(path).write(tmp_path / "new", {("ip", 0): array}, {})
    assert fine[:1].tobytes() in (tmp_path / "new").read_bytes()


@pytest.mark.parametrize("generation", LAYERS)
def test_a_layer_that_the_file_lacks_is_added(tmp_path, generation):
    path = write_file(tmp_path / "w", LAYERS[generation]("one", ENCODINGS["packed"]) + LAYERS[generation]("empty"))
    added = {"new": ("InnerProduct", [VALUES, VALUES[0]]), "empty": ("InnerProduct", [VALUES])}
    open_weights(path).write(tmp_path / "new", {}, added)
    file = open_weights(tmp_path / "new")
    assert list(file.layers) == ["one", "empty", "new"]
    for layer in file.layers:
        np.testing.assert_array_equal(file.layers[layer][0].array().reshape(2, 3), VALUES)
    assert len(file.layers["new"]) == 2
    assert file.types["new"] == "InnerProduct"


@pytest.mark.parametrize(
    ("blob", "words"),
    [
        (dims(2, 4) + wire.encode_bytes(5, VALUES.tobytes()), "asks for 8 numbers, 6 are there"),
        (dims(2**20, 2**20) + wire.encode_bytes(5, VALUES.tobytes()), "1099511627776"),
        (dims(6) + wire.encode_bytes(5, VALUES.tobytes()[:-1]), "cut off in the middle"),
        (dims(6) + wire.encode_number(10, 3) + wire.encode_bytes(12, bytes(24)), "not supported"),
    ],
    ids=["count", "2^40", "middle", "integers"],
)
def test_a_damaged_blob_is_named(tmp_path, blob, words):
    with pytest.raises(WeightsError, match=r'layer "ip", blob 1.*') as found:
        open_weights(write_file(tmp_path / "w", v2_layer("ip", ENCODINGS["packed"], blob)))
    assert words in str(found.value)


def test_a_number_that_is_not_finite_is_never_written(tmp_path):
    path = write_file(tmp_path / "w", v2_layer("ip", ENCODINGS["packed"]))
    with pytest.raises(WeightsError, match="not finite"):
        open_weights(path).write(tmp_path / "new", {("ip", 0): np.full((2, 3), np.inf)}, {})
    with pytest.raises(WeightsError, match="not finite"):
        write_new(tmp_path / "new", {"ip": ("InnerProduct", [np.full(3, np.nan)])}, "net")
    assert not (tmp_path / "new").exists()


def test_a_solverstate_is_told_apart(tmp_path):
    state = (
        wire.encode_number(1, 5000) + wire.encode_bytes(2, b"x.caffemodel") + wire.encode_bytes(3, ENCODINGS["packed"])
    )
    (tmp_path / "x.solverstate").write_bytes(state)
    with pytest.raises(FormatError, match="solverstate"):
        open_weights(tmp_path / "x.solverstate")


@pytest.mark.parametrize("suffix", ["caffemodel", "caffemodel.h5"])
def test_a_file_from_nothing_is_read_back(tmp_path, suffix):
    if suffix.endswith("h5"):
        pytest.importorskip("h5py")
    path = tmp_path / f"new.{suffix}"
    shared_array = VALUES[0].copy()
    write_new(
        path, {"a": ("InnerProduct", [VALUES, shared_array]), "b": ("InnerProduct", [VALUES, shared_array])}, "net"
    )
    file = open_weights(path)
    for layer in ("a", "b"):
        np.testing.assert_array_equal(file.layers[layer][0].array(), VALUES)
        np.testing.assert_array_equal(file.layers[layer][1].array(), shared_array)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_real_files_survive_a_round_trip(tmp_path, path):
    file = open_weights(path)
    arrays = {(n, i): b.array() for n, blobs in file.layers.items() for i, b in enumerate(blobs)}
    file.write(tmp_path / "same", arrays, {})
    if file.format != "HDF5":
        assert (tmp_path / "same").read_bytes() == path.read_bytes()
    again = open_weights(tmp_path / "same")
    for (layer, index), array in arrays.items():
        np.testing.assert_array_equal(again.layers[layer][index].array(), array)


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_damaged_files_are_refused_or_read(tmp_path, path):
    raw = path.read_bytes()
    rng = np.random.default_rng(len(raw))
    damaged = [raw[: int(at)] for at in np.linspace(0, len(raw) - 1, 20)]
    for at in rng.integers(0, len(raw), 30):
        changed = bytearray(raw)
        changed[int(at)] ^= int(rng.integers(1, 256))
        damaged.append(bytes(changed))
    for content in damaged:
        (tmp_path / "damaged").write_bytes(content)
        with contextlib.suppress(CaffeinitError):  # any other error is ours, and fails
            file = open_weights(tmp_path / "damaged")
            for blobs in file.layers.values():
                for blob in blobs:
                    blob.array()
    # Nothing is allocated that the file does not hold.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 << 20


def test_the_half_precision_file_is_its_float_twin():
    half = open_weights(next(shared("models", "hyperlpr_HorizonalFinemapping_2019").glob("*.caffemodel")))
    full = open_weights(next(shared("models", "hyperlpr_HorizonalFinemapping").glob("*.caffemodel")))
    compared = 0
    for layer, blobs in half.layers.items():
        for index, blob in enumerate(blobs):
            other = full.layers[layer][index].array()
            np.testing.assert_allclose(blob.array(), other, rtol=1e-3, atol=1e-7)
            compared += 1
    assert compared == 8
