"""Tables and progress for the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from caffeinit.comparison import Comparison, Difference
from caffeinit.inspection import Inspection
from caffeinit.result import Result, UnitReport, UnitStats
from caffeinit.scale_report import ScaleReport, UnitScales

Advance = Callable[[int, int], None]


def console(stderr: bool = False) -> Console:
    """Return a console; where the output is no terminal, lines are as long as they need to be."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=160)


@contextmanager
def progress(label: str, quiet: bool) -> Iterator[Advance]:
    """Show a bar on stderr while something runs, if it is a terminal; the bar vanishes when it is done."""
    err = console(stderr=True)
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=err,
        transient=True,
        disable=quiet or not err.is_terminal,
    )
    with shown:
        task = shown.add_task(label, total=1)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def number(value: float, digits: int = 3) -> str:
    """Return a number in few characters, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def unit_table(result: Result) -> Table:
    """Return the table of all units, before and after."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit")
    for heading in ("channels", "mean", "std", "cvar", "→ mean", "std", "cvar", "dead"):
        table.add_column(heading, justify="right")
    table.add_column("what was done, or why not", overflow="fold")
    for unit in result.units:
        dead = str(len(unit.dead)) if unit.after or unit.dead else "-"
        cells = [
            escape(unit.name),
            str(unit.num_channels),
            *_cells(unit.before),
            *_cells(unit.after),
            dead,
            escape(_outcome(unit)),
        ]
        table.add_row(*cells, style=None if unit.done else "dim")
    return table


def _cells(stats: UnitStats | None) -> list[str]:
    if stats is None:
        return ["-", "-", "-"]
    return [number(stats.mean), number(stats.std), number(stats.out_cvar)]


def _outcome(unit: UnitReport) -> str:
    if unit.reason:
        return f"{unit.done}; not normalised: {unit.reason}" if unit.done else f"left alone: {unit.reason}"
    return unit.done + (f"; {len(unit.dead)} dead channels left as they are" if unit.dead else "")


def inspection_tables(report: Inspection) -> None:
    """Print what `inspect` found."""
    out = console()
    for file in report.files:
        out.print(f"{file.path}: {file.form}, {file.size} bytes, sha256 {file.sha256[:16]}", markup=False)
        if file.unknown_fields:
            out.print(
                f"  fields that no known fork declares: {', '.join(dict.fromkeys(file.unknown_fields))}", markup=False
            )
    for name, shape in report.inputs.items():
        out.print(f"input {name}: {_shape(shape)}", markup=False)
    out.print(_scale_table(report.scales) if report.scales else _layer_table(report))
    if report.scales:
        out.print(f"{report.scales.num_independent:,} scales can be chosen independently.", markup=False)
        out.print(_LEGEND, markup=False)
    else:
        macs = sum(layer.macs for layer in report.layers)
        out.print(f"{report.num_params:,} parameters, {macs:,} multiply-adds", markup=False)
    for title, lines in (
        ("does not fit", report.mismatches),
        ("the weights file lacks", report.missing),
        ("in the weights file only", report.unused),
        ("note", report.notes),
    ):
        for line in lines:
            out.print(f"{title}: {line}", markup=False)


_LEGEND = """\
free: the channel can be given any scale, and what reads it makes up for that. tied: its scale depends on those of the units
named, as in a sum. held: it stays as it is, because what is named would not stay the same."""


def _scale_table(report: ScaleReport) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit")
    table.add_column("kind")
    for heading in ("channels", "free", "tied", "held"):
        table.add_column(heading, justify="right")
    table.add_column("why", overflow="fold")
    for unit in report.units:
        counts = [str(n) if n else "-" for n in (unit.free, unit.tied, unit.held)]
        cells = [unit.name, unit.kind, str(unit.num_channels), *counts, _bonds(unit)]
        table.add_row(*map(escape, cells), style="dim" if unit.held == unit.num_channels else None)
    return table


def _bonds(unit: UnitScales) -> str:
    """Return what a unit's channels are tied to or held by."""
    parts = [f"not to be changed: {unit.kept}"] if unit.kept else []
    if unit.tied:
        names = [name for name in unit.tied_with if name != unit.name]
        names = ["each other"] * (len(names) < len(unit.tied_with)) + names
        rest = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        scales = "1 scale" if unit.num_shared == 1 else f"{unit.num_shared} scales"
        parts.append(f"{scales} shared with {', '.join(names[:_MOST_NAMES])}{rest}")
    for reason, count in unit.reasons.items():
        parts.append(f"held by {reason}" + (f" ({count})" if len(unit.reasons) > 1 else ""))
    return "; ".join(parts)


_MOST_NAMES = 4


def _layer_table(report: Inspection) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "type", "top", "parameters"):
        table.add_column(heading)
    table.add_column("multiply-adds", justify="right")
    table.add_column("rescaling", overflow="fold")
    for layer in report.layers:
        rescaling = layer.reason if layer.reason else layer.unit
        tops = " ".join(_shape(s) for s in layer.tops)
        cells = [layer.name, layer.type, tops, " ".join(_shape(s) for s in layer.params)]
        table.add_row(*map(escape, cells), f"{layer.macs:,}" if layer.macs else "", escape(rescaling))
    return table


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "()"


def comparison_table(found: Comparison, files: tuple[str, str], pictures: str, searched: bool) -> None:
    """Print what `verify` found.

    Args:
        searched: the first value that differs was asked for.
    """
    out = console()
    out.print(pictures, markup=False)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("output")
    for heading in ("largest value", "largest difference", "relative", "top-1 differs"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for output in found.outputs:
        changed = "" if output.changed is None else f"{output.changed} of {found.num_images}"
        cells = [number(output.largest), number(output.gap, 2), number(output.relative, 2), changed]
        table.add_row(escape(output.name), *cells, _verdict(found, output))
    out.print(table)
    for note in found.notes:
        out.print(f"note: {note}", markup=False)
    if found.parting:
        name, _, layer = found.parting.name.partition("@")
        where = f'blob "{name}" after layer "{layer}"' if layer else f'value "{name}"'
        out.print(f"first difference: {where}, by {number(found.parting.relative, 2)} of its largest", markup=False)
    elif searched:
        out.print("no value inside the net differs", markup=False)
    verdict = "the same function" if found.same else "NOT the same function"
    out.print(
        f"{files[0]} and {files[1]} are {verdict} on these {found.num_images} pictures (tolerance {found.tolerance:g})",
        markup=False,
    )


def _verdict(found: Comparison, output: Difference) -> str:
    if output.shapes:
        return f"different shapes: {_shape(output.shapes[0])} and {_shape(output.shapes[1])}"
    if math.isinf(output.gap):
        return "not finite"
    return "same" if found.agree(output) else "different"
