"""Weights files: every form is read, and written back with nothing but the numbers changed."""

import contextlib
import resource
import subprocess
import sys
import time

import numpy as np
import pytest

from caffeinit.caffe.weights import open_weights, write_new
from caffeinit.errors import CaffeinitError, WeightsError
from caffeinit.protos import schema
from caffeinit.storage import wire
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


@pytest.mark.parametrize("generation", LAYERS)
@pytest.mark.parametrize("order", [("new", "empty"), ("empty", "new")])
def test_layers_are_added_after_a_last_one_that_gets_blobs(tmp_path, generation, order):
    # Both land at the file's end: in the wrong order, the new layer would come to lie within the old one.
    path = tmp_path / "w"
    path.write_bytes(LAYERS[generation]("one", ENCODINGS["packed"]) + LAYERS[generation]("empty"))
    added = {name: ("InnerProduct", [VALUES + len(name)]) for name in order}
    open_weights(path).write(tmp_path / "new", {("one", 0): VALUES * 2}, added)
    file = open_weights(tmp_path / "new")
    assert list(file.layers) == ["one", "empty", "new"]
    assert file.format == generation
    np.testing.assert_array_equal(file.layers["one"][0].array(), VALUES * 2)
    for name in order:
        np.testing.assert_array_equal(file.layers[name][0].array().reshape(2, 3), VALUES + len(name))


@pytest.mark.parametrize("generation", LAYERS)
def test_what_is_added_is_what_protobuf_reads(tmp_path, generation):
    path = write_file(tmp_path / "w", LAYERS[generation]("one", ENCODINGS["packed"]))
    open_weights(path).write(tmp_path / "new", {}, {"new": ("InnerProduct", [VALUES])})
    net = schema.message("NetParameter")()
    net.ParseFromString((tmp_path / "new").read_bytes())
    new = (net.layer if generation == "V2" else net.layers)[-1]
    if generation == "V0":  # Caffe takes nothing from a V0 file but what is nested
        assert not new.name
        new = new.layer
        assert new.type == "innerproduct"
    assert new.name == "new"
    np.testing.assert_array_equal(np.frombuffer(new.blobs[0].data, "<f4"), VALUES.ravel())
    axes = list(new.blobs[0].shape.dim) or [getattr(new.blobs[0], n) for n in ("num", "channels", "height", "width")]
    assert axes == ([2, 3] if generation == "V2" else [1, 1, 2, 3])


@pytest.mark.parametrize("generation", ["V0", "V1"])
@pytest.mark.parametrize(
    ("kind", "array", "words"),
    [("BatchNorm", VALUES, "no layer type BatchNorm in V"), ("Convolution", np.ones((1,) * 5), "upgrade the file")],
)
def test_what_an_old_form_cannot_say_is_refused(tmp_path, generation, kind, array, words):
    path = write_file(tmp_path / "w", LAYERS[generation]("one", ENCODINGS["packed"]))
    with pytest.raises(CaffeinitError, match=words):
        open_weights(path).write(tmp_path / "new", {}, {"new": (kind, [array])})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("generation", LAYERS)
def test_of_layers_of_one_name_the_last_counts_and_is_changed(tmp_path, generation):
    # Net::CopyTrainedLayersFrom copies each into the same layer, so what the last one holds is what Caffe runs.
    other = dims(2, 3) + wire.encode_bytes(5, (VALUES + 1).tobytes())
    layer = LAYERS[generation]
    path = write_file(
        tmp_path / "w", layer("data") + layer("ip", ENCODINGS["packed"]) + layer("ip", other) + layer("data")
    )
    file = open_weights(path)
    assert list(file.layers) == ["data", "ip"]
    np.testing.assert_array_equal(file.layers["ip"][0].array(), VALUES + 1)
    assert file.notes == ['layer "ip" is there more than once; its last copy counts, as in Caffe']
    file.write(tmp_path / "new", {("ip", 0): VALUES + 2}, {})
    old, new = path.read_bytes(), (tmp_path / "new").read_bytes()
    assert VALUES.tobytes() in new
    assert new == old.replace((VALUES + 1).tobytes(), (VALUES + 2).tobytes())


