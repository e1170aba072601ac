"""init and rescale where something does not fit: what is said, and nothing is written."""

import os

import numpy as np
import pytest
from PIL import Image

import caffeinit
from tests.cli.asking import refused, rescale
from tests.cli.conftest import NET


def test_an_output_that_exists_stays(cli, place, weights):
    before = weights.read_bytes()
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", weights)
    refused(outcome, place, "exists already", "--force")
    assert weights.read_bytes() == before


def test_a_truncated_weights_file_is_refused(cli, place, weights):
    weights.write_bytes(weights.read_bytes()[:-200])
    refused(rescale(cli, place, weights), place, "net.caffemodel", "cut off")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"<html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (NET.encode(), "text file"),
        (b"PK\x03\x04" + bytes(100), "zip"),
        (bytes(range(256)) * 4, "caffemodel"),
    ],
    ids=["empty", "html", "lfs", "prototxt", "zip", "noise"],
)
def test_a_foreign_file_is_named(cli, place, content, word):
    (place / "foreign.caffemodel").write_bytes(content)
    refused(rescale(cli, place, place / "foreign.caffemodel"), place, word)


def test_weights_that_do_not_fit_are_shown_together(cli, place, weights):
    wider = NET.replace("num_output: 6", "num_output: 7")
    (place / "net.prototxt").write_text(wider)
    outcome = rescale(cli, place, weights)
    refused(outcome, place, "(6, 3, 3, 3)", "(7, 3, 3, 3)", 'layer "ip"', "caffeinit inspect")


def test_a_missing_net_is_refused(cli, place, weights):
    refused(
        cli("rescale", place / "no.prototxt", weights, "--images", place, "--mode", "normalize"), place, "no such file"
    )


@pytest.mark.parametrize("folder", [".", "/", "pictures"])
def test_a_folder_in_the_place_of_a_file_is_refused(cli, place, weights, monkeypatch, folder):
    monkeypatch.chdir(place)
    refused(rescale(cli, place, folder), place, "is a folder, not a file")
    lrn = ("--mode", "preserve", "--rewrite-lrn")
    refused(rescale(cli, place, weights, *lrn, "-o", folder), place, "is not a regular file")


def test_a_net_with_a_misspelt_bottom_names_layer_and_blob(cli, place, weights):
    (place / "net.prototxt").write_text(NET.replace('bottom: "ip"', 'bottom: "pi"'))
    refused(rescale(cli, place, weights), place, 'layer "prob"', '"pi"')


def test_a_syntax_error_has_its_line(cli, place, weights):
    (place / "net.prototxt").write_text(NET.replace('top: "prob"', 'top "prob"'))
    refused(rescale(cli, place, weights), place, "net.prototxt:8")


def test_an_unreadable_picture_is_skipped_and_counted(cli, place, weights):
    (place / "pictures" / "3.png").write_bytes(b"no picture")
    (place / "pictures" / "4.png").write_bytes(b"")
    outcome = rescale(cli, place, weights)
    assert outcome.code == 0
    assert "2 skipped" in outcome.out
    assert "10 of 12 pictures" in outcome.out


def test_an_unreadable_picture_is_refused_with_strict(cli, place, weights):
    (place / "pictures" / "3.png").write_bytes(b"no picture")
    refused(rescale(cli, place, weights, "--strict"), place, "3.png")


def test_no_picture_left_is_refused(cli, place, weights):
    for path in (place / "pictures").iterdir():
        path.write_bytes(b"no picture")
    refused(rescale(cli, place, weights), place, "no picture can be used")


def test_constant_pictures_give_dead_channels_not_nan(cli, place, weights):
    for path in (place / "pictures").iterdir():
        Image.fromarray(np.full((24, 20, 3), 90, np.uint8)).save(path)
    outcome = rescale(cli, place, weights)
    assert outcome.code == 0
    assert "dead channels" in outcome.out
    assert "no channel of any unit varies on these pictures" in outcome.out
    net = caffeinit.load(place / "net.prototxt", place / "net.rescaled.caffemodel")
    assert all(np.isfinite(a).all() for arrays in net.params.values() for a in arrays)


def test_one_picture_is_enough_for_finite_weights(cli, place):
    target = place / "one.caffemodel"
    pictures = place / "pictures" / "1.png"
    for method in ("gaussian", "orthonormal", "pca", "kmeans"):
        outcome = cli("init", place / "net.prototxt", "--images", pictures, "--method", method, "--force", "-o", target)
        assert outcome.code == 0
        net = caffeinit.load(place / "net.prototxt", target)
        assert all(np.isfinite(a).all() and a.any() for a in (net.params["conv1"][0], net.params["ip"][0]))


def test_nan_in_the_weights_is_refused(cli, place, weights):
    raw = bytearray(weights.read_bytes())
    net = caffeinit.load(place / "net.prototxt", weights)
    at = raw.index(net.params["conv1"][0].tobytes()[:8])
    raw[at : at + 4] = np.float32(np.nan).tobytes()
    weights.write_bytes(raw)
    refused(rescale(cli, place, weights), place, 'layer "conv1"', "not finite")


def test_a_full_disk_leaves_nothing_behind(cli, place, weights, monkeypatch):
    import errno

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(rescale(cli, place, weights), place, "no space left on device")


def test_an_unknown_method_is_refused_with_a_hint(cli, place):
    target = place / "x.caffemodel"
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "--method", "kmean", "-o", target)
    refused(outcome, place, "kmeans", code=2)
    assert not target.exists()


def test_wrong_usage_exits_with_2(cli, place, weights):
    assert cli("rescale", place / "net.prototxt", weights, "--mode", "best", "--images", place / "pictures").code == 2
    assert cli("init", place / "net.prototxt", "-o", "x").code == 2
    assert cli("fly").code == 2


def test_unknown_layers_are_left_out_or_refused_together(cli, place, weights):
    custom = 'layer { name: "odd" type: "MyLayer" bottom: "ip" top: "odd" }\n'
    python = 'layer { name: "py" type: "Python" bottom: "data" top: "py" }\n'
    (place / "net.prototxt").write_text(NET + custom + python)
    outcome = rescale(cli, place, weights)
    assert outcome.code == 0
    assert "MyLayer" in outcome.out
    assert "Python" in outcome.out
    strict = rescale(cli, place, weights, "--strict", "--force")
    assert strict.code == 1
    assert "MyLayer" in strict.err
    assert "Python" in strict.err


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_what_is_no_data_does_not_go_to_stdout(cli, place, option, monkeypatch):
    monkeypatch.chdir(place)
    found = cli(
        "init",
        "net.prototxt",
        "--images",
        "pictures",
        *([] if option == "--output" else ["-o", "o.caffemodel"]),
        option,
        "-",
    )
    assert (found.code, found.out) == (2, "")
    assert f"{option} -: this needs a name" in found.err
    assert not (place / "-").exists()
