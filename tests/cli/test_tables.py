"""The table of what init and rescale did, on terminals of any width."""

import io

import numpy as np
import pytest
from rich.console import Console

import caffeinit
from caffeinit.cli.tables import print_units
from caffeinit.showing import outcome, stats_cells
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
