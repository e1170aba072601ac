"""Layers that have learned numbers and are no units, and why their scales are left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caffeinit.graph.units import Learned, Unit

VALUES = "its numbers are values themselves, and multiply nothing"
AGAIN = "its weights are used again at every step"
# Role of a layer's first array -> why that layer is no unit, where it is none.
_NO_UNIT = {
    "scale": "its factors are not one per channel",
    "bias": "its shifts are not one per channel",
    "slope": "its slopes are for negative values alone",
    "recurrent": AGAIN,
    "table": VALUES,
}


def without_unit(units: Sequence[Unit], learned: Mapping[str, Learned]) -> dict[str, str]:
    """Return the layers that have learned arrays of which no unit has any -> why their scales are left alone."""
    covered = {learned[i].layer for unit in units for i in unit.initializers}
    found: dict[str, str] = {}
    for of in learned.values():
        if of.layer not in covered:
            found.setdefault(of.layer, _NO_UNIT.get(of.role, "its numbers are not one factor or shift per channel"))
    return found
