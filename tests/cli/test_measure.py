"""measure as a user types it: a table, JSON, and two files side by side."""

import json

import numpy as np
import pytest

import caffeinit
from tests.cli.conftest import NET


def measure(cli, place, weights, *more):
    return cli("measure", place / "net.prototxt", weights, "--images", place / "pictures", *more)


def test_the_table_shows_units_and_rates(cli, place, weights):
    outcome = measure(cli, place, weights)
    assert outcome.code == 0
    rows = {line.split()[0]: line.split() for line in outcome.out.splitlines() if line.startswith(("conv1", "ip"))}
    # kind, channels, mean and std as init leaves them
    assert rows["conv1"][1:5] == ["affine", "6", "0.1", "1"]
    assert rows["ip"][1:5] == ["affine", "4", "0.1", "1"]
    assert "rates, on 12 pictures" in outcome.out
    assert "spread max |log C - mean|" in outcome.out


def test_of_a_single_unit_no_spread_is_told(cli, place):
    text = "".join(line + "\n" for line in NET.splitlines() if "relu1" not in line and "num_output: 6" not in line)
    text = text.replace('layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"\n', "")
    (place / "net.prototxt").write_text(text.replace('bottom: "conv1"', 'bottom: "data"'))
    weights, page = place / "one.caffemodel", place / "page.html"
    alone = "alone has a rate: there is none to compare it with"
    drawn = cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", weights, "--report", page)
    assert f"\nrate spread (largest |log rate - mean|): ip {alone}\n" in drawn.out
    assert "one unit alone has a rate" in page.read_text()
    assert f"(ip) {alone}\n" in measure(cli, place, weights).out


def test_json_is_what_python_finds(cli, place, weights):
    report = json.loads(measure(cli, place, weights, "--json", "-").out)
    net = caffeinit.load(place / "net.prototxt", weights)
    wanted = caffeinit.measure(net, caffeinit.read_images(net, place / "pictures")).to_json()
    for entry, other in zip(report["units"], wanted["units"], strict=True):
        assert list(entry) == list(other)
        for key, value in entry.items():
            # Threads may cut sums differently.
            assert value == (pytest.approx(other[key], rel=1e-5) if isinstance(value, float) else other[key])
    assert report["rate_spread"] == pytest.approx(wanted["rate_spread"], rel=1e-5)
    assert report["num_images"] == 12


def test_two_files_stand_side_by_side(cli, place, weights):
    net = caffeinit.load(place / "net.prototxt", weights)
    for array in net.params["conv1"]:
        array *= 2
    net.save(place / "double.caffemodel")
    arguments = ("--compare", place / "double.caffemodel")
    report = json.loads(measure(cli, place, weights, *arguments, "--json", "-").out)
    one, other = ({u["name"]: u for u in r["units"]} for r in (report, report["compare"]))
    assert other["conv1"]["out_std"] == pytest.approx(2 * one["conv1"]["out_std"], rel=1e-5)
    outcome = measure(cli, place, weights, *arguments)
    assert outcome.code == 0
    assert f"B: {place / 'double.caffemodel'}" in outcome.out.replace("\n", "")
    (row,) = (line.split() for line in outcome.out.splitlines() if line.startswith("conv1"))
    assert row[1:6] == ["6", "0.1", "0.2", "1", "2"]


def test_broken_weights_are_told_plainly(cli, place, weights):
    net = caffeinit.load(place / "net.prototxt", weights)
    array = net.params["conv1"][0]
    array[...] = 3e38
    net.save(place / "broken.caffemodel")
    outcome = measure(cli, place, place / "broken.caffemodel")
    assert outcome.code == 0
    assert "NOT FINITE on these pictures (NaN or overflow): the output of conv1, ip" in outcome.out
    assert outcome.err == ""
    report = json.loads(measure(cli, place, place / "broken.caffemodel", "--json", "-").out)
    assert report["not_finite"] == ["conv1", "ip"]


