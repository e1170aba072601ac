"""The manifest survives being cut off anywhere."""

import json

import pytest

from caffeinit.batch.manifest import Entry, Manifest
from caffeinit.errors import FormatError

TOLD = {"bytes": 1, "sha256": "0"}
ENTRIES = [Entry(name, "rescale", "ok", summary="größer", outputs={name: TOLD}) for name in ("c", "a\udcff", "b")]


def _changed(**fields):
    """Return a line with a value that no batch writes."""
    return json.dumps({"model": "x", "job": "rescale", "result": "ok"} | fields)


def test_lines_are_read_back(tmp_path):
    path = tmp_path / "manifest.jsonl"
    manifest = Manifest(path)
    for entry in ENTRIES:
        manifest.append(entry)
    assert list(Manifest(path).entries.values()) == ENTRIES


def test_a_cut_line_is_forgotten_and_the_next_takes_its_place(tmp_path):
    path = tmp_path / "manifest.jsonl"
    first, second, third = (e.line() for e in ENTRIES)
    for cut in range(len(second)):
        path.write_bytes(first + second[:cut])
        manifest = Manifest(path)
        assert list(manifest.entries) == ["c"]
        manifest.append(ENTRIES[2])
        assert path.read_bytes() == first + third


def test_the_last_line_of_a_model_counts(tmp_path):
    manifest = Manifest(tmp_path / "manifest.jsonl")
    manifest.append(Entry("b", "rescale", "failed", "no memory"))
    manifest.append(ENTRIES[2])
    assert Manifest(manifest.path).entries == {"b": ENTRIES[2]}


def test_put_in_order(tmp_path):
    manifest = Manifest(tmp_path / "manifest.jsonl")
    for entry in (*ENTRIES, Entry("gone", "rescale", "ok")):
        manifest.append(entry)
    manifest.put_in_order(["a\udcff", "b", "c"], tmp_path / "new")
    assert manifest.path.read_bytes() == b"".join(e.line() for e in sorted(ENTRIES, key=lambda e: e.model))
    assert not (tmp_path / "new").exists()
    manifest.append(ENTRIES[0])
    assert list(Manifest(manifest.path).entries) == ["a\udcff", "b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        *("nonsense", "[]", '{"model": "x"}', '{"other": 1}', "\x00", "[" * 100_000),
        *(_changed(model=["x"]), _changed(options=3), _changed(options={"beta": [3]}), _changed(result="great")),
        *(_changed(outputs={"../x": TOLD}), _changed(outputs={"/x": TOLD}), _changed(outputs={"x": {"bytes": 1}})),
        _changed(key="../../x"),
    ],
)
def test_a_foreign_line_is_refused_with_its_number(tmp_path, text):
    path = tmp_path / "manifest.jsonl"
    path.write_bytes(ENTRIES[0].line() + text.encode() + b"\n")
    with pytest.raises(FormatError, match="line 2"):
        Manifest(path)
