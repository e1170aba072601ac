"""init and rescale as a user types them: what is written is right, or nothing is."""

import json
import os

import numpy as np
import pytest
from PIL import Image

import caffeinit
from caffeinit.arithmetic.moments import Moments
from tests.cli.asking import refused, rescale
from tests.cli.conftest import NET


def measure(place, weights, blob):
    net = caffeinit.load(place / "net.prototxt", weights)
    moments = Moments(net.forward({"data": np.zeros((1, 3, 12, 10))}, [blob])[blob].shape[1])
    for batch in caffeinit.read_images(net, place / "pictures"):
        moments.update(net.forward(batch, [blob])[blob])
    return moments


def test_init_writes_weights_with_unit_channels(cli, place, weights):
    for blob in ("conv1@conv1", "ip"):
        moments = measure(place, weights, blob)
        np.testing.assert_allclose(moments.mean, 0.1, atol=1e-3)
        np.testing.assert_allclose(moments.std, 1, atol=1e-3)


def test_rescale_writes_beside_the_input_by_default(cli, place, weights):
    assert rescale(cli, place, weights, "--beta", "-1").code == 0
    moments = measure(place, place / "net.rescaled.caffemodel", "ip")
    np.testing.assert_allclose(moments.mean, -1, atol=1e-3)


def test_the_table_tells_what_was_done(cli, place, weights):
    outcome = rescale(cli, place, weights)
    assert "conv1" in outcome.out
    assert "normalised" in outcome.out
    assert "net.rescaled.caffemodel" in outcome.out
    assert outcome.err == ""


def test_the_same_command_gives_the_same_bytes(cli, place):
    written = []
    for name in ("a", "b"):
        target = place / f"{name}.caffemodel"
        arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "--seed", "7", "-o", target)
        assert cli(*arguments).code == 0
        written.append(target.read_bytes())
    assert written[0] == written[1]


def test_another_seed_gives_other_weights(cli, place, weights):
    other = place / "other.caffemodel"
    cli("init", place / "net.prototxt", "--images", place / "pictures", "--seed", "1", "-o", other)
    assert other.read_bytes() != weights.read_bytes()


def test_init_draws_layers_that_are_not_chosen_too(cli, place):
    target = place / "one.caffemodel"
    outcome = cli(
        "init", place / "net.prototxt", "--images", place / "pictures", "--layers", "ip", "--beta", "2", "-o", target
    )
    assert "drawn (gaussian); not normalised: not among the chosen layers" in outcome.out
    assert caffeinit.load(place / "net.prototxt", target).params["conv1"][0].all()
    np.testing.assert_allclose(measure(place, target, "ip").mean, 2, atol=1e-3)
    assert abs(measure(place, target, "conv1@conv1").std - 1).min() > 0.1


def test_init_draws_layers_that_cannot_run_too(cli, place):
    unclear = """
    layer { name: "norm" type: "LRN" bottom: "conv1" top: "norm" lrn_param { local_size: 4 } }
    layer { name: "conv2" type: "Convolution" bottom: "norm" top: "conv2" convolution_param { num_output: 2 kernel_size: 1
      weight_filler { type: "uniform" min: 5 max: 6 } } }
    layer { name: "bn" type: "BatchNorm" bottom: "conv2" top: "bn" }
    """
    (place / "net.prototxt").write_text(NET + unclear)
    target = place / "whole.caffemodel"
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "-o", target)
    assert "drawn as their fillers say, for they cannot run: conv2, bn" in outcome.out
    params = caffeinit.load(place / "net.prototxt", target).params
    assert params["conv2"][0].min() >= 5
    assert [a.tolist() for a in params["bn"]] == [[0, 0], [1, 1], [1]]


def test_only_the_named_layer_changes(cli, place, weights):
    target = place / "one.caffemodel"
    rescale(cli, place, weights, "--layers", "ip", "--beta", "3", "-o", target)
    old, new = (caffeinit.load(place / "net.prototxt", w) for w in (weights, target))
    np.testing.assert_array_equal(old.params["conv1"][0], new.params["conv1"][0])
    assert not np.array_equal(old.params["ip"][0], new.params["ip"][0]) or not np.array_equal(
        old.params["ip"][1], new.params["ip"][1]
    )


def test_a_layer_that_the_weights_lack_is_drawn(cli, place, weights):
    (place / "net.prototxt").write_text(NET.replace('"ip"', '"new_classifier"'))
    assert rescale(cli, place, weights, "-o", place / "tuned.caffemodel").code == 0
    net = caffeinit.load(place / "net.prototxt", place / "tuned.caffemodel")
    assert net.params["new_classifier"][0].any()
    assert not net.missing
    np.testing.assert_allclose(measure(place, place / "tuned.caffemodel", "new_classifier").std, 1, atol=1e-3)


def test_reinit_draws_again(cli, place, weights):
    target = place / "again.caffemodel"
    outcome = rescale(cli, place, weights, "--reinit", "i*", "--seed", "5", "-o", target)
    assert "drawn (gaussian)" in outcome.out
    old, new = (caffeinit.load(place / "net.prototxt", w).params["ip"][0] for w in (weights, target))
    assert abs(np.corrcoef(old.ravel(), new.ravel())[0, 1]) < 0.2


