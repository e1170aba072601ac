"""The page of a run says what the terminal says, is whole by itself, and takes any name and any number."""

import dataclasses
import math

import numpy as np
import pytest

import caffeinit
from caffeinit.cli.tables import unit_table
from caffeinit.errors import OutputError
from caffeinit.measuring import Measurement
from caffeinit.model.network import Skipped
from caffeinit.report import About, write_report
from caffeinit.report.showing import plain
from caffeinit.result import Result
from tests.nets import NETS, NetBuilder, pictures
from tests.report.pages import Page


def page_of(tmp_path, net, found, **about):
    write_report(tmp_path / "page.html", net, found, about=About(**about), force=True)
    return Page((tmp_path / "page.html").read_text())


def terminal_cells(result):
    return [list(row) for row in zip(*(column._cells for column in unit_table(result).columns), strict=True)]


@pytest.mark.parametrize("name", NETS)
def test_the_table_is_that_of_the_terminal(name, tmp_path):
    net = NETS[name]()
    result = caffeinit.rescale(net, pictures())
    page = page_of(tmp_path, net, result, job="rescale", files={"weights": "some/net.caffemodel"})
    assert page.check() == []
    assert page.texts["h1"] == ["net.caffemodel"]
    units, scales = page.tables
    assert units[2:] == [[plain(c) for c in row] for row in terminal_cells(result)]
    assert [row[0] for row in scales[1:]] == [u.name for u in net.units]
    assert f"of {len(result.units)}units changed" in page.texts["div"][1]


def test_the_summary_has_spread_and_moves(tmp_path):
    net = NETS["chain"]()
    result = caffeinit.rescale(net, pictures())
    page = page_of(tmp_path, net, result, options={"--mode": "preserve"}, defaults={"--seed": "0"})
    tiles = page.texts["b"]
    assert tiles[0].startswith(str(len(result.units)))
    assert tiles[1] == f"{result.rate_spread_before:.3g} → {result.rate_spread:.3g}"
    assert tiles[2] == f"{max(result.outputs_moved.values()):.2g}"
    assert "--mode preserve" in page.texts["dd"]
    assert "--seed 0" in page.texts["details"][0]
    assert page.texts["li"][-len(result.notes) :] == result.notes


def test_pictures_have_their_facts_in_words(tmp_path):
    net = NETS["inception"]()
    result = caffeinit.rescale(net, pictures())
    told = page_of(tmp_path, net, result)
    rates = [u.before.rate for u in result.units if not math.isnan(u.before.rate)]
    assert f"before: from {min(rates):.3g} (" in told.texts["desc"][0]
    assert f"in {len(rates)} units" in told.texts["desc"][0]
    (alt,) = (a["alt"] for tag, a in told.elements if tag == "img")
    assert alt.startswith("The 8 filters of 3×3 on 3 channels of stem, in colour")
    (graph,) = (t for t in told.texts["desc"] if "boxes" in t)
    assert "26 free, 0 tied, 3 held" in graph


def test_the_same_result_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        net = NETS["residual"]()
        write_report(tmp_path / name, net, caffeinit.rescale(net, pictures()))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_measurement_and_two_side_by_side(tmp_path):
    nets = [NETS["chain"](seed) for seed in (0, 1)]
    found = [caffeinit.measure(net, pictures()) for net in nets]
    one = page_of(tmp_path, nets[0], found[0])
    assert [row[0] for row in one.tables[0][1:]] == [u.name for u in found[0].units]
    assert one.tables[0][0] == [
        "unit",
        "kind",
        "channels",
        "mean",
        "std",
        "cvar",
        "largest",
        "dead",
        "rate",
        "rate cvar",
    ]
    two = page_of(tmp_path, nets[0], found)
    assert two.check() == []
    assert two.tables[0][1] == ["A", "B"] * 7
    assert two.tables[0][2][3:5] == [plain(f"{m.units[0].stats.mean:.3g}") for m in found]


EVIL = "<script>alert(1)</script>\"'&\x1b[31m\u202e$x_2$\n"


def test_no_name_becomes_markup_or_control(tmp_path):
    net = NETS["chain"]()
    found = caffeinit.measure(net, pictures())
    for unit, measured in zip(net.units, found.units, strict=True):
        unit.name = measured.name = EVIL + unit.name
    found.notes.append(EVIL)
    found.skipped.append(Skipped(EVIL, EVIL))
    page = page_of(tmp_path, net, found, job=EVIL, files={"net": EVIL}, options={EVIL: EVIL}, pictures=EVIL)
    assert page.check() == []
    assert page.tags["script"] == 0
    assert not any(c in page.source for c in "\x1b\u202e")
    assert page.tables[0][1][0].startswith("<script>alert(1)</script>\"'&\\x1b[31m\\u202e$x_2$")
    assert any(t.startswith("<script") or "…" in t for t in page.texts["text"])


def broken(stats, value):
    return dataclasses.replace(stats, channel_stds=np.full_like(stats.channel_stds, value), std=value, rate=value)


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_numbers_without_a_place_on_a_log_axis_are_left_out_and_told(value, tmp_path):
    net = NETS["chain"]()
    result = caffeinit.rescale(net, pictures(), balanced=False)
    for unit in result.units:
        unit.before, unit.after = broken(unit.before, value), broken(unit.after, value)
    page = page_of(tmp_path, net, result)
    assert page.check() == []
    assert any("are not in the pictures" in text for text in page.texts["p"])
    assert "No unit has a rate to draw." in page.texts["p"]


def test_channels_that_are_all_but_still_do_not_stretch_the_axis(tmp_path):
    net = NETS["chain"]()
    found = caffeinit.measure(net, pictures())
    page = page_of(tmp_path, net, found)
    stds = found.units[0].stats.channel_stds
    stds[0] = 1e-21
    largest = max(u.stats.channel_stds.max() for u in found.units)
    told = page_of(tmp_path, net, found)
    words = f"1 channel that varies by less than {plain(f'{1e-8 * largest:.3g}')} is not in the pictures."
    assert (words in page.texts["p"], words in told.texts["p"]) == (False, True)
    assert "1e-2" not in "".join(told.texts["text"])


def test_units_without_statistics_and_nets_without_filters(tmp_path):
    builder = NetBuilder()
    net = builder.finish(builder.product("data", "ip", 3))
    result = caffeinit.init(net, pictures(), normalized=False)
    for unit in result.units:
        unit.before = unit.after = None
    page = page_of(tmp_path, net, result)
    assert page.check() == []
    assert "not kept" in page.texts["b"][2]
    assert any("no convolution with windows" in text for text in page.texts["p"])
    assert page.tables[0][2][2] == "-"


def test_an_empty_result_is_a_page(tmp_path):
    net = NETS["chain"]()
    assert page_of(tmp_path, net, Result()).check() == []
    assert page_of(tmp_path, net, Measurement([])).check() == []


def test_a_file_in_the_way_stays(tmp_path):
    target = tmp_path / "page.html"
    target.write_text("mine")
    net = NETS["chain"]()
    with pytest.raises(OutputError, match="exists already; --force replaces it"):
        caffeinit.write_report(target, net, caffeinit.measure(net, pictures()))
    assert target.read_text() == "mine"
