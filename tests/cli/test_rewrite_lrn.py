"""rescale --rewrite-lrn as a user types it: weights and net are written together, or neither is."""

import json
import os

import numpy as np
import pytest

import caffeinit
from tests.cli.conftest import NET
from tests.onnxfile.test_lrn import build_lrn

NORM = 'layer { name: "norm" type: "LRN" bottom: "conv1" top: "norm" lrn_param { alpha: 2 } }  # to be rewritten\n'
TEXT = NET.replace('layer { name: "ip"', NORM + 'layer { name: "ip"').replace(
    'bottom: "conv1" top: "ip"', 'bottom: "norm" top: "ip"'
)


@pytest.fixture
def rescale(place, cli):
    """Return what runs `rescale --rewrite-lrn` on a net with LRN."""
    (place / "net.prototxt").write_text(TEXT)
    images = ("--images", place / "pictures")
    assert cli("init", place / "net.prototxt", *images, "--no-balance", "-o", place / "net.caffemodel").code == 0

    def run(*more, rewrite="--rewrite-lrn"):
        return cli("rescale", place / "net.prototxt", place / "net.caffemodel", *images, rewrite, *more)

    return run


def listing(place):
    return {name: (place / name).read_bytes() for name in os.listdir(place) if name != "pictures"}


def outputs(net, weights, place):
    loaded = caffeinit.load(net, weights)
    batches = caffeinit.read_images(loaded, place / "pictures")
    return np.concatenate([loaded.forward(batch, ["ip"])["ip"] for batch in batches])


@pytest.mark.parametrize(
    ("more", "weights", "net"),
    [
        ((), "net.rescaled.caffemodel", "net.rescaled.prototxt"),
        (("-o", "new.caffemodel"), "new.caffemodel", "new.prototxt"),
        (("-o", "new", "--output-net", "other.txt"), "new", "other.txt"),
    ],
)
def test_both_are_written_and_fit_each_other(place, rescale, monkeypatch, more, weights, net):
    monkeypatch.chdir(place)
    before = listing(place)
    outcome = rescale(*more)
    assert outcome.code == 0
    assert weights in outcome.out
    assert net in outcome.out
    assert "layer norm: lrn_param.alpha is" in outcome.out
    after = listing(place)
    assert {*after} - {*before} == {weights, net}
    head, tail = TEXT.split("alpha: 2 ")
    assert after[net].decode().startswith(head + "alpha: ")
    assert after[net].decode().endswith(tail)
    old, new = outputs("net.prototxt", "net.caffemodel", place), outputs(net, weights, place)
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * np.abs(old).max())


def test_a_dry_run_names_both_and_writes_neither(place, rescale):
    before = listing(place)
    outcome = rescale("--dry-run")
    assert outcome.code == 0
    assert "net.rescaled.caffemodel and " in outcome.out
    assert listing(place) == before


@pytest.mark.parametrize("name", ["net.rescaled.caffemodel", "net.rescaled.prototxt"])
def test_one_that_exists_keeps_both_from_being_written(place, rescale, name):
    (place / name).write_bytes(b"old")
    before = listing(place)
    outcome = rescale()
    assert outcome.code == 1
    assert f"{name}: exists already" in outcome.err
    assert listing(place) == before
    assert rescale("--force").code == 0
    assert all(len((place / f"net.rescaled.{e}").read_bytes()) > 100 for e in ("caffemodel", "prototxt"))


def test_the_net_itself_is_not_overwritten_unasked(place, rescale):
    before = listing(place)
    outcome = rescale("--output-net", place / "net.prototxt", "--force")
    assert outcome.code == 2
    assert listing(place) == before


def test_the_result_names_both(place, rescale):
    told = json.loads(rescale("--json", "-").out)
    assert told["output"].endswith("net.rescaled.caffemodel")
    assert told["output_net"].endswith("net.rescaled.prototxt")


def test_a_name_for_a_net_that_is_not_rewritten_is_wrong_usage(place, rescale):
    outcome = rescale("--output-net", "x.prototxt", rewrite="--no-balance")
    assert outcome.code == 2
    assert "--rewrite-lrn" in outcome.err


def test_an_onnx_model_has_its_net_within_itself(place, cli):
    model = build_lrn(shape=("N", 3, 12, 10)).save(place / "net.onnx")
    outcome = cli("rescale", model, "--images", place / "pictures", "--rewrite-lrn", "--output-net", place / "n.txt")
    assert outcome.code == 2
    assert "an ONNX model has its net within itself" in outcome.err
    outcome = cli("rescale", model, "--images", place / "pictures", "--rewrite-lrn")
    assert outcome.code == 0
    assert "node norm1_2: alpha is" in outcome.out
    assert {n for n in os.listdir(place) if "rescaled" in n} == {"net.rescaled.onnx"}


def test_mode_normalize_does_not_rewrite(place, rescale):
    outcome = rescale("--mode", "normalize")
    assert outcome.code == 2
    assert "--rewrite-lrn" in outcome.err


def test_a_net_without_lrn_is_told_so_and_its_text_copied(place, rescale):
    (place / "net.prototxt").write_text(NET)
    outcome = rescale()
    assert outcome.code == 0
    assert "no alpha of an LRN had to be rewritten" in outcome.out
    assert (place / "net.rescaled.prototxt").read_text() == NET


def test_a_batch_writes_both(place, rescale, cli):
    os.mkdir(place / "zoo")
    for name in ("net.prototxt", "net.caffemodel"):
        os.rename(place / name, place / "zoo" / name)
    outcome = cli(
        *("batch", place / "zoo", "-o", place / "out", "--images", place / "pictures", "--rewrite-lrn", "--quiet")
    )
    assert outcome.code == 0
    assert {"net.caffemodel", "net.prototxt"} < {*os.listdir(place / "out")}
    assert (place / "out" / "net.prototxt").read_text() != TEXT