def test_reinit_that_matches_nothing_is_refused(cli, place, weights):
    outcome = rescale(cli, place, weights, "--reinit", "conv9")
    assert outcome.code == 2
    assert outcome.err == 'error: --reinit: no layer with weights matches "conv9"; nearest: "conv1"\n'


def test_json_has_every_unit(cli, place, weights):
    outcome = rescale(cli, place, weights, "--json", "-")
    report = json.loads(outcome.out)
    assert [u["name"] for u in report["units"]] == ["conv1", "ip"]
    one, other = (u["after"] for u in report["units"])
    assert other["out_std"] == pytest.approx(1)
    assert one["rate"] == pytest.approx(other["rate"], rel=1e-3)
    assert report["rate_spread"] < 1e-3 < report["rate_spread_before"]


def test_a_dry_run_writes_nothing(cli, place, weights):
    before = sorted(os.listdir(place))
    outcome = rescale(cli, place, weights, "--dry-run")
    assert outcome.code == 0
    assert "would write" in outcome.out
    assert sorted(os.listdir(place)) == before


def test_a_dry_run_writes_the_json_that_is_asked_for_and_nothing_else(cli, place, weights):
    before = sorted(os.listdir(place))
    assert rescale(cli, place, weights, "--dry-run", "--json", place / "x.json").code == 0
    assert sorted(os.listdir(place)) == sorted([*before, "x.json"])
    assert json.loads((place / "x.json").read_text())["output"] is None


@pytest.mark.parametrize(
    ("name", "force", "message", "code"),
    [
        ("there.json", (), "there.json: exists already; --force replaces it", 1),
        ("no/x.json", (), "does not exist", 1),
        ("net.rescaled.caffemodel", (), "--json {path}: is the file of --output, too", 2),
        ("net.prototxt", ("--force",), "--json {path}: is the file of the net, too", 2),
        ("net.caffemodel", ("--force",), "--json {path}: is the file of the weights, too", 2),
    ],
)
def test_json_that_cannot_be_written_is_refused_before_the_work(cli, place, weights, name, force, message, code):
    (place / "there.json").write_text("{}")
    kept = {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()}
    outcome = rescale(cli, place, weights, "--json", place / name, *force)
    refused(outcome, place, message.format(path=place / name), code=code)
    assert {p.name: p.read_bytes() for p in place.iterdir() if p.is_file()} == kept


@pytest.mark.parametrize("verb", ["measure", "verify", "inspect"])
def test_json_does_not_take_the_place_of_what_is_read(cli, place, weights, verb):
    text = (place / "net.prototxt").read_bytes()
    words = {"measure": ["--images", place / "pictures"], "verify": [weights, "--images", place / "pictures"]}
    outcome = cli(
        verb, place / "net.prototxt", weights, *words.get(verb, []), "--json", place / "net.prototxt", "--force"
    )
    assert outcome.code == 2
    assert "is the file of the net, too" in outcome.err
    assert (place / "net.prototxt").read_bytes() == text


HELD = {
    "LRN": "lrn_param { local_size: 3 }",
    "Clip": "clip_param { min: -1 max: 1 }",
    "Sigmoid": "",
    "TanH": "",
    "ELU": "",
    "BNLL": "",
    "Exp": "exp_param { scale: 0.001 }",
    "Power": "power_param { shift: 1 }",
}


@pytest.mark.parametrize("kind", HELD)
def test_layers_are_named_and_not_the_operators_that_they_are_made_of(cli, place, kind):
    text = NET.replace(
        'type: "ReLU" bottom: "conv1" top: "conv1"', f'type: "{kind}" bottom: "conv1" top: "dw" {HELD[kind]}'
    )
    (place / "net.prototxt").write_text(text.replace('bottom: "conv1" top: "ip"', 'bottom: "dw" top: "ip"'))
    arguments = (place / "net.prototxt", "--images", place / "pictures", "--no-normalize", "-o", place / "x.caffemodel")
    assert cli("init", *arguments).code == 0
    outcome = cli("rescale", place / "net.prototxt", place / "x.caffemodel", "--images", place / "pictures")
    assert f'left alone: its output is held: layer "relu1" ({kind})' in outcome.out
    assert 'left alone: its output is held: layer "prob" (Softmax)' in outcome.out


def test_init_without_normalising_only_measures(cli, place):
    target = place / "raw.caffemodel"
    images = place / "pictures"
    outcome = cli(
        "init", place / "net.prototxt", "--images", images, "--method", "msra", "--no-normalize", "-o", target
    )
    assert outcome.code == 0
    assert "drawn (msra)" in outcome.out
    assert not caffeinit.load(place / "net.prototxt", target).params["ip"][1].any()


