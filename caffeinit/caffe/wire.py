"""Protobuf's wire format, just enough to know where in a file each field lies.

Nothing is copied: a field is a number, a wire type and an extent of the buffer. So a weights file of any size is
indexed in the time of its few thousand layers, and its numbers can be changed in place.
Source: https://protobuf.dev/programming-guides/encoding/
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import NamedTuple

VARINT, FIXED64, BYTES, GROUP_START, GROUP_END, FIXED32 = range(6)
MAX_FIELDS = 2_000_000  # in one message; a file of empty fields would keep us busy for minutes


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


Buffer = bytes | memoryview | mmap.mmap


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


def fields(data: Buffer, start: int, end: int) -> Iterator[Field]:
    """Yield the fields of the message that lies from `start` to `end`.

    Raises:
        WireError: the bytes are not fields, or one reaches past the end.
    """
    at, count = start, 0
    while at < end:
        begin = at
        count += 1
        if count > MAX_FIELDS:
            raise WireError(f"more than {MAX_FIELDS} fields in one message")
        tag, at = read_varint(data, at, end)
        number, wire = tag >> 3, tag & 7
        if number == 0 or number > 0x1FFFFFFF:
            raise WireError(f"field number {number}")
        value = 0
        if wire == VARINT:
            content = at
            value, at = read_varint(data, at, end)
        elif wire == BYTES:
            length, content = read_varint(data, at, end)
            at = content + length
        elif wire in (FIXED32, FIXED64):
            content = at
            at += 4 if wire == FIXED32 else 8
        else:
            raise WireError(f"wire type {wire}")
        if at > end:
            raise WireError("a field reaches past the end of its message")
        yield Field(number, wire, begin, content, at, value)


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


def encode_number(number: int, value: int) -> bytes:
    """Return a varint field."""
    return encode_varint(number << 3 | VARINT) + encode_varint(value)
