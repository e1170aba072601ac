"""What there is to know of a Caffe net and its weights before anything is run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

from google.protobuf.message import DecodeError

from caffeinit.caffe.forks import fork_fields
from caffeinit.caffe.layers import find_type
from caffeinit.caffe.lower import Inference, Lowered, infer_net, lower_net
from caffeinit.caffe.match import Matched, match_weights
from caffeinit.caffe.net import Net, read_net
from caffeinit.caffe.source import net_outputs, places, read_elsewhere
from caffeinit.caffe.weights import BinaryWeights, WeightsFile, open_weights
from caffeinit.errors import FormatError
from caffeinit.graph import Shape
from caffeinit.graph.nounits import without_unit
from caffeinit.graph.units import Unit, find_units
from caffeinit.inspection.found import FileReport, Inspection, LayerReport, unfinite_notes
from caffeinit.methods.redraw import holding_reason, keeping_reason
from caffeinit.protos import schema
from caffeinit.scales.free import ScaleReport, report_scales


def inspect_caffe(
    net_path: str | PathLike[str],
    weights_path: str | PathLike[str] | None,
    phase: str,
    level: int,
    stages: Sequence[str],
    input_shapes: Mapping[str, Shape] | None,
    scales: bool,
) -> Inspection:
    """Look at a Caffe net and, if given, its weights; see `inspection.inspect_files`.

    Raises:
        FormatError: a file is not what it should be.
    """
    net = read_net(net_path, phase, level, stages)
    found = infer_net(net, input_shapes)
    file = open_weights(weights_path) if weights_path is not None else None
    wanted = {layer: [p.shape for p in params] for layer, params in found.params.items()}
    matched = match_weights(file, wanted, found.owners, net.file_names)
    lowered = lower_net(found, matched.arrays)
    makers = {top: entry.layer.name for entry in net.named_layers for top in entry.tops}
    units = find_units(lowered.graph, lowered.learned, makers)
    return Inspection(
        files=[_net_file(net), *([_weights_file(file)] if file else [])],
        inputs=found.inputs,
        layers=_layers(found, lowered, units),
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


def _layers(found: Inference, lowered: Lowered, units: list[Unit]) -> list[LayerReport]:
    apart = without_unit(units, lowered.learned)
    by_name = {unit.name: unit for unit in reversed(units)}
    layers = []
    for entry in found.net.named_layers:
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
                params=[p.shape for p in found.params.get(layer.name, [])],
                macs=described.macs(layer, bottoms) if described and runs and not described.is_data else 0,
                unit=unit.kind if unit else "",
                reason=found.blocked.get(layer.name, "") or kept.get(layer.name, ""),
                apart=apart.get(layer.name, ""),
                sharing=_sharing(found, layer.name),
            )
        )
    return layers


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
