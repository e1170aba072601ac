"""Files of 2013 and 2014 in today's form: what Caffe's upgrade_net_proto_text and upgrade_net_proto_binary do, in one.

A weights file is put together from its index: names, types and parameters are upgraded, every blob is copied byte for
byte. So blobs keep the four axes that old files give them, as they do with Caffe's tool; today's Caffe reads both.
What has no place in today's form is refused by name, or dropped by name.
Source: BVLC/caffe, tools/upgrade_net_proto_*.cpp, src/caffe/util/upgrade_proto.cpp.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from google.protobuf.unknown_fields import UnknownFieldSet

from caffeinit.caffe.textformat import read_text
from caffeinit.caffe.upgrade import generation, left_behind, upgrade_net
from caffeinit.caffe.weights import BinaryWeights, open_weights
from caffeinit.errors import FormatError
from caffeinit.protos import schema
from caffeinit.storage import wire
from caffeinit.storage.files import check_regular_file, read_bytes_limited, replacing

MAX_TEXT_BYTES = 1 << 28
_LAYERS, _LAYER, _BLOBS = 2, 100, 7


@dataclass
class Upgraded:
    """What became of a file.

    Attributes:
        form: "text", "binary" or "HDF5".
        generation: "V0", "V1", "V2" or "HDF5", as the file was.
        copied: it was in today's form already.
        dropped: what has no place in today's form, a line each.
    """

    form: str
    generation: str
    copied: bool = False
    dropped: list[str] = field(default_factory=list)


def upgrade_file(
    source: str | PathLike[str], target: str | PathLike[str], drop_unknown: bool = False, force: bool = False
) -> Upgraded:
    """Write a net's text or a weights file in today's form; one that has it already is copied.

    Args:
        drop_unknown: leave out what has no place in today's form instead of refusing the file.
    Raises:
        FormatError: it is neither, or holds what would be lost; OutputError: the target cannot be written.
    """
    source = check_regular_file(source)
    if is_text(source):
        return _upgrade_text(source, target, drop_unknown, force)
    weights = open_weights(source)
    if not isinstance(weights, BinaryWeights):
        return _copy(source, target, Upgraded("HDF5", "HDF5"), force)
    return _upgrade_binary(weights, target, drop_unknown, force)


def is_text(source: str | PathLike[str]) -> bool:
    """Tell whether a file holds text, as nets do, and not weights: by its first bytes.

    Raises:
        FormatError: as `check_regular_file`.
    """
    with open(check_regular_file(source), "rb") as file:
        head = file.read(4096)
    return bool(head) and not any(byte < 9 or 13 < byte < 32 for byte in head)


def _copy(source: Path, target: str | PathLike[str], done: Upgraded, force: bool) -> Upgraded:
    with replacing(target, force) as temporary:
        shutil.copyfile(source, temporary)
    done.copied, done.dropped = True, []
    return done


def _upgrade_text(source: Path, target: str | PathLike[str], drop: bool, force: bool) -> Upgraded:
    old = schema.message("NetParameter")()
    text = read_bytes_limited(source, MAX_TEXT_BYTES, "net definition").decode("utf-8-sig", "replace")
    reading = read_text(text, old, str(source))
    if not old.layer and not old.layers:
        if {"NetParameter.base_lr", "NetParameter.net_param", "NetParameter.net"} & set(reading.unknown_fields):
            raise FormatError(f"{source}: is a solver file; what can be upgraded is the net that it names or holds")
        raise FormatError(f"{source}: there are no layers in it; is it the text of a net?")
    done = Upgraded("text", generation(old), dropped=[*reading.notes, *(v.sentence for v in reading.unknown_values)])
    new = _upgrade(old, source, done)
    if new == old:
        return _copy(source, target, done, force)
    _check_dropped(source, done, drop)
    with replacing(target, force) as temporary:
        temporary.write_text(text_format.MessageToString(new, as_utf8=True), encoding="utf-8")
    return done


def _upgrade_binary(weights: BinaryWeights, target: str | PathLike[str], drop: bool, force: bool) -> Upgraded:
    try:
        old = schema.parsed("NetParameter", weights.embedded_net())
    except DecodeError:
        raise FormatError(f"{weights.path}: what it says beside its blobs does not parse") from None
    done = Upgraded("binary", generation(old))
    if done.generation != "V2":
        done.dropped = list(_unknown_numbers(old))
    new = _upgrade(old, weights.path, done)
    if new == old:
        return _copy(weights.path, target, done, force)
    _check_dropped(weights.path, done, drop)
    with replacing(target, force) as temporary, open(temporary, "wb") as file:
        for piece in _pieces(weights, new):
            file.write(piece)
    return done


def _upgrade(old: Any, path: Path, done: Upgraded) -> Any:
    try:
        new = upgrade_net(old)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    unknown = [entry.name for entry in new.layer if entry.type == "unknown"]
    if unknown and done.generation != "V2":
        raise FormatError(f'{path}: layer "{unknown[0]}": its type is a number that no V1 file of Caffe\'s has')
    done.dropped += left_behind(old)
    return new


def _check_dropped(path: Path, done: Upgraded, drop: bool) -> None:
    if done.dropped and not drop:
        lines = "\n".join(f"  {line}" for line in done.dropped[:20])
        more = f"\n  and {len(done.dropped) - 20} more" if len(done.dropped) > 20 else ""
        raise FormatError(
            f"{path}: this has no place in today's form and would be lost:\n{lines}{more}\n"
            "To upgrade the file without it: --drop-unknown"
        )


def _unknown_numbers(message: Any, where: str = "net") -> Iterator[str]:
    """Yield the numbers of fields, here and further in, that the schema does not have."""
    unknown: Any = UnknownFieldSet(message)  # it can be iterated, which its stubs do not say
    for number in dict.fromkeys(f.field_number for f in unknown):
        yield f"{where}: field number {number}"
    for found, value in message.ListFields():
        if found.message_type is not None:
            for inner in value if found.is_repeated else [value]:
                name = getattr(inner, "name", "") or found.name
                yield from _unknown_numbers(inner, f'{where}, "{name}"' if where != "net" else f'"{name}"')


def _pieces(weights: BinaryWeights, new: Any) -> Iterator[bytes | memoryview]:
    """Yield the upgraded file: the net's own fields, then each layer with the blobs of the entry it was made from."""
    blobs = list(_blobs_of_entries(weights))
    made = len(new.layer) - len(blobs)  # the Input layer, made from the net's input fields
    assert made in (0, 1), f"{len(new.layer)} layers from {len(blobs)} entries"
    rest = type(new)()
    rest.CopyFrom(new)
    rest.ClearField("layer")
    yield rest.SerializeToString()
    for layer, held in zip(new.layer, [[]] * made + blobs, strict=True):
        body = layer.SerializeToString()
        heads = [wire.encode_varint(_BLOBS << 3 | wire.BYTES) + wire.encode_varint(len(b)) for b in held]
        size = len(body) + sum(len(h) + len(b) for h, b in zip(heads, held, strict=True))
        yield wire.encode_varint(_LAYER << 3 | wire.BYTES) + wire.encode_varint(size) + body
        for head, blob in zip(heads, held, strict=True):
            yield head
            yield blob


def _blobs_of_entries(weights: BinaryWeights) -> Iterator[list[memoryview]]:
    """Yield the blobs of every layer entry in file order, but for V0's padding layers, which become no layers."""
    data = weights.data
    for entry in wire.fields(data, 0, len(data)):
        if entry.number not in (_LAYERS, _LAYER) or entry.wire != wire.BYTES:
            continue
        inner, number = list(wire.fields(data, entry.start, entry.end)), _BLOBS
        if entry.number == _LAYERS:
            old = [f for f in inner if f.number == 1 and f.wire == wire.BYTES]
            inner, number = (list(wire.fields(data, old[0].start, old[0].end)), 50) if old else (inner, 6)
            if old and any(f.number == 2 and bytes(data[f.start : f.end]) == b"padding" for f in inner):
                continue
        yield [memoryview(data)[f.start : f.end] for f in inner if f.number == number and f.wire == wire.BYTES]
