"""upgrade: old nets and weights in today's form compute what they computed, blob for blob."""

import numpy as np
import pytest

import caffeinit
from caffeinit.caffe.net import read_net
from caffeinit.caffe.weights import open_weights
from caffeinit.protos import schema
from caffeinit.storage import wire
from tests.conftest import shared

MODELS = [
    # folder, net, weights, generation
    ("lenet_v0_synthetic", "deploy.prototxt", "lenet_v0.caffemodel", "V0"),
    ("lenet_v1_everpeace", "deploy.prototxt", "lenet_iter_10000.caffemodel", "V1"),
]
V1 = """
name: "old" input: "data" input_dim: 1 input_dim: 2 input_dim: 5 input_dim: 4
layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv" blobs_lr: 1 blobs_lr: 2 weight_decay: 0.1
  convolution_param { num_output: 3 kernel_size: 3 } }
layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
"""
V0 = """
name: "older" input: "data" input_dim: 1 input_dim: 2 input_dim: 5 input_dim: 4
layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "data" top: "pad" }
layers { layer { name: "conv" type: "conv" num_output: 3 kernelsize: 3 biasterm: false blobs_lr: 1 } bottom: "pad"
  top: "conv" }
"""


@pytest.mark.parametrize(("folder", "net", "weights", "generation"), MODELS, ids=[m[0] for m in MODELS])
def test_upgraded_files_give_the_same_outputs(cli, tmp_path, folder, net, weights, generation):
    old = [shared("models", folder, name) for name in (net, weights)]
    new = [tmp_path / net, tmp_path / weights]
    for source, target in zip(old, new, strict=True):
        outcome = cli("upgrade", source, target)
        assert outcome.code == 0
        assert f"was {generation}" in outcome.out
    assert read_net(new[0]).generation == open_weights(new[1]).format == "V2"
    before, after = caffeinit.load(*old), caffeinit.load(*new)
    assert not after.missing
    shape = before.inputs["data"]
    given = {"data": np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)}
    wanted, found = before.forward(given), after.forward(given)
    for blob in before.outputs:
        np.testing.assert_array_equal(found[blob], wanted[blob])  # the same graph over the same numbers
        assert wanted[blob].any()


@pytest.mark.parametrize(("text", "bottom"), [(V1, "data"), (V0, "data")], ids=["V1", "V0"])
def test_an_old_text_reads_back_as_its_upgrade(cli, tmp_path, text, bottom):
    (tmp_path / "old.prototxt").write_text(text)
    assert cli("upgrade", tmp_path / "old.prototxt", tmp_path / "new.prototxt").code == 0
    old, new = read_net(tmp_path / "old.prototxt"), read_net(tmp_path / "new.prototxt")
    assert (new.generation, new.message) == ("V2", old.message)
    conv = next(entry for entry in new.layers if entry.type == "Convolution")
    assert list(conv.bottom) == [bottom]
    assert list(conv.convolution_param.pad) == ([1] if text is V0 else [])


def old_weights(text):
    """Return a net of an old generation with blobs of four axes, serialized; a V0 padding layer stands among them."""
    from caffeinit.caffe.textformat import read_text

    net = schema.message("NetParameter")()
    read_text(text, net, "old")
    conv = next(e for e in net.layers if e.name == "conv" or e.layer.name == "conv")
    blob = (conv.layer if conv.HasField("layer") else conv).blobs.add(num=3, channels=2, height=3, width=3)
    blob.data = np.arange(54, dtype="<f4").tobytes()
    return net.SerializeToString(), blob.SerializeToString()


@pytest.mark.parametrize("text", [V0, V1], ids=["V0", "V1"])
def test_blobs_are_copied_byte_for_byte(cli, tmp_path, text):
    raw, blob = old_weights(text)
    (tmp_path / "old.caffemodel").write_bytes(raw)
    assert cli("upgrade", tmp_path / "old.caffemodel", tmp_path / "new.caffemodel").code == 0
    new = schema.message("NetParameter").FromString((tmp_path / "new.caffemodel").read_bytes())
    assert not new.layers
    conv = next(e for e in new.layer if e.name == "conv")
    assert [b.SerializeToString() for b in conv.blobs] == [blob]
    assert conv.param[0].lr_mult == 1
    found = open_weights(tmp_path / "new.caffemodel")
    np.testing.assert_array_equal(found.layers["conv"][0].array().ravel(), np.arange(54))


def test_what_is_in_todays_form_is_copied(cli, place, weights):
    for name in ("net.prototxt", "net.caffemodel"):
        outcome = cli("upgrade", place / name, place / f"copy.{name}")
        assert outcome.code == 0
        assert "already" in outcome.out
        assert (place / f"copy.{name}").read_bytes() == (place / name).read_bytes()


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        (V1.replace("blobs_lr: 1 ", "blobs_lr: 1 my_field: 3 "), "my_field"),
        (V0.replace("blobs_lr: 1", "blobs_lr: 1 dropout_ratio: 0.3"), "dropout_ratio"),
    ],
    ids=["unknown field", "field of another V0 type"],
)
def test_what_would_be_lost_is_refused_by_name_or_dropped_by_name(cli, tmp_path, text, lost):
    old, new = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    old.write_text(text)
    outcome = cli("upgrade", old, new)
    assert outcome.code == 1
    assert lost in outcome.err
    assert "--drop-unknown" in outcome.err
    assert not new.exists()
    dropped = cli("upgrade", old, new, "--drop-unknown")
    assert dropped.code == 0
    assert lost in dropped.err
    assert lost not in new.read_text()


def test_unknown_fields_of_binary_files_are_refused_too(cli, tmp_path):
    raw, _ = old_weights(V1)
    (tmp_path / "old.caffemodel").write_bytes(raw + wire.encode_number(7777, 5))
    outcome = cli("upgrade", tmp_path / "old.caffemodel", tmp_path / "new.caffemodel")
    assert outcome.code == 1
    assert "7777" in outcome.err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", ""),
        (b"net: 'a.prototxt'\n", "solver"),
        (b"net_param { }", "solver"),
        (b"\x00\x01\x02", ""),
        (b"<html>", ""),
    ],
)
def test_other_files_are_refused(cli, tmp_path, content, word):
    (tmp_path / "in").write_bytes(content)
    outcome = cli("upgrade", tmp_path / "in", tmp_path / "out")
    assert outcome.code == 1
    assert outcome.err.startswith("error: ")
    assert word in outcome.err
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_stays(cli, tmp_path):
    (tmp_path / "old.prototxt").write_text(V1)
    (tmp_path / "new.prototxt").write_text("mine")
    assert "exists already" in cli("upgrade", tmp_path / "old.prototxt", tmp_path / "new.prototxt").err
    assert (tmp_path / "new.prototxt").read_text() == "mine"
    assert cli("upgrade", tmp_path / "old.prototxt", tmp_path / "new.prototxt", "--force").code == 0


@pytest.mark.parametrize(
    ("source", "target", "what"), [("net", "new.caffemodel", "a net"), ("weights", "new.prototxt", "weights")]
)
def test_a_name_that_tells_of_another_kind_is_refused(cli, tmp_path, source, target, what):
    (tmp_path / "net").write_text(V1)
    (tmp_path / "weights").write_bytes(schema.message("NetParameter")(name="n").SerializeToString())
    found = cli("upgrade", tmp_path / source, tmp_path / target)
    assert found.code == 2
    assert f"what is written is {'a file of ' if source == 'weights' else ''}{what}" in found.err
    assert not (tmp_path / target).exists()
