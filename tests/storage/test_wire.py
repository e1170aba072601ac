"""The scanner of protobuf's wire format, against protobuf itself and against bytes that are no message."""

import time

import numpy as np
import pytest

from caffeinit.protos import schema
from caffeinit.storage import wire

GROUP = wire.encode_varint(9 << 3 | wire.GROUP_START), wire.encode_varint(9 << 3 | wire.GROUP_END)


def scan(data):
    return [(f.number, f.wire, f.begin, f.start, f.end, f.value) for f in wire.fields(data, 0, len(data))]


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**63, 2**64 - 1])
def test_a_varint_is_read_as_it_was_written(number):
    data = wire.encode_varint(number)
    assert wire.read_varint(data, 0, len(data)) == (number, len(data))


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (b"", []),
        (b"\x08\x96\x01", [(1, wire.VARINT, 0, 1, 3, 150)]),
        (b"\x12\x02ab", [(2, wire.BYTES, 0, 2, 4, 0)]),
        (b"\x0d1234", [(1, wire.FIXED32, 0, 1, 5, 0)]),
        (b"\x0912345678", [(1, wire.FIXED64, 0, 1, 9, 0)]),
        # A group, with a field and another group within, is stepped over as a whole.
        (
            GROUP[0] + b"\x08\x01" + GROUP[0] + GROUP[1] + GROUP[1] + b"\x08\x01",
            [(9, wire.GROUP_START, 0, 1, 6, 0), (1, wire.VARINT, 6, 7, 8, 1)],
        ),
        # A tag longer than it need be is still a tag.
        (b"\x88\x00\x05", [(1, wire.VARINT, 0, 2, 3, 5)]),
    ],
    ids=["nothing", "varint", "bytes", "fixed32", "fixed64", "group", "long tag"],
)
def test_fields_are_found_where_they_lie(data, fields):
    assert scan(data) == fields


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x08", "does not end"),
        (b"\x08" + b"\xff" * 11, "does not end"),
        (b"\x12\x05ab", "past the end"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "past the end"),
        (b"\x0d12", "past the end"),
        (b"\x00\x01", "field number 0"),
        (b"\x0e", "wire type 6"),
        (GROUP[1], "wire type 4"),
        (GROUP[0], "does not end"),
        (GROUP[0] + b"\x0c", "did not begin"),
        (GROUP[0] * 100 + GROUP[1] * 100, "within each other"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_what_is_no_message_is_refused(data, words):
    with pytest.raises(wire.WireError, match=words):
        scan(data)


def test_a_message_of_empty_fields_is_given_up():
    data = b"\x12\x00" * (wire.MAX_FIELDS + 1)
    began = time.monotonic()
    with pytest.raises(wire.WireError, match="more fields"):
        for _ in wire.fields(data, 0, len(data)):
            pass
    assert time.monotonic() - began < 10  # a bound on hanging, not a speed


def test_protobuf_s_own_bytes_are_read_as_protobuf_reads_them():
    blob = schema.message("BlobProto")(num=1, channels=2, data=np.arange(3, dtype="<f4").tobytes())
    blob.shape.dim.extend([3])
    data = blob.SerializeToString()
    found = {f.number: f for f in wire.fields(data, 0, len(data))}
    assert (found[1].value, found[2].value) == (1, 2)
    assert data[found[5].start : found[5].end] == np.arange(3, dtype="<f4").tobytes()
    assert sum(f.end - f.begin for f in found.values()) == len(data)


def test_pruning_leaves_all_else_in_its_order():
    inner = wire.encode_bytes(7, b"out") + wire.encode_bytes(1, b"in")
    data = wire.encode_number(7, 5) + wire.encode_bytes(3, inner) + wire.encode_bytes(4, inner)
    kept = wire.encode_bytes(3, wire.encode_bytes(1, b"in"))
    assert wire.pruned(data, 0, len(data), {3: {7: None}, 4: None, 7: None}) == wire.encode_number(7, 5) + kept
    assert wire.pruned(data, 0, len(data), {}) == data
