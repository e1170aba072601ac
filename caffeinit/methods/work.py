"""What is to be made ready for training, with what, and what is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from caffeinit.graph.units import Unit
from caffeinit.methods.relaxed import Relaxed
from caffeinit.methods.responses import ResponseKeeper, refiners
from caffeinit.methods.restoring import MANY_VALUES, Restorer, can_restore, find_restorer
from caffeinit.methods.rounds import ROUNDS, Balanced
from caffeinit.methods.telling import learns
from caffeinit.methods.within import InputSampler, normalize
from caffeinit.model.network import Network, digest
from caffeinit.result import UnitReport
from caffeinit.scales.classes import ScaleSystem
from caffeinit.statistics.rate_options import first_pictures
from caffeinit.statistics.rates import RateProbe

Batch = Mapping[str, np.ndarray]
Progress = Callable[[int, int], None]


@dataclass
class Training:
    """What is to be trained, and with what.

    Attributes:
        samplers: unit name -> what draws its weights.
        turned: unit name -> how many filters of each group respond without correlation.
        num_first: how many pictures the scales are found on.
        first: these, in a list of one batch.
    """

    network: Network
    batches: Iterable[Batch]
    chosen: Callable[[Unit], str]
    beta: float
    samplers: Mapping[str, InputSampler]
    turned: Mapping[str, Sequence[int]]
    num_first: int

    @cached_property
    def first(self) -> list[Batch]:
        return first_pictures(self.network, self.batches, self.num_first)

    def relaxed(self, probe: RateProbe, before: Relaxed | None = None) -> Relaxed:
        """Return the scales that may change; what was found `before` weights were drawn, where they do not matter.

        Weights that are drawn and then left alone tie scales as they are, and all zero they tie nothing.
        """
        late = any(unit.name in self.samplers and self.chosen(unit) for unit in self.network.units)
        if before is not None and not late:
            return before
        return Relaxed(self.network, probe, self.chosen, learns, partial(is_restored, self.network))

    def drawn(self, **more: Any) -> tuple[list[UnitReport], int]:
        """Draw what is to be drawn from data, and normalise; see `normalized`."""
        return self.normalized(samplers=self.samplers, **more)

    def normalized(
        self, *, refined: bool = True, chosen: Callable[[Unit], str] | None = None, **more: Any
    ) -> tuple[list[UnitReport], int]:
        """Normalise on all pictures, and make responses uncorrelated that are to be so; see `within.normalize`."""
        turners, chosen = refiners(self.turned) if refined else {}, chosen or self.chosen
        return normalize(self.network, self.batches, beta=self.beta, chosen=chosen, turners=turners, **more)

    def why_unrestored(self, relaxed: Relaxed, unit: Unit) -> str:
        """Return why a unit's outputs are not given the sizes that their scales say; empty to give them these."""
        return self.chosen(unit) or relaxed.why_unrestored(unit)

    def keeper(self, relaxed: Relaxed, least: int = MANY_VALUES) -> Restorer:
        """Return what makes up for changes of the function, on the first pictures; see `find_restorer`."""
        keepers = {name: ResponseKeeper(determined) for name, determined in self.turned.items()}
        return find_restorer(self.network, self.first, partial(self.why_unrestored, relaxed), least, keepers)


@dataclass
class Done:
    """What is reached.

    Attributes:
        relaxed: with which scales.
        left: unit's key -> numbers of the units that could not be normalised, as `left_alone` returns them.
        held, too_far: as in `Relaxed`.
        bent: whether scales changed the function while one rate was looked for, so that one undid the other.
        is_off: whether what is foretold of deviations is off by percents.
    """

    relaxed: Relaxed
    reports: list[UnitReport]
    peak: int
    left: dict[str, int]
    found: Balanced
    held: float | None
    too_far: float | None
    bent: bool = False
    is_off: bool = False


class Phases:
    """The progress of normalising and then of balancing, as that of one work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._stages = 0

    def first(self, done: int, stages: int) -> None:
        """Show the progress of the first phase, beside all that the second may take."""
        self._stages = stages
        self._progress(done, stages + ROUNDS)

    def second(self, done: int, rounds: int) -> None:
        """Show that of the second phase."""
        self._progress(self._stages + done, self._stages + rounds)

    def end(self) -> None:
        """Show that it is done, in however few rounds."""
        self._progress(self._stages + ROUNDS, self._stages + ROUNDS)


def left_alone(network: Network, reports: Sequence[UnitReport], chosen: Callable[[Unit], str]) -> dict[str, int]:
    """Return unit's key -> `numbers_of` of the units that could not be normalised, but may still be scaled."""
    pairs = zip(network.units, reports, strict=True)
    return {u.key: numbers_of(network, u) for u, r in pairs if r.reason and not chosen(u)}


def numbers_of(network: Network, unit: Unit) -> int:
    """Return what tells whether a unit's arrays have changed."""
    return digest({name: network.graph.initializers[name] for name in unit.initializers})


def is_restored(network: Network, system: ScaleSystem) -> bool:
    """Tell whether outputs are given the sizes back that their scales say, while scales are looked for.

    Sums alone do not ask for that where a net stores statistics: with these, most units have a scale of their own.
    """
    return bool(system.bonds) or all_restored(network)


def all_restored(network: Network) -> bool:
    """Tell whether the moments of all units can be kept on a few pictures."""
    return all(map(can_restore, network.units))
