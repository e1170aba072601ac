"""What a method has done with a net."""

from __future__ import annotations

from dataclasses import dataclass, field

from caffeinit.result import UnitReport


@dataclass
class Outcome:
    """What was done.

    Attributes:
        units: one report each.
        peak_bytes: the most memory that kept activations took.
        notes: what else is worth knowing.
        spreads: of the rates before and after balancing; None without.
        outputs_moved: net output -> its largest change on the pictures, as a part of its largest value; empty where the
            function was not to be kept.
    """

    units: list[UnitReport]
    peak_bytes: int
    notes: list[str] = field(default_factory=list)
    spreads: tuple[float, float] | None = None
    outputs_moved: dict[str, float] = field(default_factory=dict)
