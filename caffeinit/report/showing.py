"""What tables show of units, in the terminal and on pages: numbers, columns, and what became of each unit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from caffeinit.measuring import Measurement, UnitMeasurement
from caffeinit.model.network import Skipped, cause_lines
from caffeinit.result import Result, UnitReport, UnitStats

# A variation below this is float32 rounding in what was measured, and not worth a reader's time.
ROUNDING = 1e-6

MEASURED_COLUMNS: dict[str, Callable[[UnitMeasurement], str]] = {
    "mean": lambda u: number(u.stats.mean),
    "std": lambda u: number(u.stats.std),
    "cvar": lambda u: cvar_cell(u.stats),
    "largest": lambda u: number(u.stats.max_abs),
    "dead": lambda u: str(u.dead),
    "rate": lambda u: number(u.rate),
    "rate cvar": lambda u: number(u.rate_cvar),
}


def pictures_word(count: int) -> str:
    """Return so many pictures in words."""
    return "1 picture" if count == 1 else f"{count} pictures"


def number(value: float, digits: int = 3) -> str:
    """Return a number in few characters, or a dash where there is none."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def plain(shown: str) -> str:
    """Return what `number` gave without an exponent where digits are easier to read: 1.64e+03 is 1640."""
    return f"{float(shown):.0f}" if shown[-4:-1] == "e+0" and int(shown[-1]) <= 5 else shown


def cvar_cell(stats: UnitStats) -> str:
    """Return the variation of the deviations, 0 where it is rounding."""
    return "0" if stats.out_cvar < ROUNDING else number(stats.out_cvar)


def result_columns(result: Result) -> tuple[str, ...]:
    """Return the headings of what is told of a unit before, and again after."""
    rated = any(not math.isnan(stats.rate) for u in result.units for stats in (u.before, u.after) if stats)
    return ("mean", "std", "cvar", "rate") if rated else ("mean", "std", "cvar")


def stats_cells(stats: UnitStats | None) -> list[str]:
    """Return what stands below "mean", "std", "cvar" and "rate"."""
    if stats is None:
        return ["-"] * 4
    return [number(stats.mean), number(stats.std), cvar_cell(stats), number(stats.rate)]


def dead_cell(unit: UnitReport) -> str:
    """Return how many channels do not vary, or a dash where nobody looked."""
    return str(len(unit.dead)) if unit.after or unit.dead else "-"


def outcome(unit: UnitReport) -> str:
    """Return what was done to a unit, or why nothing was."""
    if unit.reason:
        return f"{unit.done}; not normalised: {unit.reason}" if unit.done else f"left alone: {unit.reason}"
    dead = "1 channel is dead" if len(unit.dead) == 1 else f"{len(unit.dead)} channels are dead"
    return f"{unit.done}; {dead}" if unit.dead else unit.done


def measured_columns(found: Sequence[Measurement]) -> dict[str, Callable[[UnitMeasurement], str]]:
    """Return heading -> cell of a unit; rates only where they were measured."""
    has_rates = any(m.num_rate_images for m in found)
    return {heading: show for heading, show in MEASURED_COLUMNS.items() if has_rates or not heading.startswith("rate")}


def all_remarks(found: Sequence[Measurement]) -> list[str]:
    """Return the remarks on one measurement, or on two, A and B, with what is true of both said once."""
    if len(found) == 1:
        return remarks(found[0])
    a, b = map(remarks, found)
    lines = [f"{'A, B' if line in b else 'A'}: {line}" for line in a]
    return lines + [f"B: {line}" for line in b if line not in a]


def apart_lines(apart: Sequence[Skipped]) -> list[str]:
    """Return which layers with learned numbers are no units, a line for each reason."""
    names: dict[str, list[str]] = {}
    for layer in apart:
        names.setdefault(layer.reason, []).append(layer.name)
    return [f"no unit, so its scale is left alone: {', '.join(of)}: {reason}" for reason, of in names.items()]


def remarks(found: Measurement) -> list[str]:
    """Return what is to be said about a measurement as a whole, a line each."""
    lines = []
    if broken := [u.name for u in found.units if not u.is_finite]:
        lines.append(f"NOT FINITE on these pictures (NaN or overflow): the output of {', '.join(broken)}")
    if found.first_not_finite:
        lines.append(found.first_not_finite)
    if counted := found.counted:
        low, high = (choose(counted, key=lambda u: u.rate) for choose in (min, max))
        spread = f"to {number(high.rate)} ({high.name}); spread max |log C - mean| = {number(found.rate_spread)}"
        alone = "alone has a rate: there is none to compare it with"
        lines.append(
            f"rates, on {pictures_word(found.num_rate_images)}: {number(low.rate)} ({low.name}) "
            + (alone if found.is_alone else spread)
        )
    if found.no_spread:
        lines.append(f"spread of the rates: -, for {found.no_spread}")
    for reason in dict.fromkeys(u.reason for u in found.units if u.reason):
        first, *others = [u.name for u in found.units if u.reason == reason]
        lines.append(f"no rate: {first}: {reason}" + (f"; so it is with {', '.join(others)}" if others else ""))
    if frozen := [u.name for u in found.units if u.frozen]:
        lines.append(f"frozen, not in the spread: {', '.join(frozen)}")
    lines += [f"left out: {line}" for line in cause_lines(found.skipped)]
    lines += apart_lines(found.apart)
    return lines + [f"note: {note}" for note in found.notes]
