"""The table of what init and rescale did, on terminals of any width."""

import io

import pytest
from rich.console import Console

import caffeinit
from caffeinit.cli.tables import print_units
from caffeinit.showing import outcome, stats_cells
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
