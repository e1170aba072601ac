"""Mean pictures: read as they are, or refused with what is wrong and what to do."""

import numpy as np
import pytest

from caffeinit.errors import ImagesError
from caffeinit.images import Preprocessing
from caffeinit.images.means import read_mean
from caffeinit.storage import wire
from tests.conftest import shared

MEAN = np.arange(24, dtype=np.float32).reshape(2, 3, 4)  # all axes differ
AXES = b"".join(wire.encode_number(n, d) for n, d in zip((1, 2, 3, 4), (1, 2, 3, 4), strict=True))
PACKED = wire.encode_bytes(5, MEAN.tobytes())


@pytest.mark.parametrize(
    "content",
    [
        AXES + PACKED,
        wire.encode_bytes(7, wire.encode_bytes(1, bytes((2, 3, 4)))) + PACKED,
        AXES + b"".join(b"\x2d" + v.tobytes() for v in MEAN.ravel()),
        AXES + wire.encode_bytes(8, MEAN.astype("<f8").tobytes()),
    ],
    ids=["old axes", "shape", "single numbers", "doubles"],
)
def test_every_form_of_a_blob_is_read(tmp_path, content):
    (tmp_path / "mean.binaryproto").write_bytes(content)
    mean = read_mean(tmp_path / "mean.binaryproto")
    assert mean.dtype == np.float32
    np.testing.assert_array_equal(mean, MEAN)


@pytest.mark.parametrize("array", [MEAN, MEAN[None], MEAN.astype("f8"), np.asfortranarray(MEAN)])
def test_a_numpy_file_is_read(tmp_path, array):
    np.save(tmp_path / "mean.npy", array)
    np.testing.assert_array_equal(read_mean(tmp_path / "mean.npy"), MEAN)


def npy_header(shape):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.binaryproto", b"", "no mean picture"),
        ("m.binaryproto", AXES + PACKED[:-5], "damaged or cut off"),
        ("m.binaryproto", AXES + wire.encode_bytes(5, MEAN.tobytes()[:-8]), "asks for 24 numbers, 22 are there"),
        ("m.binaryproto", AXES + wire.encode_number(1, 2**40) + PACKED, "asks for 26388279066624 numbers"),
        ("m.binaryproto", AXES + wire.encode_bytes(5, np.full(24, np.nan, "<f4").tobytes()), "no mean picture"),
        ("m.binaryproto", wire.encode_bytes(7, wire.encode_bytes(1, b"\x18")) + PACKED, "not C,H,W"),
        ("m.binaryproto", b"<html>not found</html>", "no mean file"),
        ("m.npy", b"", r"no \.npy file"),
        ("m.npy", npy_header((3, 2**30, 2**10)) + bytes(96), r"no \.npy file"),  # nothing of the size it claims
        ("m.npy", npy_header((2, 3, 4)) + bytes(95), r"no \.npy file"),
        ("m.npy", b"\x80\x04N.", r"no \.npy file"),
    ],
)
def test_what_is_no_mean_is_refused(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImagesError, match=words) as found:
        read_mean(tmp_path / name)
    assert str(found.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros((2, 3), "f4"), np.zeros((2, 3, 4, 5))])
def test_a_numpy_file_of_something_else_is_refused(tmp_path, array):
    np.save(tmp_path / "mean.npy", array, allow_pickle=True)
    with pytest.raises(ImagesError, match=r"mean\.npy: is no"):
        read_mean(tmp_path / "mean.npy")


def test_a_missing_mean_of_the_net_says_how_to_give_one_and_a_given_one_does_not(tmp_path):
    path = tmp_path / "mean.binaryproto"
    with pytest.raises(ImagesError, match=r"no such file.*--mean-file FILE"):
        Preprocessing(mean_file=path).resolved()
    with pytest.raises(ImagesError, match=r"no such file( or directory)?$"):
        Preprocessing().override(mean_file=path).resolved()


def test_real_means(tmp_path):
    good = read_mean(shared("models", "means", "imagenet_mean.binaryproto"))
    assert good.shape == (3, 256, 256)
    # Blue, green, red of ImageNet, as everyone subtracts them.
    np.testing.assert_allclose(good.mean(axis=(1, 2)), [104, 117, 123], atol=1)
    with pytest.raises(ImagesError, match="petbreed"):
        read_mean(shared("models", "means", "imagenet_mean_smallfile_petbreed.binaryproto"))
