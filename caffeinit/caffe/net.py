"""A Caffe net as its file tells it: read, upgraded, filtered by phase, with every value named apart.

Texts and binary nets of all three generations are read, and solver files that hold a net or name one. As in Caffe, the
state that `include` and `exclude` rules are held against joins what is asked for with the net's own `state`, and with
the solver's.
"""

from __future__ import annotations

import codecs
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from caffeinit.caffe.foreign import foreign_kind
from caffeinit.caffe.naming import NamedLayer, name_values
from caffeinit.caffe.textformat import Reading, Unknown, read_text
from caffeinit.caffe.upgrade import entry_places, generation, upgrade_net
from caffeinit.errors import FormatError
from caffeinit.graph.netnumbers import NetNumber
from caffeinit.protos import schema
from caffeinit.storage.files import HDF5_MAGIC, leads_out, read_bytes_limited

MAX_NET_BYTES = 1 << 28
MAX_LAYERS = 20_000
_ONLY_WEIGHTS = (
    "is a file of weights, not a net: it does not say what its layers read. "
    "The net, most often a .prototxt, comes before it"
)


@dataclass
class Net:
    """A net for one phase.

    Attributes:
        name: the net's own name.
        path: its file.
        generation: "V0", "V1" or "V2", as the file was written.
        form: "text" or "binary".
        layers: LayerParameter messages in today's form, those that take part in the phase; names are unique.
        file_names: layer name here -> the name in the file, where a repeated one had to be changed.
        message: the whole upgraded NetParameter, unfiltered.
        notes: what was found odd.
        unknown_fields: dotted names of fields that no known fork declares.
        numbers: (layer, field) -> a number that may be rewritten; all graphs made of the net read it from here.
        raw: the file's text as it is; empty if the net is binary or part of a solver file.
        places: layer -> number of its entry in that text.
        refusals: layer -> why it must not be run as it was read (a value of it was not understood).
        misspelt: layer -> a sentence on each of its fields that were passed over, and are nearly the name of another.
    """

    name: str
    path: Path
    generation: str
    form: str
    layers: list[Any]
    message: Any
    notes: list[str] = field(default_factory=list)
    unknown_fields: list[str] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    misspelt: dict[str, list[str]] = field(default_factory=dict)
    file_names: dict[str, str] = field(default_factory=dict)
    numbers: dict[tuple[str, str], NetNumber] = field(default_factory=dict)
    raw: bytes = b""
    places: dict[str, int] = field(default_factory=dict)

    @cached_property
    def named_layers(self) -> list[NamedLayer]:
        """All layers with their values named apart."""
        try:
            return name_values(self.layers, self.path)
        except FormatError as error:
            raise FormatError(f"{error}{self._left_out_hint(str(error))}{self._weights_hint()}") from None

    @cached_property
    def makers(self) -> dict[str, NamedLayer]:
        """Value -> the layer that makes it."""
        return {top: entry for entry in self.named_layers for top in entry.tops}

    @property
    def left_out(self) -> list[Any]:
        """The layers that do not take part in the phase."""
        kept = {id(entry) for entry in self.layers}
        return [entry for entry in self.message.layer if id(entry) not in kept]

    def _left_out_hint(self, error: str) -> str:
        """Return which rules kept out the layer that would make the blob an error speaks of."""
        for entry in self.left_out:
            if any(f'"{top}": no layer makes it' in error for top in entry.top):
                rules = " ".join(str(r).replace("\n", " ") for r in (*entry.include, *entry.exclude))
                return f'.\nLayer "{entry.name}" would, but its rules keep it out: {rules.strip()}. {_way_in(entry)}'
        return ""

    def _weights_hint(self) -> str:
        """Return what to do with a snapshot that is not meant as a net."""
        holds_numbers = any(entry.blobs for entry in self.message.layer)
        return (
            "\nIt holds weights, too: if it is meant as these, the net's text comes before it" if holds_numbers else ""
        )


def _way_in(layer: Any) -> str:
    """Return the options with which a layer that its rules keep out would take part."""
    phases = schema.message("NetState").DESCRIPTOR.fields_by_name["phase"].enum_type.values_by_number
    for rule in layer.include:
        options = [f"--phase {phases[rule.phase].name}"] if rule.HasField("phase") else []
        options += [f"--stage {stage}" for stage in rule.stage]
        if options:
            return f"Give {' '.join(options)}"
    kept_out = {rule.phase for rule in layer.exclude if rule.HasField("phase")}
    left = [value.name for number, value in phases.items() if number not in kept_out]
    return f"Give --phase {left[0]}" if kept_out and len(left) == 1 else "Try --phase or --stage"


