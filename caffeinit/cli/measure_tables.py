"""The tables of `measure`: one weights file, or two side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from caffeinit.cli.tables import console, full_width, print_wide
from caffeinit.measuring import Measurement, UnitMeasurement
from caffeinit.report.showing import all_remarks, measured_columns


def measurement_tables(found: Sequence[Measurement], files: Sequence[str], pictures: str) -> None:
    """Print what `measure` found in one or two weights files."""
    out = console()
    out.print(pictures, markup=False, soft_wrap=True)
    letters = [""] if len(found) == 1 else ["A", "B"]
    if len(found) > 1:
        for letter, file in zip(letters, files, strict=True):
            out.print(f"{letter}: {file}", markup=False, soft_wrap=True)
    table = _side_by_side(found, letters)
    if len(found) > 1 and full_width(out, table) > out.width:
        table = _one_above_the_other(found, letters)
    print_wide(out, table, full_width(out, table))
    for line in all_remarks(found):
        out.print(line, markup=False, soft_wrap=True)


def _style(units: Sequence[UnitMeasurement]) -> str | None:
    """Return half brightness for what has no rate that counts."""
    return "dim" if all(math.isnan(u.rate) or u.frozen for u in units) else None


def _side_by_side(found: Sequence[Measurement], letters: Sequence[str]) -> Table:
    columns = measured_columns(found)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    if len(found) == 1:
        table.add_column("kind", no_wrap=True)
    table.add_column("channels", justify="right", no_wrap=True)
    for heading in columns:
        for position, letter in enumerate(letters):
            title = f"{heading} {letter}".strip() if position == 0 else letter
            table.add_column(title, justify="right", no_wrap=True)
    for units in zip(*(m.units for m in found), strict=True):
        kind = [units[0].kind] if len(found) == 1 else []
        cells = [show(unit) for show in columns.values() for unit in units]
        table.add_row(escape(units[0].name), *kind, str(units[0].num_channels), *cells, style=_style(units))
    return table


def _one_above_the_other(found: Sequence[Measurement], letters: Sequence[str]) -> Table:
    """Return the table for terminals that are too narrow for all numbers of both files in one line."""
    columns = measured_columns(found)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in ("channels", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for units in zip(*(m.units for m in found), strict=True):
        for letter, unit in zip(letters, units, strict=True):
            first = letter == letters[0]
            name, channels = (escape(unit.name), str(unit.num_channels)) if first else ("", "")
            table.add_row(name, letter, channels, *(show(unit) for show in columns.values()), style=_style(units))
    return table
