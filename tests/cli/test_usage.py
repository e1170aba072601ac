"""Commands with words too many or too few: what was likely meant is said."""

import glob

import pytest
from google.protobuf import text_format

from caffeinit.protos import schema
from tests.cli.conftest import NET

QUOTED = "put it in quotes, as in --images 'pictures/*.png', or give the folder: --images pictures"
NAMED = "as in --images data='pictures/*.png', or give the folder: --images data=pictures"
# {glob} stands for what a shell makes of pictures/*.png, {two} for the first two of these.
CASES = [
    ("init net.prototxt -o x.caffemodel --images {glob}", QUOTED),
    ("init net.prototxt -o x.caffemodel --images data={glob}", NAMED),
    ("rescale net.prototxt net.caffemodel --images {glob}", QUOTED),
    ("rescale net.prototxt net.caffemodel --images {two}", QUOTED),
    ("rescale net.prototxt --images {two}", QUOTED),
    ("rescale net.onnx --images {two}", QUOTED),
    ("verify net.prototxt net.caffemodel net.caffemodel --images {glob}", QUOTED),
    ("batch . -o out --images {glob}", QUOTED),
    ("init net.prototxt net.caffemodel -o x.caffemodel --images pictures", "caffeinit rescale NET WEIGHTS"),
    ("rescale net.prototxt net.caffemodel x --images pictures", "1 argument too many: x. rescale takes NET [WEIGHTS]"),
    ("inspect net.prototxt net.caffemodel x y", "2 arguments too many: x y. inspect takes NET [WEIGHTS]"),
    ("upgrade a b c", "upgrade takes IN OUT"),
    (
        "init net.prototxt -o x.caffemodel --images pictures --method pca --method kmeans",
        "pca and kmeans are asked for",
    ),
    ("init net.prototxt -o x.caffemodel --images pictures --method =pca", "names no layers"),
    ("init net.prototxt -o x.caffemodel --images pictures --filters x.jpg", "a name that ends in .png"),
    ("inspect net.prototxt net.caffemodel --filters x.jpg", "a name that ends in .png"),
    ("inspect net.prototxt --filters x.png", "give its WEIGHTS, too"),
    ("measure net.prototxt net.caffemodel --images pictures --temp-dir .", "--temp-dir is for --memory-limit"),
    ("measure net.prototxt net.caffemodel --images pictures --allow-tf32 --device cpu", "--allow-tf32 is for GPUs"),
    ("measure net.prototxt net.caffemodel --images pictures --draft --resize none", "--resize none is to leave"),
    ("rescale net.prototxt net.caffemodel --images pictures --seed 0", "--seed is for drawing weights"),
    ("rescale net.prototxt net.caffemodel --images pictures --mode fp16 --seed 1", "--mode normalize can"),
    ("measure net.prototxt net.caffemodel --images pictures --rate-batches 0 --seed 1", "--seed is for the noise"),
    ("inspect net.prototxt net.caffemodel --channels rgb", "--channels is for --filters"),
    ("init net.prototxt -o x.prototxt --images pictures", "weights, and a name in .prototxt is that of a net. Give it"),
    ("init net.prototxt -o x.json --images pictures", "Give it one in .caffemodel or .h5 or .hdf5"),
    ("rescale net.prototxt net.caffemodel --images pictures -o x.html", "is that of a page"),
    (
        "rescale net.prototxt net.caffemodel --images pictures --report x.png",
        "--report x.png: what is written is a page",
    ),
    ("measure net.prototxt net.caffemodel --images pictures --json x.html", "Give it one in .json"),
    ("convert net.prototxt net.caffemodel -o x.h5", "--output x.h5: what is written is an ONNX model"),
    ("convert net.onnx -o y.onnx", "net.onnx is an ONNX model already"),
    ("convert net.prototxt -o y.onnx", "Missing argument 'WEIGHTS'"),
]


@pytest.mark.parametrize(("line", "said"), CASES)
def test_what_was_likely_meant_is_said(cli, place, weights, monkeypatch, line, said):
    monkeypatch.chdir(place)
    (place / "net.onnx").touch()
    pictures = sorted(glob.glob("pictures/*.png"))
    words = line.replace("{glob}", " ".join(pictures)).replace("{two}", " ".join(pictures[:2])).split()
    outcome = cli(*words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not list(place.glob("x.*"))


def test_one_picture_is_no_pattern(cli, place, weights, monkeypatch):
    monkeypatch.chdir(place)
    assert cli("rescale", "net.prototxt", "net.caffemodel", "--images", "pictures/1.png").code == 0


RULES = {
    "include { phase: TRAIN }": "Give --phase TRAIN",
    "exclude { phase: TEST }": "Give --phase TRAIN",
    "include { stage: 'a' }": "Give --stage a",
    "include { phase: TRAIN stage: 'a' stage: 'b' }": "Give --phase TRAIN --stage a --stage b",
    "include { min_level: 2 }": "Try --phase or --stage",
}


@pytest.mark.parametrize("rule", RULES)
def test_the_options_that_let_a_layer_in_are_named(cli, place, rule):
    (place / "net.prototxt").write_text(NET.replace('top: "data"', f'top: "data" {rule}', 1))
    outcome = cli("inspect", place / "net.prototxt")
    assert outcome.code == 1
    assert 'Layer "data" would, but its rules keep it out: ' in outcome.err
    assert RULES[rule] in outcome.err
    (place / "net.prototxt").write_text(f'layer {{ name: "data" type: "Input" top: "data" {rule} }}')
    assert RULES[rule] in cli("inspect", place / "net.prototxt").err


def test_weights_of_a_training_net_tell_the_phase_to_look_at_them_with(cli, place):
    text = NET.replace('top: "data"', 'top: "data" include { phase: TRAIN }', 1)
    snapshot = text_format.Parse(text, schema.message("NetParameter")())
    snapshot.layer[1].blobs.add()
    (place / "snapshot.caffemodel").write_bytes(snapshot.SerializeToString())
    outcome = cli("inspect", place / "snapshot.caffemodel")
    assert outcome.code == 1
    assert "Give --phase TRAIN" in outcome.err
    assert cli("inspect", place / "snapshot.caffemodel", "--phase", "train").code == 0
    assert "It holds weights, too: if it is meant as these, the net's text comes before it" in outcome.err


@pytest.mark.parametrize("ending", ["caffemodel", "h5"])
@pytest.mark.parametrize("more", [[], ["net.prototxt"]], ids=["alone", "swapped"])
def test_weights_in_the_place_of_the_net_are_told(cli, place, monkeypatch, ending, more):
    monkeypatch.chdir(place)
    assert cli("init", "net.prototxt", "--images", "pictures", "-o", f"x.{ending}").code == 0
    outcome = cli("inspect", f"x.{ending}", *more)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"error: x.{ending}: is a file of weights, not a net")
    assert "The net, most often a .prototxt, comes before it" in outcome.err
