"""Tables and progress for the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment, Segments
from rich.table import Column, Table

from caffeinit.cli.terminal import read_by_nobody
from caffeinit.printing import printable_lines
from caffeinit.report.showing import dead_cell, outcome, result_columns, stats_cells
from caffeinit.result import Result

_UNLIMITED = 10_000
Advance = Callable[[int, int], None]


def console(stderr: bool = False) -> Console:
    """Return a console as wide as the terminal, or as COLUMNS says.

    In a pipe or file, without COLUMNS, lines are as long as they need to be: each row of a table is one line.
    """
    found = _Terminal(stderr=stderr, highlight=False)
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        found.width = int(told)
    elif not found.is_terminal:
        found.width = _UNLIMITED
    return found


class _Terminal(Console):
    """A console that shows control characters in names as escapes; colours are not part of the text, and stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is shown."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)

    def on_broken_pipe(self) -> None:
        """Go on without a reader, instead of ending what is not done yet."""
        read_by_nobody(sys.stderr if self.stderr else sys.stdout)


@contextmanager
def _bar(err: Console, label: str, quiet: bool) -> Iterator[Advance]:
    """Show a bar that vanishes when it is done, on a terminal alone."""
    if quiet or not err.is_terminal:
        yield lambda done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task(label, total=1)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def progress(label: str, quiet: bool) -> Iterator[Advance]:
    """Show on stderr how far something is: a bar on a terminal, else a line every half minute."""
    err = console(stderr=True)
    lines = _Lines(err, label)
    with _bar(err, label, quiet) as bar:

        def advance(done: int, total: int) -> None:
            bar(done, total)
            if not (quiet or err.is_terminal):
                lines.advance(done, total)

        yield advance


class _Lines:
    """Progress for a pipe or a file: nothing of what is done soon, and then a line now and then."""

    SECONDS = 30.0

    def __init__(self, err: Console, label: str) -> None:
        self.err = err
        self.label = label
        self.began = self.told = time.monotonic()

    def advance(self, done: int, total: int) -> None:
        """Print how far it is, unless a line stands there for less than half a minute."""
        now = time.monotonic()
        if now - self.told >= self.SECONDS:
            self.told = now
            line = f"{self.label}: {done}/{total} after {now - self.began:.0f} s"
            self.err.print(line, markup=False, soft_wrap=True)


@contextmanager
def lines_and_bar(label: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a line on stderr for each thing that ends, above a bar of them all where it is a terminal."""
    err = console(stderr=True)
    with _bar(err, label, quiet) as bar:

        def ended(line: str, done: int, total: int) -> None:
            if not quiet:
                err.print(line, markup=False, soft_wrap=True)
            bar(done, total)

        yield ended


def print_units(out: Console, result: Result) -> None:
    """Print the table of all units, before and after: in one line, or one above the other where that is too wide."""
    table = unit_table(result)
    least = least_width(out, table, _SIDE_BY_SIDE)
    if least > out.width:
        table = _one_above_the_other(result)
        least = least_width(out, table, _ONE_ABOVE_THE_OTHER)
    print_wide(out, table, least)


def print_wide(out: Console, table: Table, least: int) -> None:
    """Print a table that takes at least so many columns: rather a broken line than a number without its digits."""
    out.width = max(out.width, least)
    lines = [_without_end_blanks(line) for line in out.render_lines(table, pad=False)]
    out.print(Segments([segment for line in lines for segment in (*line, Segment.line())]), end="")


def _without_end_blanks(line: Sequence[Segment]) -> list[Segment]:
    """Return a line of a table without the blanks that fill up its last columns."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    return [*kept[:-1], Segment(kept[-1].text.rstrip(), kept[-1].style)] if kept else []


def full_width(out: Console, table: Table) -> int:
    """Return how wide a table is where nothing in it is wrapped."""
    return out.measure(table, options=out.options.update(width=_UNLIMITED)).maximum


# Columns that the words on a unit get at least, if they need them: beside two lines of numbers they may have more lines.
_SIDE_BY_SIDE, _ONE_ABOVE_THE_OTHER = 40, 20


def least_width(out: Console, table: Table, words: int) -> int:
    """Return how wide a table is that has so many columns for what may be wrapped, or less if its cells are shorter."""
    wrapped = [column for column in table.columns if not column.no_wrap]
    return full_width(out, table) - sum(max(0, _longest(column) - words) for column in wrapped)


def _longest(column: Column) -> int:
    return max(cell_len(str(text)) for text in (column.header, *column.cells))


def _columns(table: Table, headings: Sequence[str], words: str) -> None:
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column(words, overflow="fold")


def unit_table(result: Result) -> Table:
    """Return the table of all units, before and after side by side."""
    columns = result_columns(result)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    _columns(table, ("channels", *columns, f"→ {columns[0]}", *columns[1:], "dead"), "what was done, or why not")
    for unit in result.units:
        before, after = (stats_cells(stats)[: len(columns)] for stats in (unit.before, unit.after))
        cells = [escape(unit.name), str(unit.num_channels), *before, *after, dead_cell(unit), escape(outcome(unit))]
        table.add_row(*cells, style=None if unit.done else "dim")
    return table


def _one_above_the_other(result: Result) -> Table:
    """Return the table for terminals that are too narrow for all numbers of a unit in one line."""
    columns = result_columns(result)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit", no_wrap=True)
    table.add_column("", no_wrap=True)
    _columns(table, ("channels", *columns, "dead"), "done, or why not")
    for unit in result.units:
        pairs = zip(*(stats_cells(stats)[: len(columns)] for stats in (unit.before, unit.after)), strict=True)
        numbers = ["\n".join(pair) for pair in pairs]
        cells = [escape(unit.name), "before\nafter", str(unit.num_channels), *numbers, dead_cell(unit)]
        table.add_row(*cells, escape(outcome(unit)), style=None if unit.done else "dim")
    return table


def dims(shape: Sequence[int]) -> str:
    """Return a shape as text."""
    return "x".join(map(str, shape)) or "()"
