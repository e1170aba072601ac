"""What is told beside the numbers of weights that were made ready for training: one sentence a matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffeinit.graph.units import Unit
from caffeinit.methods.goal import ONE_RATE
from caffeinit.model.network import Network
from caffeinit.patterns import first_of
from caffeinit.result import UnitReport
from caffeinit.scales.classes import ScaleSystem
from caffeinit.scales.free import holding as find_holding
from caffeinit.scales.free import unchanged
from caffeinit.statistics.rates import RateProbe, UnitRates

# The variation from which on deviations in one unit are told to differ.
_ALIKE = 0.02
_SHIFTED = 0.25  # of a deviation, by which a mean that was set may lie elsewhere untold
_FAR_APART = 1.0  # of rates, log: then one rate has not been had, and deviations have been given up for little
_LOUD = 4.0  # the deviation of pictures that are scaled further down where nets are trained
_FORETOLD = (
    "means and deviations after balancing are foretold: its last steps were made up for on {} pictures at most. "
    "`caffeinit measure` tells what they are"
)
# Sixteen deviations of it are what half precision holds.
_LARGE_STD = 4096
_LOOSE = (
    "the net's outputs do not deviate by 1: the units' rates are tied to their size{}. `--no-balance` leaves them at 1"
)
_ELSE = ", and would differ from their mean by up to a factor of {:.3g} with outputs that deviate by 1"
_LOOSE_BENT = (
    "the net's outputs do not deviate by 1: with outputs of that size, one rate would take scales far along the curves of "
    "activations. `--no-balance` leaves them at 1"
)
_TOO_FAR = (
    "one rate for all units would take the net's outputs to another size by a factor of about {:.3g}, which is too far: "
    "they stay as they are, and rates apart"
)


def learns(unit: Unit) -> bool:
    """Tell whether a unit's rate counts: it has weights that a gradient would change."""
    return unit.kind == "affine" and not unit.frozen


def rate_notes(network: Network, probe: RateProbe, rates: Mapping[str, UnitRates]) -> list[str]:
    """Return a sentence on units whose rates do not count, and one on those that have none for the same reason."""
    notes = []
    frozen = [unit for unit in network.units if unit.kind == "affine" and unit.frozen]
    computed = [unit for unit in frozen if network.learned[unit.initializers[0]].held]
    switched_off = [unit for unit in frozen if unit not in computed]
    for units, why in (
        (switched_off, "their training is switched off (lr_mult 0)"),
        (computed, "what the graph computes them from is trained in their place"),
    ):
        if units:
            notes.append(f"not in the spread of the rates, for {why}: {first_of([u.name for u in units])}")
    unmeasured: dict[str, list[str]] = {}
    for unit in filter(learns, network.units):
        if why := probe.unreached.get(unit.key) or rates[unit.key].why_unmeasured(unit):
            unmeasured.setdefault(why, []).append(unit.name)
    for why, (first, *others) in unmeasured.items():
        notes.append(f"{first} has no rate: {why}" + (f"; so it is with {first_of(others)}" if others else ""))
    return notes


def holding(network: Network, system: ScaleSystem, unit: Unit) -> str:
    """Return why channels of a unit's output have no scale that is free; empty where all have one."""
    left = unchanged(system, network.units)
    return "; ".join(find_holding(network.graph, system, unit, network.learned, left, network.place))


def apart_notes(
    spreads: tuple[float, float],
    rates: Mapping[str, float],
    rounds: int,
    held: Mapping[str, str],
    fed: Mapping[str, float],
) -> list[str]:
    """Return a sentence on rates that could not be made equal.

    Args:
        spreads: max |log C - mean log C| with deviations of 1, and as it is now.
        rates: of the units by name.
        rounds: how often rates were measured.
        held: why the output of a unit has no scale that is free, by name, where that is so.
        fed: how much the numbers deviate that a unit is fed with, by name, where it reads an input of the net.
    """
    start, spread = spreads
    if not spread > ONE_RATE:
        return []
    tied = "the graph or what is left alone ties them" if rounds == 1 else f"after {rounds} rounds"
    ends = [f(rates, key=rates.__getitem__) for f in (min, max)]
    lowest, highest = (f"{n} (its output is held: {held[n]})" if n in held else n for n in ends)
    if (std := fed.get(ends[1], 0.0)) > _LOUD:
        highest += f" (it reads numbers that deviate by {std:.3g}: a `--scale` of 1/k brings its rate down by about k²)"
    is_given_up = rounds > 1 and spread > _FAR_APART and not np.isclose(spread, start, rtol=0.01)
    advice = ". `--no-balance` may be the better start" if is_given_up else ""
    return [
        f"the units' rates could not be made equal: they differ from their mean by up to a factor of "
        f"{np.exp(spread):.3g} ({tied}); lowest in {lowest}, highest in {highest}{advice}"
    ]