def test_frozen_and_lacking_layers_are_named(cli, place, weights):
    (place / "net.prototxt").write_text(
        NET.replace("num_output: 6 kernel_size: 3 }", "num_output: 6 kernel_size: 3 } param { lr_mult: 0 }").replace(
            '"ip"', '"fresh"'
        )
    )
    outcome = measure(cli, place, weights)
    assert "frozen, not in the spread: conv1" in outcome.out
    assert "no rate: fresh: its weights are all zero" in outcome.out
    assert "holds no numbers for fresh: zeros are measured" in outcome.out


def test_rates_can_be_left_out_or_taken_on_more(cli, place, weights):
    without = measure(cli, place, weights, "--rate-batches", 0).out
    assert "dead" in without
    assert "rate " not in without
    outcome = measure(cli, place, weights, "--batch-size", 5, "--rate-batches", 2)
    assert "rates, on 10 pictures" in outcome.out


def test_the_seed_changes_rates_and_nothing_else(cli, place, weights):
    found = [json.loads(measure(cli, place, weights, "--json", "-", "--seed", seed).out)["units"] for seed in (0, 1)]
    for one, other in zip(*found, strict=True):
        assert np.isclose(one["out_std"], other["out_std"], rtol=1e-5)
    # Squares of signs are 1: what the outputs are made by has the rate that is expected, whatever the seed.
    assert [one["rate"] != other["rate"] for one, other in zip(*found, strict=True)] == [True, False]


def test_a_net_whose_picture_size_nothing_tells_is_refused_with_the_option_to_give(cli, place, weights):
    data = 'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 2 } }'
    rest = NET[NET.index('layer { name: "conv1"') :]
    (place / "net.prototxt").write_text(data + rest)
    outcome = measure(cli, place, weights)
    assert outcome.code == 1
    assert "--input-shape data=C,H,W" in outcome.err
    assert measure(cli, place, weights, "--input-shape", "data=3,12,10").code == 0


def test_the_first_number_that_is_not_finite_is_told(cli, place, weights):
    net, norm = (
        place / "net.prototxt",
        'layer { name: "n" type: "LRN" bottom: "conv1" top: "n" lrn_param { k: 0 alpha: 0 } }',
    )
    net.write_text(
        NET.replace('layer { name: "ip"', f'{norm} layer {{ name: "ip"').replace('"conv1" top: "ip"', '"n" top: "ip"')
    )
    told = 'The first number that is not finite is NaN in blob "n", which layer "n" (LRN) makes of finite ones'
    assert told in measure(cli, place, weights).out
    assert json.loads(measure(cli, place, weights, "--json", "-").out)["first_not_finite"].startswith(told)


def test_what_is_true_of_both_files_is_said_once(cli, place, weights):
    other = place / "other.caffemodel"
    assert cli("init", place / "net.prototxt", "--images", place / "pictures", "--seed", "1", "-o", other).code == 0
    (place / "net.prototxt").write_text(NET + 'layer { name: "p" type: "PReLU" bottom: "ip" top: "p" }')
    lines = measure(cli, place, weights, "--compare", other).out.splitlines()
    assert [line.partition(": ")[0] for line in lines if "its slopes" in line] == ["A, B"]
    assert [line.partition(": ")[0] for line in lines if "rates, on" in line] == ["A", "B"]
    same = measure(cli, place, weights, "--compare", weights, "--num-images", 1).out
    assert same.count("A, B: rates, on 1 picture: ") == 1
    words = ("verify", place / "net.prototxt", weights, weights, "--images", place / "pictures" / "0.png")
    assert "are the same function on this picture (" in cli(*words).out


def test_what_is_odd_about_the_pictures_is_said_once(cli, place, weights):
    one = place / "pictures" / "0.png"
    for verb, more in (("measure", ()), ("verify", (weights,)), ("rescale", ("--dry-run",))):
        outcome = cli(verb, place / "net.prototxt", weights, *more, "--images", one)
        assert outcome.out.count("there is only one picture") == 1, verb
