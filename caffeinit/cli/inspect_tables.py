"""The tables of `inspect`: layers, or the scales of units."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from caffeinit.cli.tables import console, dims, least_width, print_wide
from caffeinit.inspection import Inspection
from caffeinit.model.network import BEHIND
from caffeinit.patterns import first_of
from caffeinit.report.showing import apart_lines
from caffeinit.scales.free import ScaleReport, UnitScales


def inspection_tables(report: Inspection) -> None:
    """Print what `inspect` found."""
    out = console()
    for file in report.files:
        out.print(
            f"{file.path}: {file.form}, {file.size} bytes, sha256 {file.sha256[:16]}", markup=False, soft_wrap=True
        )
        if file.fork_fields:
            out.print(f"  fields of forks: {', '.join(file.fork_fields)}", markup=False)
        if file.unknown_fields:
            out.print(
                f"  fields that no known fork declares: {', '.join(dict.fromkeys(file.unknown_fields))}", markup=False
            )
    for name, shape in report.inputs.items():
        out.print(f"input {name}: {dims(shape)}", markup=False, soft_wrap=True)
    table = _scale_table(report.scales) if report.scales else _layer_table(report)
    print_wide(out, table, least_width(out, table, _WORDS))
    if report.scales:
        _print_scale_remarks(out, report)
    else:
        macs = sum(layer.macs for layer in report.layers)
        counted = "" if report.counts_all else " in the layers whose shapes are known"
        out.print(f"{report.num_params:,} parameters, {macs:,} multiply-adds{counted}", markup=False, soft_wrap=True)
    for title, lines in (
        ("does not fit", report.mismatches),
        ("the weights file lacks", report.missing),
        ("in the weights file only", report.unused),
        ("not compared", _not_compared(report)),
        ("note", report.notes),
    ):
        for line in lines:
            out.print(f"{title}: {line}", markup=False, soft_wrap=True)


def _not_compared(report: Inspection) -> list[str]:
    """Return which layers of the weights file the net has, but in shapes that it does not tell, and why."""
    if not report.unknown:
        return []
    reasons = dict.fromkeys(layer.reason for layer in report.obstacles if not layer.reason.startswith(BEHIND))
    return [f"{', '.join(report.unknown)}, for the net does not tell their shapes: {'; '.join(reasons)}"]


def _print_scale_remarks(out: Console, report: Inspection) -> None:
    assert report.scales is not None
    if report.scales.num_independent:
        out.print(
            f"{report.scales.num_independent:,} scales can be chosen independently.", markup=False, soft_wrap=True
        )
    else:
        out.print(
            "No scale is free: nothing can be rescaled without changing the function.", markup=False, soft_wrap=True
        )
    for line in apart_lines(report.apart):
        out.print(line, markup=False, soft_wrap=True)
    for line in _LEGEND:
        out.print(line, markup=False)
    behind = [layer for layer in report.obstacles if layer.reason.startswith(BEHIND)]
    for layer in report.obstacles:
        if layer not in behind:
            out.print(f"left out: {layer.name} ({layer.type}): {layer.reason}", markup=False, soft_wrap=True)
    if behind:
        causes = len(report.obstacles) - len(behind)
        layers = "1 layer" if len(behind) == 1 else f"{len(behind)} layers"
        out.print(f"left out: {layers} behind {'it' if causes == 1 else 'these'}", markup=False)


_LEGEND = (
    "free: the channel can be given any scale, and what reads it makes up for that.",
    "tied: its scale depends on those of the units named, as in a sum.",
    "held: it stays as it is, because what is named would not stay the same.",
)


def _scale_table(report: ScaleReport) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    table.add_column("kind", no_wrap=True)
    for heading in ("channels", "free", "tied", "held"):
        table.add_column(heading, justify="right", no_wrap=True)
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
        scales = "1 scale" if unit.num_shared == 1 else f"{unit.num_shared} scales"
        parts.append(f"{scales} shared with {first_of(names, _MOST_NAMES)}")
    for reason, count in unit.reasons.items():
        parts.append(f"held by {reason}" + (f" ({count})" if len(unit.reasons) > 1 else ""))
    return "; ".join(parts)


_MOST_NAMES = 4
_WORDS = 20  # columns that shapes and reasons get at least, if they need them


def _layer_table(report: Inspection) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("layer", "type"):
        table.add_column(heading, no_wrap=True)
    for heading in ("top", "parameters"):
        table.add_column(heading, overflow="fold")
    table.add_column("multiply-adds", justify="right", no_wrap=True)
    table.add_column("rescaling", overflow="fold")
    for layer in report.layers:
        rescaling = layer.reason or layer.unit or (f"left alone: {layer.apart}" if layer.apart else "")
        rescaling = rescaling or (f"with {layer.sharing}, whose numbers it shares" if layer.sharing else "")
        tops = " ".join(dims(s) for s in layer.tops)
        cells = [layer.name, layer.type, tops, " ".join(dims(s) for s in layer.params)]
        table.add_row(*map(escape, cells), f"{layer.macs:,}" if layer.macs else "", escape(rescaling))
    return table
