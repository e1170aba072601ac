"""What is found in a folder."""

import os

import pytest

from caffeinit.batch.zoo import search_zoo
from caffeinit.errors import CaffeinitError
from tests.batch.conftest import DEPLOY, NAMES, write_net, write_weights


def test_files_are_sorted_by_content(place):
    zoo = place / "zoo"
    write_weights(write_net(zoo / "odd", name="architecture.txt"), "blobs.bin")
    (zoo / "odd" / "solver.prototxt").write_text('net: "deploy.prototxt"\nbase_lr: 0.1\n')
    (zoo / "odd" / "notes.md").write_text("The first layer is a convolution.\n")
    (zoo / "odd" / "table.bin").write_bytes(bytes(range(256)))
    (zoo / "caffeinit.toml").write_text("")
    found = search_zoo(zoo, place / "out")
    assert found.nets == [
        "deep/er/second/deploy.prototxt",
        "first/deploy.prototxt",
        "odd/architecture.txt",
        "third/deploy.prototxt",
    ]
    assert found.weights == [*NAMES[:2], "odd/blobs.bin", NAMES[2]]
    assert found.others == ["odd/solver.prototxt"]
    assert found.settings == ["caffeinit.toml"]


def test_a_weights_name_counts_whatever_is_inside(tmp_path):
    for name, data in (("empty", b""), ("page", b"<html>"), ("text", DEPLOY.encode())):
        (tmp_path / f"{name}.caffemodel").write_bytes(data)
    found = search_zoo(tmp_path, tmp_path / "out")
    assert found.weights == ["empty.caffemodel", "page.caffemodel", "text.caffemodel"]
    assert not found.nets


def test_a_comment_that_speaks_of_layers_makes_no_net(tmp_path):
    (tmp_path / "labels.prototxt").write_text("# each layer: a line\nitem { name: 'cat' }\n")
    found = search_zoo(tmp_path, tmp_path / "out")
    assert (found.nets, found.others) == ([], ["labels.prototxt"])


def test_hidden_folders_and_the_output_are_not_entered(place):
    zoo = place / "zoo"
    write_net(zoo / ".git" / "a")
    write_net(zoo / "out" / "b")
    found = search_zoo(zoo, zoo / "out")
    assert len(found.nets) == 3


def test_links_are_followed_once(place):
    (place / "links").mkdir()
    os.symlink(place / "zoo", place / "links" / "zoo")
    os.symlink(place / "links", place / "links" / "loop")
    found = search_zoo(place / "links", place / "out")
    assert [n for n in found.weights if "loop" not in n] == [f"zoo/{n}" for n in NAMES]
    assert len(found.weights) == 3


def test_a_file_is_no_zoo(place):
    with pytest.raises(CaffeinitError, match="is no folder"):
        search_zoo(place / "zoo" / "first" / "deploy.prototxt", place / "out")


def test_endings_in_capitals_are_endings(tmp_path):
    (tmp_path / "NET.ONNX").write_bytes(b"\x08\x08")
    assert search_zoo(tmp_path, tmp_path / "out").onnx == ["NET.ONNX"]
