"""Whether and how units are given one rate of change, and the pictures that rates are measured on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from caffeinit.graph.sizes import count_pictures
from caffeinit.model.network import Network

Batch = Mapping[str, np.ndarray]
# Rates are measured on so many pictures by default, whatever the size of the batches that bring them.
RATE_PICTURES = 16


class Pictures(Protocol):
    """Batches of pictures, which may be gone over several times."""

    @property
    def num_images(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...


@dataclass(frozen=True)
class RateOptions:
    """What is to become of the rates.

    Attributes:
        balanced: False leaves the rates as they come.
        per_channel: make the rates of each unit's columns equal at the end, instead of its channels' deviations.
        batches: they are measured on so many batches; None for as many as have `RATE_PICTURES` pictures.
    """

    balanced: bool = True
    per_channel: bool = False
    batches: int | None = None

    def num_pictures(self, calibration: Pictures) -> int:
        """Return how many pictures rates are measured on."""
        if self.batches is None:
            return RATE_PICTURES
        return min(self.batches * calibration.batch_size, calibration.num_images)

    def told(self, calibration: Pictures) -> list[str]:
        """Return what is to be said of the pictures: columns of weights read few, and their rates vary among these."""
        measured, given = self.num_pictures(calibration), calibration.num_images
        there = math.ceil(given / calibration.batch_size)
        notes = []
        if self.batches is not None and self.batches > there:
            notes.append(f"rates were measured on all {given} pictures: there are {there} batches")
        if self.per_channel and measured < given:
            notes.append(
                f"rates of columns were made equal on {measured} of {given} pictures, and vary more on the others: "
                "--rate-batches has more of them looked at"
            )
        return notes


BALANCED = RateOptions()


def first_pictures(network: Network, batches: Iterable[Batch], count: int = RATE_PICTURES) -> list[Batch]:
    """Return the first `count` pictures as one batch, so that the cut into batches does not show in the rates.

    A net that spells its batch size out gets as many batches as have these pictures.
    """
    parts: list[Batch] = []
    num_pictures = 0
    for batch in batches:
        parts.append(batch)
        num_pictures += count_pictures(network.graph, batch)
        if num_pictures >= count:
            break
    if not network.graph.batch_axis_free:
        return parts
    each = {name: shape[0] / network.graph.batch_size() for name, shape in network.graph.inputs.items() if shape}
    return [
        {
            name: np.concatenate([p[name] for p in parts])[: round(count * each[name])] if name in each else array
            for name, array in parts[0].items()
        }
    ]
