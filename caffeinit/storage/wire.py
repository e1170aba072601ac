"""Protobuf's wire format, just enough to know where in a file each field lies.

Nothing is copied: a field is a number, a wire type and an extent of the buffer. So a weights file of any size is
indexed in the time of its few thousand layers, and its numbers can be changed in place. Groups, which protobuf gave
up before Caffe was written, are stepped over.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from caffeinit.storage.paging import let_go

VARINT, FIXED64, BYTES, GROUP_START, GROUP_END, FIXED32 = range(6)
MAX_FIELDS = 1_000_000  # in one file; a file of empty fields would keep us busy for minutes
MAX_GROUPS = 64  # within each other
_PIECE = 1 << 24
Bytes = bytes | memoryview


class WireError(ValueError):
    """The bytes are not a protobuf message."""


class Field(NamedTuple):
    """One field: `start` to `end` is its content, `begin` where its tag stands; `value` holds a varint's number."""

    number: int
    wire: int
    begin: int
    start: int
    end: int
    value: int


@dataclass
class Budget:
    """How many fields may still be looked at in one file, over all its messages."""

    left: int = MAX_FIELDS

    def spend(self) -> None:
        """Count one field.

        Raises:
            WireError: there are too many.
        """
        self.left -= 1
        if self.left < 0:
            raise WireError("it has more fields than any net")


Buffer = bytes | memoryview | mmap.mmap
Edit = tuple[int, int, Any]  # start and end of what is replaced, and the bytes to stand there
PruneTree = Mapping[int, "PruneTree | None"]


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """Return (number, position after it)."""
    result = shift = 0
    while at < end:
        byte = data[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            break
    raise WireError("a number does not end")


def fields(data: Buffer, start: int, end: int, budget: Budget | None = None) -> Iterator[Field]:
    """Yield the fields of the message that lies from `start` to `end`.

    Raises:
        WireError: the bytes are not fields, one reaches past the end, or the budget is spent.
    """
    budget = budget or Budget()
    at = start
    while at < end:
        field = read_field(data, at, end, budget)
        yield field
        at = field.end


def read_field(data: Buffer, begin: int, end: int, budget: Budget) -> Field:
    """Return the field whose tag stands at `begin`; of a group, the extent up to and with its end tag.

    Raises:
        WireError: as `fields`.
    """
    budget.spend()
    number, wire, at = _read_tag(data, begin, end)
    start, value = at, 0
    if wire == VARINT:
        value, at = read_varint(data, at, end)
    elif wire == BYTES:
        length, start = read_varint(data, at, end)
        at = start + length
    elif wire in (FIXED32, FIXED64):
        at += 4 if wire == FIXED32 else 8
    elif wire == GROUP_START:
        at = _group_end(data, number, at, end, budget)
    else:
        raise WireError(f"wire type {wire}")
    if at > end:
        raise WireError("a field reaches past the end of its message")
    return Field(number, wire, begin, start, at, value)


def _read_tag(data: Buffer, at: int, end: int) -> tuple[int, int, int]:
    tag, at = read_varint(data, at, end)
    number, wire = tag >> 3, tag & 7
    if number == 0 or number > 0x1FFFFFFF:
        raise WireError(f"field number {number}")
    return number, wire, at


def _group_end(data: Buffer, number: int, at: int, end: int, budget: Budget) -> int:
    """Return the position after a group's end tag; groups within it are walked without recursion."""
    open_groups = [number]
    while open_groups:
        inner, wire, content = _read_tag(data, at, end)
        if wire == GROUP_END:
            if inner != open_groups.pop():
                raise WireError("a group ends that did not begin")
            at = content
        elif wire == GROUP_START:
            budget.spend()
            open_groups.append(inner)
            if len(open_groups) > MAX_GROUPS:
                raise WireError(f"more than {MAX_GROUPS} groups within each other")
            at = content
        else:
            at = read_field(data, at, end, budget).end
    return at


def pruned(data: Buffer, start: int, end: int, tree: PruneTree) -> bytes:
    """Return a message without the fields whose numbers `tree` has.

    Args:
        tree: field number -> None to leave the field out, or the tree to prune the message within it by.
    """
    pieces: list[bytes] = []
    for field in fields(data, start, end):
        if field.wire != BYTES or field.number not in tree:
            pieces.append(bytes(data[field.begin : field.end]))
            continue
        inner = tree[field.number]
        if inner is not None:
            pieces.append(encode_bytes(field.number, pruned(data, field.start, field.end, inner)))
    return b"".join(pieces)


def pieces(data: Buffer, start: int, end: int) -> Iterator[memoryview]:
    """Yield the bytes from `start` to `end` in pieces that do not fill the memory; each is let go of after its use."""
    with memoryview(data) as view:
        for at in range(start, end, _PIECE):
            stop = min(at + _PIECE, end)
            yield view[at:stop]
            let_go(data, at, stop)


def edited(data: Buffer, edits: Sequence[Edit]) -> Iterator[Any]:
    """Yield the buffer with each (start, end) replaced by its edit, in pieces that do not fill the memory."""
    at = 0
    for start, end, new in sorted(edits, key=lambda e: e[:2]):
        yield from pieces(data, at, start)
        yield new
        at = end
    yield from pieces(data, at, len(data))


def with_lengths(edits: Sequence[Edit], around: Collection[Field]) -> list[Edit]:
    """Return edits that change sizes, and with them those of the lengths that stand before the messages around them.

    Args:
        around: all messages that an edit of another size lies in.
    """
    found = list(edits)
    for message in sorted(around, key=lambda m: m.start, reverse=True):  # inner ones first: their lengths may grow
        grown = sum(len(new) - (end - start) for start, end, new in found if message.start <= start < message.end)
        header = encode_varint(message.number << 3 | BYTES) + encode_varint(message.end - message.start + grown)
        if grown:
            found.append((message.begin, message.start, header))
    return found


def encode_varint(number: int) -> bytes:
    """Return the varint of a number from 0."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_bytes(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return encode_varint(number << 3 | BYTES) + encode_varint(len(content)) + content


def nested(number: int, content: Sequence[Bytes]) -> list[Bytes]:
    """Return a length-delimited field whose content comes in pieces, which are not copied."""
    return [encode_varint(number << 3 | BYTES) + encode_varint(sum(len(c) for c in content)), *content]


def encode_number(number: int, value: int) -> bytes:
    """Return a varint field."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)
