"""What there is to know of a net before anything is run: layers, shapes, parameters, cost, and what can be rescaled."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from caffeinit.caffe import schema
from caffeinit.caffe.forks import fork_fields
from caffeinit.caffe.layers import find_type
from caffeinit.caffe.lower import Inference, Lowered, infer_net, lower_net
from caffeinit.caffe.match import Matched, match_weights
from caffeinit.caffe.net import Net, read_net
from caffeinit.caffe.source import net_outputs, places, read_elsewhere
from caffeinit.caffe.weights import BinaryWeights, WeightsFile, open_weights
from caffeinit.errors import FormatError, OptionError
from caffeinit.graph import Shape
from caffeinit.methods.redraw import holding_reason, keeping_reason
from caffeinit.model.network import Skipped
from caffeinit.model.nounits import without_unit
from caffeinit.model.units import Unit, find_units
from caffeinit.scales.free import ScaleReport, report_scales
from caffeinit.storage.files import is_onnx

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


def inspect_files(
    net_path: str | PathLike[str],
    weights_path: str | PathLike[str] | None = None,
    *,
    phase: str = "TEST",
    level: int = 0,
    stages: Sequence[str] = (),
    input_shapes: Mapping[str, Shape] | None = None,
    scales: bool = False,
) -> Inspection:
    """Look at a net and, if given, its weights; what does not fit is reported, not refused.

    Args:
        scales: also find which channels' scales can be chosen; see `scale_report`.
    Raises:
        FormatError: a file is not what it should be.
    """
    if is_onnx(net_path):
        from caffeinit.onnxfile.inspecting import inspect_onnx

        if weights_path is not None:
            raise OptionError(f"{net_path}: an ONNX model holds its weights; no file of weights goes with it")
        return inspect_onnx(net_path, input_shapes, scales)
    net = read_net(net_path, phase, level, stages)
    found = infer_net(net, input_shapes)
    file = open_weights(weights_path) if weights_path is not None else None
    wanted = {layer: [p.shape for p in params] for layer, params in found.params.items()}
    matched = match_weights(file, wanted, found.owners, net.file_names)
    lowered = lower_net(found, matched.arrays)
    makers = {top: entry.layer.name for entry in net.named_layers for top in entry.tops}
    units = find_units(lowered.graph, lowered.learned, makers)
    apart = without_unit(units, lowered.learned)
    by_name = {unit.name: unit for unit in reversed(units)}
    layers = []
    for entry in net.named_layers:
        layer = entry.layer
        described = find_type(layer.type)
        bottoms = [found.shapes[b] for b in entry.bottoms if b in found.shapes]
        unit = by_name.get(layer.name)
        kept = keeping_reason(unit, lowered.learned) if unit else {}
        runs = layer.name not in found.blocked
        layers.append(
            LayerReport(
                name=layer.name,
                type=layer.type,
                tops=[found.shapes[t] for t in entry.tops if t in found.shapes],
                params=wanted.get(layer.name, []),
                macs=described.macs(layer, bottoms) if described and runs and not described.is_data else 0,
                unit=unit.kind if unit else "",
                reason=found.blocked.get(layer.name, "") or kept.get(layer.name, ""),
                apart=apart.get(layer.name, ""),
                sharing=_sharing(found, layer.name),
            )
        )
    return Inspection(
        files=[_net_file(net), *([_weights_file(file)] if file else [])],
        inputs=found.inputs,
        layers=layers,
        mismatches=matched.mismatches,
        missing=sorted({layer for layer, _ in matched.missing}) if file else [],
        unused=[name for name in matched.unused if name not in found.blocked],
        unknown=[name for name in matched.unused if name in found.blocked],
        notes=[
            *net.notes,
            *(file.notes if file else []),
            *matched.notes,
            *found.notes,
            *unfinite_notes(matched.arrays),
        ],
        units=units,
        scales=_find_scales(found, lowered, matched, units) if scales else None,
    )


def _sharing(found: Inference, layer: str) -> str:
    """Return the layer that another has all its arrays from; empty where some are its own."""
    owners = {found.owners[layer, index][0] for index in range(len(found.params.get(layer, [])))}
    return owners.pop() if len(owners) == 1 and owners != {layer} else ""


def _find_scales(found: Inference, lowered: Lowered, matched: Matched, units: list[Unit]) -> ScaleReport:
    def kept(unit: Unit) -> str:
        return holding_reason(unit, lowered.learned)

    missing = [matched.arrays[layer][index] for layer, index in matched.missing]
    for array in missing:
        array[...] = 1  # zeros would pass on no scale
    outputs = net_outputs(found, lowered.graph)
    lowered.graph.held = read_elsewhere(found.net, lowered.graph)
    report = report_scales(lowered.graph, units, lowered.learned, kept, outputs, places(found))
    for array in missing:
        array[...] = 0
    return report


def _net_file(net: Net) -> FileReport:
    raw = net.path.read_bytes()
    form = f"Caffe net, {net.form}, {net.generation}"
    digest = hashlib.sha256(raw).hexdigest()
    return FileReport(str(net.path), form, digest, len(raw), net.unknown_fields, fork_fields(net.message))


def _weights_file(file: WeightsFile) -> FileReport:
    encodings = sorted({b.encoding for blobs in file.layers.values() for b in blobs if b})
    form = f"Caffe weights, {file.format}, {'/'.join(encodings) or 'no numbers'}"
    path = Path(file.path)
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    inside = schema.message("NetParameter")()
    if isinstance(file, BinaryWeights):
        try:
            inside = schema.parsed("NetParameter", file.embedded_net())
        except (DecodeError, FormatError):
            form += "; the net in it is damaged beside its numbers"
    return FileReport(str(path), form, digest, path.stat().st_size, fork_fields=fork_fields(inside))
