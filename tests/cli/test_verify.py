"""verify as a user types it: the exit code tells whether two files are the same function."""

import json
import re

import numpy as np
import pytest

import caffeinit
from tests.cli.conftest import NET


def verify(cli, place, a, b, *more):
    return cli("verify", place / "net.prototxt", a, b, "--images", place / "pictures", *more)


@pytest.fixture
def equalized(cli, place, weights):
    target = place / "equalized.caffemodel"
    arguments = (place / "net.prototxt", weights, "--images", place / "pictures", "--mode", "equalize", "-o", target)
    assert cli("rescale", *arguments).code == 0
    return target


@pytest.fixture
def other(cli, place):
    target = place / "other.caffemodel"
    arguments = (place / "net.prototxt", "--images", place / "pictures", "--seed", "1", "-o", target)
    assert cli("init", *arguments).code == 0
    return target


def test_rescaled_weights_are_the_same_function(cli, place, weights, equalized):
    outcome = verify(cli, place, weights, equalized)
    assert outcome.code == 0
    assert "are the same function on these 12 pictures" in outcome.out
    assert "0 of 12" in outcome.out


def test_other_weights_are_not_and_part_at_the_first_layer(cli, place, weights, other):
    outcome = verify(cli, place, weights, other, "--first")
    assert outcome.code == 1
    assert "NOT the same function" in outcome.out
    assert 'first difference: blob "conv1" after layer "conv1"' in outcome.out


def test_a_conversion_is_the_same_function_on_either_side(cli, place, weights):
    assert cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx").code == 0
    for pair in (
        (weights, place / "net.onnx"),
        (place / "net.onnx", weights),
        (place / "net.onnx", place / "net.onnx"),
    ):
        outcome = verify(cli, place, *pair, "--first")
        assert outcome.code == 0
        assert "no value inside the net differs" in outcome.out


def test_a_net_that_ends_in_a_loss_is_compared_with_its_conversion(cli, place, weights):
    label = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }'
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    (place / "net.prototxt").write_text(label + NET[: NET.index('layer { name: "prob"')] + loss)
    assert cli("convert", place / "net.prototxt", weights, "-o", place / "net.onnx").code == 0
    outcome = verify(cli, place, place / "net.onnx", weights)
    assert outcome.code == 0
    assert [line.split()[0] for line in outcome.out.splitlines() if line.endswith("same")] == ["ip"]


def test_json_has_every_output(cli, place, weights, other):
    outcome = verify(cli, place, weights, other, "--json", "-")
    assert outcome.code == 1
    report = json.loads(outcome.out)
    assert not report["same"]
    assert report["num_images"] == 12
    assert [entry["name"] for entry in report["outputs"]] == ["prob", "ip"]
    for entry in report["outputs"]:
        assert entry["relative"] == pytest.approx(entry["difference"] / entry["largest"])


def test_the_tolerance_decides(cli, place, weights, other):
    found = json.loads(verify(cli, place, weights, other, "--json", "-").out)["outputs"]
    relative = max(entry["relative"] for entry in found)
    assert verify(cli, place, weights, other, "--tolerance", relative * 1.01).code == 0
    assert verify(cli, place, weights, other, "--tolerance", relative * 0.99).code == 1
    assert verify(cli, place, weights, weights, "--tolerance", 0).code == 0
    assert verify(cli, place, weights, weights, "--tolerance", -1).code == 2


def test_a_saturated_softmax_hides_nothing(cli, place, weights):
    net = caffeinit.load(place / "net.prototxt", weights)
    net.params["ip"][0][...] *= 1e4
    net.save(place / "sharp.caffemodel")
    net.params["ip"][0][...] *= 1.01
    net.save(place / "sharper.caffemodel")
    outcome = verify(cli, place, place / "sharp.caffemodel", place / "sharper.caffemodel")
    verdicts = {
        line.split()[0]: line.split()[-1] for line in outcome.out.splitlines() if line.startswith(("prob ", "ip "))
    }
    assert verdicts == {"prob": "same", "ip": "different"}
    assert outcome.code == 1


def test_a_loss_is_compared_where_its_labels_are_given(cli, place, weights, other):
    label = 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }'
    loss = 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    net = place / "train.prototxt"
    net.write_text(NET + label + loss)
    np.save(place / "labels.npy", np.arange(12, dtype=np.float32).reshape(12, 1)[:, 0] % 3)
    pictures = ("--images", f"data={place / 'pictures'}", "--images", f"label={place / 'labels.npy'}")
    assert cli("convert", net, weights, "-o", place / "train.onnx").code == 0
    for nets, code in (((net, weights, other), 1), ((net, weights, place / "train.onnx"), 0)):
        outcome = cli("verify", *nets, *pictures)
        assert outcome.code == code
        verdicts = {row.split()[0]: row.split()[-1] for row in outcome.out.splitlines() if row.startswith("loss ")}
        assert verdicts == {"loss": "different" if code else "same"}
    assert "there is no use for pictures" in cli("measure", net, weights, *pictures).err


def test_what_cannot_be_compared_is_named(cli, place, weights):
    (place / "net.prototxt").write_text(
        NET.replace('name: "ip"', 'name: "fresh"')
        + 'layer { name: "odd" type: "MyLayer" bottom: "conv1" top: "odd" }'
        + 'layer { name: "label" type: "Input" top: "label" input_param { shape { dim: 1 } } }'
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'
    )
    outcome = verify(cli, place, weights, weights)
    assert outcome.code == 0
    assert 'output "odd" is not compared' in outcome.out
    assert 'output "loss" depends on an input without pictures (label); what it judges is compared: ip' in outcome.out
    assert "holds no numbers for fresh: zeros are used" in outcome.out


