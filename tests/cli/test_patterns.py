"""Patterns that match no layer, and options that change nothing, are told."""

import json

import numpy as np
import pytest

import caffeinit
from caffeinit.errors import UnmatchedError


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--method", "cnov1=kmeans", 'no layer with weights matches "cnov1"; nearest: "conv1"'),
        ("--layers", "conv1,fc*", 'no layer with weights matches "fc*"; there are: "conv1", "ip"'),
    ],
)
def test_a_pattern_that_matches_no_layer_is_refused(cli, place, option, value, words):
    target = place / "x.caffemodel"
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", target, option, value)
    assert outcome.code == 2
    assert outcome.err == f"error: {option}: {words}\n"
    assert not target.exists()


@pytest.mark.parametrize("options", [{"layers": ["conv1", "cnov"]}, {"mode": "normalize", "reinit": ["ip", "o*"]}])
def test_python_refuses_them_too(place, weights, options):
    net = caffeinit.load(place / "net.prototxt", weights)
    with pytest.raises(UnmatchedError, match=r'no layer with weights matches "(cnov|o[*])"'):
        caffeinit.rescale(net, np.ones((2, 3, 12, 10), np.float32), **options)


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        (("--method", "pca"), "--method pca: nothing is drawn, for mode preserve keeps the function"),
        (
            ("--mode", "normalize", "--method", "pca"),
            "--method pca: nothing is drawn, for no layer lacks weights, and --reinit names none",
        ),
        (
            ("--mode", "normalize", "--seed", "3"),
            "--seed 3: nothing is drawn, for no layer lacks weights, and --reinit names none",
        ),
        (
            ("--mode", "normalize", "--reinit", "i*", "--method", "c*=pca"),
            '--method: no layer that is drawn matches "c*"; there are: "ip"',
        ),
        (("--mode", "normalize", "--reinit", "ip", "--method", "pca", "--seed", "3"), ""),
    ],
)
def test_options_without_effect_are_told(cli, place, weights, words, warned):
    outcome = cli("rescale", place / "net.prototxt", weights, "--images", place / "pictures", *words)
    assert outcome.code == 0
    assert outcome.err == (f"warning: {warned}\n" if warned else "")


def test_patterns_that_match_are_not_told(cli, place):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    assert cli(*arguments, "--method", "kmeans", "--method", "ip=pca", "--layers", "c*,ip").err == ""


@pytest.mark.parametrize(
    ("methods", "expected"),
    [
        (("ip=orthonormal", "kmeans"), ("kmeans", "orthonormal")),
        (("kmeans", "ip=orthonormal"), ("kmeans", "orthonormal")),
        (("i*=pca", "ip=orthonormal", "i*=pca"), ("gaussian", "pca")),
    ],
)
def test_the_place_of_the_method_for_all_does_not_count(cli, place, methods, expected):
    asked = [word for method in methods for word in ("--method", method)]
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    units = json.loads(cli(*arguments, *asked, "--json", "-").out)["units"]
    assert [unit["done"].partition(",")[0] for unit in units] == [f"drawn ({method})" for method in expected]


def test_an_unknown_method_is_told_before_all_else(cli, place):
    outcome = cli("rescale", "none.prototxt", "none.caffemodel", "--images", "none", "--method", "ip=foo")
    assert outcome.code == 2
    assert outcome.err.startswith('error: --method "foo": not one of gaussian, ')


def test_a_name_with_signs_of_patterns_is_chosen_by_itself(cli, place):
    net = place / "odd.prototxt"
    net.write_text((place / "net.prototxt").read_text().replace('"conv1"', '"b*[x]"'))
    arguments = ("init", net, "--images", place / "pictures", "-o", place / "odd.caffemodel", "--json", "-")
    outcome = cli(*arguments, "--method", "b*[x]=kmeans", "--layers", "b*[x]")
    assert outcome.err == ""
    drawn = {unit["name"]: unit["done"] for unit in json.loads(outcome.out)["units"]}
    assert drawn["b*[x]"].startswith("drawn (kmeans)")
    assert drawn["ip"] == "drawn (gaussian)"


def test_that_nothing_was_changed_is_told_once_with_reasons_together(cli, place):
    point = 'type: "Convolution" bottom: "conv1" top: "point" convolution_param { num_output: 3 kernel_size: 1 }'
    text = (place / "net.prototxt").read_text().replace('type: "ReLU" bottom: "conv1" top: "conv1"', point)
    (place / "net.prototxt").write_text(text.replace('bottom: "conv1" top: "ip"', 'bottom: "point" top: "ip"'))
    images = (place / "net.prototxt", "--images", place / "pictures")
    assert cli("init", *images, "-o", place / "net.caffemodel").code == 0
    arguments = ("rescale", images[0], place / "net.caffemodel", *images[1:], "--layers", "ip")
    shown = cli(*arguments)
    assert shown.err == ""
    assert f"wrote {place / 'net.rescaled.caffemodel'}, in which nothing was changed\n" in shown.out
    quiet = cli(*arguments, "--quiet", "--force")
    assert (quiet.out, len(quiet.err.splitlines())) == ("", 3)
    assert quiet.err.startswith("nothing was changed:\n  conv1, relu1: not among the chosen layers\n  ip: ")
