"""Weights files in HDF5: links stay links, nothing outside the file is read, nothing is claimed that it cannot hold."""

import os
import subprocess
import sys

import numpy as np
import pytest

from caffeinit.caffe.match import match_weights
from caffeinit.caffe.weights import open_weights, write_new
from caffeinit.errors import CaffeinitError, FormatError, WeightsError
from tests.conftest import shared

h5py = pytest.importorskip("h5py")
VALUES = np.array([[1.5, -2.25, 3.0], [0.1, 1e-8, -7.0]], np.float32)


@pytest.fixture
def path(tmp_path):
    """A file with a layer of two blobs, a diff, an attribute, and a layer without blobs."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["data/ip/0"] = VALUES
        file["data/ip/1"] = VALUES[0]
        file.require_group("data/relu")
        file["diff/ip/0"] = VALUES
        file.attrs["of"] = "a fork"
    return tmp_path / "w.h5"


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def test_layers_and_blobs_are_found(path):
    file = open_weights(path)
    assert (file.format, list(file.layers), file.notes) == ("HDF5", ["ip", "relu"], [])
    assert [b.encoding for b in file.layers["ip"]] == ["float", "float"]
    np.testing.assert_array_equal(file.layers["ip"][0].array(), VALUES)
    file.layers["ip"][0].array()[...] = 0  # a copy of one's own
    np.testing.assert_array_equal(file.layers["ip"][0].array(), VALUES)
    assert len(file.fingerprint) == 64


def test_unchanged_numbers_give_the_same_bytes(path, tmp_path):
    file = open_weights(path)
    file.write(tmp_path / "same.h5", {("ip", i): b.array() for i, b in enumerate(file.layers["ip"])}, {})
    assert (tmp_path / "same.h5").read_bytes() == path.read_bytes()


def test_only_what_changed_is_assigned(path, tmp_path):
    open_weights(path).write(tmp_path / "new.h5", {("ip", 0): VALUES * 2, ("ip", 1): VALUES[0]}, {})
    with h5py.File(tmp_path / "new.h5") as file:
        np.testing.assert_array_equal(file["data/ip/0"], VALUES * 2)
        np.testing.assert_array_equal(file["data/ip/1"], VALUES[0])
        np.testing.assert_array_equal(file["diff/ip/0"], VALUES)
        assert file.attrs["of"] == "a fork"


@pytest.mark.parametrize("kind", ["<f2", "<f4", "<f8", ">f4", ">f8"])
def test_every_type_of_number_is_read_and_kept(path, tmp_path, kind):
    fine = np.array([1 / 3, 2 / 3, 1 / 7]).astype(kind)
    edit(path, lambda file: file.create_dataset("data/fine/0", data=fine))
    array = open_weights(path).layers["fine"][0].array()
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, fine.astype(np.float32))
    array[1] = 0.25
    open_weights(path).write(tmp_path / "new.h5", {("fine", 0): array}, {})
    with h5py.File(tmp_path / "new.h5") as file:
        assert file["data/fine/0"].dtype == kind
        # What did not change keeps all its digits, also those that float32 does not have.
        np.testing.assert_array_equal(file["data/fine/0"][()], np.array([fine[0], 0.25, fine[2]], kind))


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [("<f2", 1e6, "too large for float16"), ("<f4", np.nan, "finite"), ("<f8", np.inf, "fin")],
)
def test_what_the_type_cannot_hold_is_not_written(path, tmp_path, kind, value, words):
    edit(path, lambda file: file.create_dataset("data/fine/0", data=np.ones(2, kind)))
    with pytest.raises(WeightsError, match=words):
        open_weights(path).write(tmp_path / "new.h5", {("fine", 0): np.array([1, value], np.float32)}, {})
    assert os.listdir(tmp_path) == ["w.h5"]


def test_a_nan_that_was_there_does_not_keep_others_from_changing(path, tmp_path):
    edit(path, lambda file: file.create_dataset("data/odd/0", data=np.array([np.nan, 1], "<f4")))
    array = open_weights(path).layers["odd"][0].array()
    array[1] = 2
    open_weights(path).write(tmp_path / "new.h5", {("odd", 0): array}, {})
    np.testing.assert_array_equal(open_weights(tmp_path / "new.h5").layers["odd"][0].array(), [np.nan, 2])


def test_a_double_beyond_single_precision_is_refused(path):
    edit(path, lambda file: file.create_dataset("data/odd/0", data=np.array([1e300, 1])))
    with pytest.raises(WeightsError, match="too large for single precision"):
        open_weights(path).layers["odd"][0].array()


@pytest.mark.parametrize("soft", [False, True], ids=["hard link", "soft link"])
def test_links_stay_links(path, tmp_path, soft):
    def link(file):
        file["data/twin/0"] = h5py.SoftLink("/data/ip/0") if soft else file["data/ip/0"]

    file = open_weights(edit(path, link))
    np.testing.assert_array_equal(file.layers["twin"][0].array(), VALUES)
    file.write(tmp_path / "new.h5", {("ip", 0): VALUES * 2, ("twin", 0): VALUES * 2}, {})
    with h5py.File(tmp_path / "new.h5") as new:
        assert new["data/twin/0"] == new["data/ip/0"]
        np.testing.assert_array_equal(new["data/twin/0"], VALUES * 2)
    for other in (VALUES, VALUES * 3):
        with pytest.raises(WeightsError, match="one dataset"):
            file.write(tmp_path / "not.h5", {("ip", 0): VALUES * 2, ("twin", 0): other}, {})


def test_a_file_as_caffe_writes_it_fits_a_net_that_shares(path, tmp_path):
    # Net::ToHDF5 saves only parameters that own themselves: the sharing layer's weight is not there, its bias is.
    file = open_weights(edit(path, lambda file: file.create_dataset("data/twin/1", data=VALUES[1])))
    assert file.layers["twin"][0] is None
    net = {"ip": [(2, 3), (3,)], "twin": [(2, 3), (3,)]}
    found = match_weights(file, net, {("twin", 0): ("ip", 0)}, {})
    assert not found.mismatches
    assert not found.missing
    assert found.arrays["twin"][0] is found.arrays["ip"][0]
    found.arrays["ip"][0][...] *= 2
    file.write(tmp_path / "new.h5", {at: found.arrays[n][i] for (n, i), at in found.stored.items()}, {})
    np.testing.assert_array_equal(open_weights(tmp_path / "new.h5").layers["ip"][0].array(), VALUES * 2)
    assert match_weights(file, net, {}, {}).mismatches == [
        'layer "twin": the file has 1 blob of (3,), the net asks for 2 blobs of (2, 3), (3,)'
    ]


def test_layers_that_the_file_lacks_are_added(path, tmp_path):
    added = {"new": ("InnerProduct", [VALUES, VALUES[1]]), "relu": ("Scale", [VALUES[0]])}
    open_weights(path).write(tmp_path / "new.h5", {}, added)
    file = open_weights(tmp_path / "new.h5")
    assert sorted(file.layers) == ["ip", "new", "relu"]
    np.testing.assert_array_equal(file.layers["new"][1].array(), VALUES[1])
    np.testing.assert_array_equal(file.layers["relu"][0].array(), VALUES[0])


def test_arrays_that_are_one_object_are_written_once(tmp_path):
    write_new(tmp_path / "w.h5", {"a": ("InnerProduct", [VALUES]), "b": ("InnerProduct", [VALUES])}, "net")
    with h5py.File(tmp_path / "w.h5") as file:
        assert file["data/a/0"] == file["data/b/0"]


@pytest.mark.parametrize("name", ["inception/1x1", ".", ""])
def test_a_name_that_hdf5_takes_apart_is_refused(path, tmp_path, name):
    # H5Gcreate2 makes no groups on the way, so Caffe itself fails here.
    with pytest.raises(WeightsError, match=r"write a \.caffemodel"):
        write_new(tmp_path / "new.h5", {name: ("Convolution", [VALUES])}, "net")
    with pytest.raises(WeightsError, match=r"write a \.caffemodel"):
        open_weights(path).write(tmp_path / "new.h5", {}, {name: ("Convolution", [VALUES])})
    assert os.listdir(tmp_path) == ["w.h5"]


def replace_data(value):
    def change(file):
        del file["data"]
        file["data"] = value

    return change


def at(name, value):
    return lambda file: file.__setitem__(name, value)


def virtual(file):
    layout = h5py.VirtualLayout((3,), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "data/ip/1", (3,))
    file.create_virtual_dataset("data/out/0", layout)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (at("data/out", h5py.ExternalLink("other.h5", "/data/ip")), "link to another file"),
        (at("data/out/0", h5py.ExternalLink("other.h5", "/data/ip/0")), "link to another file"),
        (replace_data(h5py.ExternalLink("other.h5", "/data")), "link to another file"),
        (virtual, "in another file"),
        (
            lambda f: f.create_dataset("data/out/0", (3,), "<f4", external=[("other.h5", 0, 12)]),
            "in another file",
        ),
        (at("data/loop", h5py.SoftLink("/data/loop")), "link to a link"),
        (at("data/dangling/0", h5py.SoftLink("/nowhere")), "damaged"),
        (at("data/text/0", "abc"), "not supported"),
        (at("data/whole/0", np.arange(3)), "not supported"),
        (at("data/flat", np.zeros(3)), "damaged"),
        (replace_data(np.zeros(3)), "damaged"),
        (lambda f: f.create_dataset("data/huge/0", (2**40,), "<f4", chunks=(1024,)), "/data/huge/0 .*1099511627776"),
        (
            lambda f: f.create_dataset("data/bomb/0", data=np.zeros(1 << 25, "<f4"), compression="gzip"),
            "/data/bomb/0",
        ),
    ],
)
def test_what_is_not_in_the_file_is_neither_read_nor_believed(path, change, words, tmp_path):
    (tmp_path / "other.h5").write_bytes(path.read_bytes())
    with pytest.raises(FormatError, match=words) as found:
        open_weights(edit(path, change))
    assert str(path) in str(found.value)


def test_a_soft_link_through_an_external_one_is_refused(path, tmp_path):
    (tmp_path / "other.h5").write_bytes(path.read_bytes())

    def change(file):
        file["away"] = h5py.ExternalLink("other.h5", "/data")
        file["data/out"] = h5py.SoftLink("/away/ip")

    with pytest.raises(FormatError, match='"away" is a link to another file'):
        open_weights(edit(path, change))


def test_what_is_no_blob_is_noted_and_kept(path, tmp_path):
    file = open_weights(edit(path, lambda file: file.create_dataset("data/ip/extra", data=VALUES)))
    assert len(file.layers["ip"]) == 2
    assert "extra" in file.notes[0]
    file.write(tmp_path / "new.h5", {("ip", 0): VALUES * 2}, {})
    with h5py.File(tmp_path / "new.h5") as new:
        np.testing.assert_array_equal(new["data/ip/extra"], VALUES)


@pytest.mark.parametrize(
    ("groups", "words"),
    [(["iter", "history"], "is a solverstate"), (["model_weights"], r"without the group \"data\".*model_weights")],
)
def test_other_hdf5_files_are_told_apart(tmp_path, groups, words):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name in groups:
            file.create_group(name)
    with pytest.raises(FormatError, match=words):
        open_weights(tmp_path / "w.h5")


def test_without_h5py_the_package_to_install_is_named(path, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    for work in (
        lambda: open_weights(path),
        lambda: write_new(tmp_path / "new.h5", {"ip": ("InnerProduct", [VALUES])}, "net"),
    ):
        with pytest.raises(CaffeinitError, match=r"caffeinit\[hdf5\]"):
            work()


def test_a_real_file_is_read(tmp_path):
    source = next(shared("models", "cifar10_full_h5_siegfriedgreg").glob("*.h5"))
    file = open_weights(source)
    assert [b.shape for b in file.layers["conv1"]] == [(32, 3, 5, 5), (32,)]
    new = file.layers["conv1"][0].array() * np.float32(2)
    file.write(tmp_path / "new.h5", {("conv1", 0): new}, {})
    again = open_weights(tmp_path / "new.h5")
    np.testing.assert_array_equal(again.layers["conv1"][0].array(), new)
    for layer, blobs in file.layers.items():
        for index, blob in enumerate(blobs):
            if (layer, index) != ("conv1", 0):
                np.testing.assert_array_equal(again.layers[layer][index].array(), blob.array())


FULL_DISK = """
import resource, signal, sys
import numpy as np
from caffeinit.caffe.weights import open_weights, write_new
from caffeinit.errors import OutputError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
layer = {"new": ("InnerProduct", [np.ones((300, 300), np.float32)])}
source, target = sys.argv[1:]
for write in (lambda: write_new(target, layer, "net"), lambda: open_weights(source).write(target, {}, layer)):
    try:
        write()
    except OutputError as error:
        print(error)
"""


def test_a_full_disk_is_told_in_words_and_leaves_nothing(path, tmp_path):
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, tmp_path / "new.h5"], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done
    assert all(line.startswith(f"{tmp_path / 'new.h5'}: cannot be written: ") for line in lines), done
    assert os.listdir(tmp_path) == ["w.h5"]
