"""What a run found and did, as data: the tables, the JSON and the reports are made from it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from caffeinit.arithmetic.moments import Moments
from caffeinit.model.network import Skipped


@dataclass(frozen=True)
class UnitStats:
    """A unit's output over the calibration set.

    Attributes:
        mean, std: averages over all channels, dead ones too, of their means and standard deviations.
        out_cvar: coefficient of variation of the same deviations, as magic_init's measure_stat has it; NaN where all are 0.
        max_abs: largest magnitude; NaN where it was not looked at.
        channel_means, channel_stds: (C,) float64.
        rate, rate_cvar: of the unit's weights, see `statistics/rates.py`; NaN where they were not measured.
    """

    mean: float
    std: float
    out_cvar: float
    max_abs: float
    channel_means: np.ndarray = field(repr=False)
    channel_stds: np.ndarray = field(repr=False)
    rate: float = math.nan
    rate_cvar: float = math.nan

    @classmethod
    def of(cls, moments: Moments) -> UnitStats:
        """Return the statistics of these moments."""
        return cls._of(moments.mean, moments.std, moments.max_abs)

    @classmethod
    def _of(cls, means: np.ndarray, stds: np.ndarray, max_abs: float) -> UnitStats:
        mean = float(stds.mean())
        return cls(float(means.mean()), mean, float(stds.std()) / mean if mean else math.nan, max_abs, means, stds)

    def scaled(self, factors: np.ndarray) -> UnitStats:
        """Return the statistics once each channel has been multiplied by its factor, (C,)."""
        grown = self.max_abs * float(factors[0]) if len(factors) and np.ptp(factors) == 0 else math.nan
        found = self._of(self.channel_means * factors, self.channel_stds * factors, grown)
        return replace(found, rate=self.rate, rate_cvar=self.rate_cvar)

    def with_rate(self, rate: float, rate_cvar: float) -> UnitStats:
        """Return the statistics with these rates; NaN where they are none: 0 or infinite, without gradients or weights."""
        if not (math.isfinite(rate) and rate > 0):
            rate = rate_cvar = math.nan
        return replace(self, rate=rate, rate_cvar=rate_cvar)


@dataclass
class UnitReport:
    """One unit: what was found, what was done, or why nothing was.

    Attributes:
        done: what was done, in a few words; empty if nothing was.
        reason: why it was not normalised; empty if it was.
        dead: indices of channels that do not vary, and so have no deviation that could be set.
        notes: what else is worth knowing.
    """

    name: str
    kind: str
    num_channels: int
    before: UnitStats | None = None
    after: UnitStats | None = None
    done: str = ""
    reason: str = ""
    dead: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; numbers that are not finite become None."""
        entry: dict[str, Any] = {
            "name": self.name,
            "type": self.kind,
            "num_channels": self.num_channels,
            "dead_channels": len(self.dead),
            "dead": self.dead,
            "done": self.done,
            "reason": self.reason,
            "notes": self.notes,
        }
        for when, stats in (("before", self.before), ("after", self.after)):
            entry[when] = stats and {
                "out_mean": finite(stats.mean),
                "out_std": finite(stats.std),
                "out_cvar": finite(stats.out_cvar),
                "max_abs": finite(stats.max_abs),
                "rate": finite(stats.rate),
                "rate_cvar": finite(stats.rate_cvar),
            }
        return entry


NO_SPREAD = "no unit that training changes has a rate"


def finite(number: float) -> float | None:
    """Return the number, or None where JSON has no form for it."""
    return number if math.isfinite(number) else None


@dataclass
class Result:
    """The outcome of `init` or `rescale`.

    Attributes:
        units: one report per unit, in the order of the graph.
        skipped: layers that cannot run.
        apart: layers with learned numbers that are no units.
        notes: what else a user should know.
        num_images: calibration pictures used.
        peak_bytes: the most memory that kept activations took.
        rate_spread_before, rate_spread: max |log C - mean log C| over the units that learn; NaN where it was not measured.
        no_spread: why a spread is NaN though rates were measured; empty else.
        outputs_moved: net output -> its largest change on the pictures, as a part of its largest value; empty where the
            function was not to be kept.
    """

    units: list[UnitReport] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    apart: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    num_images: int = 0
    peak_bytes: int = 0
    rate_spread_before: float = math.nan
    rate_spread: float = math.nan
    no_spread: str = ""
    outputs_moved: dict[str, float] = field(default_factory=dict)

    @property
    def alone(self) -> str:
        """The only unit that has a rate; empty where there are more, or none. A spread of 0 means nothing then."""
        rated = [u.name for u in self.units if u.kind == "affine" and u.after and math.isfinite(u.after.rate)]
        return rated[0] if len(rated) == 1 else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "units": [u.to_json() for u in self.units],
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
            "apart": [{"name": s.name, "reason": s.reason} for s in self.apart],
            "notes": self.notes,
            "num_images": self.num_images,
            "rate_spread_before": finite(self.rate_spread_before),
            "rate_spread": finite(self.rate_spread),
            "no_rate_spread": self.no_spread or None,
            "outputs_moved": self.outputs_moved,
        }