def test_a_damaged_onnx_file_is_an_error(cli, place, weights):
    (place / "bad.onnx").write_bytes(weights.read_bytes())
    outcome = verify(cli, place, weights, place / "bad.onnx")
    assert outcome.code == 1
    assert "bad.onnx: is no ONNX model" in outcome.err


@pytest.mark.parametrize("change", [("dim: 10", "dim: 12"), ("dim: 3", "dim: 1")])
def test_nets_of_different_inputs_are_told_with_both(cli, place, weights, change):
    (place / "other.prototxt").write_text(NET.replace(*change))
    images = ("--images", place / "pictures")
    assert cli("init", place / "other.prototxt", *images, "-o", place / "other.caffemodel").code == 0
    assert cli("convert", place / "other.prototxt", place / "other.caffemodel", "-o", place / "other.onnx").code == 0
    outcome = verify(cli, place, weights, place / "other.onnx")
    assert outcome.code == 1
    takes = "(N, 1, 12, 10)" if change[1] == "dim: 1" else "(N, 3, 12, 12)"
    assert f'other.onnx: input "data" takes {takes}, but the pictures are (N, 3, 12, 10)' in outcome.err
    assert f"--input-shape data={takes[4:-1].replace(' ', '')}" in outcome.err
    assert "ONNXRuntimeError" not in outcome.err


def test_quiet_prints_nothing(cli, place, weights, other):
    outcome = verify(cli, place, weights, other, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (1, "", "")


def test_a_net_that_was_rewritten_is_verified_with_its_weights(cli, place, weights):
    net, norm = place / "net.prototxt", place / "lrn.prototxt"
    layer = 'layer { name: "n" type: "LRN" bottom: "conv1" top: "conv1" lrn_param { alpha: 1 } } layer { name: "ip"'
    norm.write_text(net.read_text().replace('layer { name: "ip"', layer))
    images = ("--images", place / "pictures")
    free, rewritten = place / "free.caffemodel", place / "free.prototxt"
    assert cli("rescale", norm, weights, *images, "--rewrite-lrn", "-o", free).code == 0
    assert cli("verify", norm, weights, free, *images).code == 1
    outcome = cli("verify", norm, weights, free, "--net-b", rewritten, *images)
    assert outcome.code == 0
    assert f"{norm} with {weights} and {rewritten} with {free} are the same function" in outcome.out
    found = json.loads(cli("verify", norm, weights, free, "--net-b", rewritten, *images, "--json", "-").out)
    assert [found["net"], found["net_b"], found["same"]] == [str(norm), str(rewritten), True]
    # One file of weights in two nets.
    assert cli("verify", norm, weights, "--net-b", norm, *images).code == 0
    told = cli("verify", norm, weights, "--net-b", net, "--first", *images)
    assert told.code == 1
    assert "NOT the same function" in told.out
    assert 'first difference: value "conv1" of layer "n" (LRN)' in told.out


def test_outputs_of_two_nets_are_matched_by_name_and_pictures_prepared_once(cli, place, weights):
    net, other = place / "net.prototxt", place / "other.prototxt"
    more = 'layer { name: "early" type: "Pooling" bottom: "conv1" top: "early" pooling_param { global_pooling: true } }'
    prepared = 'type: "Input" transform_param { scale: 0.1 }'
    other.write_text(net.read_text().replace('type: "Input"', prepared) + more)
    outcome = cli("verify", net, weights, weights, "--net-b", other, "--images", place / "pictures")
    assert outcome.code == 0
    assert 'has the output "early"' in outcome.out


@pytest.mark.parametrize("words", [("net.caffemodel", "net.onnx"), ("net.onnx",)])
def test_a_second_net_is_for_caffe_weights(cli, place, weights, monkeypatch, words):
    monkeypatch.chdir(place)
    assert cli("convert", "net.prototxt", weights, "-o", "net.onnx").code == 0
    outcome = cli("verify", "net.prototxt", *words, "--net-b", "net.prototxt", "--images", "pictures")
    assert outcome.code == 2
    assert "--net-b is for Caffe nets" in outcome.err


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("verb", ["verify", "measure"])
def test_weights_for_another_size_are_named(cli, place, verb, order):
    net = place / "open.prototxt"
    data = 'type: "Data" top: "data" top: "label" data_param { source: "none" batch_size: 2 } }'
    net.write_text(re.sub(r'type: "Input" top: "data" input_param .*', data, NET))
    for name, shape in (("a", "3,24,20"), ("b", "3,12,10")):
        arguments = (
            "--images",
            place / "pictures",
            "--input-shape",
            f"data={shape}",
            "-o",
            place / f"{name}.caffemodel",
        )
        assert cli("init", net, *arguments).code == 0
    files = [place / f"{name}.caffemodel" for name in order]
    words = (files[0], files[1]) if verb == "verify" else (files[0], "--compare", files[1])
    outcome = cli(verb, net, *words, "--images", place / "pictures")
    assert outcome.code == 1
    assert outcome.err.startswith(
        f"error: {place / 'b.caffemodel'}: no layer of {net} that has weights can run with these"
    )
    assert "label" not in outcome.err
    assert "3 x 24 x 20 could be taken from the pictures" in outcome.err
