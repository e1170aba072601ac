"""The tables of `measure`: one weights file, or two side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from caffeinit.cli.tables import console, number
from caffeinit.measuring import Measurement, UnitMeasurement

_COLUMNS: dict[str, Callable[[UnitMeasurement], str]] = {
    "mean": lambda u: number(u.stats.mean),
    "std": lambda u: number(u.stats.std),
    "cvar": lambda u: number(u.stats.out_cvar),
    "largest": lambda u: number(u.stats.max_abs),
    "dead": lambda u: str(u.dead),
    "rate": lambda u: number(u.rate),
    "rate cvar": lambda u: number(u.rate_cvar),
}


def measurement_tables(found: Sequence[Measurement], files: Sequence[str], pictures: str) -> None:
    """Print what `measure` found in one or two weights files."""
    out = console()
    out.print(pictures, markup=False, soft_wrap=True)
    letters = [""] if len(found) == 1 else ["A", "B"]
    if len(found) > 1:
        for letter, file in zip(letters, files, strict=True):
            out.print(f"{letter}: {file}", markup=False, soft_wrap=True)
    table = _side_by_side(found, letters)
    if len(found) > 1 and _full_width(out, table) > out.width:
        table = _one_above_the_other(found, letters)
    # Rather a broken line than a number without its digits.
    out.width = max(out.width, _full_width(out, table))
    out.print(table)
    for letter, measurement in zip(letters, found, strict=True):
        prefix = f"{letter}: " if letter else ""
        for line in _remarks(measurement):
            out.print(prefix + line, markup=False, soft_wrap=True)


def _full_width(out: Console, table: Table) -> int:
    return out.measure(table, options=out.options.update(width=10_000)).maximum


def _columns(found: Sequence[Measurement]) -> dict[str, Callable[[UnitMeasurement], str]]:
    has_rates = any(m.num_rate_images for m in found)
    return {heading: show for heading, show in _COLUMNS.items() if has_rates or not heading.startswith("rate")}


def _style(units: Sequence[UnitMeasurement]) -> str | None:
    """Return half brightness for what has no rate that counts."""
    return "dim" if all(math.isnan(u.rate) or u.frozen for u in units) else None


def _side_by_side(found: Sequence[Measurement], letters: Sequence[str]) -> Table:
    columns = _columns(found)
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
    columns = _columns(found)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    table.add_column("")
    for heading in ("channels", *columns):
        table.add_column(heading, justify="right", no_wrap=True)
    for units in zip(*(m.units for m in found), strict=True):
        for letter, unit in zip(letters, units, strict=True):
            first = letter == letters[0]
            name, channels = (escape(unit.name), str(unit.num_channels)) if first else ("", "")
            table.add_row(name, letter, channels, *(show(unit) for show in columns.values()), style=_style(units))
    return table


def _remarks(found: Measurement) -> list[str]:
    lines = []
    if broken := [u.name for u in found.units if not u.is_finite]:
        lines.append(f"NOT FINITE on these pictures (NaN or overflow): the output of {', '.join(broken)}")
    if counted := found.counted:
        low, high = (choose(counted, key=lambda u: u.rate) for choose in (min, max))
        lines.append(
            f"rates, on {found.num_rate_images} pictures: {number(low.rate)} ({low.name}) to {number(high.rate)} "
            f"({high.name}); spread max |log C - mean| = {number(found.rate_spread)}"
        )
    for reason in dict.fromkeys(u.reason for u in found.units if u.reason):
        names = ", ".join(u.name for u in found.units if u.reason == reason)
        lines.append(f"no rate: {names}: {reason}")
    if frozen := [u.name for u in found.units if u.frozen]:
        lines.append(f"frozen, not in the spread: {', '.join(frozen)}")
    lines += [f"left out: {s.name}: {s.reason}" for s in found.skipped]
    return lines + [f"note: {note}" for note in found.notes]
