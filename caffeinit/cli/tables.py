"""Tables and progress for the terminal. Results go to stdout, progress to stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment
from rich.table import Table

from caffeinit.printing import printable_lines
from caffeinit.result import Result
from caffeinit.showing import dead_cell, outcome, result_columns, stats_cells

Advance = Callable[[int, int], None]


def console(stderr: bool = False) -> Console:
    """Return a console; where the output is no terminal, lines are as long as they need to be."""
    found = _Terminal(stderr=stderr, highlight=False)
    return found if found.is_terminal else _Terminal(stderr=stderr, highlight=False, width=160)


class _Terminal(Console):
    """A console that shows control characters in names as escapes; colours are not part of the text, and stay."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield what is shown."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable_lines(text), style, control)


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


@contextmanager
def lines_and_bar(label: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Show a line on stderr for each thing that ends, above a bar of them all where it is a terminal."""
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

        def ended(line: str, done: int, total: int) -> None:
            if not quiet:
                err.print(line, markup=False, soft_wrap=True)
            shown.update(task, completed=done, total=total)

        yield ended


def unit_table(result: Result) -> Table:
    """Return the table of all units, before and after."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("unit")
    columns = result_columns(result)
    for heading in ("channels", *columns, f"→ {columns[0]}", *columns[1:], "dead"):
        table.add_column(heading, justify="right")
    table.add_column("what was done, or why not", overflow="fold")
    for unit in result.units:
        cells = [
            escape(unit.name),
            str(unit.num_channels),
            *stats_cells(unit.before)[: len(columns)],
            *stats_cells(unit.after)[: len(columns)],
            dead_cell(unit),
            escape(outcome(unit)),
        ]
        table.add_row(*cells, style=None if unit.done else "dim")
    return table


def dims(shape: Sequence[int]) -> str:
    """Return a shape as text."""
    return "x".join(map(str, shape)) or "()"
