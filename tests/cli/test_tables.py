"""The table of what init and rescale did, on terminals of any width."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

import caffeinit
from caffeinit.cli import tables
from caffeinit.cli.tables import print_units
from caffeinit.report.showing import outcome, stats_cells
from tests.cli.conftest import NET
from tests.nets import NETS, pictures


@pytest.fixture(scope="module")
def drawn():
    return caffeinit.init(NETS["chain"](), pictures(), method="kmeans")


def shown(result, width):
    text = io.StringIO()
    print_units(Console(file=text, width=width), result)
    return text.getvalue()


@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_no_number_loses_its_digits_and_short_words_stay_together(drawn, width):
    text = shown(drawn, width)
    assert "…" not in text
    for unit in drawn.units:
        for cell in (*stats_cells(unit.before), *stats_cells(unit.after)):
            assert cell in text.split()
        assert outcome(unit) == "drawn (kmeans), normalised"
    assert width < 100 or text.count("drawn (kmeans), normalised") == len(drawn.units)


def test_before_stands_beside_after_or_above_it(drawn):
    unit = drawn.units[0]
    before, after = (stats_cells(stats)[:4] for stats in (unit.before, unit.after))
    beside = shown(drawn, 200).splitlines()[1].split()
    assert beside[:10] == [unit.name, str(unit.num_channels), *before, *after]
    first, second = (line.split() for line in shown(drawn, 80).splitlines()[1:3])
    assert first[:7] == [unit.name, "before", str(unit.num_channels), *before]
    assert second[:5] == ["after", *after]


def test_long_words_are_wrapped_and_not_cut(drawn):
    result = caffeinit.rescale(NETS["residual"](), pictures())
    for width in (80, 120):
        text = " ".join(shown(result, width).split())
        assert "…" not in text
        assert all(word in text for unit in result.units for word in outcome(unit).split())


# As long as names of nets with branches get.
LONG = "a_layer_whose_name_is_longer_than_forty_columns/3x3_reduce"


@pytest.mark.parametrize("columns", [None, "40", "80", "0"])
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("inspect",), LONG),
        (("inspect", "--scales"), LONG),
        (("measure",), LONG),
        (("measure", "--compare", "net.caffemodel"), LONG),
        (("verify", "net.caffemodel"), "prob"),
        (("rescale", "--dry-run"), LONG),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_names_are_never_cut_in_a_pipe(cli, place, weights, monkeypatch, columns, words, name):
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", columns) if columns else monkeypatch.delenv("COLUMNS", raising=False)
    (place / "net.prototxt").write_text(NET.replace('"conv1" type', f'"{LONG}" type'))
    network = caffeinit.load("net.prototxt")
    for arrays in network.params.values():
        for array in arrays:
            array[...] = np.random.default_rng(0).standard_normal(array.shape)
    network.save("net.caffemodel", force=True)
    images = () if words[0] == "inspect" else ("--images", "pictures")
    outcome = cli(words[0], "net.prototxt", weights, *words[1:], *images)
    assert "…" not in outcome.out
    assert sum(line.startswith(name) for line in outcome.out.splitlines()) == 1
    assert not any(line.endswith(" ") for line in outcome.out.splitlines())


def test_columns_are_heeded_in_a_pipe_and_rows_are_lines_without(cli, place, weights, monkeypatch):
    arguments = ("rescale", place / "net.prototxt", weights, "--images", place / "pictures", "--dry-run")
    why = "takes up its input's scales; its output is held: layer"
    monkeypatch.setenv("COLUMNS", "80")
    narrow = cli(*arguments).out
    assert [line.split()[1] for line in narrow.splitlines() if line.startswith(("conv1", "ip"))] == ["before"] * 2
    assert why not in narrow
    monkeypatch.delenv("COLUMNS")
    rows = {line.split()[0]: line for line in cli(*arguments).out.splitlines()}
    assert "equalized" in rows["conv1"]
    assert why in rows["ip"]


APART = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 12 dim: 10 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 6 kernel_size: 3 } }
layer { name: "one" type: "Scale" bottom: "conv" top: "conv" }
layer { name: "two" type: "Scale" bottom: "conv" top: "conv" scale_param { axis: 1 num_axes: 2 bias_term: true } }
layer { name: "bias" type: "Bias" bottom: "conv" top: "conv" bias_param { axis: 2 num_axes: 2 } }
layer { name: "prelu" type: "PReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 2 } }
"""
REASONS = {
    "two": "its factors are not one per channel",
    "bias": "its shifts are not one per channel",
    "prelu": "its slopes are for negative values alone",
}


def test_layers_with_numbers_that_are_no_units_are_listed_with_the_reason(cli, place):
    net, weights, page = place / "net.prototxt", place / "net.caffemodel", place / "page.html"
    net.write_text(APART)
    images = ("--images", place / "pictures", "--batch-size", 4)
    lines = [f"no unit, so its scale is left alone: {name}: {reason}" for name, reason in REASONS.items()]
    wanted = [{"name": name, "reason": reason} for name, reason in REASONS.items()]
    outcomes = [cli("init", net, *images, "-o", weights, "--report", page)]
    outcomes += [cli(verb, net, weights, *images) for verb in ("rescale", "measure")]
    outcomes.append(cli("inspect", net, "--scales"))
    for one in outcomes:
        assert [line for line in one.out.splitlines() if line.startswith("no unit")] == lines
    assert all(line in page.read_text() for line in lines)
    for words in (("rescale", net, weights, *images, "--dry-run"), ("measure", net, weights, *images)):
        assert json.loads(cli(*words, "--json", "-").out)["apart"] == wanted
    rows = {line.split()[0]: line for line in cli("inspect", net, weights).out.splitlines()}
    assert all(f"left alone: {reason}" in rows[name] for name, reason in REASONS.items())
    assert "left alone" not in rows["one"]
    assert cli("inspect", net, weights, "--strict").code == 0


def test_a_layer_that_shares_its_numbers_is_shown_with_their_owner(cli, place):
    param = 'param { name: "w" } param { name: "b" }'
    layer = 'layer {{ name: "{0}" type: "InnerProduct" bottom: "data" top: "{0}" {1} inner_product_param {{ {2} }} }}'
    text = NET.partition('layer { name: "conv1"')[0]
    (place / "net.prototxt").write_text(
        text + "".join(layer.format(name, param, "num_output: 2") for name in ("one", "two"))
    )
    rows = {line.split()[0]: line.rstrip() for line in cli("inspect", place / "net.prototxt").out.splitlines()}
    assert rows["one"].endswith("  affine")
    assert rows["two"].endswith("  with one, whose numbers it shares")


def test_a_pipe_is_told_now_and_then_how_far_it_is(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 31.0, 40.0, 62.0])
    monkeypatch.setattr(tables.time, "monotonic", lambda: next(clock))
    with tables.progress("init on 9 pictures", quiet=False) as advance:
        for done in range(4):
            advance(done, 9)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == ["init on 9 pictures: 1/9 after 31 s", "init on 9 pictures: 3/9 after 62 s"]


def test_a_pipe_is_told_nothing_that_is_done_soon_or_where_nothing_is_asked_for(monkeypatch, capsys):
    with tables.progress("init", quiet=False) as advance:
        advance(1, 9)
    monkeypatch.setattr(tables._Lines, "SECONDS", 0.0)
    with tables.progress("init", quiet=True) as advance:
        advance(2, 9)
    assert capsys.readouterr().err == ""
