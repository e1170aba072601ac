"""What a page tells of a run, whatever the verb: its units with one or two sets of statistics, and what was asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from caffeinit.measuring import Measurement, UnitMeasurement
from caffeinit.result import Result, UnitStats

_DRAWN_RANGE = 1e-8


@dataclass(frozen=True)
class About:
    """What was asked for; a page leaves out what is empty.

    Attributes:
        job: the verb.
        files: role ("net", "weights", "output") -> path.
        options: option -> value, of those that were given.
        defaults: option -> value, of those that were not.
        pictures: what the calibration says of itself, a few lines.
    """

    job: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    pictures: str = ""


@dataclass(frozen=True)
class Shown:
    """One unit; `stats` has one entry for each set of the page, None where there is none."""

    name: str
    kind: str
    num_channels: int
    stats: tuple[UnitStats | None, ...]


@dataclass(frozen=True)
class Content:
    """The units of a page.

    Attributes:
        sets: what the statistics are of: ("before", "after"), ("A", "B") or ("measured",).
        spreads: of the rates, one for each set; NaN where there is none.
        no_spread: why there is none though rates were measured; empty else.
    """

    sets: tuple[str, ...]
    units: list[Shown]
    spreads: tuple[float, ...]
    no_spread: str = ""

    def rates(self, index: int) -> list[float]:
        """Return the rate of every unit in one set; NaN where there is none."""
        return [math.nan if (s := u.stats[index]) is None else s.rate for u in self.units]

    @property
    def is_alone(self) -> bool:
        """Whether one unit alone has a rate, so that a spread means nothing."""
        return sum(map(math.isfinite, self.rates(-1))) == 1

    def deviations(self, index: int) -> list[np.ndarray]:
        """Return the deviations of every unit's channels in one set."""
        return [np.zeros(0) if (s := u.stats[index]) is None else s.channel_stds for u in self.units]

    @cached_property
    def floor(self) -> float:
        """The least deviation that is drawn: channels that are all but still would take the axis for themselves."""
        every = [d for index in range(len(self.sets)) for d in self.deviations(index)]
        return _DRAWN_RANGE * float(drawable(np.concatenate([np.zeros(0), *every])).max(initial=0))

    def drawn_deviations(self, index: int) -> list[np.ndarray]:
        """Return those of `deviations` that have a place in the pictures."""
        return [(found := drawable(each))[found >= self.floor] for each in self.deviations(index)]


def content_of(found: Result | Sequence[Measurement]) -> Content:
    """Return what a page shows of a job's result, or of one or two measurements."""
    if isinstance(found, Result):
        units = [Shown(u.name, u.kind, u.num_channels, (u.before, u.after)) for u in found.units]
        return Content(("before", "after"), units, (found.rate_spread_before, found.rate_spread), found.no_spread)
    sets = ("measured",) if len(found) == 1 else ("A", "B")
    rows = zip(*(m.units for m in found), strict=True)
    shown = [Shown(us[0].name, us[0].kind, us[0].num_channels, tuple(map(_stats, us))) for us in rows]
    return Content(
        sets, shown, tuple(m.rate_spread for m in found), next((m.no_spread for m in found if m.no_spread), "")
    )


def _stats(unit: UnitMeasurement) -> UnitStats:
    return unit.stats.with_rate(unit.rate, unit.rate_cvar)


def drawable(values: np.ndarray | Sequence[float]) -> np.ndarray:
    """Return the values that have a place on a log axis."""
    array = np.asarray(values, np.float64).reshape(-1)
    return array[np.isfinite(array) & (array > 0)]
