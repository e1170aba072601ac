"""Files that are given as weights and are none: each is refused with what it is."""

import pytest

from caffeinit.caffe.foreign import foreign_kind
from caffeinit.caffe.weights import open_weights
from caffeinit.errors import FormatError
from caffeinit.storage import wire
from tests.conftest import SHARED

MODELS = sorted((SHARED / "models").glob("*/*.caffemodel"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\xef\xbb\xbf\n <html></html>", "web page"),
        (b"not a model, but a note\n", "is a text file, not"),
        (b'name: "LeNet"\nlayer { name: "data" }\n', r"text file \(are net and weights in the right order\?\), not"),
        ("# 卷积网络\n".encode(), "text file"),
        (b"PK\x03\x04\x14\x00", "zip archive"),
        (b"\x80\x02}q\x00.", "pickle"),
        (b"\x80\x05}\x94.", "pickle"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x93NUMPY\x01\x00", "numpy array"),
        (wire.encode_number(1, 8) + wire.encode_bytes(2, b"pytorch") + wire.encode_bytes(7, b""), "is an ONNX model"),
        (wire.encode_number(1, 1) + wire.encode_number(2, 3) + wire.encode_bytes(5, bytes(12)), "mean files"),
        (
            wire.encode_number(1, 5000) + wire.encode_bytes(2, b"x.caffemodel") + wire.encode_bytes(3, b""),
            "solverstate",
        ),
        (wire.encode_bytes(1, b"a net") + wire.encode_bytes(3, b"data"), "no layers in it"),
        (wire.encode_bytes(1, b"a net") + b"\xa2\x06\x7f", "damaged or cut off"),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_other_files_are_told_what_they_are(tmp_path, content, words):
    (tmp_path / "w").write_bytes(content)
    with pytest.raises(FormatError, match=words) as found:
        open_weights(tmp_path / "w")
    assert str(found.value).startswith(f"{tmp_path / 'w'}: ")


@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.parent.name)
def test_no_real_weights_file_is_taken_for_another(path):
    with open(path, "rb") as file:
        assert foreign_kind(file.read(4096)) == ""


def test_the_shortest_net_is_not_taken_for_text():
    # Tags and lengths of a few bytes are control characters, which no text has.
    assert foreign_kind(wire.encode_bytes(1, b"net")) == ""
    assert foreign_kind(wire.encode_bytes(100, wire.encode_bytes(1, b"a name of thirty-two characters."))) == ""