def foretold_notes(is_foretold: bool, num_pictures: int) -> list[str]:
    """Return a sentence on means and deviations that were not measured at the end, but on some pictures."""
    return [_FORETOLD.format(num_pictures)] if is_foretold else []


def loose_notes(held: float | None, spreads: tuple[float, float] | None) -> list[str]:
    """Return a sentence on outputs that were given a scale.

    Args:
        held: the spread that was expected without; None if they were given none.
        spreads: before and now.
    """
    if held is None:
        return []
    if held <= ONE_RATE:
        return [_LOOSE_BENT]
    is_better = spreads is not None and spreads[1] < held
    return [_LOOSE.format(_ELSE.format(np.exp(held)) if is_better else "")]


def too_far_notes(too_far: float | None, spreads: tuple[float, float] | None) -> list[str]:
    """Return a sentence on outputs that were not given the log scale that one rate asks of them, if rates do differ."""
    if too_far is None or not spreads or not spreads[1] > ONE_RATE:
        return []
    return [_TOO_FAR.format(np.exp(too_far))]


def large_notes(reports: Sequence[UnitReport]) -> list[str]:
    """Return a sentence on units that put out numbers that half precision does not hold, so that the rates are one."""
    stds = {r.name: float(r.after.channel_stds.max(initial=0)) for r in reports if r.after is not None and r.done}
    large = [name for name, std in stds.items() if std > _LARGE_STD]
    if not large:
        return []
    top = max(large, key=stds.__getitem__)
    units = f"{len(large)} unit{'s' if len(large) > 1 else ''}"
    return [
        f"for one rate, {units} put{'s' if len(large) == 1 else ''} out deviations above {_LARGE_STD:,.0f}, up to "
        f"{stds[top]:.2g} in {top}: half precision ends at 65,504. --no-balance leaves deviations at 1"
    ]


def uneven_notes(units: Sequence[Unit], reports: Sequence[UnitReport]) -> list[str]:
    """Return a sentence on the units whose channels were made alike, and no longer are since the rates were balanced."""
    uneven = []
    for unit, report in zip(units, reports, strict=True):
        if (unit.weight is None and unit.kind != "norm") or report.before is None:
            continue  # without a factor, or not normalised, its channels never were
        stds = np.delete(report.after.channel_stds, report.dead) if report.after and report.done else np.ones(1)
        if len(stds) and stds.std() > _ALIKE * stds.mean():
            uneven.append(report.name)
    told = "balancing the rates has scaled channels of one unit apart: they are not alike any more in"
    return [f"{told} {first_of(uneven)}"] if uneven else []


def shifted_notes(units: Sequence[Unit], reports: Sequence[UnitReport], beta: float) -> list[str]:
    """Return a sentence on the units whose means were set, and lie elsewhere since the rates were balanced.

    Args:
        beta: the mean that was given, as a share of the deviation.
    """
    farthest: dict[str, float] = {}
    for unit, report in zip(units, reports, strict=True):
        if report.after is None or not report.done.endswith("normalised"):
            continue  # it has no bias, or was not normalised
        means, stds = (np.delete(a, report.dead) for a in (report.after.channel_means, report.after.channel_stds))
        shift = float(np.abs(means / stds - beta).max(initial=0))
        if shift > _SHIFTED:
            farthest[unit.name] = shift
    told = f"balancing the rates has shifted means of channels, by up to {max(farthest.values(), default=0):.2g} deviations"
    return [f"{told}, in {first_of(list(farthest))}"] if farthest else []
