"""What an inspection finds, of a net of either kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffeinit.graph import Shape
from caffeinit.graph.units import Unit
from caffeinit.model.network import Skipped
from caffeinit.scales.free import ScaleReport

_PART = 1 << 22  # numbers that are looked at together


@dataclass(frozen=True)
class LayerReport:
    """One layer.

    Attributes:
        tops: shapes of the tops that are known.
        params: shapes of its arrays.
        macs: multiply-adds of one forward pass at the net's batch size.
        unit: what of it can be rescaled: "affine", "channel", "norm", or empty.
        reason: why it cannot run or cannot be rescaled.
        apart: why it is no unit, though it runs and has learned numbers.
        sharing: the layer that it has all its numbers from, and so is scaled with; empty for its own.
    """

    name: str
    type: str
    tops: list[Shape]
    params: list[Shape]
    macs: int
    unit: str
    reason: str
    apart: str = ""
    sharing: str = ""


@dataclass
class FileReport:
    """One file: its form, generation and fingerprint, fields that forks declare, and fields that none does."""

    path: str
    form: str
    sha256: str
    size: int
    unknown_fields: list[str] = field(default_factory=list)
    fork_fields: list[str] = field(default_factory=list)


@dataclass
class Inspection:
    """A net, its weights and how they fit.

    Attributes:
        missing: layers that only the net has. unused: layers that only the weights file has.
        unknown: layers that both have, but whose shapes the net does not tell, as those of an input are open.
    """

    files: list[FileReport]
    inputs: dict[str, Shape]
    layers: list[LayerReport]
    mismatches: list[str]
    missing: list[str]
    unused: list[str]
    notes: list[str]
    unknown: list[str] = field(default_factory=list)
    units: list[Unit] = field(default_factory=list)
    scales: ScaleReport | None = None

    @property
    def obstacles(self) -> list[LayerReport]:
        """Layers that cannot run."""
        return [layer for layer in self.layers if layer.reason and not layer.unit]

    @property
    def counts_all(self) -> bool:
        """Whether the shapes of all layers are known, so that parameters and multiply-adds are those of the whole net."""
        return all(layer.tops or layer.params for layer in self.obstacles)

    @property
    def apart(self) -> list[Skipped]:
        """Layers that run and have learned numbers, but are no units."""
        return [Skipped(layer.name, layer.apart) for layer in self.layers if layer.apart]

    @property
    def num_params(self) -> int:
        """Learned and stored numbers; those of a shared array count once for each layer."""
        total = 0
        for layer in self.layers:
            for shape in layer.params:
                count = 1
                for dim in shape:
                    count *= dim
                total += count
        return total

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        scales = {"scales": self.scales.to_json()} if self.scales else {}
        return scales | {
            "files": [vars(f) for f in self.files],
            "inputs": {n: list(s) for n, s in self.inputs.items()},
            "layers": [
                {**vars(x), "tops": [list(s) for s in x.tops], "params": [list(s) for s in x.params]}
                for x in self.layers
            ],
            "num_params": self.num_params,
            "macs": sum(layer.macs for layer in self.layers),
            "mismatches": self.mismatches,
            "missing": self.missing,
            "unused": self.unused,
            "unknown": self.unknown,
            "notes": self.notes,
        }


def unfinite_notes(arrays: Mapping[str, Sequence[np.ndarray]]) -> list[str]:
    """Return a note for each layer whose arrays hold numbers that are not finite."""
    notes = []
    for layer, own in arrays.items():
        counts = [a.size - sum(int(np.isfinite(part).sum()) for part in _parts(a)) for a in own]
        if any(counts):
            notes.append(f"{layer}: {sum(counts):,} of its {sum(a.size for a in own):,} numbers are NaN or infinite")
    return notes


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield an array in parts that take little memory to look at."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _PART):
        yield flat[start : start + _PART]
