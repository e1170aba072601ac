"""The table of `verify`."""

from __future__ import annotations

import math

from rich.markup import escape
from rich.table import Table

from caffeinit.cli.tables import console, dims, full_width, print_wide
from caffeinit.model.network import Place, nowhere
from caffeinit.proof.comparison import Comparison
from caffeinit.proof.verify import Difference
from caffeinit.report.showing import number


def comparison_table(
    found: Comparison, files: tuple[str, str], pictures: str, searched: bool, place: Place = nowhere
) -> None:
    """Print what `verify` found.

    Args:
        place: as in `Network`.
        searched: the first value that differs was asked for.
    """
    out = console()
    out.print(pictures, markup=False, soft_wrap=True)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("output", no_wrap=True)
    for heading in ("largest value", "largest difference", "relative", "top-1 differs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for output in found.outputs:
        changed = "" if output.changed is None else f"{output.changed} of {output.rows}"
        cells = [number(output.largest), number(output.gap, 2), number(output.relative, 2), changed]
        if output.is_whole and not output.shapes:
            cells = ["", f"{output.unequal} of {output.counted}", "", changed]
        table.add_row(escape(output.name), *cells, _verdict(found, output))
    print_wide(out, table, full_width(out, table))
    for note in found.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    if found.parting:
        name, _, layer = found.parting.name.partition("@")
        inside = f" of {found_in}" if (found_in := place(name, False)) else ""
        where = f'blob "{name}" after layer "{layer}"' if layer else f'value "{name}"{inside}'
        part = found.parting
        much = part.told_apart() if part.unequal else f"by {number(part.relative, 2)} of its largest"
        out.print(
            f"first difference: {where}, {much}",
            markup=False,
            soft_wrap=True,
        )
    elif searched:
        out.print("no value inside the net differs", markup=False, soft_wrap=True)
    which = "this picture" if found.num_images == 1 else f"these {found.num_images} pictures"
    verdict = "the same function" if found.same else "NOT the same function"
    out.print(
        f"{files[0]} and {files[1]} are {verdict} on {which} (tolerance {found.tolerance:g})",
        markup=False,
        soft_wrap=True,
    )


def _verdict(found: Comparison, output: Difference) -> str:
    if output.shapes:
        return f"different shapes: {dims(output.shapes[0])} and {dims(output.shapes[1])}"
    if math.isinf(output.gap):
        return "not finite"
    if output.ties and found.agree(output):
        return "same but for ties"
    return "same" if found.agree(output) else "different"
