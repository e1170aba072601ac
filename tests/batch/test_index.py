"""Pages and their index in a batch: a row for each model, links that lead somewhere, the same bytes after a kill."""

import json
import math
import shutil
from pathlib import Path
from urllib.parse import unquote

import pytest

from caffeinit.batch.index import index_page
from caffeinit.batch.manifest import Entry
from caffeinit.errors import FormatError
from caffeinit.report.showing import plain
from tests.batch.conftest import NAMES, content
from tests.batch.test_run import batch, entries
from tests.report.pages import Page


def report(place, *more, out="out", name="index.html"):
    return batch(place, "--report", place / out / name, *more, out=out)


def test_pages_and_index_survive_interruption_byte_for_byte(place):
    odd = place / "zoo" / "first & <b>"
    shutil.move(place / "zoo" / "first", odd)
    (place / "zoo" / "bad.caffemodel").write_text("no weights")
    assert report(place).returncode == 1
    out = place / "out"
    page = Page((out / "index.html").read_text())
    links = page.check()
    models = [e["model"] for e in entries(out)]
    assert [row[0] for row in page.tables[0][1:]] == models
    assert [unquote(link) for link in links] == [f"{m}.html" for m in models if m != "bad.caffemodel"]
    for row, entry in zip(page.tables[0][1:], entries(out), strict=True):
        assert row[1].startswith(f"{entry['result']} {entry['summary'] or entry['reason'].splitlines()[0]}")
        if entry["result"] == "ok":
            told = json.loads((out / f"{entry['model']}.json").read_text())
            assert row[3:5] == [plain(f"{told[k]:.3g}") for k in ("rate_spread_before", "rate_spread")]
            model = Page((out / f"{entry['model']}.html").read_text())
            assert model.check() == []
            assert ".batch" not in model.source
            assert model.texts["dd"][2] == Path(entry["model"]).name
    before = content(out)
    assert "first & <b>/net.caffemodel.html" in before
    (out / "index.html").unlink()
    (out / f"{NAMES[0]}.html").write_text("cut")
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:-1]) + lines[-1][:40])
    shutil.rmtree((out / models[-1]).parent)  # a line is written before its outputs get their places
    assert report(place).returncode == 1
    assert content(out) == before


def test_what_is_no_index_is_not_replaced(place):
    target = place / "mine.html"
    target.write_text("mine")
    done = batch(place, "--report", target)
    assert done.returncode == 1
    assert "mine.html: exists already; --force replaces it" in done.stderr
    assert target.read_text() == "mine"


def entry_of(out, name, told):
    (out / f"{name}.json").write_text(json.dumps(told))
    return Entry(name, "measure", "ok", summary="1 units", outputs={f"{name}.json": {}})


def test_an_index_takes_results_of_any_job(tmp_path):
    none = {"rate": None, "out_std": None, "name": "u", "reason": "", "done": ""}
    rows = [
        entry_of(tmp_path, "measured", {"units": [{**none, "rate": 2.0}, {**none, "rate": 8.0}], "rate_spread": 0.5}),
        entry_of(tmp_path, "without rates", {"units": [{**none, "out_std": 3.0}], "rate_spread": None}),
        entry_of(
            tmp_path, "without numbers", {"units": [{**none, "before": None, "after": None}], "rate_spread": None}
        ),
        entry_of(tmp_path, "a:b", {"units": []}),
        Entry("<i>\x1b", "convert", "failed", "no <b>\nreason"),
        Entry("left", "convert", "left out", "no weights"),
        Entry("c", "convert", "ok", outputs={"c.onnx": {}}, summary="wrote c.onnx"),
    ]
    page = Page(index_page(tmp_path / "index.html", tmp_path, "measure", rows))
    assert page.check() == ["measured.json", "without%20rates.json", "without%20numbers.json", "./a%3Ab.json", "c.onnx"]
    table = page.tables[0][1:]
    assert [row[0] for row in table] == [*(r.model for r in rows[:4]), "<i>\\x1b", "left", "c"]
    assert [row[1:] for row in table[4:6]] == [["failed no <b>\nreason"], ["left out no weights"]]
    assert [row[4] for row in (*table[:4], table[6])] == ["0.5", *["–"] * 4]
    labels = [a["aria-label"] for a in page.images]
    assert labels == ["rates of 2 units: measured 2 to 8", "deviations of 1 units: measured 3 to 3"]
    assert page.texts["b"][:3] == ["5", "1", "1"]


@pytest.mark.parametrize("told", ["[]", "{}", '{"units": [3]}', '{"units": [{"rate": "x"}]}', "[" * 100_000, "\x00"])
def test_a_result_that_no_job_writes_is_refused(tmp_path, told):
    (tmp_path / "a.json").write_text(told)
    with pytest.raises(FormatError, match=r"a\.json: is no result of a job"):
        index_page(tmp_path / "index.html", tmp_path, "measure", [Entry("a", "measure", "ok", outputs={"a.json": {}})])


def test_a_result_that_is_gone_is_told(tmp_path):
    with pytest.raises(FormatError, match=r"a\.json: .* cannot be read \(no such file or directory\)"):
        index_page(tmp_path / "index.html", tmp_path, "measure", [Entry("a", "measure", "ok", outputs={"a.json": {}})])


def test_a_long_reason_is_whole_and_folded(tmp_path):
    lines = [f"line {n}" for n in range(8)]
    rows = [Entry("a", "measure", "failed", "\n".join(lines[:3])), Entry("b", "measure", "failed", "\n".join(lines))]
    page = Page(index_page(tmp_path / "index.html", tmp_path, "measure", rows))
    assert [row[1] for row in page.tables[0][1:]] == [
        "failed line 0\nline 1\nline 2",
        "failed line 0\nline 1\nline 25 more lines" + "\n".join(lines[3:]),
    ]
    assert page.texts["summary"] == ["5 more lines"]


def test_options_that_all_models_share_are_told(tmp_path):
    rows = [
        Entry("a", "rescale", "failed", options={"mode": ["equalize"], "beta": ["1"], "strict": ["true"]}, key="x"),
        Entry("b", "rescale", "failed", options={"mode": ["equalize"], "beta": ["2"], "strict": ["true"]}, key="y"),
        Entry("c", "rescale", "left out"),
    ]
    page = Page(index_page(tmp_path / "index.html", tmp_path, "rescale", rows))
    assert page.texts["dd"] == ["--mode equalize\n--strict"]


def test_an_index_of_500_models_is_small(tmp_path):
    units = [{"rate": 10 ** math.sin(i), "out_std": 1.0} for i in range(8)]
    stats = [{"before": u, "after": {**u, "rate": 1.0}} for u in units]
    told = {"units": stats, "rate_spread_before": 1.0, "rate_spread": 0.0, "outputs_moved": {"prob": 1e-7}}
    rows = [entry_of(tmp_path, f"copy{n}", told) for n in range(500)]
    assert len(index_page(tmp_path / "index.html", tmp_path, "rescale", rows).encode()) < 1 << 20


def test_an_index_does_not_take_an_outputs_place(place):
    (place / "out" / NAMES[0]).parent.mkdir(parents=True)
    done = report(place, name=f"{NAMES[0]}.html")
    assert done.returncode == 2
    assert "is the place of a model's own output; give the index another name" in done.stderr


@pytest.fixture(autouse=True)
def few_pictures(place):
    """The pictures do not matter here."""
    for index in range(2, 6):
        (place / "pictures" / f"{index}.png").unlink()
