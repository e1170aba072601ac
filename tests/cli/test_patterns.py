"""Patterns that match no layer, and options that change nothing, are told."""

import json

import pytest


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--method", "cnov1=kmeans", 'no layer that is drawn matches "cnov1"; nearest: "conv1"'),
        ("--layers", "conv1,fc*", 'no layer with weights matches "fc*"; there are: "conv1", "ip"'),
    ],
)
def test_a_pattern_that_matches_no_layer_is_told(cli, place, option, value, words):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    outcome = cli(*arguments, option, value, "--json", "-")
    assert outcome.code == 0
    assert outcome.err == f"warning: {option}: {words}\n"
    assert f"{option}: {words}" in json.loads(outcome.out)["notes"]


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (("--layers", "cnov*"), '--layers: no layer with weights matches "cnov*"; nearest: "conv1"'),
        (("--method", "pca"), "--method pca: nothing is drawn, for mode preserve keeps the function"),
        (
            ("--mode", "normalize", "--method", "pca"),
            "--method pca: nothing is drawn, for no layer lacks weights, and --reinit names none",
        ),
        (
            ("--mode", "normalize", "--reinit", "i*,o*", "--method", "c*=pca"),
            '--reinit: no layer with weights matches "o*"; there are: "conv1", "ip"\n'
            'warning: --method: no layer that is drawn matches "c*"; there are: "ip"',
        ),
        (("--mode", "normalize", "--reinit", "ip", "--method", "pca"), ""),
    ],
)
def test_options_without_effect_are_told(cli, place, weights, words, warned):
    outcome = cli("rescale", place / "net.prototxt", weights, "--images", place / "pictures", *words)
    assert outcome.code == 0
    told = outcome.err.partition("nothing was changed:")[0]
    assert told == (f"warning: {warned}\n" if warned else "")
    assert "no scale in the net is free" not in outcome.out
    assert "--layers" not in words or (place / "net.rescaled.caffemodel").read_bytes() == weights.read_bytes()


def test_patterns_that_match_are_not_told(cli, place):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    assert cli(*arguments, "--method", "kmeans", "--method", "ip=pca", "--layers", "c*,ip").err == ""


def test_a_name_with_signs_of_patterns_is_chosen_by_itself(cli, place):
    net = place / "odd.prototxt"
    net.write_text((place / "net.prototxt").read_text().replace('"conv1"', '"b*[x]"'))
    arguments = ("init", net, "--images", place / "pictures", "-o", place / "odd.caffemodel", "--json", "-")
    outcome = cli(*arguments, "--method", "b*[x]=kmeans", "--layers", "b*[x]")
    assert outcome.err == ""
    drawn = {unit["name"]: unit["done"] for unit in json.loads(outcome.out)["units"]}
    assert drawn["b*[x]"].startswith("drawn (kmeans)")
    assert drawn["ip"] == "drawn (gaussian)"
