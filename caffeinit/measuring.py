"""What a net's units do on pictures: statistics of their outputs, and the rates at which their weights would change.

Nothing is changed. Output statistics are taken over all pictures, in one forward pass of which one piece of a batch is in
memory at a time; rates (`rates.py`) on the first batches. Frozen units have rates, but these do not count: training
would not use them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np

from caffeinit.arithmetic.moments import Moments
from caffeinit.calibration import given_calibration
from caffeinit.errors import CaffeinitError, OptionError, WeightsError
from caffeinit.footprint import Work, bounded
from caffeinit.graph.units import Unit
from caffeinit.images.batches import pictures_in
from caffeinit.model.network import BARE, Network, Skipped, listed
from caffeinit.result import NO_SPREAD, UnitStats, finite
from caffeinit.statistics.forward import measure_moments, unit_outputs
from caffeinit.statistics.nonfinite import describe_first
from caffeinit.statistics.rate_options import RateOptions, first_pictures
from caffeinit.statistics.rates import RateProbe, known_spread

Batch = Mapping[str, np.ndarray]


@dataclass
class UnitMeasurement:
    """One unit on the pictures.

    Attributes:
        stats: of its output.
        dead: channels that do not vary.
        is_finite: whether its output is.
        rate, rate_cvar: of its weights; NaN where there is no rate.
        frozen: its training is switched off, so that its rate does not count.
        reason: why an affine unit has no rate; empty if it has one.
    """

    name: str
    kind: str
    num_channels: int
    stats: UnitStats
    dead: int
    is_finite: bool = True
    rate: float = math.nan
    rate_cvar: float = math.nan
    frozen: bool = False
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data; numbers that are not finite become None."""
        return {
            "name": self.name,
            "type": self.kind,
            "out_mean": finite(self.stats.mean),
            "out_std": finite(self.stats.std),
            "out_cvar": finite(self.stats.out_cvar),
            "rate": finite(self.rate),
            "rate_cvar": finite(self.rate_cvar),
            "dead_channels": self.dead,
            "num_channels": self.num_channels,
            "max_abs": finite(self.stats.max_abs),
        }


@dataclass
class Measurement:
    """A net on the pictures.

    Attributes:
        units: in the order of the graph.
        num_images: pictures whose outputs were measured.
        num_rate_images: pictures that the rates were measured on.
        first_not_finite: sentences on where numbers stop being finite (`nonfinite.py`); empty where all units' outputs are.
        skipped: layers that cannot run.
        apart: layers with learned numbers that are no units.
        notes: what else a user should know.
    """

    units: list[UnitMeasurement]
    num_images: int = 0
    num_rate_images: int = 0
    first_not_finite: str = ""
    skipped: list[Skipped] = field(default_factory=list)
    apart: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def counted(self) -> list[UnitMeasurement]:
        """The units whose rates count: those that have one and are not frozen."""
        return [u for u in self.units if math.isfinite(u.rate) and u.rate > 0 and not u.frozen]

    @property
    def rate_spread(self) -> float:
        """max |log C - mean log C| over the units that count; NaN where there is none."""
        return known_spread(u.rate for u in self.counted)

    @property
    def is_alone(self) -> bool:
        """Whether one unit alone has a rate that counts: a spread of 0 means nothing then."""
        return len(self.counted) == 1

    @property
    def no_spread(self) -> str:
        """Why there is no spread though rates were measured; empty else."""
        return NO_SPREAD if self.num_rate_images and not self.counted else ""

    def to_json(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            "units": [u.to_json() for u in self.units],
            "rate_spread": finite(self.rate_spread),
            "no_rate_spread": self.no_spread or None,
            "without_rate": {u.name: u.reason for u in self.units if u.reason},
            "frozen": [u.name for u in self.units if u.frozen],
            "not_finite": [u.name for u in self.units if not u.is_finite],
            "first_not_finite": self.first_not_finite or None,
            "skipped": [{"name": s.name, "reason": s.reason} for s in self.skipped],
            "apart": [{"name": s.name, "reason": s.reason} for s in self.apart],
            "notes": self.notes,
            "num_images": self.num_images,
            "num_rate_images": self.num_rate_images,
        }