def read_net(path: str | PathLike[str], phase: str = "TEST", level: int = 0, stages: Sequence[str] = ()) -> Net:
    """Read a net file.

    Args:
        phase: "TRAIN" or "TEST".
        level, stages: the state that `include` and `exclude` rules are held against; stages that the file's own `state`
            names join them, and its level counts where this one is 0.
    Raises:
        FormatError: the file is no net, or a net that Caffe would refuse, with the line or the layer.
    """
    path = Path(path)
    message, reading, form = _read_message(path, phase)
    level, stages = level or message.state.level, [*stages, *message.state.stage]
    found = generation(message)
    refused, misspelt = _refused_layers(message, reading), _misspelt_fields(message, reading)
    try:
        upgraded = upgrade_net(message)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    if len(upgraded.layer) > MAX_LAYERS:
        raise FormatError(f"{path}: {len(upgraded.layer)} layers are more than any real net has")
    if not upgraded.layer:
        raise FormatError(f"{path}: there are no layers in it, and so it is no Caffe net")
    if any(entry.blobs for entry in upgraded.layer) and not any(entry.top for entry in upgraded.layer):
        raise FormatError(f"{path}: {_ONLY_WEIGHTS}")
    places = entry_places(message, upgraded)
    kept = [i for i, entry in enumerate(upgraded.layer) if _takes_part(entry, phase, level, stages, path)]
    layers = [upgraded.layer[i] for i in kept]
    if not layers:
        ways = ", or ".join(dict.fromkeys(map(_way_in, upgraded.layer)))
        raise FormatError(
            f"{path}: no layer takes part in phase {phase} with level {level} and stages {list(stages)}. {ways}"
        )
    net = Net(upgraded.name, path, found, form, layers, upgraded, list(reading.notes), reading.unknown_fields)
    _make_names_unique(net)
    net.raw = reading.raw
    net.places = {entry.name: place for i, entry in zip(kept, layers, strict=True) if (place := places[i]) is not None}
    given = {entry.name: net.file_names.get(entry.name, entry.name) for entry in layers}
    net.refusals = {name: refused[own] for name, own in given.items() if own in refused}
    net.misspelt = {name: misspelt[own] for name, own in given.items() if own in misspelt}
    return net