@pytest.mark.parametrize("generation", LAYERS)
def test_the_embedded_net_is_everything_but_the_blobs(tmp_path, generation):
    layer = LAYERS[generation]
    path = write_file(tmp_path / "w", layer("one", ENCODINGS["packed"], ENCODINGS["double"]) + layer("two"))
    assert open_weights(path).embedded_net() == wire.encode_bytes(1, b"net") + layer("one") + layer("two") + UNKNOWN


def test_the_types_of_all_generations_are_spelled_as_today(tmp_path):
    for generation, layer in LAYERS.items():
        file = open_weights(write_file(tmp_path / generation, layer("ip", ENCODINGS["packed"])))
        assert file.types == {"ip": "InnerProduct"}


def test_an_empty_blob_is_of_no_use_but_no_obstacle(tmp_path):
    file = open_weights(write_file(tmp_path / "w", v2_layer("ip", ENCODINGS["packed"]) + v2_layer("other", b"")))
    assert [b.shape for b in file.layers["other"]] == [(0,)]
    assert file.layers["other"][0].array().shape == (0,)


def test_numbers_of_another_count_are_not_written(tmp_path):
    path = write_file(tmp_path / "w", v2_layer("ip", ENCODINGS["packed"]))
    with pytest.raises(WeightsError, match='layer "ip", blob 0: 3 numbers are given for the 6'):
        open_weights(path).write(tmp_path / "new", {("ip", 0): VALUES[0]}, {})


def test_a_source_may_be_replaced_by_what_is_written(tmp_path):
    path = write_file(tmp_path / "w", v2_layer("ip", ENCODINGS["packed"]))
    file = open_weights(path)
    file.write(path, {("ip", 0): VALUES * 2}, {}, force=True)
    np.testing.assert_array_equal(open_weights(path).layers["ip"][0].array(), VALUES * 2)


HOSTILE = {
    # Runs of one number each, which may not cost a look at all that follows.
    "short runs": (wire.encode_number(20, 1) + b"\x2d1234") * 200_000,
    "fields without end": b"\xa2\x06\x00" * 2_000_000,
    "axes without end": wire.encode_bytes(7, wire.encode_bytes(1, b"\xff\xff\xff\xff\x07" * 1_000_000)),
    "shapes without end": wire.encode_bytes(7, b"\x08\x01") * 500_000,
    "nothing, by a shape that cannot be": dims(0, 2**63, 2**63),
    "nothing, by axes that can be and do not go together": dims(0, *[2**30] * 3),
    "a negative axis": wire.encode_number(1, 2**64 - 2) + wire.encode_number(2, 2**64 - 3) + bytes.fromhex("2a00"),
}


@pytest.mark.timeout(30)
@pytest.mark.parametrize("blob", HOSTILE)
def test_hostile_blobs_are_refused_in_bounded_time(tmp_path, blob):
    path = write_file(tmp_path / "w", v2_layer("ip", HOSTILE[blob]))
    began = time.process_time()  # not by the clock: other processes may need the machine too
    with pytest.raises(CaffeinitError):
        open_weights(path)
    assert time.process_time() - began < 10  # the limit for damaged files


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


MEASURE = """
import sys
from caffeinit.caffe.weights import open_weights
# Unlike getrusage's, this peak does not begin with the parent's.
peak = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = peak()
file = open_weights(sys.argv[1])
arrays = {(name, i): blob.array() for name, blobs in file.layers.items() for i, blob in enumerate(blobs)}
assert len(file.fingerprint) == 64
file.write(sys.argv[1] + ".same", arrays, {})
print((peak() - before) * 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_file_that_is_read_and_written_is_in_memory_once(tmp_path):
    path = tmp_path / "large.caffemodel"
    write_new(path, {f"ip{i}": ("InnerProduct", [np.full((1 << 10, 1 << 12), i, np.float32)]) for i in range(6)}, "")
    ran = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    # The arrays, the layer at hand in the file, and which of its numbers changed; the whole file would be 2 and more.
    assert 1 <= int(ran.stdout) / path.stat().st_size < 1.6
    assert path.with_name("large.caffemodel.same").read_bytes() == path.read_bytes()


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
