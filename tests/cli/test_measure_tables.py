"""The tables of measure on terminals of any width."""

import io

import pytest
from rich.console import Console

import caffeinit
from caffeinit.cli import measure_tables
from caffeinit.report.showing import number
from tests.nets import NETS, pictures


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("files", [["a"], ["a", "b"]])
def test_no_number_loses_its_digits(width, files, monkeypatch):
    text = io.StringIO()
    monkeypatch.setattr(measure_tables, "console", lambda: Console(file=text, width=width))
    found = [caffeinit.measure(NETS["residual"](seed), pictures()) for seed, _ in enumerate(files)]
    measure_tables.measurement_tables(found, files, "pictures")
    assert "…" not in text.getvalue()
    words = text.getvalue().split()
    for measurement in found:
        for unit in measurement.units:
            for value in (unit.stats.mean, unit.stats.std, unit.stats.max_abs, unit.rate, unit.rate_cvar):
                assert number(value) in words