def measure(
    network: Network,
    images: Any,
    *,
    rate_batches: int | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    temp_dir: str | PathLike[str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """Measure what the units of a network do on pictures.

    Args:
        images: what `caffeinit.read_images` returned, or float32 batches: arrays (N, ...) or dicts input -> array.
        rate_batches: the rates are measured on so many batches, on 16 pictures by default; 0 leaves them out.
        seed: of the noise that stands for a gradient on the outputs.
        memory_limit, temp_dir: as for `jobs.init`.
        progress: called with pictures done and pictures in all.
    Raises:
        CaffeinitError: no layer has weights and can run, all of them are zero for lack of a weights file, or the pictures
            do not fit.
    """
    if rate_batches is not None and rate_batches < 0:
        raise OptionError(f"rate_batches is {rate_batches}: it must be at least 0")
    if seed < 0:
        raise OptionError(f"seed {seed}: has to be 0 or more")
    if not network.units:
        raise CaffeinitError(f"the net has no layer that could be measured{listed(network.skipped)}")
    if network.is_bare:
        raise WeightsError(f"{BARE}, and of zeros there is nothing to measure")
    calibration = given_calibration(network, images)
    rate_pictures = RateOptions(batches=rate_batches).num_pictures(calibration)
    work = Work(forward=(), rate_pictures=rate_pictures, rates_last=True)
    with bounded(network, calibration, work, memory_limit, temp_dir):
        return _measure(network, calibration, rate_pictures, seed, progress)


def _measure(
    network: Network, calibration: Any, rate_pictures: int, seed: int, progress: Callable[[int, int], None]
) -> Measurement:
    moments = measure_moments(network, calibration, progress=lambda done: progress(done, calibration.num_images))
    units = [_unit(unit, moments[unit.key]) for unit in network.units]
    found = Measurement(units, calibration.num_images, skipped=list(network.skipped), apart=network.apart)
    found.notes = [*network.notes, *calibration.notes, *_missing_notes(network)]
    if any(not entry.is_finite for entry in units):
        found.first_not_finite = describe_first(network, calibration, unit_outputs(network))
    if rate_pictures:
        _measure_rates(found, network, first_pictures(network, calibration, rate_pictures), seed)
    return found


def _unit(unit: Unit, moments: Moments) -> UnitMeasurement:
    with np.errstate(invalid="ignore", over="ignore"):
        is_finite = np.isfinite(moments.std) & np.isfinite(moments.mean)
        return UnitMeasurement(
            name=unit.name,
            kind=unit.kind,
            num_channels=unit.num_channels,
            stats=UnitStats.of(moments),
            dead=int((moments.dead & is_finite).sum()),
            is_finite=bool(is_finite.all()),
            frozen=unit.frozen and unit.kind == "affine",
        )


def _missing_notes(network: Network) -> list[str]:
    layers = network.unset
    return [f"the weights file holds no numbers for {', '.join(layers)}: zeros are measured"] if layers else []


def _measure_rates(found: Measurement, network: Network, batches: list[Batch], seed: int) -> None:
    """Fill in the rates, or why there are none."""
    units = [(unit, entry) for unit, entry in zip(network.units, found.units, strict=True) if unit.kind == "affine"]
    try:
        probe = RateProbe(network, batches, seed)
    except CaffeinitError as error:
        found.notes.append(f"no rates: {error}")
        for _, entry in units:
            entry.reason = "no value that the net puts out could show it"
        return
    with np.errstate(invalid="ignore", over="ignore"):
        rates = probe.measure()
    found.num_rate_images = sum(map(pictures_in, batches))
    for unit, entry in units:
        key = unit.key
        entry.reason = probe.unreached.get(key) or rates[key].why_unmeasured(unit)
        if not entry.reason:
            entry.rate, entry.rate_cvar = rates[key].rate, rates[key].rate_cvar
