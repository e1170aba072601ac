"""A net that states no size is as large as its pictures, if these all have one and the net and its weights go with it."""

import json

import numpy as np
import pytest
from PIL import Image

import caffeinit
from tests.cli.conftest import NET

BODY = NET[NET.index('layer { name: "conv1"') :]
OPEN = (
    'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 2 } PREPARED }'
    + BODY
)
COULD = "3 x 24 x 20 could be taken from the pictures, which all have that size"
SENTENCE = "3 x 24 x 20 taken from the pictures, which all have that size"


@pytest.fixture
def net(place):
    (place / "net.prototxt").write_text(OPEN.replace("PREPARED", ""))
    return place / "net.prototxt"


def test_all_verbs_take_it_and_say_so(cli, place, net):
    pictures = ["--images", place / "pictures"]
    start = place / "start.caffemodel"
    made = cli("init", net, *pictures, "-o", start, "--json", place / "init.json", "--report", place / "init.html")
    assert (made.code, f'note: input "data": {SENTENCE}' in made.out) == (0, True)
    assert SENTENCE in (place / "init.html").read_text()
    assert json.loads((place / "init.json").read_text())["taken"] == {"data": SENTENCE}
    loaded = caffeinit.load(net, start, input_shapes={"data": (3, 24, 20)})
    assert loaded.params["ip"][0].shape == (4, 6 * 22 * 18)
    assert loaded.taken == {}
    scaled = cli("rescale", net, start, *pictures, "-o", place / "scaled.caffemodel")
    assert (scaled.code, SENTENCE in scaled.out) == (0, True)
    measured = cli("measure", net, start, *pictures, "--json", "-")
    assert json.loads(measured.out)["taken"] == {"data": SENTENCE}
    compared = cli("verify", net, start, place / "scaled.caffemodel", *pictures)
    assert (compared.code, SENTENCE in compared.out) == (0, True)


def test_the_same_bytes_as_with_the_size_typed(cli, place, net):
    for name, more in (("taken", []), ("typed", ["--input-shape", "data=3,24,20"])):
        assert cli("init", net, "--images", place / "pictures", "-o", place / f"{name}.caffemodel", *more).code == 0
    assert (place / "taken.caffemodel").read_bytes() == (place / "typed.caffemodel").read_bytes()


def test_weights_that_do_not_fit_leave_it_open(cli, place, weights):
    (place / "net.prototxt").write_text(OPEN.replace("PREPARED", ""))
    for verb, more in (("measure", []), ("rescale", ["-o", place / "new.caffemodel"])):
        outcome = cli(verb, place / "net.prototxt", weights, "--images", place / "pictures", *more)
        assert outcome.code == 1
        assert (
            f"give --input-shape data=C,H,W ({COULD}, but "
            'layer "ip", blob 0: the file has (4, 480), the net asks for (4, 2376))'
        ) in " ".join(outcome.err.split())


def test_a_net_that_cannot_run_so_leaves_it_open(cli, place, net):
    net.write_text(OPEN.replace("PREPARED", "").replace("kernel_size: 3", "kernel_size: 21"))
    outcome = cli("init", net, "--images", place / "pictures", "-o", place / "new.caffemodel")
    assert outcome.code == 1
    assert f'{COULD}, but layer "conv1" (Convolution):' in outcome.err


def test_pictures_of_several_sizes_leave_it_open(cli, place, net):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(place / "pictures" / "small.png")
    outcome = cli("init", net, "--images", place / "pictures", "-o", place / "new.caffemodel")
    assert outcome.code == 1
    assert "(the pictures have different sizes: 24 x 20 (" in outcome.err


@pytest.mark.parametrize(
    ("prepared", "options", "shape"),
    [
        ("", ["--input-shape", "data=3,12,10"], (3, 12, 10)),
        ("transform_param { crop_size: 12 }", [], (3, 12, 12)),
        ('transform_param { mean_file: "mean.npy" }', [], (3, 16, 14)),
        ('transform_param { mean_file: "lost.npy" }', ["--mean-file", "mean.npy"], (3, 16, 14)),
        ('transform_param { mean_file: "lost.npy" }', ["--mean", "9"], (3, 24, 20)),
        ("transform_param { force_gray: true }", [], (1, 24, 20)),
        ("", ["--resize", "short"], (3, 24, 20)),
        ("", ["--resize", "warp:16x16"], None),
        ("", ["--crop", "8"], None),
    ],
)
def test_what_states_a_size_goes_before_the_pictures(cli, place, net, prepared, options, shape):
    np.save(place / "mean.npy", np.zeros((3, 16, 14), np.float32))
    net.write_text(OPEN.replace("PREPARED", prepared))
    options = [place / o if o == "mean.npy" else o for o in options]
    made = cli(
        "init",
        net,
        "--images",
        place / "pictures",
        "-o",
        place / "new.caffemodel",
        *options,
        "--filters",
        place / "f.png",
    )
    assert made.code == (0 if shape else 1)
    if shape:
        stored = caffeinit.load(net, place / "new.caffemodel", input_shapes={"data": shape})
        assert stored.params["ip"][0].shape == (4, 6 * (shape[1] - 2) * (shape[2] - 2))


def test_other_inputs_may_be_given_by_name(cli, place, net):
    rest = net.read_text().replace('bottom: "conv1" top: "ip"', 'bottom: "both" top: "ip"')
    head, tail = rest.split('layer { name: "ip"')
    rows = (
        'layer { name: "rows" type: "HDF5Data" top: "first" top: "rows" hdf5_data_param { source: "x" batch_size: 2 } }'
    )
    flat = 'layer { name: "f" type: "Flatten" bottom: "conv1" top: "f" }'
    join = 'layer { name: "both" type: "Concat" bottom: "f" bottom: "rows" top: "both" }'
    net.write_text(rows + head + flat + join + 'layer { name: "ip"' + tail)
    np.save(place / "rows.npy", np.random.default_rng(0).normal(size=(12, 5)))
    named = ["--images", f"data={place / 'pictures'}", "--images", f"rows={place / 'rows.npy'}"]
    made = cli("init", net, *named, "--input-shape", "rows=2,5", "-o", place / "new.caffemodel")
    assert (made.code, SENTENCE in made.out) == (0, True), made.err


def test_inspect_tells_what_it_cannot_compare_from_what_the_net_lacks(cli, place, weights):
    (place / "net.prototxt").write_text(OPEN.replace("PREPARED", "").replace('"ip"', '"fc"'))
    shown = cli("inspect", place / "net.prototxt", weights)
    why = 'the shape of input "data" is not known: give --input-shape data=C,H,W'
    assert f"not compared: conv1, for the net does not tell their shapes: {why}" in shown.out
    assert "in the weights file only: ip\n" in shown.out
    assert "0 parameters, 0 multiply-adds in the layers whose shapes are known\n" in shown.out
    told = json.loads(cli("inspect", place / "net.prototxt", weights, "--json", "-").out)
    assert (told["unused"], told["unknown"]) == (["ip"], ["conv1"])
    known = cli("inspect", place / "net.prototxt", weights, "--input-shape", "data=3,12,10")
    assert "2,092 parameters, 29,760 multiply-adds\n" in known.out