def test_filters_of_a_net_without_windows_are_refused_before_the_work(cli, place):
    text = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }"""
    (place / "flat.prototxt").write_text(text)
    target = place / "flat.caffemodel"
    arguments = ("init", place / "flat.prototxt", "--images", place / "pictures", "-o", target)
    refused(cli(*arguments, "--filters", place / "filters.png"), place, "no convolution with windows")
    assert not target.exists()


def test_filters_are_drawn_on_request(cli, place):
    target = place / "x.caffemodel"
    picture = place / "filters.png"
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", target, "--filters", picture)
    assert "6 filters of conv1" in cli(*arguments).out
    with Image.open(picture) as drawn:
        assert drawn.width > 100
    again = cli(*arguments, "--seed", "3")
    refused(again, place, "exists already")


@pytest.mark.parametrize("method", ["gaussian", "orthonormal", "patches", "pca", "zca", "kmeans"])
def test_every_method_leaves_unit_channels(cli, place, method):
    target = place / "drawn.caffemodel"
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", "--method", method, "-o", target)
    assert f"drawn ({method})" in outcome.out
    for blob in ("conv1@conv1", "ip"):
        moments = measure(place, target, blob)
        # One deviation for the channels of a unit, which balancing sets; the last one's is held.
        size = moments.std.mean() if blob != "ip" else 1.0
        np.testing.assert_allclose(moments.mean, 0.1 * size, atol=1e-3 * size)
        np.testing.assert_allclose(moments.std, size, atol=1e-3 * size)


def test_methods_per_layer(cli, place):
    target = place / "drawn.caffemodel"
    methods = ("--method", "kmeans", "--method", "ip=orthonormal")
    outcome = cli("init", place / "net.prototxt", "--images", place / "pictures", *methods, "-o", target)
    assert "drawn (kmeans)" in outcome.out
    assert "drawn (orthonormal)" in outcome.out


@pytest.mark.parametrize("method", ["gaussian", "kmeans"])
def test_threads_do_not_change_a_byte(cli, place, method):
    written = set()
    for threads in (1, 2, 3):
        target = place / f"{threads}.caffemodel"
        images = place / "pictures"
        more = ("--method", method, "--threads", threads, "-o", target)
        assert cli("init", place / "net.prototxt", "--images", images, *more).code == 0
        written.add(target.read_bytes())
    assert len(written) == 1


def test_rounding_is_shown_as_zero(cli, place):
    arguments = ("init", place / "net.prototxt", "--images", place / "pictures", "-o", place / "x.caffemodel")
    assert "e-1" not in cli(*arguments).out


@pytest.mark.parametrize("name", ["out.onnx", "out.h5"])
def test_a_name_of_another_form_is_refused(cli, place, weights, name):
    refused(rescale(cli, place, weights, "-o", place / name), place, f"--output {place / name}: ", code=2)


@pytest.mark.parametrize("option", ["--output", "--report", "--filters"])
def test_the_net_itself_is_not_written_over(cli, place, weights, option):
    text = (place / "net.prototxt").read_bytes()
    outcome = rescale(cli, place, weights, option, place / "net.prototxt", "--force")
    refused(outcome, place, "net.prototxt: is the file of the net, too", code=2)
    assert (place / "net.prototxt").read_bytes() == text


@pytest.mark.parametrize(
    ("mode", "fault", "reason"),
    [
        ("preserve", "frozen", ""),
        ("normalize", "frozen", ""),
        ("preserve", "zero", "conv1 has no rate: its weights are all zero; so it is with ip"),
        ("normalize", "zero", "conv1 has no rate: its weights are all zero; so it is with ip"),
    ],
)
def test_without_rates_there_is_no_spread(cli, place, weights, mode, fault, reason):
    net = place / "net.prototxt"
    if fault == "frozen":
        for kind in ("Convolution", "InnerProduct"):
            net.write_text(net.read_text().replace(f'type: "{kind}"', f'type: "{kind}" param {{ lr_mult: 0 }}'))
    else:
        network = caffeinit.load(net, weights)
        for name in ("conv1", "ip"):
            network.params[name][0][...] = 0
        network.save(weights, force=True)
    arguments = ("rescale", net, weights, "--images", place / "pictures", "--mode", mode, "--dry-run")
    why = "no unit that training changes has a rate"
    page = place / "page.html"
    start = "- with deviations of 1" if mode == "normalize" else "before -"
    assert f"rate spread (largest |log rate - mean|): -, {start}: {why}\n" in cli(*arguments).out
    found = json.loads(cli(*arguments, "--json", "-").out)
    assert [found[k] for k in ("rate_spread", "rate_spread_before", "no_rate_spread")] == [None, None, why]
    assert not reason or reason in found["notes"]
    if fault == "zero":
        assert all(u[when] is None or u[when]["rate"] is None for u in found["units"] for when in ("before", "after"))
        assert " inf " not in cli(*arguments).out
    told = cli("measure", net, weights, "--images", place / "pictures", "--report", page)
    assert f"spread of the rates: -, for {why}\n" in told.out
    assert f"spread of the rates: {why}" in page.read_text()
    data = json.loads(cli("measure", net, weights, "--images", place / "pictures", "--json", "-").out)
    assert [data["rate_spread"], data["no_rate_spread"]] == [None, why]