def _read_message(path: Path, phase: str = "") -> tuple[Any, Reading, str]:
    """Return the NetParameter in a file, what the text said beyond it, and its form.

    Args:
        phase: of the net that is wanted from a solver file; empty where a solver file will not do.
    """
    raw = read_bytes_limited(path, MAX_NET_BYTES, "net definition; are net and weights in the right order?")
    if raw[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        raise FormatError(f"{path}: is text in UTF-16; Caffe reads UTF-8: save it as that")
    if _looks_binary(raw):
        try:
            message = schema.parsed("NetParameter", raw)
        except DecodeError:
            if raw.startswith(HDF5_MAGIC):
                raise FormatError(f"{path}: {_ONLY_WEIGHTS}") from None
            kind = foreign_kind(raw[:4096])
            what = (
                f"is {kind}, not a net"
                if kind
                else "neither a text nor a binary net, or one that is damaged or cut off"
            )
            raise FormatError(f"{path}: {what}") from None
        return message, Reading(), "binary"
    text = raw.decode("utf-8-sig", "replace")
    message = schema.message("NetParameter")()
    try:
        reading = read_text(text, message, str(path))
    except FormatError as failure:
        solver = _read_solver(text, path, phase)
        if solver is not None:
            return solver
        if foreign_kind(raw[:4096]).startswith("a web page"):
            raise FormatError(f"{path}: is {foreign_kind(raw[:4096])}") from None
        if not re.search(r"\blayers?\b", text):
            raise FormatError(f'{path}: is no Caffe net: the word "layer" is not in it. ({failure})') from None
        raise
    if not message.layer and not message.layers and reading.unknown_fields:
        solver = _read_solver(text, path, phase)
        if solver is not None:
            return solver
    reading.raw = raw
    return message, reading, "text"


def _looks_binary(raw: bytes) -> bool:
    head = raw[:4096]
    return any(byte < 9 or 13 < byte < 32 for byte in head)


def _read_solver(text: str, path: Path, phase: str) -> tuple[Any, Reading, str] | None:
    """Return the net that a solver file holds or names for a phase; None where the text is no solver.

    A solver has one net for both phases, or one for each; of several test nets the first is taken.
    """
    solver = schema.message("SolverParameter")()
    try:
        reading = read_text(text, solver, str(path))
    except FormatError:
        return None
    if not phase or not solver.ListFields():
        return None
    given = {
        f.name: value if isinstance(value, str) or not f.is_repeated else value[0] for f, value in solver.ListFields()
    }
    order = ["train_net_param", "train_net", "net_param", "net", "test_net_param", "test_net"]
    chosen = next((given[name] for name in (order if phase == "TRAIN" else order[::-1]) if given.get(name)), None)
    if chosen is None:
        raise FormatError(f"{path}: is a solver file that neither holds a net nor names one")
    found = _read_named(path, chosen) if isinstance(chosen, str) else (chosen, reading, "text")
    if state := given.get("train_state" if phase == "TRAIN" else "test_state"):
        found[0].state.MergeFrom(state)
    return found


def _read_named(path: Path, named: str) -> tuple[Any, Reading, str]:
    """Return the net that a solver file names; of a name that leads out of its folder only the last part counts."""
    beside = path.parent / Path(named).name
    for candidate in [beside] if leads_out(named) else [path.parent / named, beside, Path(named)]:
        if os.path.isfile(candidate) and candidate.resolve() != path.resolve():
            return _read_message(candidate)
    raise FormatError(
        f'{path}: is a solver file; the net that it names, "{named}", is not beside it. Give the net itself'
    )


def _refused_layers(message: Any, reading: Reading) -> dict[str, str]:
    """Return layer name -> reason for values that were not understood inside a layer."""
    refused: dict[str, str] = {}
    for value in reading.unknown_values:
        layer = _layer_of(message, value)
        if layer is None:
            reading.notes.append(value.sentence)
        else:
            refused[layer] = value.sentence
    return refused


def _misspelt_fields(message: Any, reading: Reading) -> dict[str, list[str]]:
    """Return layer name -> sentences on its fields that were passed over, and are nearly the name of another."""
    found: dict[str, list[str]] = {}
    for unknown in reading.misspelt:
        layer = _layer_of(message, unknown)
        if layer is not None:
            found.setdefault(layer, []).append(unknown.sentence)
    return found


def _layer_of(message: Any, unknown: Unknown) -> str | None:
    """Return the name of the layer in whose text a word stands; None where it stands in none."""
    if unknown.net is not message or unknown.name not in ("layer", "layers"):
        return None
    entry = getattr(message, unknown.name)[unknown.index]
    return str(entry.name or (entry.layer.name if unknown.name == "layers" else ""))


def _takes_part(layer: Any, phase: str, level: int, stages: Sequence[str], path: Path) -> bool:
    if layer.include and layer.exclude:
        raise FormatError(f'{path}: layer "{layer.name}" has include and exclude rules; Caffe allows one kind')
    if layer.include:
        return any(_meets(rule, phase, level, stages) for rule in layer.include)
    return not any(_meets(rule, phase, level, stages) for rule in layer.exclude)


def _meets(rule: Any, phase: str, level: int, stages: Sequence[str]) -> bool:
    wanted = schema.message("NetState")(phase=phase)
    if rule.HasField("phase") and rule.phase != wanted.phase:
        return False
    if rule.HasField("min_level") and level < rule.min_level:
        return False
    if rule.HasField("max_level") and level > rule.max_level:
        return False
    return all(s in stages for s in rule.stage) and not any(s in stages for s in rule.not_stage)


def _make_names_unique(net: Net) -> None:
    """Give layers of one name names of their own; Caffe loads weights into the first of them only."""
    seen: Counter[str] = Counter()
    tried: dict[str, int] = {}
    taken = {entry.name for entry in net.layers}
    for entry in net.layers:
        given = entry.name
        seen[given] += 1
        if given and seen[given] == 1:
            continue
        stem = given or entry.type
        name, count = (stem, 1) if not given and stem not in taken else (f"{stem}#{seen[given]}", seen[given])
        while name in taken:
            count = max(count, tried.get(stem, 0)) + 1  # what was taken once still is
            name = f"{stem}#{count}"
        tried[stem] = count
        taken.add(name)
        entry.name = name
        net.file_names[name] = given
        if given:
            net.notes.append(f'layer name "{given}" is given again; the later layer is called "{name}" here')
